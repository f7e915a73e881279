"""The corpus of hostile images: each with a name, each the same at every run.

`rejected()` are files that must be refused, as a source and as a result of `SOURCE`. `odd()` are strange files that a
shop may take: they must cost no memory and raise nothing of their own. `heavy()` are results that promise just as many
pixels as may be held in memory, each with its source, and hold next to nothing.
"""

import gzip
import io
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image

from smi_pipeline_tests.unit.images.pictures import encoded, photo, png, png_header, upscale

SCALE = 4
CODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "baseline jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "jpeg with restarts": ("JPEG", {"restart_marker_rows": 1}),
    "lossy webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
}
_END = (b"IEND", b"")


@cache
def source() -> Image.Image:
    return photo("rocket.jpg", 64)


@cache
def whole(coding: str) -> bytes:
    """A good result of the source."""
    format, options = CODINGS[coding]
    return encoded(upscale(source(), SCALE), format, **options)


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP header of any size, with next to nothing behind it."""
    body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(20)
    return riff(b"WEBP", (b"VP8L", body))


def jpeg_of(width: int, height: int, **options: Any) -> bytes:
    """A small JPEG whose header promises another size."""
    data = bytearray(encoded(photo(), "JPEG", **options))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def png_of(width: int, height: int, *, interlaced: bool = False, data: bytes = b"") -> bytes:
    """A PNG of any size with a million black samples."""
    name, body = png_header(width, height)
    return png((name, body[:-1] + bytes([interlaced])), (b"IDAT", data or _inflating(1_000_000)), _END)


@cache
def _inflating(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def riff(kind: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(k + len(b).to_bytes(4, "little") + b + b"\x00" * (len(b) & 1) for k, b in chunks)
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + kind + body


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def with_segment(marker: int, body: bytes) -> bytes:
    """A good JPEG with a further segment at its beginning."""
    data = whole("baseline jpeg")
    return data[:2] + segment(marker, body) + data[2:]


def with_chunk(kind: bytes, body: bytes, *, at: int = 33) -> bytes:
    """A good PNG with a further chunk, behind its header."""
    data = whole("png")
    return data[:at] + png((kind, body))[8:] + data[at:]


def bombs() -> dict[str, bytes]:
    """Headers that promise more pixels than anybody has memory for."""
    vp8x = struct.pack("<B3x", 0) + (2**24 - 1).to_bytes(3, "little") * 2
    return {
        "bomb: png of ten gigapixels": png_of(100_000, 100_000),
        "bomb: png of the largest sides": png_of(2**31 - 1, 2**31 - 1),
        "bomb: png of a single endless row": png_of(2**31 - 1, 1),
        "bomb: png of sixteen million rows": png_of(1, 16_000_000),
        "bomb: png of a single endless column": png_of(1, 2**31 - 1),
        "bomb: interlaced png": png_of(30_000, 30_000, interlaced=True),
        "bomb: webp": webp_of(16_384, 16_384),
        "bomb: webp canvas of 2^24": riff(b"WEBP", (b"VP8X", vp8x), (b"VP8L", webp_of(16_384, 16_384)[20:])),
        "bomb: jpeg": jpeg_of(65_535, 65_535),
        "bomb: jpeg of a single column": jpeg_of(1, 65_535),
        "bomb: progressive jpeg": jpeg_of(15_000, 15_000, progressive=True, subsampling=0),
        "bomb: png profile that inflates to 64 MB": with_chunk(b"iCCP", b"p\x00\x00" + _inflating(64_000_000)),
        "bomb: png text that inflates to 64 MB": with_chunk(b"zTXt", b"Comment\x00\x00" + _inflating(64_000_000)),
        "bomb: png profile and texts that inflate to 64 MB together": whole("png")[:33]
        + png(*[(b"iTXt", b"Comment\x00\x01\x00\x00\x00" + _inflating(1_000_000))] * 64)[8:]
        + whole("png")[33:],
        "bomb: gzip body named as an image": gzip.compress(bytes(20_000_000), mtime=0),
        "bomb: jpeg of 2,000 scans": _many_scans(2000),
        "bomb: jpeg of a million comments": whole("baseline jpeg")[:2]
        + b"\xff\xfe\x00\x02" * 1_000_000
        + whole("baseline jpeg")[2:],
        "bomb: jpeg of a million restarts": _many_restarts(1_000_000),
        "bomb: png of 300,000 chunks": whole("png")[:33] + png((b"teXt", b""))[8:] * 300_000 + whole("png")[33:],
    }


def _many_scans(count: int) -> bytes:
    """The refinement that comes last in a progressive JPEG, again and again: each costs a pass over all blocks."""
    data = whole("progressive jpeg")
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _many_restarts(count: int) -> bytes:
    """Restart markers with nothing between them, behind a harmless warning that makes the checks look at each."""
    data = whole("jpeg with restarts")
    first = data.find(b"\xff\xd0", data.find(b"\xff\xda"))
    markers = b"".join(bytes([0xFF, 0xD0 + number]) for number in range(8))
    return data[:first] + b"\x12\x34\x56\x78" + markers * (count // 8) + data[first:]


def truncations() -> dict[str, bytes]:
    """Every coding cut off at every twentieth, and shortly before its end."""
    found = {}
    for coding in CODINGS:
        data = whole(coding)
        for twentieth in range(20):
            found[f"truncated: {coding} at {twentieth * 5} %"] = data[: len(data) * twentieth // 20]
        for missing in (1, 2, 5):
            if missing == 5 if "jpeg" in coding else coding != "png":  # in the others every pixel is there
                found[f"truncated: {coding} without its last {missing}"] = data[:-missing]
        if "jpeg" in coding:
            for twentieth in range(2, 20):
                part = data[: len(data) * twentieth // 20].rstrip(b"\xff")
                found[f"truncated: {coding} at {twentieth * 5} %, and closed again"] = part + b"\xff\xd9"
    return found


def polyglots() -> dict[str, bytes]:
    """Files that are an image for one reader and something else for another."""
    out = io.BytesIO()
    source().save(out, "GIF")
    gif = out.getvalue()
    archive = b"PK\x03\x04" + bytes(60) + b"PK\x05\x06" + bytes(18)
    page = b"<!DOCTYPE html><script>alert(document.domain)</script>"
    tails = {
        "zip": archive,
        "rar": b"Rar!\x1a\x07\x00" + bytes(40),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
        "jar": b"PK\x03\x04META-INF/MANIFEST.MF" + archive,
        "html": page,
        "php": b"<?php system($_GET['c']); ?>",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "exe": b"MZ" + bytes(80),
        "elf": b"\x7fELF" + bytes(80),
        "shell": b"#!/bin/sh\nid\n",
        "zip behind zeros": bytes(5000) + archive,
        "exe behind fill bytes": b"\xff" * 500 + b"MZ" + bytes(80),
        "zip behind a video": b"\x00\x00\x00\x18ftypmp42" + bytes(500) + archive,
    }
    found = {
        f"polyglot: {coding} and {name}": whole(coding) + tail
        for coding in ("png", "baseline jpeg", "progressive jpeg", "lossy webp", "lossless webp")
        for name, tail in tails.items()
    }
    return found | {
        "polyglot: gifar": gif + archive,
        "polyglot: zip that holds a png": b"PK\x03\x04" + bytes(26) + whole("png") + archive,
        "polyglot: pdf that holds a jpeg": b"%PDF-1.7\n" + whole("baseline jpeg"),
        "polyglot: html around a png": page + whole("png"),
        "polyglot: jpeg behind spaces": b"\n \n" + whole("baseline jpeg"),
        "polyglot: png behind a byte order mark": b"\xef\xbb\xbf" + whole("png"),
        "polyglot: script that begins like a gif": b"GIF89a=1;alert(1)//",
    }


def others() -> dict[str, bytes]:
    """Whatever else is sent under the name of a PNG."""
    found: dict[str, bytes] = {}
    for format in ("GIF", "BMP", "TIFF", "PDF", "AVIF", "ICO", "PPM", "TGA", "EPS", "JPEG2000", "PCX", "SGI"):
        out = io.BytesIO()
        upscale(source(), SCALE).save(out, format)
        found[f"other: {format.lower()}"] = out.getvalue()
    return found | {
        "other: nothing": b"",
        "other: a null byte": b"\x00",
        "other: svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "other: svg that names a file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        "other: html": b"<!DOCTYPE html><p>404",
        "other: json": b'{"error": "expired"}',
        "other: imagemagick script": b"push graphic-context\nfill 'url(https://example.com/\"|id\")'\n",
        "other: postscript": b"%!PS\n(/etc/passwd) run",
        "other: shell": b"#!/bin/sh\nid\n",
        "other: elf": b"\x7fELF" + bytes(100),
        "other: heic": b"\x00\x00\x00\x18ftypheic" + bytes(100),
        "other: video": b"\x00\x00\x00\x18ftypmp42" + bytes(100),
        "other: jpeg xl": b"\xff\x0a" + bytes(100),
        "other: wave": riff(b"WAVE", (b"fmt ", bytes(16))),
        "other: avi": riff(b"AVI ", (b"LIST", bytes(16))),
    }


def malformed() -> dict[str, bytes]:
    """Structures that no encoder writes, and kinds that are not sold."""
    good, jpeg, webp = whole("png"), whole("baseline jpeg"), whole("lossy webp")
    rows = (b"IDAT", zlib.compress(bytes(13)))
    name, header = png_header(4, 3)
    frame = jpeg.find(b"\xff\xc0")
    tables, scan = jpeg.find(b"\xff\xc4"), jpeg.find(b"\xff\xda")

    def changed(data: bytes, at: int, *values: int) -> bytes:
        return data[:at] + bytes(values) + data[at + len(values) :]

    def headed(width: int = 4, height: int = 3, depth: int = 8, colour: int = 2, *rest: int) -> bytes:
        body = struct.pack(">IIBB", width, height, depth, colour) + bytes([*rest, *[0] * (3 - len(rest))])
        return png((name, body), rows, _END)

    frames = [photo(each, 64).resize((64, 48)) for each in ("coffee.png", "astronaut.png")]
    return {
        "malformed: png without width": headed(width=0),
        "malformed: png without height": headed(height=0),
        "malformed: png of 7 bits": headed(depth=7),
        "malformed: png of an unknown colour type": headed(colour=5),
        "malformed: png of an unknown compression": headed(4, 3, 8, 2, 9, 0, 0),
        "malformed: png of an unknown filter": headed(4, 3, 8, 2, 0, 9, 0),
        "malformed: png of an unknown interlacing": headed(4, 3, 8, 2, 0, 0, 7),
        "malformed: png of 16 bits": headed(depth=16),
        "malformed: palette png without a palette": headed(colour=3),
        "malformed: png without pixels": png((name, header), _END),
        "malformed: png with too few pixels": png((name, header), rows, _END),
        "malformed: png whose pixels are not compressed": png((name, header), (b"IDAT", b"plainly not zlib"), _END),
        "malformed: png without an end": png((name, header), rows),
        "malformed: png whose header comes second": png((b"tEXt", b"a\x00b"), (name, header), rows, _END),
        "malformed: png with two headers": png((name, header), (name, header), rows, _END),
        "malformed: png with a chunk of 4 GB": good[:33] + b"\xff\xff\xff\xffteXt" + good[33:],
        "malformed: png with a negative chunk": good[:33] + b"\x80\x00\x00\x00teXt" + good[33:],
        "malformed: png with a wrong checksum": changed(good, 29, good[29] ^ 1),
        "malformed: png with a damaged pixel chunk": changed(good, len(good) // 2, good[len(good) // 2] ^ 0x10),
        "malformed: animated png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "malformed: jpeg without height": changed(jpeg, frame + 5, 0, 0),
        "malformed: jpeg without width": changed(jpeg, frame + 7, 0, 0),
        "malformed: jpeg of 12 bits": changed(jpeg, frame + 4, 12),
        "malformed: jpeg of no component": changed(jpeg, frame + 9, 0),
        "malformed: jpeg of two components": changed(jpeg, frame + 9, 2),
        "malformed: jpeg of 255 components": changed(jpeg, frame + 9, 255),
        "malformed: jpeg with no sampling": changed(jpeg, frame + 11, 0),
        "malformed: jpeg with absurd sampling": changed(jpeg, frame + 11, 0xFF),
        "malformed: lossless jpeg": changed(jpeg, frame + 1, 0xC3),
        "malformed: arithmetic jpeg": changed(jpeg, frame + 1, 0xC9),
        "malformed: jpeg with two frames": jpeg[:scan] + jpeg[frame:tables] + jpeg[scan:],
        "malformed: jpeg without a frame": jpeg[:frame] + jpeg[tables:],
        "malformed: jpeg without pixels": jpeg[:scan] + b"\xff\xd9",
        "malformed: jpeg with a segment of no length": jpeg[:2] + b"\xff\xe1\x00\x00" + jpeg[2:],
        "malformed: jpeg with a segment beyond its end": jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:60],
        "malformed: jpeg in cmyk": encoded(upscale(source(), SCALE).convert("CMYK"), "JPEG"),
        "malformed: webp that is longer than it says": changed(webp, 4, 30, 0, 0, 0),
        "malformed: webp that is shorter than it says": changed(webp, 4, 0xFF, 0xFF, 0xFF, 0x7F),
        "malformed: webp whose picture has no header": changed(webp, webp.find(b"VP8 ") + 11, 0, 0, 0),
        "malformed: webp without a picture": riff(b"WEBP", (b"EXIF", bytes(20))),
        "malformed: webp of two sizes": riff(b"WEBP", (b"VP8X", bytes(10)), (b"VP8 ", webp[20:])),
        "malformed: webp with a chunk of 4 GB": webp[:16] + b"\xff\xff\xff\xff" + webp[20:],
        "malformed: animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    }


def good() -> dict[str, bytes]:
    """What the corpus is made of: delivered while it is whole."""
    return {f"good: {coding}": whole(coding) for coding in CODINGS}


def rejected() -> dict[str, bytes]:
    """All that must be refused."""
    return bombs() | truncations() | polyglots() | others() | malformed()


def odd() -> dict[str, bytes]:
    """Strange metadata of images that are whole: ignored, as viewers do."""
    loop = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x87i\x00\x04\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x08"
    many = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + bytes(200)
    huge = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\xff\xff\xff\x7f\x00\x00\x00\x10" + bytes(20)
    parts = b"".join(segment(0xE2, b"ICC_PROFILE\x00" + bytes([n, 255]) + bytes(65_000)) for n in range(1, 256))
    jpeg = whole("baseline jpeg")
    return {
        "odd: exif that points to itself": with_segment(0xE1, loop),
        "odd: exif of 65,535 entries": with_segment(0xE1, many),
        "odd: exif with a value of 2 GB": with_segment(0xE1, huge),
        "odd: exif in a png": with_chunk(b"eXIf", loop[6:]),
        "odd: jpeg profile in 255 parts of 65 KB": jpeg[:2] + parts + jpeg[2:],
        "odd: jpeg profile of one part of none": with_segment(0xE2, b"ICC_PROFILE\x00\x00\x00"),
        "odd: png profile that is none": with_chunk(b"iCCP", b"p\x00\x00" + zlib.compress(b"no profile" * 100)),
        "odd: png profile that does not inflate": with_chunk(b"iCCP", b"p\x00\x00not zlib"),
        "odd: png pixels that inflate to 64 MB": png_of(8, 8, data=_inflating(64_000_000)),
        "odd: png profile that breaks off": with_chunk(b"iCCP", b"p\x00\x00" + zlib.compress(bytes(9000))[:-9]),
        "odd: jpeg comment with a page": with_segment(0xFE, b"<script>alert(1)</script>"),
        "odd: jpeg comment with a pdf": with_segment(0xFE, b"%PDF-1.7\n"),
        "odd: jpeg without tables, which decoders know": jpeg[: jpeg.find(b"\xff\xc4")]
        + jpeg[jpeg.find(b"\xff\xda") :],
        "odd: png text of 10 MB": with_chunk(b"tEXt", b"Comment\x00" + b"x" * 10_000_000),
        "odd: webp with a foreign chunk": riff(b"WEBP", (b"VP8 ", whole("lossy webp")[20:]), (b"junk", bytes(1000))),
    }


def heavy() -> dict[str, tuple[bytes, bytes]]:
    """(source, result) just below what may be held in memory: the decoder makes room for all of it."""

    def of(side: int) -> bytes:
        return encoded(Image.new("RGB", (side, side), (90, 120, 60)), "JPEG")

    return {
        "heavy: progressive jpeg": (of(1037), jpeg_of(1037 * 8, 1037 * 8, progressive=True, subsampling=2)),
        "heavy: interlaced png": (of(1182), png_of(1182 * 8, 1182 * 8, interlaced=True)),
        "heavy: lossless webp": (of(1024), webp_of(1024 * 8, 1024 * 8)),
    }
