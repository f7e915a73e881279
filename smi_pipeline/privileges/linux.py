"""The system calls of Linux that Python does not offer. Each raises OSError when it fails."""

import ctypes
import os

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 15, 38
_CAPABILITIES_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def unshare_mounts() -> None:
    """Give this process a mount table of its own, whose changes nobody else sees."""
    _checked(_libc.unshare(CLONE_NEWNS))
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [text if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), target)


def end_with_parent(number: int) -> None:
    """Have this process sent signal `number` when the one that started it ends. A change of user forgets it."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def name_process(name: str) -> None:
    """Set what `ps` and `top` call this process, at most 15 bytes."""
    _checked(_libc.prctl(_PR_SET_NAME, os.fsencode(name), 0, 0, 0))


def gain_nothing_by_exec() -> None:
    """Keep programs that this process runs from gaining privileges (PR_SET_NO_NEW_PRIVS)."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def set_file_identity(uid: int, gid: int) -> None:
    """As root, set the file-system user and group of this thread: the owner of new files, and the rights to write. The
    right to read and enter everything stays. 0 and 0 restore root."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)  # takes the rights over files away with it
    if uid == 0:
        return
    header, sets = _CapabilityHeader(_CAPABILITIES_VERSION, 0), (_Capabilities * 2)()
    _checked(_libc.capget(ctypes.byref(header), sets))
    sets[0].effective |= _CAP_DAC_READ_SEARCH & sets[0].permitted  # a container may be without it
    _checked(_libc.capset(ctypes.byref(header), sets))


def _checked(result: int, path: str | None = None) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
