"""Measure what spoils a picture without moving anything: seams, halos, blur, mosaic, too much tone.

All compare the result, shrunk to its source's size, with the source, since a picture may itself be soft, gridded or
dark. They look at strips of a few rows, and then of columns; of large pictures only at some, which the defects cross.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.fidelity import LUMA_WEIGHTS, Blocks, Bytes, Floats

_STRIP = 8  # rows
_STRIPS, _WIDE = 48, 400  # at most, along each axis, and of wide images half of them: a sixth of a side holds four
_SIDE = 4  # source pixels on either side of a border
_WINDOW, _HOP = 12, 4  # a place within a strip, and the distance to the next
_CHANGES = 1.6  # levels of change from column to column, from which it may be missed
_CELLS = ((0.3, 1.0), (0.08, 0.2))  # what is left of it within cells and at their borders: smooth places, and texture
_INSIDE, _BORDERS = 0.3, 0.12  # share of a window's columns
_WINDING = 0.1  # most winding columns per straight one
_EDGES = 16  # places with clear structure, from which sharpness can be measured
_FEW = 0.001  # share of all columns; a mosaic over 1/36 of the picture has ten times as many
_ALIKE = 0.75  # cosine between the changes of both within a window
_TONE_AT_EDGES = 0.25  # levels per level of an edge
# Levels from which a seam must also be sharp, and what its sharp part counts. On the thirds for tuning it is mostly as
# large as the seam (1 % below 0.8), with networks half are below 0.73: 7 of 26 false seams are let go, no real one.
_DOUBTFUL, _SHARP = 1.5, 1.3
_GAMMA, _GAIN = 1.1, 0.08  # an upscaler's freedom of tone


@dataclass(frozen=True)
class Defects:
    """The measurements, as `core.image_rules.Measured` explains them."""

    seam: float
    halo: float
    sharpness: float
    mosaic: float


def find_defects(source: Bytes, result: Bytes) -> Defects:
    """Measure two images of the same size, as `fidelity.measure` takes them."""
    height, width = source.shape[:2]
    if min(height, width) < 2 * _STRIP:
        return Defects(0.0, 0.0, 1.0, 0.0)
    seams, details = [], []
    places = _tops(height), _tops(width)
    for axis, tops in enumerate(places):
        own, made = (_rows(image, tops[::2], axis) for image in (source, result))
        three, nine = _blurred(np.stack([own, made - own]))
        details.append(_bands(own, three - nine))
        seams.append(_seam(own, made, three[0], nine[0]))
    halo, sharpness = _gains(details)
    return Defects(max(seams), halo, sharpness, _mosaic(source, result, *places))


def _tops(length: int) -> NDArray[np.int_]:
    """Return where strips begin."""
    last = max(length - _STRIP, 0)
    most = _STRIPS // 2 if length > _WIDE else _STRIPS
    return np.linspace(0, last, min(most, last // _HOP + 1)).astype(int)


def _green(image: Bytes, tops: NDArray[np.int_], axis: int) -> NDArray[np.int16]:
    """Return the green of strips across an image: an array of (strips, rows of a strip, width)."""
    if axis == 0:
        return np.stack([image[top : top + _STRIP, :, 1] for top in tops]).astype(np.int16)
    upright = np.stack([image[:, left : left + _STRIP, 1] for left in tops])
    return np.ascontiguousarray(upright.swapaxes(1, 2), dtype=np.int16)


def _rows(image: Bytes, tops: NDArray[np.int_], axis: int) -> Floats:
    """Return the mean luminance down the strips across an image: an array of (strips, width)."""
    weights = np.zeros(image.shape[2], np.float32)
    weights[:3] = LUMA_WEIGHTS / np.float32(_STRIP)
    if axis == 0:
        strips = np.stack([image[top : top + _STRIP].reshape(_STRIP, -1) for top in tops]).sum(axis=1, dtype=np.uint16)
        return np.asarray(strips.reshape(len(tops), -1, len(weights)) @ weights)
    columns = np.stack([image[:, left : left + _STRIP].reshape(len(image), -1) for left in tops])
    return np.asarray(columns.astype(np.float32) @ np.tile(weights, _STRIP))


def _blurred(values: Floats) -> tuple[Floats, Floats]:
    """Return the means over three and over nine values along the last axis."""
    padded = np.concatenate([np.repeat(values[..., :1], 4, -1), values, np.repeat(values[..., -1:], 4, -1)], axis=-1)
    three = (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / np.float32(3)
    return three[..., 3:-3], (three[..., :-6] + three[..., 3:-3] + three[..., 6:]) / np.float32(3)


def _step(values: Floats) -> Floats:
    """Return the mean to the right of each inner border minus that to the left."""
    pairs = values[..., :-1] + values[..., 1:]
    fours = pairs[..., :-2] + pairs[..., 2:]
    steps: Floats = np.divide(fours[..., _SIDE:] - fours[..., :-_SIDE], _SIDE, dtype=np.float32)
    return steps


def _seam(own: Floats, made: Floats, three: Floats, nine: Floats) -> float:
    """Return the levels of the clearest step in the result that runs straight across the picture and has no cause in
    the source.

    What sharpening, blur and tone do at the picture's own edges is a linear function of the source nearby: it is fitted
    and taken off. What remains is noise everywhere but at the borders of tiles that were upscaled apart."""
    if len(own) < 5:
        return 0.0
    # Half a pixel of shift, three kinds of sharpness, another tone.
    slope = np.empty_like(own)
    slope[:, 1:-1] = (own[:, 2:] - own[:, :-2]) / 2
    slope[:, [0, -1]] = own[:, [1, -1]] - own[:, [0, -2]]
    causes = [slope, own, three, nine, own * own / np.float32(255)]
    every = _step(np.stack([*causes, made - own]))
    flat = every.reshape(len(every), -1)
    products = np.einsum("ik,jk->ij", flat, flat)
    damping = np.float32(1e-6 * products.trace() + 1e-3)
    damped = products[:-1, :-1] + damping * np.eye(len(causes), dtype=np.float32)
    fitted = np.linalg.solve(damped, products[:-1, -1])
    rest = every[-1] - np.tensordot(fitted, every[:-1], 1)
    # Levels at the end of the scale cannot step.
    ended = np.cumsum((np.maximum(own, made) < 8) | (np.minimum(own, made) > 247), axis=1, dtype=np.int32)
    ended = np.concatenate([np.zeros_like(ended[:, :1]), ended], axis=1)
    free = ended[:, 2 * _SIDE :] - ended[:, : -2 * _SIDE] < _SIDE
    # At a straight edge of the picture itself (a window, a horizon) tones may change by a part of it.
    edge = _middle(np.abs(every[1]))
    edge = np.maximum(np.maximum(np.roll(edge, _SIDE // 2), edge), np.roll(edge, -_SIDE // 2)) - _middle(edge)
    edge = np.float32(_TONE_AT_EDGES) * edge.clip(min=0)
    seam = _clearest(rest, free, edge, 2)
    if seam < _DOUBTFUL:
        return seam  # nearly always
    # A seam is a step within a pixel; where a network darkens a texture the change takes several. Of a seam that is
    # blended over 4 source pixels three quarters of the levels remain, over 8 a third: a clear one is still found.
    around = np.pad(rest, ((0, 0), (_SIDE, _SIDE)), mode="edge")
    sharp = rest - (around[:, : -2 * _SIDE] + around[:, 2 * _SIDE :]) / 2
    return min(seam, _SHARP * _clearest(sharp, free, edge, 1))


def _clearest(rest: Floats, free: NDArray[np.bool_], edge: Floats, noise: int) -> float:
    """Return the largest typical level of a column over its edge and `noise` times the columns' own typical level."""
    count = np.count_nonzero(free, axis=0)
    enough = count >= max(4, 0.3 * len(rest))
    if not enough.any():
        return 0.0
    levels = np.where(free, np.abs(rest), np.float32(np.inf))
    levels.sort(axis=0)
    typical = levels[(np.maximum(count, 1) - 1) // 2, np.arange(rest.shape[1])]
    usual = float(_middle(typical[enough]))
    return max(float((typical - edge)[enough].max()) - noise * usual, 0.0)


def _middle(values: Floats) -> Floats:
    """Return the (upper) median along the first axis; numpy's own takes several times as long for few values."""
    middle: Floats = np.partition(values, len(values) // 2, axis=0)[len(values) // 2]
    return middle


def _bands(own: Floats, bands: Floats) -> tuple[Floats, Floats]:
    """Return the middle frequencies (6 to 18 pixels) of source and change, where the source has clear structure: edges
    as wide as halos, which neither noise nor its removal makes."""
    band, change = bands
    strength = np.abs(band)
    most = np.partition(strength, int(0.8 * (strength.size - 1)), axis=None)[int(0.8 * (strength.size - 1))]
    clear = strength >= max(4, most)
    # At black and white nothing can go further; a drawing may have no other edges.
    inner = clear & (own > 10) & (own < 245)
    clear = inner if np.count_nonzero(inner) >= _EDGES else clear
    return band[clear], change[clear]


def _gains(details: list[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Return by how much middle frequencies were raised, and which share of them is left.

    Sharpening by one source pixel raises them by at most a half, halos of two pixels and more double them; a blur by
    three pixels leaves a quarter."""
    own, change = (np.concatenate(parts) for parts in zip(*details, strict=True))
    if own.size < _EDGES:
        return 0.0, 1.0
    gain = float((own * change).sum() / (own * own).sum())
    return max(gain, 0.0), 1 + min(gain, 0.0)


def _mosaic(source: Bytes, result: Bytes, down: NDArray[np.int_], across: NDArray[np.int_]) -> float:
    """Return the largest share of a twelfth of the sides in which `_cells` finds cells along both axes."""
    cells = []
    for axis, tops in enumerate((down, across)):
        found = _cells(*(_green(image, tops, axis) for image in (source, result)))
        if found is None:
            return 0.0
        cells.append(found)
    rows = cells[0][:, np.minimum(across // _HOP, cells[0].shape[1] - 1)]
    columns = cells[1][:, np.minimum(down // _HOP, cells[1].shape[1] - 1)]
    both = rows & columns.T
    if not both.any():
        return 0.0
    part = max(1, both.shape[0] // 12), max(1, both.shape[1] // 12)
    sums = np.cumsum(np.cumsum(np.pad(both, ((1, 0), (1, 0))), axis=0), axis=1)
    high, wide = part
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return float(inside.max() / (high * wide))


def _cells(s: NDArray[np.int16], r: NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """Return per window of each strip whether the result changes only at some columns while the source changes at all
    of them: cells of one colour, which no removal of noise leaves along both axes. None is nowhere."""
    own, made = (
        np.abs(values[..., 1:] - values[..., :-1]).sum(axis=1, dtype=np.int16).astype(np.float32) / np.float32(_STRIP)
        for values in (s, r)
    )
    kept = np.where(own >= _CHANGES, made / np.maximum(own, 1), np.float32(1))
    # What is cut off at black or white is neither dead nor a border.
    ended = (r.min(axis=1) <= 1) | (r.max(axis=1) >= 254)
    kept[ended[:, 1:] | ended[:, :-1]] = 0.5
    if np.count_nonzero(kept < _CELLS[0][0]) < _FEW * kept.size:
        return None
    measures = [own * made, own * own, made * made]
    for dead, alive in _CELLS:
        # Borders of cells go straight on through the next strip; contours wind.
        border = kept > alive
        on = np.zeros((border.shape[0] + 4, border.shape[1]), dtype=bool)
        on[2:-2] = border
        straight = border & (on[:-4] | on[4:] | (on[1:-3] & on[3:-1]))
        measures += [kept < dead, straight, border & ~straight]
    means = _windows(np.stack(measures, dtype=np.float32, casting="unsafe"))
    # Removal of grain leaves changes where the source has its largest.
    cells = means[0] < _ALIKE * np.sqrt(means[1] * means[2] + 1e-6)
    found = np.zeros_like(cells)
    for inside, borders, winding in (means[3:6], means[6:9]):
        found |= (inside >= _INSIDE) & (borders >= _BORDERS) & (winding <= _WINDING * borders)
    cells &= found
    return cells if cells.any() else None


def _windows(values: Floats) -> Floats:
    """Return the means over the windows along the last axis."""
    count = max((values.shape[-1] - _WINDOW) // _HOP + 1, 1)
    parts = [values[..., at : at + _HOP * count : _HOP] for at in range(min(_WINDOW, values.shape[-1]))]
    means: Floats = sum(parts[1:], parts[0][..., :count]) / np.float32(len(parts))
    return means


def tone_change(blocks: Blocks) -> float:
    """Return the change of tone over what an upscaler is free to do: gamma 1.1 or 8 %, whichever is more there."""
    s, r = blocks.source_colour @ LUMA_WEIGHTS, blocks.result_colour @ LUMA_WEIGHTS
    middle = (s > 24) & (s < 200)
    if middle.mean() < 0.02:
        return 0.0
    s, change = s[middle], (r - s)[middle]
    gamma = 255 * (s / 255) ** (1 / _GAMMA) - s
    return float(np.abs(change.mean()) / np.maximum(gamma, _GAIN * s).mean())
