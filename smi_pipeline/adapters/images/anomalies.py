"""Reduce block measurements to the numbers that `core.image_rules` judges, per tile of a 16 x 16 grid and overall.

A creative upscaler adds texture, noise and sharpness, which vanish when the result is shrunk, and changes tone and
local contrast, but keeps everything in its place. So this looks for content that moved, vanished or appeared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.defects import find_defects, tone_change
from smi_pipeline.adapters.images.drift import find_drift
from smi_pipeline.adapters.images.fidelity import BLOCK, LUMA_WEIGHTS, Blocks, Bytes, Floats, brightest, measure
from smi_pipeline.adapters.images.misfit import find_misfit
from smi_pipeline.core.image_rules import Measured, Thresholds

GRID = 16
_STRUCTURE = 3  # blocks a side that a tile needs for a structure
_REACH = 4  # source pixels to every side that a shifted tile is searched; beyond, it counts as foreign
_CROP = 64  # side of the part of a tile that is searched
_ROTATIONS: tuple[tuple[str, Callable[[Floats], Floats]], ...] = (
    ("mirrored", lambda a: a[..., :, ::-1]),
    ("upside down", lambda a: a[..., ::-1, ::-1]),
    ("flipped", lambda a: a[..., ::-1, :]),
    ("rotated by 90 degrees", lambda a: np.rot90(a, 1, (-2, -1))),
    ("rotated by 270 degrees", lambda a: np.rot90(a, 3, (-2, -1))),
    ("transposed", lambda a: np.swapaxes(a, -2, -1)),
    ("transversed", lambda a: np.swapaxes(a[..., ::-1, ::-1], -2, -1)),
)


@dataclass(frozen=True)
class _Places:
    """The result of a search for moved tiles."""

    shift: tuple[int, int]
    share: float
    alone: int
    rotated: int


def summarise(source: Bytes, result: Bytes, limits: Thresholds, *, jpeg: bool) -> Measured:
    """Compare a source with a result shrunk to its size, both as `fidelity.measure` takes them. With `jpeg` also look
    for damage that only JPEG data shows."""
    blocks = measure(source, result)
    difference = blocks.result_colour - blocks.source_colour
    off = brightest(np.abs(difference))
    tile_colour = brightest(np.abs(_tiles(difference)))
    std = np.sqrt(_tiles(blocks.source_std**2, _STRUCTURE))
    black = (brightest(blocks.result_colour) <= limits.black) & (brightest(blocks.source_colour) >= limits.not_black)
    even = blocks.result_std < limits.flat_block_std
    lost = blocks.source_std >= limits.flat_block_source_std
    # Where nearly all structure is gone it was taken for grain: a loss of sharpness, no spoiled part.
    lost &= (even & lost).sum() < limits.flat_block_grain * lost.sum()
    flat = even & ((off >= limits.flat_block_colour) | black | lost)
    flat_block_share = np.maximum(_tiles(flat.astype(np.float32)), _tiles(blocks.blackened))
    correlation, contrast = _structure(blocks)
    foreign = (
        (_tiles(off, _STRUCTURE) >= limits.foreign_colour)
        & (correlation < limits.foreign_correlation)
        & (contrast >= limits.foreign_source_std)
    )
    alike = blocks.covariance / np.maximum(blocks.source_std * blocks.result_std, 1)
    foreign_blocks = (
        (off >= limits.foreign_block_colour)
        & (alike < limits.foreign_correlation)
        & ((blocks.source_std >= limits.structured_std) | (blocks.result_std >= limits.appeared_std))
    )
    structured = std >= limits.structured_std
    ssim = _tiles(blocks.ssim, _STRUCTURE)
    image_correlation, rotated = _layout(blocks, limits)
    places = _places(source, result, limits)
    drift, drift_suspected = find_drift(source, blocks, limits) if jpeg else (0.0, 0.0)
    return Measured(
        min_ssim=float(ssim[structured].min()) if structured.any() else 1.0,
        mean_colour=float(np.abs(difference.mean(axis=(0, 1))).max()),
        tile_colour=float(tile_colour.max()),
        tile_colour_at=_where(tile_colour),
        flat_block_share=float(flat_block_share.max()),
        flat_block_at=_where(flat_block_share),
        foreign_tiles=int(foreign.sum()),
        foreign_block_share=float(_tiles(foreign_blocks.astype(np.float32), 2).max()),
        colour_outlier=float(_tiles(np.divide(off, 10 + blocks.source_std, dtype=np.float32), 2).max()),
        image_correlation=image_correlation,
        rotation=rotated,
        shift=places.shift,
        shifted_share=places.share,
        shifted_alone=places.alone,
        rotated_tiles=places.rotated,
        drift=drift,
        drift_suspected=drift_suspected,
        alpha=float(np.abs(_tiles(blocks.result_alpha - blocks.source_alpha)).max()),
        source_saturation=_saturation(blocks.source_colour),
        result_saturation=_saturation(blocks.result_colour),
        misfit=find_misfit(source, result, blocks),
        tone=tone_change(blocks),
        **vars(find_defects(source, result)),
    )


@lru_cache(64)
def _edges(length: int, least: int) -> tuple[NDArray[np.intp], Floats]:
    """Return where the tiles begin along an axis, 16 or fewer so that each has `least` blocks, and their lengths."""
    count = max(1, min(GRID, length // least))
    edges = np.arange(count + 1, dtype=np.intp) * length // count
    return edges[:-1], np.diff(edges).astype(np.float32)


def _tiles(values: Floats, least: int = 1) -> Floats:
    """Return the means over the grid."""
    (rows, heights), (columns, widths) = (_edges(length, least) for length in values.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    areas = np.multiply.outer(heights, widths).reshape(sums.shape[:2] + (1,) * (values.ndim - 2))
    return np.divide(sums, areas, dtype=np.float32)


def _where(tiles: Floats) -> tuple[int, int]:
    row, column = np.unravel_index(int(tiles.argmax()), tiles.shape)
    return int(row), int(column)


def _saturation(colour: Floats) -> float:
    return float((brightest(colour) + brightest(-colour)).mean())


def _structure(blocks: Blocks) -> tuple[Floats, Floats]:
    """Return per tile the correlation of source and result, and the contrast of the source."""
    s, r = blocks.source_colour @ LUMA_WEIGHTS, blocks.result_colour @ LUMA_WEIGHTS
    within = np.float32((BLOCK * BLOCK - 1) / (BLOCK * BLOCK))
    # Centred first: squares of means lose too much in single precision.
    s, r = s - s.mean(), r - r.mean()
    s_mean, r_mean = _tiles(s, _STRUCTURE), _tiles(r, _STRUCTURE)
    s_var = np.maximum(_tiles(within * blocks.source_std**2 + s * s, _STRUCTURE) - s_mean**2, 0)
    r_var = np.maximum(_tiles(within * blocks.result_std**2 + r * r, _STRUCTURE) - r_mean**2, 0)
    covariance = _tiles(within * blocks.covariance + s * r, _STRUCTURE) - s_mean * r_mean
    correlation = covariance / np.sqrt(np.maximum(s_var * r_var, 1e-6))
    return correlation, np.sqrt(s_var)


def _layout(blocks: Blocks, limits: Thresholds) -> tuple[float | None, str]:
    """Return the correlation of the block luminances of the image, and the rotation that would fit better."""
    s, r = blocks.source_colour @ LUMA_WEIGHTS, blocks.result_colour @ LUMA_WEIGHTS
    # A brighter tone cuts pale places off at white.
    whole = (r < limits.white) | (s < limits.not_white)
    if whole.sum() < 4 or s[whole].std() < limits.image_std:
        return None, ""
    upright = float(_correlation(s[whole][None, None], r[whole][None, None])[0])
    best, name = upright, ""
    for how, turn in _ROTATIONS:
        rotated = turn(s)
        if rotated.shape == r.shape:
            value = float(_correlation(rotated[None], r[None])[0])
            if value > best + 0.05:
                best, name = value, how
    return upright, name if best > limits.image_correlation else ""


def _correlation(a: Floats, b: Floats) -> Floats:
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    scale = np.sqrt(np.maximum((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)), 1e-6))
    correlation: Floats = (a * b).sum(axis=(1, 2)) / scale
    return correlation


def _places(source: Bytes, result: Bytes, limits: Thresholds) -> _Places:
    """Find tiles whose content fits much better elsewhere, mirrored or rotated."""
    none = _Places((0, 0), 0.0, 0, 0)
    height, width = source.shape[:2]
    rows, columns = min(GRID, height // 24), min(GRID, width // 24)
    if not rows or not columns:
        return none
    high, wide = height // rows, width // columns
    side = min(_CROP, high, wide)
    corners = [
        (row * height // rows + (high - side) // 2, column * width // columns + (wide - side) // 2)
        for row in range(rows)
        for column in range(columns)
    ]
    found_s, found_r = (
        np.stack([image[y : y + side, x : x + side, :3] @ LUMA_WEIGHTS for y, x in corners])
        for image in (source, result)
    )
    # Ignore tone: compare around each tile's own mean.
    found_s -= found_s.mean(axis=(1, 2), keepdims=True)
    structured = _products(found_s, found_s) >= side * side * limits.structured_std**2
    if not structured.any():
        return none
    s, r = found_s[structured], found_r[structured]
    r -= r.mean(axis=(1, 2), keepdims=True)
    return _shifted(s, r, limits, _rotated(s, r, limits))


def _shifted(s: Floats, r: Floats, limits: Thresholds, rotated: int) -> _Places:
    side = s.shape[1]
    inner = slice(_REACH, side - _REACH)
    of = len(s)
    still = _error(s[:, inner, inner], r[:, inner, inner])
    # Most tiles fit in place and need no search.
    matters = still >= limits.shift_rms**2
    if not matters.any():
        return _Places((0, 0), 0.0, 0, rotated)
    s, r, still = s[matters], r[matters], still[matters]
    core = r[:, inner, inner]
    best = still.copy()
    vectors = np.zeros((len(s), 2), dtype=int)
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            moved = s[:, _REACH - down : side - _REACH - down, _REACH - right : side - _REACH - right]
            error = _error(moved, core)
            better = error < best
            best[better] = error[better]
            vectors[better] = (right, down)
    # When an edge leaves the compared part, so does its error: the rest must fit and have contrast.
    contrast = core.var(axis=(1, 2))
    fits = (contrast >= limits.structured_std**2) & (best < limits.shift_rest * contrast)
    fits &= (_two_directions(core) >= limits.shift_directions) & vectors.any(axis=1)
    shifted = fits & (best < limits.shift_gain * still)
    alone = int((fits & (best < limits.shift_gain_alone * still)).sum())
    share, shift = 0.0, (0, 0)
    if shifted.any():
        kinds, counts = np.unique(vectors[shifted], axis=0, return_counts=True)
        share = float(counts.max() / of) if counts.max() > 1 or of == 1 else 0.0
        shift = (int(kinds[counts.argmax()][0]), int(kinds[counts.argmax()][1]))
    return _Places(shift, share, alone, rotated)


def _rotated(s: Floats, r: Floats, limits: Thresholds) -> int:
    upright = _products(s, r) / np.sqrt(np.maximum(_products(s, s) * _products(r, r), 1e-6))
    matters = upright < 1 - limits.rotated_margin
    if not matters.any():
        return 0
    s, r, upright = s[matters], r[matters], upright[matters]
    rotated = np.zeros(len(s), dtype=bool)
    for _, turn in _ROTATIONS:
        other = _correlation(turn(s), r)
        rotated |= (other >= limits.rotated_correlation) & (other >= upright + limits.rotated_margin)
    return int(rotated.sum())


def _error(a: Floats, b: Floats) -> Floats:
    difference = a - b
    return _products(difference, difference) / np.float32(a.shape[1] * a.shape[2])


def _products(a: Floats, b: Floats) -> Floats:
    products: Floats = np.einsum("nij,nij->n", a, b)
    return products


def _two_directions(tiles: Floats) -> Floats:
    """Return the smaller over the larger eigenvalue of each tile's structure tensor: 0 for a straight edge, which fits
    anywhere along itself, 1 for equal structure in all directions."""
    down, right = np.gradient(tiles, axis=(1, 2))
    xx, yy, xy = ((a * b).mean(axis=(1, 2)) for a, b in ((right, right), (down, down), (right, down)))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    ratio: Floats = (xx + yy - spread) / np.maximum(xx + yy + spread, 1e-6)
    return ratio
