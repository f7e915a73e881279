"""Find where a JPEG lost its synchronisation: from some row on all colours are off by the same levels, because DC
values are coded as differences."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.fidelity import LUMA_WEIGHTS, Blocks, Bytes, Floats, block_medians
from smi_pipeline.core.image_rules import Thresholds

_FAR = 10  # rows of blocks over which a drift must stay
_BLACK, _WHITE = 12, 235  # levels beyond which a tone may be cut off (255 / 1.08)
_STEEPEST = 0.8  # levels of drift per level of the picture's own change
_SATURATION = 0.25  # levels of drift per level of difference between the channels' changes
_VOTERS = 0.15  # share of the columns that must be usable to find a drift
_SAME_TEXTURE = 0.25  # share of these that must have the same texture above and below
_SMOOTH, _OTHER_TEXTURE = 2, 1.7  # levels of contrast that do not matter, and the factor by which it may change
_KEPT = 0.5  # share of the contrast within blocks
_AT_ONCE = 0.83  # share of a drift that two rows of blocks must show; a network's change of colours: 0.76, damage: 0.86
_GRAIN = 24  # levels from which a drift is more than removed grain explains


def find_drift(source: Bytes, blocks: Blocks, limits: Thresholds) -> tuple[float, float]:
    """Return the drift that is sure, and that which is suspected since only `fine_drift_share` of the columns agree on
    it, or not at once, or at the border of two textures, of which networks darken one.

    Either is what no removal of grain explains: that leaves a block's most common level, not its mean."""
    difference = blocks.result_colour - blocks.source_colour
    drifts = _drifts(blocks, difference, limits)
    if not any(limits.drift_levels <= drift < _GRAIN for drift in drifts):
        return drifts  # nearly always; medians take long
    other = block_medians(source) - blocks.source_colour
    difference = difference - np.clip(difference, np.minimum(other, 0), np.maximum(other, 0))
    explained = _drifts(blocks, difference, limits)
    sure, suspected = (
        rest if limits.drift_levels <= drift < _GRAIN else drift for drift, rest in zip(drifts, explained, strict=True)
    )
    return sure, suspected


def _drifts(blocks: Blocks, difference: Floats, limits: Thresholds) -> tuple[float, float]:
    """Return the levels by which, from some row on, nearly all columns are off alike, surely and perhaps; 0 when there
    is no such row. In a sky only the second way sees it, in much grain only the first."""
    if blocks.ssim.shape[0] < 3:
        return 0.0, 0.0
    plain, levelled = (_drifts_by(across, blocks, difference, limits) for across in (_across, _across_a_gradient))
    return max(plain[0], levelled[0]), max(plain[1], levelled[1])


def _drifts_by(
    across: Callable[[Floats], Floats], blocks: Blocks, difference: Floats, limits: Thresholds
) -> tuple[float, float]:
    # Medians over three rows on either side; the row between belongs to both.
    rows = np.median(difference, axis=1)
    difference = _median_of_three(difference)
    own = _median_of_three(blocks.source_colour)
    jump, edge = across(difference), across(own)
    # Colours at the end of the scale cannot move further: such columns are not usable.
    free = (own > _BLACK) & (own < _WHITE)
    usable = np.minimum(free[:-2], free[2:])
    typical = _median_of(jump, usable)
    if np.abs(typical).max() < limits.drift_levels:
        return 0.0, 0.0
    # A change of saturation moves one channel where another has the edge.
    hue = np.abs(edge - (edge @ LUMA_WEIGHTS)[..., None])
    # Nor are columns where the picture itself changes by as much: a change of tones (also noise cut off at black)
    # moves levels by less than they differ.
    usable &= np.abs(jump).clip(min=np.abs(typical)) > _STEEPEST * np.abs(edge) + _SATURATION * hue
    same = np.abs(jump - typical) <= np.maximum(1.5, 0.35 * np.abs(typical))
    # Halos of local contrast along straight edges fade within a few blocks; a drift stays.
    stays = _far_across(rows) * typical[:, 0] >= 0.6 * typical[:, 0] ** 2
    levels = np.where(stays, np.abs(typical[:, 0]), 0)
    texture = np.log(_median_of_three(blocks.source_std) + _SMOOTH)
    alike = usable & (np.abs(across(texture))[..., None] < np.log(_OTHER_TEXTURE))
    # A texture that was taken for noise is left at another level; damage leaves it as it is.
    kept = _median_of_three((blocks.result_std + _SMOOTH) / (blocks.source_std + _SMOOTH)) > _KEPT
    alike &= (kept[:-2] & kept[2:])[..., None]
    # A border of two textures right across the picture proves nothing: networks darken one of them.
    proved = alike.sum(axis=1) >= _SAME_TEXTURE * usable.sum(axis=1)
    proved &= _at_once(rows) >= _AT_ONCE * np.abs(typical[:, 0])
    share = _share(same, usable)
    is_sure, is_suspected = proved & (share >= limits.drift_share), share >= limits.fine_drift_share
    return float(levels[is_sure].max(initial=0)), float(levels[is_suspected].max(initial=0))


def _share(same: NDArray[np.bool_], usable: NDArray[np.bool_]) -> Floats:
    """Return the share of each row's usable columns that agree; 0 where too few are usable."""
    voters = usable.sum(axis=1)
    enough = voters >= np.maximum(3, _VOTERS * usable.shape[1])
    return np.where(enough, (same & usable).sum(axis=1) / np.maximum(voters, 1), 0).astype(np.float32)


def _at_once(rows: Floats) -> Floats:
    """Return the largest change from a row to the next but one near each inner row: a row of MCUs is lower than a block
    and begins anywhere, so that a drift is complete by then."""
    reach = np.concatenate([rows[:1], rows, rows[-1:]])
    changes = np.abs(reach[2:] - reach[:-2])
    nearest: Floats = np.maximum(np.maximum(changes[:-2], changes[1:-1]), changes[2:])
    return nearest


def _far_across(rows: Floats) -> Floats:
    """Return the mean of up to ten rows below each inner row minus that of up to ten above it."""
    sums = np.concatenate([np.zeros_like(rows[:1]), np.cumsum(rows, axis=0)])
    at = np.arange(1, len(rows) - 1)
    first, last = np.maximum(at - _FAR, 0), np.minimum(at + 1 + _FAR, len(rows))
    above: Floats = (sums[at] - sums[first]) / (at - first)[:, None]
    below: Floats = (sums[last] - sums[at + 1]) / (last - at - 1)[:, None]
    return below - above


def _median_of(values: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Return the median of each row's chosen values as a column; 0 where none is chosen."""
    masked = np.where(chosen, values, np.inf)
    ordered = np.sort(masked, axis=1)
    middle = np.maximum(chosen.sum(axis=1, keepdims=True) - 1, 0) // 2
    found = np.take_along_axis(ordered, middle, axis=1)
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def _median_of_three(values: Floats) -> Floats:
    """Return the median of each row and its two neighbours; the outermost rows count twice."""
    a, b, c = np.concatenate([values[:1], values[:-1]]), values, np.concatenate([values[1:], values[-1:]])
    middle: Floats = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return middle


def _across(values: Floats) -> Floats:
    """Return the values below each inner row minus those above it."""
    reach = _reach(values)
    return _changes(values, reach, reach)[1:-1]


def _across_a_gradient(values: Floats) -> Floats:
    """Return the same less what goes on alike above and below: in a sky all levels change from row to row."""
    reach = _reach(values)
    changes = _changes(values, reach, 3 * reach)
    above, here, below = changes[: -4 * reach], changes[2 * reach : -2 * reach], changes[4 * reach :]
    alike = np.sign(above) * np.minimum(np.abs(above), np.abs(below))
    return (here - np.where(above * below > 0, alike, 0))[1:-1]


def _reach(values: Floats) -> int:
    return 2 if len(values) >= 9 else 1


def _changes(values: Floats, reach: int, margin: int) -> Floats:
    """Return the values `reach` rows below minus those as far above, with the outermost rows repeated."""
    padded = np.concatenate([values[:1]] * margin + [values] + [values[-1:]] * margin)
    return padded[2 * reach :] - padded[: -2 * reach]
