"""The parts that all format readers share: the layout, a file that reads like bytes, numbers and errors."""

import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError

MAX_METADATA = 16 * 2**20
"""Longest profile or EXIF block that is read, in bytes; real ones are a thousandth of it."""


class Part(NamedTuple):
    """A part of a file that decoders read, from `start` to before `end`."""

    start: int
    end: int
    bare: int = 0  # entropy-coded data: where its end is without trailing zeros


@dataclass(kw_only=True)
class Layout:
    """The structure of a file. Sizes in pixels as stored, offsets and lengths in bytes."""

    format: str
    width: int = 0
    height: int = 0
    mode: str = "RGB"
    bits: int = 8
    has_alpha: bool = False
    animated: bool = False
    exif: bytes = b""
    icc: bytes = b""
    payload: int = 0  # coded pixels
    end: int = 0  # first byte after the end marker
    held: int = 0  # bytes a decoder must hold because the coding has no row order; 0 when rows stream
    ended: bool = True  # closed by its end marker
    junk: int = 0  # bytes that decoders skip: between segments, or with a wrong checksum
    height_at: int = 0  # JPEG: where the header says the height
    unit: tuple[int, int] = (8, 8)  # JPEG: width and height of an MCU
    coefficients: int = 0  # JPEG: bytes of all coefficients, were they held
    restarts: bool = False  # JPEG: restart markers divide the data
    several_scans: bool = False  # JPEG: progressive, or one scan per channel
    doubtful: bool = False  # long runs of zeros in the data, which may be flat areas
    zeros_at_end: bool = False  # JPEG: ... at its end, which may also be padding
    parts: list[Part] = field(default_factory=list)  # JPEG: segments and data, without junk; WebP: the picture

    def keep(self, start: int, end: int, *, bare: int = 0) -> None:
        """Note a part that decoders read."""
        last = self.parts[-1] if self.parts else None
        if last and last.end == start and not bare and not last.bare:
            self.parts[-1] = Part(last.start, end)
        else:
            self.parts.append(Part(start, end, bare))


class FileBytes:
    """A file that reads like bytes. Not mmap: every page read would count as memory of this process."""

    _WINDOW = 4096
    _BLOCK = 2**20

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._start, self._held = 0, b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            return self._read(key, 1)[0]
        start, stop, _ = key.indices(self._size)
        return self._read(start, max(0, stop - start))

    def _read(self, start: int, count: int) -> bytes:
        if count > self._WINDOW:
            return os.pread(self._descriptor, count, start)
        offset = start - self._start
        if offset < 0 or offset + count > len(self._held):
            self._start, offset = start, 0
            self._held = os.pread(self._descriptor, self._WINDOW, start)
        return self._held[offset : offset + count]

    def few(self, start: int, count: int) -> bytes:
        """Return a few bytes without reading ahead."""
        return os.pread(self._descriptor, count, start)

    def search(self, pattern: re.Pattern[bytes], start: int) -> int:
        """Return where the first match of a two-byte pattern begins; -1 for none."""
        length = self._WINDOW  # mostly it is near
        while start < self._size - 1:
            block = os.pread(self._descriptor, length, start)
            found = pattern.search(block)
            if found:
                return start + found.start()
            start += max(1, len(block) - 1)
            length = min(2 * length, self._BLOCK)
        return -1

    def zeros(self, start: int, end: int, count: int) -> int:
        """Return where `count` zeros in a row are known to be between `start` and `end`, -1 for nowhere. A run may
        begin before; one shorter than twice as long may go unnoticed."""
        while start + count <= end:
            block = np.frombuffer(self[start : min(end, start + self._BLOCK)], np.uint8)
            rows = block[: block.size // count * count].reshape(-1, count)
            maybe = np.flatnonzero(rows[:, 0] == 0)
            found = maybe[~rows[maybe].any(axis=1)]
            if found.size:
                return start + int(found[0]) * count
            start += max(count, rows.size)
        return -1


def damaged(message: str) -> PermanentError:
    """Return the error for a damaged image."""
    return PermanentError(reasons.INVALID_IMAGE, message)


def unsupported(message: str) -> PermanentError:
    """Return the error for a format that is not sold."""
    return PermanentError(reasons.UNSUPPORTED_FORMAT, message)


def u32(data: FileBytes, at: int) -> int:
    """Return a big-endian 32-bit number. Raises ValueError at the end of the file."""
    return int.from_bytes(exactly(data, at, 4), "big")


def u16(data: FileBytes, at: int) -> int:
    """Return a big-endian 16-bit number. Raises ValueError at the end of the file."""
    return int.from_bytes(exactly(data, at, 2), "big")


def l32(data: FileBytes, at: int) -> int:
    """Return a little-endian 32-bit number. Raises ValueError at the end of the file."""
    return int.from_bytes(exactly(data, at, 4), "little")


def exactly(data: FileBytes, at: int, count: int) -> bytes:
    """Return exactly `count` bytes. Raises ValueError at the end of the file."""
    part = data[at : at + count]
    if len(part) < count:
        raise ValueError("short")
    return part
