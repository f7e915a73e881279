"""Starts the processes of an installation as its account, when we are root.

The account may be unable to enter a folder above the code, Python or SMI_HOME: /root, or one made by `mktemp -d`. No
mode is changed for that. The process gets a mount table of its own instead, in which such a folder holds only what the
process needs.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.privileges.accounts import Account, account_of
from smi_pipeline.privileges.linux import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
    gain_nothing_by_exec,
    mount,
    unshare_mounts,
)

REFUSED = 126
"""Exit code of a child that could not become the account; its standard error has one line that says why."""

_REMEDY = "run smi as an ordinary user, or put the checkout, Python and SMI_HOME where every user may enter"
_CODE = Path(__file__).parents[1]


class Unprivileged:
    """What a child process needs in order to work for the folder `home` without being root.

    `writable` are further files and folders that it changes, `readable` others that it reads."""

    def __init__(self, home: Path, *, writable: Iterable[Path] = (), readable: Iterable[Path] = ()) -> None:
        self.home = home.absolute()
        self.account: Account | None = account_of(home)
        self._writable = [self.home, *(_nearest(path) for path in writable)]
        self._readable = [*_runtime(), *readable]

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """`environment` without what leads to root's own files."""
        if self.account is None:
            return dict(environment)
        roots = ("TMPDIR", "TMP", "TEMP", *(name for name in environment if name.startswith("XDG_")))
        kept = {name: value for name, value in environment.items() if name not in roots}
        return kept | {"HOME": str(self.home), "USER": self.account.name, "LOGNAME": self.account.name}

    def enter(self) -> None:
        """Called in the forked child: become the account, in `home`. Ends the process with `REFUSED` if it cannot."""
        try:
            if self.account is not None:
                with contextlib.suppress(PermissionError):  # it leads a session already
                    os.setsid()  # root's terminal is not the account's to type into
                self._become(self.account)
            os.chdir(self.home)
        except (OSError, RefusedError) as error:
            os.write(2, f"{error}\n".encode())
            os._exit(REFUSED)

    def _become(self, account: Account) -> None:
        os.setgroups([])
        needed = list(_spellings([*self._readable, *self._writable]))
        with _for_a_moment(account):
            closed = next(((folder, path) for path in needed if (folder := _first_closed(path))), None)
        if closed:
            try:
                unshare_mounts()
            except OSError:
                raise RefusedError(
                    f"user {account.name} may not enter {closed[0]}, where {closed[1]} lies, and this machine does not "
                    f"let root show it nothing but that (CAP_SYS_ADMIN): {_REMEDY}"
                ) from None
            _show(needed, account)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        gain_nothing_by_exec()
        for paths, mode, verb in ((self._readable, os.R_OK, "read"), (self._writable, os.W_OK, "write in")):
            for path in paths:
                if not os.access(path, mode | (os.X_OK if path.is_dir() else 0)):
                    raise RefusedError(f"user {account.name} may not {verb} {path}: give it that right, or {_REMEDY}")


def _runtime() -> list[Path]:
    """What our code runs from: the code, the virtual environment, Python itself, and the links to its program."""
    programs, program = [], Path(sys.executable)
    while program.is_symlink():
        programs.append(program)
        program = program.parent / program.readlink()
    # Libraries may lie outside the virtual environment: PYTHONPATH, `.pth` files, an editable installation.
    libraries = [Path(entry) for entry in sys.path if entry and os.path.isdir(entry)]  # noqa: PTH112 - closed: False
    folders = (_CODE.parent, Path(sys.prefix), Path(sys.base_prefix), *libraries)
    return [*folders, *programs, program, Path(__file__)]


def _nearest(path: Path) -> Path:
    """`path`, or while it does not exist the folder in which it will be made."""
    path = path.absolute()
    return next(part for part in (path, *path.parents) if part.exists())


def _spellings(paths: Iterable[Path]) -> Iterator[Path]:
    """Each path without links, outer folders first, then as it is written."""
    written = dict.fromkeys(Path(os.path.abspath(path)) for path in paths)  # noqa: PTH100 - keeps links
    real = dict.fromkeys(Path(os.path.realpath(path)) for path in written)
    return iter(dict.fromkeys([*sorted(real, key=lambda path: len(path.parts)), *written]))


@contextlib.contextmanager
def _for_a_moment(account: Account) -> Iterator[None]:
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _first_closed(path: Path) -> Path | None:
    """The outermost folder on the way to `path`, or itself, that this user may not enter, or that is missing."""
    for folder in [*reversed(path.parents), path]:
        if folder == path and not os.path.isdir(folder):  # noqa: PTH112 - False, too, where nobody may look
            return None if os.access(folder, os.R_OK, effective_ids=True) else folder
        if not os.access(folder, os.X_OK, effective_ids=True):
            return folder
    return None


def _show(needed: list[Path], account: Account) -> None:
    """In this process's own mount table: an empty folder over each closed one, and in it only what is needed."""
    umask = os.umask(0o022)
    opened = {path: os.open(path, os.O_PATH) for path in needed}  # before anything is covered
    for path, descriptor in opened.items():
        with _for_a_moment(account):
            closed = _first_closed(path)
        if closed is None:
            continue
        entries: list[tuple[Path, int]] = [(path, descriptor)]
        if closed.exists():
            if closed == path:
                if not path.is_dir():
                    continue  # said by the last check
                names = os.listdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH208 - names alone are needed
                entries = [(path / name, os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=descriptor)) for name in names]
            mount("tmpfs", str(closed), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
        for target, source in entries:
            _put(target, source)
    os.umask(umask)


def _put(target: Path, descriptor: int) -> None:
    """Let what is open as `descriptor` appear at `target`."""
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISLNK(mode):
        target.symlink_to(os.readlink("", dir_fd=descriptor))
        return
    if stat.S_ISDIR(mode):
        target.mkdir()
    else:
        target.touch()
    mount(f"/proc/self/fd/{descriptor}", str(target), flags=MS_BIND | MS_REC)
