"""Other users of this machine, for tests that run as root: what they do happens in a forked process."""

import os
import pwd
import stat
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

OUTSIDER = pwd.getpwnam("daemon")
"""Somebody with an account and no right to anything of ours."""
ORDINARY = pwd.getpwnam("nobody")
"""Somebody who runs the product without being root."""


def forked(work: Callable[[], str], prepare: Callable[[], None]) -> str:
    """What `work` returns, or the traceback of what it raises, in a fork of this process that `prepare` has changed."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: other threads of pytest's do not matter
        pid = os.fork()
    if not pid:
        try:
            os.dup2(writer, 2)
            prepare()
            os.write(writer, work().encode())
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(pid, 0)
    return said


def as_user(user: pwd.struct_passwd, work: Callable[[], str]) -> str:
    """`forked`, as that user and nobody else."""

    def become() -> None:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)

    return forked(work, become)


def outcome(action: Callable[[], object]) -> str:
    """The name of the error that the action raises, or what it returns."""
    try:
        return f"done: {action()}"
    except Exception as error:
        return type(error).__name__


def modes(*paths: Path) -> dict[str, tuple[str, int, int]]:
    """Mode and owner of all folders above the paths up to `/`."""
    folders = {folder for path in paths for folder in (*path.absolute().parents, *Path(os.path.realpath(path)).parents)}
    return {str(f): (stat.filemode(s.st_mode), s.st_uid, s.st_gid) for f in folders for s in (f.stat(),)}
