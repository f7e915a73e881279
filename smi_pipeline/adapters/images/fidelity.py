"""Measure per block how a result, shrunk to its source's size, differs from the source.

Blocks are 7 x 7 source pixels, measured in stripes from top to bottom, so that floats are never held at the size of an
image. 7 is the window of scikit-image, with which the tests compare the SSIM.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK = 7
_PIXELS = 30_000  # of a stripe, unless it has more in 8 rows of blocks: its floats stay in the cache
_BLACK, _NOT_BLACK = 2, 48
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Level = TypeVar("Level", np.uint8, np.float32)

# Rec. 601, as in JPEG.
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_C1 = np.float32((0.01 * 255) ** 2)
_C2 = np.float32((0.03 * 255) ** 2)


@dataclass(frozen=True)
class Blocks:
    """Per block of the source: arrays of shape (rows, columns), colours with a third axis R, G, B. Levels 0-255."""

    ssim: Floats
    source_std: Floats  # standard deviation of luminance within the block
    result_std: Floats
    covariance: Floats
    source_colour: Floats
    result_colour: Floats
    source_alpha: Floats
    result_alpha: Floats
    blackened: Floats  # share of the pixels that are black in the result and clearly not in the source


def measure(source: Bytes, result: Bytes) -> Blocks:
    """Measure two images of the same size, uint8 (height, width, 3 or 4): RGB weighted by alpha, and alpha."""
    high = max(_PIXELS // (source.shape[1] * BLOCK), 8) * BLOCK
    tops = range(0, source.shape[0], high)
    parts = [_stripe(source[top : top + high], result[top : top + high]) for top in tops]
    return Blocks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def brightest(colours: NDArray[Level]) -> NDArray[Level]:
    """Return the largest of the three channels; numpy's own maximum is slow on short axes."""
    return np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])


def block_medians(pixels: Bytes) -> Floats:
    """Return the median colour of every block."""
    high = 8 * BLOCK
    return np.concatenate([_medians(_pad(pixels[top : top + high, :, :3])) for top in range(0, len(pixels), high)])


def _medians(pixels: Bytes) -> Floats:
    height, width = pixels.shape[:2]
    cells = pixels.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    medians: Floats = np.median(cells, axis=(1, 3)).astype(np.float32)
    return medians


def _stripe(source: Bytes, result: Bytes) -> tuple[Floats, ...]:
    source, result = _pad(source), _pad(result)
    s_colour, r_colour = _colour_means(source), _colour_means(result)
    s, r = source[:, :, :3] @ LUMA_WEIGHTS, result[:, :, :3] @ LUMA_WEIGHTS
    s_mean, r_mean = _means(s), _means(r)
    # Sample (co)variance, n - 1: what scikit-image does by default.
    n = np.float32(BLOCK * BLOCK / (BLOCK * BLOCK - 1))
    s_var = np.maximum(n * (_means(s * s) - s_mean * s_mean), 0)
    r_var = np.maximum(n * (_means(r * r) - r_mean * r_mean), 0)
    cov = n * (_means(s * r) - s_mean * r_mean)
    ssim = ((2 * s_mean * r_mean + _C1) * (2 * cov + _C2)) / (
        (s_mean * s_mean + r_mean * r_mean + _C1) * (s_var + r_var + _C2)
    )
    return (
        ssim.astype(np.float32), np.sqrt(s_var), np.sqrt(r_var), cov,
        s_colour[:, :, :3], r_colour[:, :, :3], _alpha(s_colour), _alpha(r_colour),
        _means(_blackened(s, result)),
    )  # fmt: skip


def _blackened(luminance: Floats, result: Bytes) -> Floats:
    return ((brightest(result) <= _BLACK) & (luminance >= _NOT_BLACK)).astype(np.float32)


def _pad(pixels: Bytes) -> Bytes:
    """Repeat the last row and column up to whole blocks, which adds no contrast and works for one pixel."""
    height, width = pixels.shape[:2]
    down, right = -height % BLOCK, -width % BLOCK
    if not down and not right:
        return pixels
    padded = np.empty((height + down, width + right, pixels.shape[2]), dtype=pixels.dtype)
    padded[:height, :width] = pixels
    padded[:height, width:] = pixels[:, -1:]
    padded[height:] = padded[height - 1]
    return padded


def _means(values: Floats) -> Floats:
    height, width = values.shape
    # Rows first: numpy adds whole rows fast, which leaves a seventh for the slow axis.
    rows = values.reshape(height // BLOCK, BLOCK, width).sum(axis=1)
    means: Floats = rows.reshape(height // BLOCK, width // BLOCK, BLOCK).sum(axis=2) / np.float32(BLOCK * BLOCK)
    return means


def _colour_means(pixels: Bytes) -> Floats:
    height, width, bands = pixels.shape
    rows = pixels.reshape(height // BLOCK, BLOCK, width * bands).sum(axis=1, dtype=np.uint16)
    blocks = rows.reshape(height // BLOCK, width // BLOCK, BLOCK, bands).sum(axis=2, dtype=np.uint32)
    means: Floats = blocks.astype(np.float32) / np.float32(BLOCK * BLOCK)
    return means


def _alpha(colour: Floats) -> Floats:
    return colour[:, :, 3] if colour.shape[2] == 4 else np.full(colour.shape[:2], 255, dtype=np.float32)
