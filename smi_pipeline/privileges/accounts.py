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
    "sandbox.log",
}


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def account_of(folder: Path) -> Account | None:
    """Return the account that processes for `folder` run as, None for ourselves because we are not root.

    It is the owner of the folder, or of the nearest folder above while it does not exist; the system account `smi`,
    made if need be, where that is root. Raises RefusedError when there is no such account."""
    if os.geteuid() != 0:
        return None
    nearest = _existing(folder)
    owner = nearest.stat().st_uid
    if owner == 0:
        return _service_account()
    try:
        return _account(pwd.getpwuid(owner))
    except KeyError:
        raise RefusedError(f"{nearest} belongs to user {owner}, who has no name on this machine") from None


def own_home(home: Path) -> Account | None:
    """Make `home` if it is missing, let nobody but its account enter it, and return that account (see `account_of`).

    What an earlier release left there as root is handed over; nothing outside changes. Raises RefusedError when it
    cannot be a folder of ours, or another user could replace it."""
    home = Path(os.path.realpath(home))
    account = account_of(home)
    if account is not None:
        _refuse_if_replaceable(home, account)
    if not home.exists():
        umask = os.umask(0o022)
        try:
            with as_owner_of(home):
                home.parent.mkdir(parents=True, exist_ok=True)
                home.mkdir(mode=0o700, exist_ok=True)
        finally:
            os.umask(umask)
    # By descriptor from here on: whoever owns a folder above cannot put another one in its place.
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        foreign = account is not None and found.st_uid != account.uid
        if foreign or stat.S_IMODE(found.st_mode) != 0o700:
            names = os.listdir(descriptor)  # noqa: PTH208 - by descriptor
            _refuse_if_shared(home, found, names, handed_over=foreign)
            if foreign and account is not None:
                _hand_over(home, descriptor, account)
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return account


@contextlib.contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """As root, write files with no more rights than whoever controls the way to `folder`: the owner of its outermost
    part that is not root's. So no link they placed leads root elsewhere. Affects this thread only. Keep the block
    short, and start no thread or process in it."""
    owner = _controlling(folder) if os.geteuid() == 0 else None
    if owner is None:
        yield
        return
    set_file_identity(owner.st_uid, owner.st_gid)
    try:
        yield
    finally:
        set_file_identity(0, 0)


def _controlling(folder: Path) -> os.stat_result | None:
    """Return the outermost folder or link on the way to `folder` that is not root's, None if there is none."""
    way = Path("/")
    parts = list(folder.absolute().parts[1:])
    for _ in range(1000):  # links may lead in a circle
        if not parts:
            return None
        way /= parts.pop(0)
        try:
            found = way.lstat()
        except OSError:
            return None
        if found.st_uid != 0:
            return found
        if stat.S_ISLNK(found.st_mode):  # root's own links may be followed
            target = way.parent / way.readlink()
            way, parts = Path("/"), [*Path(os.path.normpath(target)).parts[1:], *parts]
    raise RefusedError(f"{folder} cannot be reached: its links lead in a circle")


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _refuse_if_replaceable(home: Path, account: Account) -> None:
    # Whoever can replace a folder above SMI_HOME decides what root works on there.
    for folder in home.parents:
        if not folder.exists():
            continue
        found = folder.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid not in (0, account.uid) or (shared and not found.st_mode & stat.S_ISVTX):
            raise RefusedError(
                f"{folder} can be changed by users other than root and {account.name}: put SMI_HOME elsewhere, "
                "such as /var/lib/smi"
            )
        inside = next(path for path in (home, *home.parents) if path.parent == folder)
        if shared and inside.exists() and inside.stat().st_uid not in (0, _service_uid()):
            raise RefusedError(
                f"{inside} was made by another user in {folder}, where everybody may: put SMI_HOME elsewhere"
            )


def _refuse_if_shared(home: Path, found: os.stat_result, names: list[str], *, handed_over: bool) -> None:
    # A slip such as SMI_HOME=/tmp or SMI_HOME=/root must neither shut a folder that others use nor give it away.
    names = [name for name in names if name != "lost+found"]
    visible = {name for name in names if not name.startswith(".")}
    strangers = sorted(set(names) - _OURS) if handed_over else []
    if found.st_mode & stat.S_ISVTX or strangers or (visible and not visible & _OURS):
        what = f"{', '.join(strangers[:3])}" if strangers else "other files"
        raise RefusedError(f"SMI_HOME must be a folder of its own, and {home} holds {what}: name another one")


def _hand_over(home: Path, descriptor: int, account: Account) -> None:
    for pid in _servers_in(home, account):
        raise RefusedError(
            f"PostgreSQL (process {pid}) of an earlier start still runs in {home}: end it, then start again"
        )
    device = os.fstat(descriptor).st_dev
    # The folder itself last: whatever interrupts this, the next start continues it.
    for _, folders, files, inner in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=descriptor):
        for name in (*folders, *files):
            entry = os.stat(name, dir_fd=inner, follow_symlinks=False)
            linked = not stat.S_ISDIR(entry.st_mode) and entry.st_nlink > 1  # it has a name elsewhere, too
            if entry.st_dev == device and not linked:
                os.chown(name, account.uid, account.gid, dir_fd=inner, follow_symlinks=False)
    os.fchown(descriptor, account.uid, account.gid)


def _servers_in(home: Path, account: Account) -> Iterator[str]:
    """Yield the PostgreSQL processes of third users that an earlier release left running there."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            inside = (process / "cwd").readlink().is_relative_to(home)
            name = (process / "comm").read_text().strip()
            if inside and name == "postgres" and process.stat().st_uid not in (0, account.uid):
                yield process.name


def _service_uid() -> int | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_ACCOUNT).pw_uid
    return None


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
