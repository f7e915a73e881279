"""Photographs, good results like those of a creative upscaler, and damage, for the tests of this folder."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageFilter

PHOTOS = ("astronaut.png", "coffee.png", "rocket.jpg", "chelsea.png", "hubble_deep_field.jpg", "motorcycle_left.png")
STYLES = ("plain", "noise", "texture", "sharp", "all")
_FOLDER = Path(os.path.dirname(skimage.__file__)) / "data"  # noqa: PTH120 - skimage names a string


def photo(name: str = "astronaut.png", side: int = 128) -> Image.Image:
    image = Image.open(_FOLDER / name).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.info.clear()  # some carry a profile, which Pillow would write again
    return image


def upscale(source: Image.Image, scale: int = 4, style: str = "plain", seed: int = 0) -> Image.Image:
    """What a creative upscaler returns: the source enlarged, with made-up grain, texture and sharpness."""
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    big = source.resize((source.width * scale, source.height * scale), Image.Resampling.LANCZOS)
    pixels = np.asarray(big).astype(np.float32)
    height, width = pixels.shape[:2]
    if style in ("noise", "all"):
        pixels += rng.normal(0, dice.uniform(4, 18), (height, width, 1)).astype(np.float32)
    if style in ("texture", "all"):
        grain = Image.fromarray(rng.integers(0, 256, (height // 2 + 1, width // 2 + 1), dtype=np.uint8))
        grain = grain.resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(grain).astype(np.float32)[..., None] - 128) * dice.uniform(0.05, 0.2)
    big = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if style in ("sharp", "all"):
        big = big.filter(ImageFilter.UnsharpMask(dice.uniform(1, scale), dice.randrange(60, 200), dice.randrange(4)))
    return big


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    defaults: dict[str, dict[str, object]] = {
        "JPEG": {"quality": 90},
        "WEBP": {"quality": 85, "method": 0},
        "PNG": {"compress_level": 1},
    }
    image.save(out, format, **(defaults[format] | options))
    return out.getvalue()


def flipped(jpeg: bytes, where: float, count: int, seed: int = 0) -> bytes:
    """Changes `count` bytes of a JPEG's entropy-coded data, `where` 0 to 1, without making or breaking a marker."""
    dice = random.Random(seed)
    data = bytearray(jpeg)
    start = jpeg.find(b"\xff\xda") + 14
    at = start + int(where * (len(data) - 2 - count - start))
    for index in range(at, at + count):
        changed = data[index] ^ dice.randrange(1, 256)
        if 255 not in (data[index], changed, data[index - 1]):
            data[index] = changed
    return bytes(data)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its chunks, with right checksums."""
    body = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def png_header(width: int, height: int, bits: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
