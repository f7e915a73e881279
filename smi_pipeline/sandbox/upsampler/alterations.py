"""Change finished images as upscaling services do on purpose: other sizes, formats and channels."""

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from smi_pipeline.sandbox.upsampler.upscaling import Upscaled, encode


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


def _resized(result: Upscaled, width: int, height: int) -> Upscaled:
    image = Image.open(io.BytesIO(result.body))
    return encode(image.resize((width, height), Image.Resampling.LANCZOS), result.format)


ALTERATIONS: dict[str, Callable[[Upscaled, dict[str, Any]], Upscaled]] = {
    alter.__name__: alter for alter in (rounded, capped, drops_alpha, other_format)
}
