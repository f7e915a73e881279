"""Take out of an image file what its pixels do not need: place, names, serial numbers, and bytes behind its end.

Parts of the file are kept or left out whole; nothing is decoded, and the coded pixels stay the same bytes. What is
kept is on a list, so that what nobody has thought of is left out. Kept is what decides how the pixels look (colour
profile, gamma, orientation) and their resolution; EXIF is built anew from the tags that are on the list.
"""

import os
import re
import struct
import uuid
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from smi_pipeline.adapters.images import exif, rights
from smi_pipeline.adapters.images.containers import read_layout
from smi_pipeline.adapters.images.structure import MAX_METADATA, FileBytes, Layout, damaged, l32, u16, u32
from smi_pipeline.core.errors import LocalError

COPYRIGHT, ARTIST, CAMERA, ALL = "copyright", "artist", "camera", "all"
"""What may be kept beside that, by the words of `SMI_KEEP_METADATA`."""

_PICTURE = {
    "": {exif.ORIENTATION, 0x011A, 0x011B, 0x0128},  # resolution and its unit
    COPYRIGHT: {exif.COPYRIGHT},
    ARTIST: {exif.ARTIST},
    CAMERA: {0x010F, 0x0110, 0x0132},  # make, model, date
}
_TAKING = {
    "": {0x9000, 0xA001, 0xA500},  # version, colour space, gamma
    CAMERA: {0x829A, 0x829D, 0x8827, 0x9003, 0x920A, 0xA405, 0xA433, 0xA434},  # exposure, date, focal length, lens
}
_JPEG_KEPT = {0xE2: b"ICC_PROFILE\x00", 0xEE: b"Adobe"}
_JPEG_FIELDS = {0xE0: 18, 0xEE: 16}  # bytes of JFIF without thumbnail, and of Adobe's transform, with the marker
_PNG_TEXTS = {COPYRIGHT: b"Copyright", ARTIST: b"Author"}
_PNG_KEPT = frozenset(
    b"tRNS gAMA cHRM sRGB iCCP cICP mDCV mDCv cLLI cLLi sBIT bKGD pHYs hIST sPLT".split()
)  # and all critical chunks
_WEBP_KEPT = frozenset({b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"})
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BLOCK = 2**20

Part = bytes | tuple[int, int]
"""Bytes to write, or where in the file they are: from, to."""


def clean(path: Path, kept: Collection[str]) -> list[str]:
    """Rewrite a file without what is not `kept` (words of `SMI_KEEP_METADATA`). Return what was left out, in words.

    The file is replaced when the new one is whole. Raises PermanentError for one whose structure cannot be read, as
    `read_layout` does, and LocalError when it cannot be written."""
    layout = read_layout(path)
    with path.open("rb") as file:
        data = FileBytes(file.fileno())
        sieve = _Sieve(data, layout, kept)
        try:
            parts: list[Part] = [(0, layout.end)] if ALL in kept else list(_merged(sieve.parts()))
        except (IndexError, ValueError) as error:
            raise damaged(f"the {layout.format}'s structure is broken") from error
        left_out = sieve.left_out
        if behind := len(data) - layout.end:
            left_out.append(f"{behind:,} bytes behind the end")
        if not left_out and sum(map(_length, parts)) != len(data):
            left_out.append("bytes between its parts")
        if left_out:
            _replace(path, file, parts)
    return list(dict.fromkeys(left_out))


class _Sieve:
    """The parts of one file that stay."""

    def __init__(self, data: FileBytes, layout: Layout, kept: Collection[str]) -> None:
        self._data, self._layout = data, layout
        self._kept = {"", *kept}
        self._notice = ""
        self.left_out: list[str] = []

    def parts(self) -> Iterator[Part]:
        """Yield the parts in their order."""
        yield from {"JPEG": self._jpeg, "PNG": self._png, "WEBP": self._webp}[self._layout.format]()

    def _exif(self, block: bytes) -> bytes:
        """Return the block with nothing but what is kept."""
        picture = set().union(*(_PICTURE.get(word, set()) for word in self._kept))
        taking = set().union(*(_TAKING.get(word, set()) for word in self._kept))
        found = exif.read(block, picture, taking)
        if COPYRIGHT in self._kept and self._notice:
            found.picture.setdefault(exif.COPYRIGHT, exif.text(self._notice))
        return exif.build(found)

    # --- JPEG

    def _jpeg(self) -> Iterator[Part]:
        """Keep JFIF, the profile, Adobe's colour transform, and all that is no metadata."""
        segments = list(self._segments())
        data, block = self._data, b""
        head: list[Part] = [(0, 2)]
        rest: list[Part] = []
        for marker, at, end in segments:
            name = data[at + 4 : min(end, at + 40)]
            if marker == 0xE0 and name.startswith(b"JFIF\x00"):
                head.append(self._start_of(marker, at, end))
            elif marker == 0xE1 and name.startswith(exif.PREFIX):
                block = block or data[at + 4 : end]
            elif marker in _JPEG_KEPT and name.startswith(_JPEG_KEPT[marker]):
                rest.append(self._start_of(marker, at, end))
            elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
                self._look_for_notice(name, data[at + 4 : end])
                self.left_out.append("COM" if marker == 0xFE else f"APP{marker - 0xE0}")
            else:
                rest.append((at, end))
        yield from head
        if block:
            built = self._exif(block)
            if built != block.removeprefix(exif.PREFIX):
                self.left_out.append("EXIF")
        else:
            built = self._exif(b"")
        if built:
            yield b"\xff\xe1" + struct.pack(">H", 2 + len(exif.PREFIX) + len(built)) + exif.PREFIX + built
        yield from rest

    def _start_of(self, marker: int, at: int, end: int) -> Part:
        """Return a segment without what comes behind its fields: a thumbnail, or what a wrong length makes a part."""
        size = _JPEG_FIELDS.get(marker, end - at)
        if end - at <= size:
            return at, end
        self.left_out.append("thumbnail" if marker == 0xE0 else f"the rest of APP{marker - 0xE0}")
        start = bytearray(self._data[at : at + size])
        start[2:4] = struct.pack(">H", size - 2)
        if marker == 0xE0:
            start[16:18] = bytes(2)  # its width and height
        return bytes(start)

    def _look_for_notice(self, name: bytes, body: bytes) -> None:
        if name.startswith(rights.XMP):
            self._notice = self._notice or rights.of_xmp(body[len(rights.XMP) :])
        elif name.startswith(rights.PHOTOSHOP):
            self._notice = self._notice or rights.of_photoshop(body[len(rights.PHOTOSHOP) :])

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield marker, begin and end of each segment after the first marker; a scan is one with its coded pixels."""
        data, end = self._data, self._layout.end
        at = 2
        while at < end:
            if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):  # junk, or padding
                found = data.search(_MARKER, at)
                if not at <= found < end:
                    return
                at = found
            marker = data[at + 1]
            if marker == 0x01 or 0xD0 <= marker <= 0xD8:
                at += 2
                continue
            if marker == 0xD9:
                yield marker, at, at + 2
                return
            after = at + 2 + u16(data, at + 2)
            if marker == 0xDA:
                after = self._scan_end(after)
            after = min(after, end)
            yield marker, at, after
            at = after

    def _scan_end(self, at: int) -> int:
        end = self._layout.end
        if self._layout.payload == end - 2 - at and self._data[end - 2 : end] == b"\xff\xd9":
            return end - 2  # a single scan: nothing lies within it
        found = self._data.search(_AFTER_SCAN, at)
        return found if 0 <= found < end else end

    # --- PNG

    def _png(self) -> Iterator[Part]:
        data, at, end = self._data, 8, self._layout.end
        header, rest, block = (0, 33), [], b""
        at = 33
        while at < end:
            length, kind = u32(data, at), data[at + 4 : at + 8]
            after = min(at + 12 + length, end)
            body = at + 8
            if kind == b"eXIf":
                block = block or (data[body : body + length] if length <= MAX_METADATA else b"")
                self._note_chunk(kind)
            elif not kind[0] & 0x20 or kind in _PNG_KEPT or self._is_kept_text(kind, body, length):
                rest.append((at, after))
            else:
                if kind == b"iTXt" and length <= MAX_METADATA:
                    self._notice = self._notice or rights.of_xmp(_xmp_of_png(data[body : body + length]))
                self._note_chunk(kind)
            at = after
        yield header
        built = self._exif(block)
        if block and built == block:
            self.left_out.remove("eXIf")
        if built:
            yield struct.pack(">I", len(built)) + b"eXIf" + built + struct.pack(">I", zlib.crc32(b"eXIf" + built))
        yield from rest

    def _note_chunk(self, kind: bytes) -> None:
        name = kind.decode("latin-1").strip(" ")
        self.left_out.append(name if name.isascii() and name.isalpha() else "an unknown chunk")

    def _is_kept_text(self, kind: bytes, body: int, length: int) -> bool:
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            return False
        keyword = self._data[body : body + min(length, 80)].partition(b"\x00")[0]
        return any(word in self._kept and keyword == text for word, text in _PNG_TEXTS.items())

    # --- WebP

    def _webp(self) -> Iterator[Part]:
        data, at = self._data, 12
        end = min(l32(data, 4) + 8, len(data))
        chunks: list[Part] = []
        block, extended = b"", None
        while at + 8 <= end:
            kind, length = data[at : at + 4], l32(data, at + 4)
            body, after = at + 8, at + 8 + length + (length & 1)
            if kind == b"VP8X" and extended is None:
                extended = len(chunks)
                chunks.append(b"VP8X" + data[at + 4 : after])
            elif kind in _WEBP_KEPT:
                chunks.append((at, min(after, len(data))))
                if after > len(data):  # an odd last chunk whose padding was not written
                    chunks.append(b"\x00")
            elif kind == b"EXIF":
                block = block or (data[body : body + length] if length <= MAX_METADATA else b"")
                self.left_out.append("EXIF")
            else:
                if kind == b"XMP " and length <= MAX_METADATA:
                    self._notice = self._notice or rights.of_xmp(data[body : body + length])
                self._note_chunk(kind)
            at = after
        if extended is not None:
            built = self._exif(block)
            if block and built == block.removeprefix(exif.PREFIX):
                self.left_out.remove("EXIF")
            if built:
                chunks.append(b"EXIF" + struct.pack("<I", len(built)) + built + b"\x00" * (len(built) & 1))
            head = bytearray(chunks[extended])
            head[8] = head[8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if built else 0)
            chunks[extended] = bytes(head)
        yield b"RIFF" + struct.pack("<I", 4 + sum(map(_length, chunks))) + b"WEBP"
        yield from chunks


def _xmp_of_png(body: bytes) -> bytes:
    """Return the XMP packet of an iTXt chunk; empty when it holds another text."""
    keyword, _, rest = body.partition(b"\x00")
    if keyword != b"XML:com.adobe.xmp":
        return b""
    packet = rest[2:].split(b"\x00", 2)[-1]
    if rest[:1] == b"\x01":
        with suppress(zlib.error):
            return zlib.decompressobj().decompress(packet, MAX_METADATA)
    return packet


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1] - part[0]


def _merged(parts: Iterator[Part]) -> Iterator[Part]:
    """Join parts that lie side by side in the file."""
    last: Part | None = None
    for part in parts:
        if isinstance(part, tuple) and isinstance(last, tuple) and part[0] == last[1]:
            last = last[0], part[1]
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last


def _replace(path: Path, file: BinaryIO, parts: list[Part]) -> None:
    # The name begins like the old one, so that what a killed process leaves is swept with it.
    new = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    try:
        with open(new, "xb", opener=_private) as target:  # Path.open takes no opener
            for part in parts:
                if isinstance(part, bytes):
                    target.write(part)
                else:
                    _copy(file, target, *part)
        new.replace(path)
    except OSError as error:
        raise LocalError(f"The image could not be written to disk: {error.strerror}.", retry_after=60.0) from error
    finally:
        new.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    source.seek(start)
    while start < end:
        block = source.read(min(_BLOCK, end - start))
        if not block:
            raise OSError(5, "the file has become shorter")
        target.write(block)
        start += len(block)
