"""Enlarge PNG, JPEG and WebP images by Lanczos, with orientation, colour profile and bit depth taken care of."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
MAX_OUTPUT_PIXELS = 300_000_000
_QUALITY = 92


class UnusableImage(ValueError):
    """The source cannot be upscaled; the message is sent to the client."""


@dataclass(frozen=True, kw_only=True)
class Upscaled:
    """A finished image: encoded bytes, Pillow's name of the format, size in pixels."""

    body: bytes
    format: str
    width: int
    height: int


def upscale(source: bytes, scale: int) -> Upscaled:
    """Return the image enlarged by ``scale`` in its format: upright 8-bit sRGB, with alpha. Raises UnusableImage."""
    image, image_format = read(source)
    width, height = image.width * scale, image.height * scale
    if width * height > MAX_OUTPUT_PIXELS:
        raise UnusableImage(f"Output of {width}x{height} pixels is too large")
    return encode(image.resize((width, height), Image.Resampling.LANCZOS), image_format)


def read(source: bytes) -> tuple[Image.Image, str]:
    """Return the image as upright 8-bit sRGB (RGB or RGBA), and its format. Raises UnusableImage."""
    try:
        with Image.open(io.BytesIO(source)) as opened:
            image_format = opened.format or ""
            if image_format == "MPO":  # a camera's JPEG with an embedded preview
                image_format = "JPEG"
            if image_format not in MEDIA_TYPES:
                raise UnusableImage(f"Unsupported image format: {image_format}")
            image = ImageOps.exif_transpose(opened)
            image.load()
    except UnidentifiedImageError as error:
        raise UnusableImage("The URL does not point to an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise error if isinstance(error, UnusableImage) else UnusableImage(f"Broken image: {error}") from error
    return _to_srgb(image), image_format


def _to_srgb(image: Image.Image) -> Image.Image:
    transparent = "A" in image.getbands() or "transparency" in image.info
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow's own conversion clips everything above 255 to white
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA" if transparent else "RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha is not None else image
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            colours = converted or colours
        except ImageCms.PyCMSError:
            pass  # an invalid profile is ignored
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    elif transparent:
        colours = image.convert("RGBA")
    return colours


def encode(image: Image.Image, image_format: str) -> Upscaled:
    """Return the encoded image: quality about 90, PNG fast rather than small."""
    out = io.BytesIO()
    flat = image.convert("RGB") if image_format == "JPEG" else image
    flat.save(out, image_format, quality=_QUALITY, compress_level=1, method=0)  # each format takes what it knows
    return Upscaled(body=out.getvalue(), format=image_format, width=image.width, height=image.height)


def credits_for(width: int, height: int) -> int:
    """Return the price of a result of this size: a quarter credit per megapixel, rounded up, at least one."""
    return max(1, -(-width * height // 4_000_000))


def pixels_sha256(content: bytes) -> str:
    """Return a checksum of what an image shows: a shop may remove metadata. Of what cannot be decoded, of its bytes."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
    except (OSError, SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest()
