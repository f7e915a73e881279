"""Whose processes and files those of an installation are: the owner of its folder, SMI_HOME, and never root."""

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.privileges.linux import set_file_identity

SERVICE_ACCOUNT = "smi"
"""Runs what root starts in a folder that belongs to nobody else."""

_ADD_ACCOUNT = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
_ADD_SECONDS = 10.0
_OURS = {
    "postgres",
    "server",
    "dagster",
    "logs",
    "storage",
    "workspace.yaml",
    "demo",
    "demo.json",
    "demo.lock",
    "stack",
    "sandbox",
}


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def account_of(folder: Path) -> Account | None:
    """The account that processes for `folder` run as: its owner, or that of the nearest folder above while it does not
    exist; the system account `smi`, made if need be, where that is root. None: we are not root, and run them as
    ourselves. Raises RefusedError when there is no such account."""
    if os.geteuid() != 0:
        return None
    owner = _existing(folder).stat().st_uid
    if owner == 0:
        return _service_account()
    try:
        return _account(pwd.getpwuid(owner))
    except KeyError:
        raise RefusedError(f"{_existing(folder)} belongs to user {owner}, who has no name on this machine") from None


def own_home(home: Path) -> Account | None:
    """Make `home` if it is missing, let nobody but its account enter it, and return that account (see `account_of`).
    What an earlier release left there as root is handed over; nothing outside changes. Raises RefusedError when it
    cannot be a folder of ours."""
    account = account_of(home)
    if not home.exists():
        with as_owner_of(home):
            home.mkdir(parents=True, mode=0o700, exist_ok=True)
    found = home.stat()
    foreign = account is not None and found.st_uid != account.uid
    if foreign or stat.S_IMODE(found.st_mode) != 0o700:
        _refuse_if_shared(home, found)
        if foreign and account is not None:
            _hand_over(home, account)
        home.chmod(0o700)
    return account


@contextlib.contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """As root, write files as the owner of `folder` (of the nearest existing folder above, if it is missing), with no
    more rights than theirs: no link they placed leads root elsewhere. Affects this thread only. Keep the block short,
    and start no thread or process in it."""
    owner = _existing(folder).stat() if os.geteuid() == 0 else None
    if owner is None or owner.st_uid == 0:
        yield
        return
    set_file_identity(owner.st_uid, owner.st_gid)
    try:
        yield
    finally:
        set_file_identity(0, 0)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _refuse_if_shared(home: Path, found: os.stat_result) -> None:
    # A slip such as SMI_HOME=/tmp must not shut a folder that others use.
    foreign = {path.name for path in home.iterdir() if not path.name.startswith(".")} - {"lost+found"}
    if found.st_mode & stat.S_ISVTX or (foreign and not foreign & _OURS):
        raise RefusedError(f"SMI_HOME must be a folder of its own, and {home} holds other files: name another one")


def _hand_over(home: Path, account: Account) -> None:
    for pid in _working_in(home, account):
        raise RefusedError(f"process {pid} of an earlier start still works in {home}: end it, then start again")
    # The folder itself last: whatever interrupts this, the next start goes on with it.
    for _, folders, files, descriptor in os.fwalk(home, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, account.uid, account.gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(home, account.uid, account.gid)


def _working_in(home: Path, account: Account) -> Iterator[str]:
    """Processes of third users whose working folder is there: a server that an earlier release left running."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            inside = (process / "cwd").readlink().is_relative_to(home.resolve())
            if inside and process.stat().st_uid not in (0, account.uid):
                yield process.name


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _service_account() -> Account:
    said: str | None = None
    ends = time.monotonic() + _ADD_SECONDS
    while True:
        with contextlib.suppress(KeyError):
            return _account(pwd.getpwnam(SERVICE_ACCOUNT))
        if said is not None and ("lock" not in said or time.monotonic() > ends):
            break
        said = _add_service_account()
        if "lock" in said:  # another process changes the list of users
            time.sleep(0.1)
    raise RefusedError(
        f"what root starts runs as the system account {SERVICE_ACCOUNT!r}, which could not be made "
        f"({said or 'it is not found'}): make it with `{' '.join(_ADD_ACCOUNT)} {SERVICE_ACCOUNT}`, or run smi as an "
        "ordinary user"
    )


def _add_service_account() -> str:
    """Why it could not be made; empty: it was."""
    program = shutil.which(_ADD_ACCOUNT[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return f"there is no {_ADD_ACCOUNT[0]}"
    done = subprocess.run(  # noqa: S603 - a constant command line
        [program, *_ADD_ACCOUNT[1:], SERVICE_ACCOUNT], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit code {done.returncode}"
