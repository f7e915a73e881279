"""Check whether a delivered file is the right image, independently of the shop.

It uses other libraries and another measure than the shop's checks (`adapters.images`), so that they cannot share a
mistake. The sandbox is known to enlarge by Lanczos, so the thresholds are far stricter than a shop's can be.
"""

import io
import math

import numpy as np
from PIL import Image, ImageOps
from skimage.metrics import structural_similarity

TILES = 16
TILE_LEVELS = 8.0
"""Largest mean difference of a tile, in levels of 0 to 255: correct results of the demo's photographs stay below 5,
corrupt ones have a tile above 15."""
SIMILARITY = 0.95
"""Lowest structural similarity of the whole: correct results stay above 0.98."""
_SMALLEST_SIDE = 7  # pixels: the window of the similarity


def problem(source: bytes, delivered: bytes, scale: int) -> str:
    """Return what is wrong with a delivered file; empty for the source enlarged `scale` times on each side."""
    try:
        with Image.open(io.BytesIO(source)) as opened:
            wanted, wanted_format = ImageOps.exif_transpose(opened).convert("RGBA"), opened.format
    except (OSError, SyntaxError, ValueError) as error:
        return f"the source cannot be read, so the file cannot be checked: {error}"
    try:
        with Image.open(io.BytesIO(delivered)) as opened:
            found, found_format = ImageOps.exif_transpose(opened).convert("RGBA"), opened.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"the file is not a complete image: {error}"
    size = (wanted.width * scale, wanted.height * scale)
    if found.size != size:
        return f"the file is {found.width} x {found.height} pixels, not {size[0]} x {size[1]}"
    if found_format != wanted_format:
        return f"the file is {found_format}, the source is {wanted_format}"
    return _difference(_levels(wanted), _levels(found.resize(wanted.size, Image.Resampling.BOX)))


def credits(source: bytes, scale: int) -> int:
    """Return what Upsampler charges: a quarter credit per megapixel of the result, rounded up, at least one."""
    with Image.open(io.BytesIO(source)) as opened:
        return max(1, math.ceil(opened.width * opened.height * scale**2 / 4_000_000))


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBa"), dtype=np.float64)


def _difference(wanted: np.ndarray, found: np.ndarray) -> str:
    off = np.abs(wanted - found).mean(axis=2)
    height, width = off.shape
    rows, columns = min(TILES, height), min(TILES, width)
    worst = max(
        float(tile.mean()) for row in np.array_split(off, rows) for tile in np.array_split(row, columns, axis=1)
    )
    if worst > TILE_LEVELS:
        return f"a part of the file differs from its source by {worst:.0f} of 255 levels"
    if min(height, width) >= _SMALLEST_SIDE:
        grey = wanted.mean(axis=2), found.mean(axis=2)
        alike = float(structural_similarity(*grey, data_range=255))  # type: ignore[no-untyped-call]  # without types
        if alike < SIMILARITY:
            return f"the file is not like its source (similarity {alike:.2f})"
    return ""
