"""Change finished images as upscaling services do on purpose: other sizes, formats and channels."""

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from smi_pipeline.sandbox.upsampler.upscaling import Upscaled, encode

_ARTIST, _COPYRIGHT, _EXIF, _SERIAL, _GPS = 0x013B, 0x8298, 0x8769, 0xA431, 0x8825


def rounded(result: Upscaled, params: dict[str, Any]) -> Upscaled:
    """Return the image with both sides rounded down to a ``multiple``."""
    multiple = params["multiple"]
    return _resized(result, *(max(multiple, side // multiple * multiple) for side in (result.width, result.height)))


def capped(result: Upscaled, params: dict[str, Any]) -> Upscaled:
    """Return the image with at most so many ``pixels``, its proportions kept."""
    ratio = min(1.0, (params["pixels"] / (result.width * result.height)) ** 0.5)
    return _resized(result, *(max(1, int(side * ratio)) for side in (result.width, result.height)))


def drops_alpha(result: Upscaled, params: dict[str, Any]) -> Upscaled:
    """Return the image without its transparency."""
    return encode(Image.open(io.BytesIO(result.body)).convert("RGB"), result.format)


def other_format(result: Upscaled, params: dict[str, Any]) -> Upscaled:
    """Return the image in another ``format``."""
    return encode(Image.open(io.BytesIO(result.body)), params["format"])


def leaves_metadata(result: Upscaled, params: dict[str, Any]) -> Upscaled:
    """Return the image with what a camera has written: place, ``name``, and a block behind the end marker."""
    exif = Image.Exif()
    exif[_ARTIST], exif[_COPYRIGHT] = params["name"], "(c) Studio"
    exif.get_ifd(_EXIF)[_SERIAL] = "SN-4711"
    exif.get_ifd(_GPS).update({1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    out = io.BytesIO()
    Image.open(io.BytesIO(result.body)).save(out, result.format, exif=exif, quality=95)
    body = out.getvalue() + params["trailer"].encode()
    return Upscaled(body=body, format=result.format, width=result.width, height=result.height)


def _resized(result: Upscaled, width: int, height: int) -> Upscaled:
    image = Image.open(io.BytesIO(result.body))
    return encode(image.resize((width, height), Image.Resampling.LANCZOS), result.format)


ALTERATIONS: dict[str, Callable[[Upscaled, dict[str, Any]], Upscaled]] = {
    alter.__name__: alter for alter in (rounded, capped, drops_alpha, other_format, leaves_metadata)
}
