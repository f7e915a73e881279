"""The three file formats read by hand: identity, size and kind from the header, and whether the file is whole.

Pixels are never decoded here and sizes never allocated, so a header that promises a gigapixel costs nothing. Pillow
is not used for this because its WebP reader loads the file and allocates the canvas on opening, and because its bomb
guard is a process-wide warning; its EXIF reader is.
"""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_CHANNELS = {"L": 1, "RGB": 3, "P": 3, "LA": 2, "RGBA": 4}
_OTHERS = (
    (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"%PDF", "PDF"), (b"8BPS", "PSD"),
    (b"\xff\x0a", "JPEG XL"), (b"\x00\x00\x00\x0cJXL ", "JPEG XL"), (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"<svg", "SVG"), (b"<?xml", "XML"), (b"<!DOCTYPE", "HTML"), (b"<html", "HTML"), (b"PK\x03\x04", "ZIP"),
)  # fmt: skip
_MAX_CHUNKS = 1_000_000
_MAX_METADATA = 16 * 2**20


@dataclass(kw_only=True)
class Layout:
    """What the structure of a file says. Sizes in pixels as stored, offsets and lengths in bytes."""

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
    multi_picture: bool = False  # JPEG: further pictures are announced after the end marker
    height_at: int = 0  # JPEG: where the header says the height
    unit: tuple[int, int] = (8, 8)  # JPEG: width and height of an MCU


class _Bytes:
    """A file like a bytes object. Not mmap: every page that is looked at would count as this process's memory."""

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

    def search(self, pattern: re.Pattern[bytes], start: int) -> int:
        """Where the first match of a two-byte pattern begins; -1 for none."""
        while start < self._size - 1:
            block = os.pread(self._descriptor, self._BLOCK, start)
            found = pattern.search(block)
            if found:
                return start + found.start()
            start += max(1, len(block) - 1)
        return -1


def _damaged(message: str) -> PermanentError:
    return PermanentError(reasons.INVALID_IMAGE, message)


def _unsupported(message: str) -> PermanentError:
    return PermanentError(reasons.UNSUPPORTED_FORMAT, message)


def read_layout(path: Path) -> Layout:
    """Reads a file's structure from its first byte to its end marker.

    Raises PermanentError (unsupported_format, invalid_image)."""
    if path.stat().st_size == 0:
        raise _damaged("the file is empty")
    with path.open("rb") as file:
        data = _Bytes(file.fileno())
        try:
            if data[:8] == _PNG:
                layout = _read_png(data)
            elif data[:3] == b"\xff\xd8\xff":
                layout = _read_jpeg(data)
            elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
                layout = _read_webp(data)
            else:
                raise _unsupported(f"the file is {_name(data)}; PNG, JPEG and WebP are taken")
        except (IndexError, ValueError) as error:
            raise _damaged("the file ends within its header") from error
    if layout.width <= 0 or layout.height <= 0:
        raise _damaged(f"the header says {layout.width} x {layout.height} pixels")
    return layout


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 when there is none or it is nonsense, as viewers do."""
    if not exif:
        return 1
    from PIL import Image

    tags = Image.Exif()
    try:
        tags.load(exif if exif.startswith(b"Exif\x00\x00") else b"Exif\x00\x00" + exif)
        value = tags.get(0x0112, 1)
    except Exception:  # Pillow raises many kinds for broken EXIF; a viewer ignores it, so do we
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _name(data: _Bytes) -> str:
    head = data[:64].lstrip()
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or a video"
    for magic, name in _OTHERS:
        if head.lower().startswith(magic.lower()):
            return name
    return "no image of a known kind"


def _u32(data: _Bytes, at: int) -> int:
    return int.from_bytes(_exactly(data, at, 4), "big")


def _u16(data: _Bytes, at: int) -> int:
    return int.from_bytes(_exactly(data, at, 2), "big")


def _l32(data: _Bytes, at: int) -> int:
    return int.from_bytes(_exactly(data, at, 4), "little")


def _exactly(data: _Bytes, at: int, count: int) -> bytes:
    part = data[at : at + count]
    if len(part) < count:
        raise ValueError("short")
    return part


def _read_png(data: _Bytes) -> Layout:
    layout = Layout(format="PNG")
    at = len(_PNG)
    ended = False
    for number in range(_MAX_CHUNKS):
        if at >= len(data):
            break
        length, kind = _u32(data, at), _exactly(data, at + 4, 4)
        if number == 0 and (kind != b"IHDR" or length != 13):
            raise _damaged("the PNG does not begin with its header")
        if at + 12 + length > len(data):
            raise _damaged("the PNG is truncated")
        # Pixel chunks are checked by the decoder; the others it may skip without looking.
        if kind != b"IDAT" and length <= _MAX_METADATA:
            body = data[at + 8 : at + 8 + length]
            if zlib.crc32(body, zlib.crc32(kind)) != _u32(data, at + 8 + length):
                raise _damaged(f"the PNG's {kind.decode('latin-1')!r} chunk is damaged")
            _png_chunk(layout, kind, body)
        elif kind == b"IDAT":
            layout.payload += length
        at += 12 + length
        if kind == b"IEND":
            ended = True
            break
    layout.end = at
    if not ended:
        raise _damaged("the PNG has no end: it is truncated")
    if not layout.payload:
        raise _damaged("the PNG holds no pixels")
    return layout


def _png_chunk(layout: Layout, kind: bytes, body: bytes) -> None:
    if kind == b"IHDR":
        layout.width, layout.height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        layout.bits, colour, interlace = body[8], body[9], body[12]
        if colour not in _PNG_MODES:
            raise _damaged(f"the PNG names an unknown colour type ({colour})")
        layout.mode = _PNG_MODES[colour]
        layout.has_alpha = colour in (4, 6)
        if interlace:
            layout.held = layout.width * layout.height * _PNG_CHANNELS[layout.mode] * max(1, layout.bits // 8)
    elif kind == b"tRNS":
        layout.has_alpha = True
    elif kind == b"acTL":
        layout.animated = int.from_bytes(body[:4], "big") != 1
    elif kind == b"eXIf":
        layout.exif = body
    elif kind == b"iCCP":
        name, _, rest = body.partition(b"\x00")
        # Limited inflation: a profile is a few KiB, a bomb is not.
        layout.icc = zlib.decompressobj().decompress(rest[1:], _MAX_METADATA) if rest[:1] == b"\x00" and name else b""


# A marker that is neither a stuffed byte (FF00), a restart (FFD0-FFD7) nor fill (FFFF).
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END_OR_SCAN = re.compile(rb"\xff[\xd9\xda]")
_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}


def _read_jpeg(data: _Bytes) -> Layout:
    layout = Layout(format="JPEG")
    at, components = 2, 0
    profile: dict[int, bytes] = {}
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise _damaged("the JPEG's structure is broken")
        marker = data[at + 1]
        if marker == 0xD9:
            if not layout.payload:
                raise _damaged("the JPEG holds no pixels")
            layout.end = at + 2
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = _u16(data, at + 2)
        if length < 2:
            raise _damaged("the JPEG's structure is broken")
        body = at + 4
        if marker in _FRAMES:
            if layout.width:
                raise _damaged("the JPEG has two frames")
            components = _jpeg_frame(layout, data, body, _FRAMES[marker] == "progressive")
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise _unsupported("the JPEG uses a rare coding (lossless or arithmetic); save it as a usual JPEG")
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\x00\x00" and not layout.exif:
            layout.exif = data[body : body + length - 2]
        elif marker == 0xE2 and data[body : body + 12] == b"ICC_PROFILE\x00":
            profile[data[body + 12]] = data[body + 14 : body + length - 2]
        elif marker == 0xE2 and data[body : body + 4] == b"MPF\x00":
            layout.multi_picture = True
        at += 2 + length
        if marker == 0xDA:
            if not layout.width:
                raise _damaged("the JPEG has pixels before its header")
            after = _after_scan(data, at)
            layout.payload += after - at
            at = after
    layout.icc = b"".join(profile[number] for number in sorted(profile))
    if components == 1:
        layout.mode = "L"
    elif components == 4:
        layout.mode = "CMYK"
    elif components != 3:
        raise _unsupported(f"the JPEG has {components} colour channels; grey and RGB are taken")
    return layout


def _jpeg_frame(layout: Layout, data: _Bytes, body: int, progressive: bool) -> int:
    layout.bits = data[body]
    layout.height_at = body + 1
    layout.height, layout.width, components = _u16(data, body + 1), _u16(data, body + 3), data[body + 5]
    samplings = [data[body + 7 + 3 * number] for number in range(components)]
    across, down = max(s >> 4 for s in samplings), max(s & 15 for s in samplings)
    if not all(1 <= s >> 4 <= 4 and 1 <= s & 15 <= 4 for s in samplings):
        raise _damaged("the JPEG's header is damaged")
    # A single component is never interleaved: its unit is one block, whatever sampling it claims.
    layout.unit = (8, 8) if components == 1 else (8 * across, 8 * down)
    if progressive:
        share = sum((s >> 4) * (s & 15) for s in samplings) / (across * down)
        layout.held = int(layout.width * layout.height * share * 2)  # 16-bit coefficients
    return components


def _after_scan(data: _Bytes, at: int) -> int:
    """Where the entropy-coded data that begins at `at` ends."""
    # End and start of a scan cannot occur within one. The exact search is slow, so this one comes first: when the end
    # marker is the file's last bytes and no other scan begins, that is it.
    first = data.search(_END_OR_SCAN, at)
    if first == len(data) - 2:
        return first
    found = data.search(_MARKER, at)
    if found < 0:
        raise _damaged("the JPEG has no end marker: it is truncated")
    return found


def _read_webp(data: _Bytes) -> Layout:
    layout = Layout(format="WEBP")
    end = _l32(data, 4) + 8
    if end > len(data):
        raise _damaged(f"the WebP is truncated: {len(data)} of {end} bytes")
    at, extended = 12, False
    for _ in range(_MAX_CHUNKS):
        if at + 8 > min(end, len(data)):
            break
        kind, length = data[at : at + 4], _l32(data, at + 4)
        body = at + 8
        if body + length > end:
            raise _damaged("the WebP is truncated within a chunk")
        if kind == b"VP8X":
            extended = True
            flags = data[body]
            layout.animated = bool(flags & 0x02)
            layout.has_alpha = bool(flags & 0x10)
            layout.width = 1 + int.from_bytes(_exactly(data, body + 4, 3), "little")
            layout.height = 1 + int.from_bytes(_exactly(data, body + 7, 3), "little")
        elif kind in (b"VP8 ", b"VP8L") and not layout.payload:
            layout.payload += length
            _webp_frame(layout, data, body, kind, extended)
        elif kind in (b"ANIM", b"ANMF"):
            layout.animated = True
            layout.payload += length
        elif kind == b"ALPH":
            layout.has_alpha = True
            layout.payload += length
        elif kind == b"EXIF" and length <= _MAX_METADATA:
            layout.exif = data[body : body + length]
        elif kind == b"ICCP" and length <= _MAX_METADATA:
            layout.icc = data[body : body + length]
        at = body + length + (length & 1)
    if not layout.payload:
        raise _damaged("the WebP holds no pixels")
    layout.mode = "RGBA" if layout.has_alpha else "RGB"
    # An odd last chunk whose padding byte was not written is read by every decoder.
    layout.end = min(max(end, at), len(data))
    return layout


def _webp_frame(layout: Layout, data: _Bytes, body: int, kind: bytes, extended: bool) -> None:
    if kind == b"VP8 ":
        if _exactly(data, body + 3, 3) != b"\x9d\x01\x2a":
            raise _damaged("the WebP's picture has no header")
        width, height = (int.from_bytes(_exactly(data, body + 6 + i, 2), "little") & 0x3FFF for i in (0, 2))
        if layout.has_alpha:  # the alpha plane is coded losslessly
            layout.held = width * height
    else:
        if _exactly(data, body, 1) != b"\x2f":
            raise _damaged("the WebP's picture has no header")
        bits = _l32(data, body + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        layout.has_alpha = layout.has_alpha or bool(bits >> 28 & 1)
        layout.held = 4 * width * height
    if extended and (width, height) != (layout.width, layout.height):
        raise _damaged("the WebP's header and picture disagree on the size")
    layout.width, layout.height = width, height
