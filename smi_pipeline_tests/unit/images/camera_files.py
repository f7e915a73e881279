"""Sources as cameras, phones, editors and failing storage leave them: whole to every decoder, or not."""

import random
import re
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

from smi_pipeline_tests.unit.images.hostile import segment
from smi_pipeline_tests.unit.images.pictures import encoded, photo

JPEG_CODINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "of low quality": {"quality": 30, "optimize": True},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "with restarts by row": {"restart_marker_rows": 1},
    "with restarts by block": {"restart_marker_blocks": 5, "subsampling": 0},
}
_END = b"\xff\xd9"


def jpeg(coding: str, image: Image.Image | None = None) -> bytes:
    return encoded(image or photo("coffee.png", 420), "JPEG", **JPEG_CODINGS[coding])


def drawing() -> Image.Image:
    """Large flat areas: optimised codings write them as long runs of zero bits."""
    image = Image.new("RGB", (1200, 800), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((500, 100, 700, 300), outline="navy", width=5)
    return image


def start_of_data(data: bytes) -> int:
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


@cache
def tails() -> dict[str, bytes]:
    """What is found behind the end marker of real files."""
    name = b"Image_UTC_Data"
    block = struct.pack("<HHI", 0, 0x0A01, len(name)) + name + b"1500000000000"
    index = b"SEFH" + struct.pack("<II", 101, 1) + struct.pack("<HHII", 0, 0x0A01, len(block), len(block))
    notes = b"\x1c\x02\x05\x00\x04Hill"
    preview = encoded(photo("chelsea.png", 60))
    return {
        "the block of a Galaxy phone": block + index + struct.pack("<I", len(index)) + b"SEFT",
        "the trailer of Photo Mechanic": b"\x1c\x02\xdd\x00\x04\x00\x00\x00\x01" + struct.pack(">I", 9) + b"cbipcbbl",
        "the trailer of FotoStation": notes + struct.pack(">HI", 1, len(notes) + 10) + b"\xa1\xb2\xc3\xd4",
        "an AFCP trailer": b"AXS!\x00\x01\x00\x01" + notes + b"AXS!" + bytes(8),
        "a stray 0x14": b"\x14",
        "a stray 0xFF": b"\xff",
        "fill bytes": b"\xff" * 4000,
        "a preview": preview,
        "fill bytes and a preview": b"\xff" * 512 + preview,
        "a preview without its first byte": bytes(300) + preview[1:],
        "a video": b"\x00\x00\x00\x18ftypmp42" + bytes(500),
        "data of the maker": random.Random(3).randbytes(2000),
        "two megabytes of zeros": bytes(2_000_000),
        "what the card held before": bytes(900) + b"<html><script>",
        "text": b"x" * 30,
    }


@cache
def whole() -> dict[str, bytes]:
    """Files that Chromium, libvips and Pillow show whole."""
    plain, rows = jpeg("baseline"), jpeg("with restarts by row")
    first_restart = rows.index(b"\xff\xd0", start_of_data(rows))
    restarts = jpeg("with restarts by block")
    coded = start_of_data(restarts)
    filled = re.sub(rb"\xff[\xd0-\xd7]", b"4321\\g<0>", restarts[coded:-2])
    png, webp = encoded(photo(), "PNG"), encoded(photo(), "WEBP")
    found = {f"{format} with {name}": data + tail for format, data in (("JPEG", plain), ("PNG", png), ("WebP", webp))
             for name, tail in tails().items()}  # fmt: skip
    for coding in JPEG_CODINGS:
        data = jpeg(coding)
        found |= {
            f"JPEG {coding} without an end marker": data[:-2],
            f"JPEG {coding} with half of its end marker": data[:-1],
            f"JPEG {coding} with zeros instead of its end marker": data[:-2] + bytes(5000),
            f"JPEG {coding} without an end marker, and a preview": data[:-2] + encoded(photo("chelsea.png", 60)),
            f"JPEG {coding} with zeros before its end marker": data[:-2] + bytes(700) + _END,
            f"JPEG {coding} with fill bytes everywhere": data[:2] + b"\xff" * 9 + data[2:-2] + b"\xff" * 30 + _END,
            f"JPEG {coding} with junk between segments": data[:20] + b"\x31\x00\xff\x00\x32" + data[20:],
            f"JPEG {coding} with zeros between segments": data[:20] + bytes(8000) + data[20:],
            f"a drawing as JPEG {coding}": jpeg(coding, drawing()),
            f"a drawing in grey as JPEG {coding}": jpeg(coding, drawing().convert("L")),
            f"a drawing as JPEG {coding} without an end marker": jpeg(coding, drawing())[:-2],
        }
    return found | {
        "JPEG with bytes before a restart": rows[:first_restart] + b"\x12\x34\x56\x78" + rows[first_restart:],
        "JPEG with bytes before every restart": restarts[:coded] + filled + _END,
        "JPEG with an empty second profile": plain[:2] + segment(0xE2, b"MPF\x00MM\x00*") + plain[2:],
        "a drawing as lossless WebP": encoded(drawing(), "WEBP", lossless=True),
        "a drawing as lossy WebP": encoded(drawing(), "WEBP"),
        "a white page as lossless WebP": encoded(Image.new("RGB", (4000, 3000), "white"), "WEBP", lossless=True),
        "a white page as lossy WebP": encoded(Image.new("RGB", (4000, 3000), "white"), "WEBP"),
        "a white page as JPEG": encoded(Image.new("RGB", (4000, 3000), "white"), "JPEG", optimize=True),
        "a black page as progressive JPEG": encoded(Image.new("L", (4000, 3000)), "JPEG", progressive=True),
        "PNG with a wrong checksum of its text": png[:33] + _chunk(b"tEXt", b"Title\x00Hill", 1) + png[33:],
        "PNG with a wrong checksum of its time": png[:33] + _chunk(b"tIME", bytes(7), 1) + png[33:],
        "PNG with a wrong checksum of its profile": png[:33] + _chunk(b"iCCP", b"p\x00\x00none", 1) + png[33:],
        "PNG with a wrong checksum of its end": png[:-1] + b"\x00",
        "PNG without an end": png[:-12],
        "PNG with half an end": png[:-5],
        "PNG with half a text behind its pixels": png[:-12] + _chunk(b"tEXt", bytes(200))[:50],
    }


@cache
def damaged() -> dict[str, bytes]:
    """Files of which a part is lost."""
    found: dict[str, bytes] = {}
    for coding in JPEG_CODINGS:
        for height in (280, 272):  # with part of a row of blocks, and without
            image = photo("coffee.png", 420).crop((0, 0, 420, height))
            data = jpeg(coding, image)
            name = f"JPEG {coding} of {height} rows"
            start, size = start_of_data(data), len(data)
            length = size - 2 - start
            cut = data[: start + length * 2 // 5].rstrip(b"\xff")
            row = data[: size - 2 - length // 60].rstrip(b"\xff")
            middle = start + length // 2
            found |= {
                f"{name} cut to 40 %": cut,
                f"{name} cut to 40 % and closed": cut + _END,
                f"{name} cut to 40 % and filled with zeros": cut + bytes(9000),
                f"{name} cut to 40 %, with a trailer": cut + tails()["the block of a Galaxy phone"],
                f"{name} cut to 40 %, with junk before": cut[:20] + b"123" + cut[20:] + _END,
                f"{name} cut within its last row": row,
                f"{name} cut within its last row and closed": row + _END,
                f"{name} without its last 4 bytes of data": data[:-6].rstrip(b"\xff") + _END,
                f"{name} with zeros in its second half": data[:middle] + bytes(size - middle),
                f"{name} with zeros in its second half, closed": data[:middle] + bytes(size - 2 - middle) + _END,
            }
            if length > 5000:
                at = start + length // 4
                found[f"{name} with zeros within"] = data[:at] + bytes(2048) + data[at + 2048 :]
    grey = jpeg("baseline", photo("coffee.png", 420).convert("L"))
    grass = encoded(photo("grass.png", 512), "JPEG", quality=85)  # its blocks hold more than zeros would
    rows = jpeg("with restarts by row")
    at = rows.index(b"\xff\xd0", start_of_data(rows))
    warned = rows[:at] + b"\x12\x34\x56\x78" + rows[at:]
    second, third = (warned.index(bytes([0xFF, code]), at) for code in (0xD1, 0xD2))
    flat = jpeg("optimised", drawing())
    after = start_of_data(flat) + 600
    webp, lossless = encoded(photo("coffee.png", 420), "WEBP"), encoded(photo(side=300), "WEBP", lossless=True)
    image = photo("coffee.png", 420)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    veiled = encoded(image, "WEBP")
    png, progressive = encoded(photo(), "PNG"), jpeg("progressive")
    return found | {
        "JPEG of grass with zeros in its second half": grass[: len(grass) // 2] + bytes(len(grass) // 2) + _END,
        "grey JPEG cut within its last row": grey[: -2 - len(grey) // 60].rstrip(b"\xff") + _END,
        "JPEG cut to 40 % after a harmless warning": warned[: at + (len(warned) - at) * 2 // 5] + _END,
        "JPEG cut at a restart after a harmless warning": warned[:third] + _END,
        "JPEG without one interval, after a harmless warning": warned[:second] + warned[third:],
        "a drawing as JPEG with more zeros": flat[:after] + bytes(400) + flat[after:],
        "progressive JPEG without its last scans": progressive[: progressive.rindex(b"\xff\xc4")] + _END,
        "PNG cut within its pixels": png[: len(png) // 2],
        "PNG cut within its pixels and closed": png[: len(png) // 2] + _chunk(b"IEND", b""),
        "PNG with zeros within": png[:9000] + bytes(2048) + png[11048:],
        "lossy WebP with zeros within": webp[:4000] + bytes(4096) + webp[8096:],
        "lossless WebP with zeros within": lossless[:9000] + bytes(4096) + lossless[13096:],
        "WebP with transparency and zeros within": veiled[:-9000] + bytes(4096) + veiled[-4904:],
        "WebP with zeros in its second half": webp[: len(webp) // 2] + bytes(len(webp) - len(webp) // 2),
    }
