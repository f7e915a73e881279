"""Corrupt finished images as a network, a disk or a model can; the same input always gives the same bytes."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from smi_pipeline.sandbox import photos
from smi_pipeline.sandbox.upsampler.upscaling import Upscaled, encode

_VISIBLE = 4.0  # mean difference, 0..255: corruption that anyone would notice
_ATTEMPTS = 40


def truncated(result: Upscaled, params: dict[str, Any]) -> bytes:
    """Return only the first part of the file, as after an undetected broken transfer."""
    return result.body[: max(1, int(len(result.body) * params["keep"]))]


def wrong_dimensions(result: Upscaled, params: dict[str, Any]) -> bytes:
    """Return a flawless image that is some pixels too small in both directions."""
    image = Image.open(io.BytesIO(result.body))
    less = params["pixels"]
    size = (max(1, image.width - less), max(1, image.height - less))
    return encode(image.resize(size, Image.Resampling.LANCZOS), result.format).body


def black_tile(result: Upscaled, params: dict[str, Any]) -> bytes:
    """Return the image with a black tile, as when a worker of a tiled model died; ``fraction`` of each side.

    It is the brightest tile, because on a night sky nobody would see it.
    """
    image = Image.open(io.BytesIO(result.body))
    image.load()
    tiles = max(1, round(1 / params["fraction"]))
    brightness = np.asarray(image.convert("L").resize((tiles, tiles), Image.Resampling.BOX))
    row, column = divmod(int(brightness.argmax()), tiles)
    left, top = column * image.width // tiles, row * image.height // tiles
    right, bottom = (column + 1) * image.width // tiles - 1, (row + 1) * image.height // tiles - 1
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), fill=(0, 0, 0, 255)[: len(image.getbands())])
    return encode(image, result.format).body


def wrong_image(result: Upscaled, params: dict[str, Any]) -> bytes:
    """Return another photograph in the right size and format.

    Of two candidates, the one that differs more from the good result, so that it is never the right one by chance.
    """
    good = Image.open(io.BytesIO(result.body)).convert("RGB").resize((32, 32))
    others = [
        ImageOps.fit(photos.original(name).convert("RGB"), (result.width, result.height))
        for name in ("coffee", "rocket")
    ]
    other = max(others, key=lambda image: _difference(image.resize((32, 32)), good))
    return encode(other, result.format).body


def bit_flip(result: Upscaled, params: dict[str, Any]) -> bytes:
    """Return the file with a few flipped bytes, such that it still decodes and looks visibly wrong.

    If no attempt does, return the last one, which may not decode.
    """
    flip: Callable[[bytes, random.Random], bytes]
    flip = {"PNG": _flip_png, "JPEG": _flip_jpeg, "WEBP": _flip_webp}[result.format]
    good = Image.open(io.BytesIO(result.body)).convert("RGB")
    corrupted = result.body
    for attempt in range(_ATTEMPTS):
        corrupted = flip(result.body, random.Random(attempt))
        try:
            decoded = Image.open(io.BytesIO(corrupted))
            decoded.load()
        except (OSError, SyntaxError, ValueError):
            continue
        if decoded.size == good.size and _difference(decoded.convert("RGB"), good) >= _VISIBLE:
            return corrupted
    return corrupted


def _difference(one: Image.Image, other: Image.Image) -> float:
    small = (min(512, one.width), min(512, one.height))
    first = np.asarray(one.resize(small, Image.Resampling.NEAREST), dtype=np.int16)
    second = np.asarray(other.resize(small, Image.Resampling.NEAREST), dtype=np.int16)
    return float(np.abs(first - second).mean())


def _flip_jpeg(body: bytes, chance: random.Random) -> bytes:
    """Flip bytes of the entropy-coded data in the middle, without touching or making markers (0xFF)."""
    start = _jpeg_scan_start(body)
    corrupted = bytearray(body)
    low, high = start + (len(body) - start) // 5, start + (len(body) - start) // 2
    for _ in range(6):
        at = chance.randrange(low, high)
        flipped = corrupted[at] ^ (1 << chance.randrange(8))
        if 0xFF not in (corrupted[at - 1], corrupted[at], flipped):
            corrupted[at] = flipped
    return bytes(corrupted)


def _jpeg_scan_start(body: bytes) -> int:
    at = 2
    while body[at + 1] != 0xDA:
        at += 2 + int.from_bytes(body[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(body[at + 2 : at + 4], "big")


def _flip_webp(body: bytes, chance: random.Random) -> bytes:
    """Flip bits of the pixels before compression: libwebp rejects nearly every flipped bit of its own stream."""
    pixels = np.array(Image.open(io.BytesIO(body)))
    height = pixels.shape[0]
    band = pixels[height // 3 : height // 3 + max(1, height // 4)]
    band[:, chance.randrange(max(1, band.shape[1] // 4)) :, chance.randrange(3)] ^= 0x80
    return encode(Image.fromarray(pixels), "WEBP").body


def _flip_png(body: bytes, chance: random.Random) -> bytes:
    """Flip bytes of the scan lines before compression, so that the checksums are right: any decoder would notice
    bytes that were flipped later."""
    header = body[16:29]
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    stride = 1 + width * {0: 1, 2: 3, 4: 2, 6: 4}.get(colour, 1) * depth // 8
    chunks, data, at = [], b"", 8
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        name = body[at + 4 : at + 8]
        if name == b"IDAT":
            data += body[at + 8 : at + 8 + length]
        else:
            chunks.append((name, body[at + 8 : at + 8 + length]))
        at += 12 + length
    lines = bytearray(zlib.decompress(data))
    for row in range(height // 3, height // 3 + max(1, height // 6)):
        for _ in range(4):
            # never byte 0 of a line, which selects the filter
            lines[row * stride + chance.randrange(1, stride)] ^= 1 << chance.randrange(4, 8)
    chunks.insert(-1, (b"IDAT", zlib.compress(bytes(lines), 1)))
    out = body[:8]
    for name, content in chunks:
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out


CORRUPTIONS: dict[str, Callable[[Upscaled, dict[str, Any]], bytes]] = {
    corrupt.__name__: corrupt for corrupt in (truncated, wrong_dimensions, black_tile, wrong_image, bit_flip)
}
