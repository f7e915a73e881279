"""Write copies of an image for the decoder: without what decoders skip, closed, and changed where a check needs it."""

import contextlib
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.structure import Layout, Part, damaged
from smi_pipeline.core.errors import LocalError

_BLOCK = 2**20
_RESTARTS = [bytes([0xFF, number]) for number in range(0xD0, 0xD8)]


@contextlib.contextmanager
def rewritten(
    path: Path, layout: Layout, *, height: int = 0, behind: bytes = b"", bare: bool = False
) -> Iterator[IO[bytes]]:
    """Yield an open copy of a JPEG: the parts that decoders read, and an end marker.

    `height` is announced instead of its own; a single channel then has the sampling that decoders treat it as having.
    `behind` is put behind the data of each scan and before each restart marker; no pixel of a whole file is made of
    it. `bare` leaves out zeros with which the data ends. The copy is an unnamed file on disk, because a Python callback
    that libvips reads from can abort the process when it is garbage-collected."""

    def write(original: IO[bytes], copy: IO[bytes]) -> None:
        for part in layout.parts:
            original.seek(part.start)
            if bare and part.bare:
                part = part._replace(end=part.bare)
            if part.bare and behind:
                _with_bytes_behind(original, copy, part, behind, layout)
                continue
            at = copy.tell()
            _copied(original, copy, part)
            if height and part.start <= layout.height_at < part.end:
                _announce(copy, at + layout.height_at - part.start, height, layout.mode == "L")
        copy.write(b"\xff\xd9")

    with _copy_of(path, write) as copy:
        yield copy


@contextlib.contextmanager
def shortened(path: Path, layout: Layout, by: int) -> Iterator[IO[bytes]]:
    """Yield an open copy of a lossless WebP: its picture alone, without its last bytes."""
    start, end, _ = layout.parts[0]
    size = (end - start - by) // 2 * 2

    def write(original: IO[bytes], copy: IO[bytes]) -> None:
        copy.write(struct.pack("<4sI8sI", b"RIFF", size + 12, b"WEBPVP8L", size))
        original.seek(start)
        _copied(original, copy, Part(start, start + size))

    with _copy_of(path, write) as copy:
        yield copy


def _copy_of(path: Path, write: Callable[[IO[bytes], IO[bytes]], None]) -> IO[bytes]:
    """Return an unnamed file that `write` fills from the original. Raises LocalError when the disk is full."""
    try:
        with path.open("rb") as original, contextlib.ExitStack() as stack:
            copy = stack.enter_context(tempfile.TemporaryFile())
            write(original, copy)
            copy.seek(0)  # also writes what Python holds back
            stack.pop_all()
            return copy
    except OSError as error:
        words = f"A copy of the image could not be written to disk: {error.strerror}."
        raise LocalError(words, retry_after=60.0) from error


def as_it_is(layout: Layout, *, bare: bool) -> bool:
    """Return whether a copy without changes would decode as the file itself."""
    kept = sum(part.end - part.start for part in layout.parts)
    return layout.ended and kept == layout.end - 2 and not (bare and layout.zeros_at_end)


def _copied(original: IO[bytes], copy: IO[bytes], part: Part) -> None:
    left = part.end - part.start
    while left > 0:
        block = original.read(min(_BLOCK, left))
        if not block:
            return
        copy.write(block)
        left -= len(block)


def _announce(copy: IO[bytes], at: int, height: int, grey: bool) -> None:
    copy.seek(at)
    copy.write(height.to_bytes(2, "big"))
    if grey:
        copy.seek(at + 6)
        copy.write(b"\x11")
    copy.seek(0, 2)


def _with_bytes_behind(original: IO[bytes], copy: IO[bytes], part: Part, behind: bytes, layout: Layout) -> None:
    found, most = 0, -(-layout.width // 8) * -(-layout.height // 8)
    left, rest = part.end - part.start, b""
    while left > 0:
        block = rest + original.read(min(_BLOCK, left))
        left -= len(block) - len(rest)
        rest = b"\xff" if left > 0 and block.endswith(b"\xff") else b""
        block = block.removesuffix(rest)
        if found <= most:  # decoders never come to what is behind them
            numbers = _restart_numbers(block)
            if ((found + np.arange(numbers.size) - numbers) % 8).any():
                raise damaged("a part of the JPEG's data is lost: restart markers are missing")
            found += numbers.size
            for marker in _RESTARTS:  # one call for all of a kind: there may be millions
                block = block.replace(marker, behind[:8] + marker)
        copy.write(block)
    copy.write(behind)
    if layout.restarts:  # a whole interval may be missing at the end
        copy.write(_RESTARTS[found % 8] + behind)


def _restart_numbers(block: bytes) -> NDArray[np.int64]:
    """Return the numbers of the restart markers, 0 to 7, in their order."""
    data = np.frombuffer(block, np.uint8)
    second = data[1:]
    numbers: NDArray[np.int64] = second[(data[:-1] == 0xFF) & (second & 0xF8 == 0xD0)].astype(np.int64) & 7
    return numbers
