"""Files of results and sources: formats as upscalers save them, and marks of colour."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    """Return a JPEG file."""
    return _saved(image, "JPEG", quality=quality, **options)


def png(image: Image.Image, *chunks: tuple[bytes, bytes], **options: object) -> bytes:
    """Return a PNG file with `chunks` behind its header."""
    data = _saved(image, "PNG", compress_level=1, **options)
    extra = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:33] + extra + data[33:]


def usual(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Return the image as upscalers save it: PNG, WebP, or JPEG of ordinary quality."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return png(image)
    if kind == 1:
        return _saved(image, "WEBP", quality=int(rng.integers(75, 96)), method=0)
    return jpeg(image, int(rng.integers(75, 97)), subsampling=int(rng.integers(0, 3)))


def profile(colorants: tuple[tuple[float, float, float], ...], gamma: float | None = None) -> bytes:
    """Return an ICC profile of these primaries, adapted to D50, with sRGB's tone curve or a plain gamma."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True):
        offset = int.from_bytes(data[tags[name] + 4 : tags[name] + 8], "big") + 8
        data[offset : offset + 12] = struct.pack(">3i", *(round(value * 65536) for value in values))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        if gamma is None:
            break
        offset = int.from_bytes(data[tags[name] + 4 : tags[name] + 8], "big")
        data[offset : offset + 14] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
        data[tags[name] + 8 : tags[name] + 12] = (14).to_bytes(4, "big")
    return bytes(data)


def shown_as(image: Image.Image, icc: bytes) -> Image.Image:
    """Return an image of these colours in sRGB."""
    wide = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    shown = ImageCms.profileToProfile(image, wide, ImageCms.createProfile("sRGB"))
    assert shown
    return shown


def shown_with(image: Image.Image, gamma: float) -> Image.Image:
    """Return an image whose levels mean light to the power of `gamma` in sRGB. Its curve is straight in dark places,
    where much less changes than a plain power of 1 / 2.2 would show."""
    light = np.linspace(0, 1, 256) ** gamma
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return image.point([round(255 * level) for level in levels] * len(image.getbands()))


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()
