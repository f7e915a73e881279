"""From blocks to the few numbers that `core.image_rules` judges: per tile of a 16 x 16 grid, and for the whole image.

A creative upscaler adds texture, noise and sharpness, which vanish when the result is shrunk, and changes tone and
local contrast, which do not; it keeps where things are. So what is looked for is what lies at another place, is gone,
or was never there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.fidelity import BLOCK, LUMA_WEIGHTS, Blocks, Bytes, Floats, measure
from smi_pipeline.core.image_rules import Measured, Thresholds

GRID = 16
_REACH = 4  # source pixels to every side in which a shifted tile is looked for; beyond, it is a foreign one
_CROP = 64  # side of the part of a tile that is searched
_TURNS = (
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
    """What a search for tiles at another place found."""

    shift: tuple[int, int]
    share: float
    alone: int
    turned: int


def summarise(source: Bytes, result: Bytes, limits: Thresholds, *, jpeg: bool) -> Measured:
    """Compares a source with a result shrunk to its size, both as `fidelity.measure` takes them; `jpeg` when the
    result is one, for damage that only JPEG data leaves."""
    blocks = measure(source, result)
    difference = blocks.result_colour - blocks.source_colour
    off = np.abs(difference).max(axis=2)
    tile_colour = np.abs(np.stack([_tiles(difference[:, :, band]) for band in range(3)], axis=2)).max(axis=2)
    std = np.sqrt(_tiles(blocks.source_std**2))
    dead = (blocks.result_std < limits.dead_std) & (
        (off >= limits.dead_colour) | (blocks.source_std >= limits.dead_source_std)
    )
    dead_share = _tiles(dead.astype(np.float32))
    correlation, ratio, contrast = _structure(blocks)
    foreign = (
        (_tiles(off) >= limits.foreign_colour)
        & (correlation < limits.foreign_correlation)
        & (contrast >= limits.flat_source_std)
    )
    structured = std >= limits.structured_std
    ssim = _tiles(blocks.ssim)
    image_correlation, turned = _layout(blocks, limits)
    places = _places(source, result, limits)
    wide = contrast >= limits.flat_source_std
    return Measured(
        min_ssim=float(ssim[structured].min()) if structured.any() else 1.0,
        mean_colour=float(np.abs(difference.mean(axis=(0, 1))).max()),
        tile_colour=float(tile_colour.max()),
        tile_colour_at=_where(tile_colour),
        block_colour=float(off.max()),
        dead_share=float(dead_share.max()),
        dead_at=_where(dead_share),
        flat_ratio=float(ratio[wide].min()) if wide.any() else None,
        foreign_tiles=int(foreign.sum()),
        image_correlation=image_correlation,
        turned_image=turned,
        shift=places.shift,
        shifted_share=places.share,
        shifted_alone=places.alone,
        turned_tiles=places.turned,
        drift=_drift(blocks, limits) if jpeg else 0.0,
        alpha=float(np.abs(_tiles(blocks.result_alpha - blocks.source_alpha)).max()),
        source_saturation=_saturation(blocks.source_colour),
        result_saturation=_saturation(blocks.result_colour),
        min_correlation=float(correlation[structured].min()) if structured.any() else None,
    )


def _edges(length: int) -> NDArray[np.intp]:
    """Where the tiles begin along an axis: 16 of them, or one per item when there are fewer."""
    count = min(GRID, length)
    return np.arange(count, dtype=np.intp) * length // count


def _tiles(values: Floats) -> Floats:
    """Means over the grid."""
    rows, columns = _edges(values.shape[0]), _edges(values.shape[1])
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights = np.diff(np.append(rows, values.shape[0]))
    widths = np.diff(np.append(columns, values.shape[1]))
    return (sums / np.outer(heights, widths)).astype(np.float32)


def _where(tiles: Floats) -> tuple[int, int]:
    row, column = np.unravel_index(int(tiles.argmax()), tiles.shape)
    return int(row), int(column)


def _saturation(colour: Floats) -> float:
    return float((colour.max(axis=2) - colour.min(axis=2)).mean())


def _structure(blocks: Blocks) -> tuple[Floats, Floats, Floats]:
    """Per tile, over all of its pixels: correlation, contrast of the result over the source's, and the latter."""
    s, r = blocks.source_colour @ LUMA_WEIGHTS, blocks.result_colour @ LUMA_WEIGHTS
    within = np.float32((BLOCK * BLOCK - 1) / (BLOCK * BLOCK))
    s_mean, r_mean = _tiles(s), _tiles(r)
    # Centred first: squares of means lose what matters in single precision.
    s0, r0 = s - s.mean(), r - r.mean()
    s0_mean, r0_mean = s_mean - s.mean(), r_mean - r.mean()
    s_var = np.maximum(_tiles(within * blocks.source_std**2 + s0 * s0) - s0_mean**2, 0)
    r_var = np.maximum(_tiles(within * blocks.result_std**2 + r0 * r0) - r0_mean**2, 0)
    covariance = _tiles(within * blocks.covariance + s0 * r0) - s0_mean * r0_mean
    correlation = covariance / np.sqrt(np.maximum(s_var * r_var, 1e-6))
    return correlation, np.sqrt(r_var / np.maximum(s_var, 1e-6)), np.sqrt(s_var)


def _layout(blocks: Blocks, limits: Thresholds) -> tuple[float | None, str]:
    """Correlation of the whole image's block luminances, and how it would have to be turned to fit better."""
    s, r = blocks.source_colour @ LUMA_WEIGHTS, blocks.result_colour @ LUMA_WEIGHTS
    if s.size < 4 or s.std() < limits.image_std:
        return None, ""
    upright = float(_correlation(s[None], r[None])[0])
    best, name = upright, ""
    for how, turn in _TURNS:
        turned = turn(s)
        if turned.shape == r.shape:
            value = float(_correlation(turned[None], r[None])[0])
            if value > best + 0.05:
                best, name = value, how
    return upright, name if best > limits.image_correlation else ""


def _correlation(a: Floats, b: Floats) -> Floats:
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    return (a * b).sum(axis=(1, 2)) / np.sqrt(np.maximum((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)), 1e-6))


def _places(source: Bytes, result: Bytes, limits: Thresholds) -> _Places:
    """Looks for tiles whose content fits at another place, or mirrored or rotated, far better than where it is."""
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
    structured = found_s.std(axis=(1, 2)) >= limits.structured_std
    if not structured.any():
        return none
    s, r = found_s[structured], found_r[structured]
    # Tone must not count: compare around each tile's own mean.
    s -= s.mean(axis=(1, 2), keepdims=True)
    r -= r.mean(axis=(1, 2), keepdims=True)
    inner = slice(_REACH, side - _REACH)
    core = r[:, inner, inner]
    still = _error(s[:, inner, inner], core)
    best = still.copy()
    vectors = np.zeros((len(s), 2), dtype=int)
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            moved = s[:, _REACH - down : side - _REACH - down, _REACH - right : side - _REACH - right]
            error = _error(moved, core)
            better = error < best
            best[better] = error[better]
            vectors[better] = (right, down)
    matters = still >= limits.shift_rms**2
    shifted = matters & (best < limits.shift_gain * still) & vectors.any(axis=1)
    alone = int((matters & (best < limits.shift_gain_alone * still) & vectors.any(axis=1)).sum())
    share, shift = 0.0, (0, 0)
    if shifted.any():
        kinds, counts = np.unique(vectors[shifted], axis=0, return_counts=True)
        share = float(counts.max() / len(s)) if counts.max() > 1 or len(s) == 1 else 0.0
        shift = (int(kinds[counts.argmax()][0]), int(kinds[counts.argmax()][1]))
    upright = _correlation(s, r)
    turned = np.zeros(len(s), dtype=bool)
    for _, turn in _TURNS:
        other = _correlation(turn(s), r)
        turned |= (other >= limits.turned_correlation) & (other >= upright + limits.turned_margin)
    return _Places(shift, share, alone, int(turned.sum()))


def _error(a: Floats, b: Floats) -> Floats:
    difference = a - b
    return np.einsum("nij,nij->n", difference, difference) / np.float32(difference[0].size)


def _drift(blocks: Blocks, limits: Thresholds) -> float:
    """Levels by which, from some row on, nearly every column is off in the same way; 0 when there is no such row."""
    if blocks.ssim.shape[0] < 3:
        return 0.0
    # Medians over three rows on either side; the row between them is part before and part after.
    difference = _median_of_three(blocks.result_colour - blocks.source_colour)
    own = _median_of_three(blocks.source_colour)
    jump, edge = _across(difference), np.abs(_across(own))
    typical = np.median(jump, axis=1, keepdims=True)
    same = np.abs(jump - typical) <= np.maximum(1.5, 0.35 * np.abs(typical))
    share = (same & (np.abs(jump) > 0.5 * edge)).mean(axis=1)
    levels = np.abs(typical[:, 0])[share >= limits.drift_share]
    return float(levels.max()) if levels.size else 0.0


def _median_of_three(values: Floats) -> Floats:
    """Median of each row with the two around it; the outermost rows count twice."""
    a, b, c = np.concatenate([values[:1], values[:-1]]), values, np.concatenate([values[1:], values[-1:]])
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _across(values: Floats) -> Floats:
    """What lies below each row (its three rows' median) minus what lies above."""
    reach = 2 if len(values) >= 9 else 1
    padded = np.concatenate([values[:1]] * reach + [values] + [values[-1:]] * reach)
    return (padded[2 * reach :] - padded[: -2 * reach])[1:-1]
