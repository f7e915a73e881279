"""Read the structure of the three file formats: type, size and kind from the header, and where the image ends.

Pixels are never decoded here and sizes never allocated, so a header that promises a gigapixel costs nothing. Pillow
is not used for this because its WebP reader loads the file and allocates the canvas on opening, and because its bomb
guard is a process-wide warning.
"""

import zlib
from pathlib import Path

from smi_pipeline.adapters.images import exif
from smi_pipeline.adapters.images.jpeg import read_jpeg
from smi_pipeline.adapters.images.structure import (
    MAX_METADATA,
    FileBytes,
    Layout,
    damaged,
    exactly,
    l32,
    u32,
    unsupported,
)

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_CHANNELS = {"L": 1, "RGB": 3, "P": 3, "LA": 2, "RGBA": 4}
_OTHERS = (
    (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"%PDF", "PDF"), (b"8BPS", "PSD"),
    (b"\xff\x0a", "JPEG XL"), (b"\x00\x00\x00\x0cJXL ", "JPEG XL"), (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"<svg", "SVG"), (b"<?xml", "XML"), (b"<!DOCTYPE", "HTML"), (b"<html", "HTML"), (b"PK\x03\x04", "ZIP"),
)  # fmt: skip
_LOST = 1024
"""Zero bytes in a row that no encoder of lossy WebP writes: a flat area of any size is coded in fewer. Lossless
ones may code flat areas by zero bits."""
_MAX_CHUNKS = 250_000  # encoders write 8 kB of pixels into one
_MAX_OTHERS = 10_000  # chunks that hold no pixels: each costs time, and real files have a dozen


def read_layout(path: Path) -> Layout:
    """Read a file's structure from its first byte to its end marker.

    Raises PermanentError (unsupported_format, invalid_image)."""
    if path.stat().st_size == 0:
        raise damaged("the file is empty")
    with path.open("rb") as file:
        data = FileBytes(file.fileno())
        try:
            if data[:8] == _PNG:
                layout = _read_png(data)
            elif data[:3] == b"\xff\xd8\xff":
                layout = read_jpeg(data)
            elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
                layout = _read_webp(data)
            else:
                raise unsupported(f"the file is {_name(data)}; PNG, JPEG and WebP are taken")
        except (IndexError, ValueError) as error:
            raise damaged("the file ends within its header") from error
    if layout.width <= 0 or layout.height <= 0:
        raise damaged(f"the header says {layout.width} x {layout.height} pixels")
    return layout


def orientation(block: bytes) -> int:
    """Return the EXIF orientation of a block, 1 to 8; 1 when it is missing or invalid, as viewers do."""
    return exif.read(block, (exif.ORIENTATION,)).orientation()


def _name(data: FileBytes) -> str:
    head = data[:64].lstrip()
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or a video"
    for magic, name in _OTHERS:
        if head.lower().startswith(magic.lower()):
            return name
    return "no image of a known kind"


def _read_png(data: FileBytes) -> Layout:
    layout = Layout(format="PNG", ended=False)
    at = len(_PNG)
    others, room = 0, MAX_METADATA
    for number in range(_MAX_CHUNKS):
        if at >= len(data):
            break
        head = data.few(at, 8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if layout.payload and (len(kind) < 4 or (kind != b"IDAT" and at + 12 + length > len(data))):
            at = len(data)  # the pixels are there; what comes behind them decoders do not miss
            break
        if (kind == b"IHDR") != (number == 0) or (number == 0 and length != 13) or len(kind) < 4:
            raise damaged("the PNG's header is not where it belongs")
        if at + 12 + length > len(data):
            raise damaged("the PNG is truncated")
        others += kind != b"IDAT"
        if others > _MAX_OTHERS:
            raise damaged(f"the PNG has more than {_MAX_OTHERS:,} chunks beside its pixels")
        # Pixel chunks are checked by the decoder; the others it may skip without looking.
        if kind == b"IDAT":
            layout.payload += length
        elif length <= MAX_METADATA:
            body = data[at + 8 : at + 8 + length]
            if zlib.crc32(body, zlib.crc32(kind)) == u32(data, at + 8 + length):
                inflated = _inflated(kind, body, room)
                room -= len(inflated)
                _png_chunk(layout, kind, inflated if kind == b"iCCP" else body)
            elif kind[0] & 0x20 or kind == b"IEND":  # ancillary: ignored, as viewers do
                layout.junk += length + 12
            else:
                raise damaged(f"the PNG's {kind.decode('latin-1')!r} chunk is damaged")
        at += 12 + length
        if kind == b"IEND":
            layout.ended = True
            break
    else:
        raise damaged(f"the PNG has more than {_MAX_CHUNKS:,} chunks")
    layout.end = at
    if not layout.payload:
        raise damaged("the PNG holds no pixels")
    return layout


def _inflated(kind: bytes, body: bytes, room: int) -> bytes:
    """Return the inflated part of a profile or text; empty for others and for damaged ones, which viewers ignore.
    Raises PermanentError for more than `room` bytes, a decompression bomb."""
    if kind not in (b"iCCP", b"zTXt", b"iTXt"):
        return b""
    name, _, rest = body.partition(b"\x00")
    if kind == b"iTXt":
        method, rest = rest[:2], rest[2:].split(b"\x00", 2)[-1]
        if method != b"\x01\x00":
            return b""
    else:
        method, rest = rest[:1], rest[1:]
        if method != b"\x00" or not name:
            return b""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(rest, room + 1)
    except zlib.error:
        return b""
    if len(inflated) > room:
        raise damaged(f"the PNG's {kind.decode()!r} chunk inflates to more than {MAX_METADATA:,} bytes")
    return inflated


def _png_chunk(layout: Layout, kind: bytes, body: bytes) -> None:
    if kind == b"IHDR":
        layout.width, layout.height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        layout.bits, colour, interlace = body[8], body[9], body[12]
        if colour not in _PNG_MODES:
            raise damaged(f"the PNG names an unknown colour type ({colour})")
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
        layout.icc = body


def _read_webp(data: FileBytes) -> Layout:
    layout = Layout(format="WEBP")
    end = l32(data, 4) + 8
    if end > len(data):
        raise damaged(f"the WebP is truncated: {len(data)} of {end} bytes")
    at, extended = 12, False
    for _ in range(_MAX_OTHERS):
        if at + 8 > min(end, len(data)):
            break
        kind, length = data[at : at + 4], l32(data, at + 4)
        body = at + 8
        if body + length > end:
            raise damaged("the WebP is truncated within a chunk")
        if kind == b"VP8X":
            extended = True
            flags = data[body]
            layout.animated = bool(flags & 0x02)
            layout.has_alpha = bool(flags & 0x10)
            layout.width = 1 + int.from_bytes(exactly(data, body + 4, 3), "little")
            layout.height = 1 + int.from_bytes(exactly(data, body + 7, 3), "little")
        elif kind in (b"VP8 ", b"VP8L") and not layout.parts:  # transparency may come before
            layout.payload += length
            _webp_frame(layout, data, body, kind, extended)
            layout.keep(body, body + length)
            if data.zeros(body, body + length, _LOST) >= 0:
                if kind == b"VP8 ":
                    raise damaged("a part of the WebP's data is lost: there are only zeros")
                layout.doubtful = True
        elif kind in (b"ANIM", b"ANMF"):
            layout.animated = True
            layout.payload += length
        elif kind == b"ALPH":
            layout.has_alpha = True
            layout.payload += length
        elif kind == b"EXIF" and length <= MAX_METADATA:
            layout.exif = data[body : body + length]
        elif kind == b"ICCP" and length <= MAX_METADATA:
            layout.icc = data[body : body + length]
        at = body + length + (length & 1)
    else:
        raise damaged(f"the WebP has more than {_MAX_OTHERS:,} chunks")
    if not layout.payload:
        raise damaged("the WebP holds no pixels")
    layout.mode = "RGBA" if layout.has_alpha else "RGB"
    # An odd last chunk whose padding byte was not written is read by every decoder.
    layout.end = min(max(end, at), len(data))
    return layout


def _webp_frame(layout: Layout, data: FileBytes, body: int, kind: bytes, extended: bool) -> None:
    if kind == b"VP8 ":
        if exactly(data, body + 3, 3) != b"\x9d\x01\x2a":
            raise damaged("the WebP's picture has no header")
        width, height = (int.from_bytes(exactly(data, body + 6 + i, 2), "little") & 0x3FFF for i in (0, 2))
        if layout.has_alpha:  # the alpha plane is coded losslessly
            layout.held = width * height
    else:
        if exactly(data, body, 1) != b"\x2f":
            raise damaged("the WebP's picture has no header")
        bits = l32(data, body + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        layout.has_alpha = layout.has_alpha or bool(bits >> 28 & 1)
        layout.held = 4 * width * height
    if extended and (width, height) != (layout.width, layout.height):
        raise damaged("the WebP's header and picture disagree on the size")
    layout.width, layout.height = width, height
