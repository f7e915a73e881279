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
_ALIKE = 0.75  # cosine between the changes of both within a window
_TONE_AT_EDGES = 0.25  # levels per level of an edge
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
    seams, cells, details = [0.0], [], []
    places = [_tops(length) for length in source.shape[:2]]
    for s, r, tops in ((source, result, places[0]), (source.swapaxes(0, 1), result.swapaxes(0, 1), places[1])):
        if min(s.shape[:2]) < 2 * _STRIP:
            continue
        cells.append(_cells(*(_green(image, tops) for image in (s, r))))
        own, made = (_rows(image, tops[::2]) for image in (s, r))
        details.append(_bands(own, made))
        seams.append(_seam(own, made))
    halo, sharpness = _gains(details)
    return Defects(max(seams), halo, sharpness, _mosaic(cells, *places))


def _tops(length: int) -> NDArray[np.int_]:
    """Return where strips begin."""
    last = max(length - _STRIP, 0)
    most = _STRIPS // 2 if length > _WIDE else _STRIPS
    return np.linspace(0, last, min(most, last // _HOP + 1)).astype(int)


def _green(image: Bytes, tops: NDArray[np.int_]) -> NDArray[np.int16]:
    """Return the green of strips across an image: an array of (strips, rows of a strip, width)."""
    return np.stack([image[top : top + _STRIP, :, 1] for top in tops]).astype(np.int16)


def _rows(image: Bytes, tops: NDArray[np.int_]) -> Floats:
    """Return the mean luminance down the strips across an image: an array of (strips, width)."""
    strips = np.stack([np.ascontiguousarray(image[top : top + _STRIP, :, :3]) for top in tops])
    rows: Floats = strips.sum(axis=1, dtype=np.uint16) @ (LUMA_WEIGHTS / np.float32(_STRIP))
    return rows


def _blurred(values: Floats) -> tuple[Floats, Floats]:
    """Return the means over three and over nine values along the last axis."""
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(4, 4)], mode="edge")
    three = (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / np.float32(3)
    return three[..., 3:-3], (three[..., :-6] + three[..., 3:-3] + three[..., 6:]) / np.float32(3)


def _step(values: Floats) -> Floats:
    """Return the mean to the right of each inner border minus that to the left."""
    pairs = values[:, :-1] + values[:, 1:]
    fours = pairs[:, :-2] + pairs[:, 2:]
    steps: Floats = np.divide(fours[:, _SIDE:] - fours[:, :-_SIDE], _SIDE, dtype=np.float32)
    return steps


def _seam(own: Floats, made: Floats) -> float:
    """Return the levels of the clearest step in the result that runs straight across the picture and has no cause in
    the source.

    What sharpening, blur and tone do at the picture's own edges is a linear function of the source nearby: it is fitted
    and taken off. What remains is noise everywhere but at the borders of tiles that were upscaled apart."""
    if len(own) < 5:
        return 0.0
    # Half a pixel of shift, three kinds of sharpness, another tone.
    slope: Floats = np.gradient(own, axis=1).astype(np.float32)
    causes = [slope, own, *_blurred(own), own * own / np.float32(255)]
    steps = _step(made - own)
    known = np.stack([_step(cause).ravel() for cause in causes], axis=1)
    fitted = np.linalg.pinv(known.T @ known, rcond=1e-6) @ (known.T @ steps.ravel())
    rest = np.abs(steps - (known @ fitted).reshape(steps.shape).astype(np.float32))
    # Levels at the end of the scale cannot step.
    at_end = ((own < 8) | (own > 247)).astype(np.int32)
    ended = np.pad(np.cumsum(at_end, axis=1), ((0, 0), (1, 0)))
    free = ended[:, 2 * _SIDE :] - ended[:, : -2 * _SIDE] < _SIDE
    count = np.count_nonzero(free, axis=0)
    enough = count >= max(4, 0.3 * len(own))
    if not enough.any():
        return 0.0
    ordered = np.sort(np.where(free, rest, np.inf), axis=0)
    typical = np.take_along_axis(ordered, (np.maximum(count, 1)[None] - 1) // 2, axis=0)[0]
    # At a straight edge of the picture itself (a window, a horizon) tones may change by a part of it.
    edge = np.median(np.abs(known[:, 1].reshape(steps.shape)), axis=0)
    edge = np.maximum(np.maximum(np.roll(edge, _SIDE // 2), edge), np.roll(edge, -_SIDE // 2)) - np.median(edge)
    noise = float(np.median(typical[enough]))
    typical = (typical - _TONE_AT_EDGES * edge.clip(min=0))[enough]
    return max(float(typical.max()) - 2 * noise, 0.0)


def _bands(own: Floats, made: Floats) -> tuple[Floats, Floats]:
    """Return the middle frequencies (6 to 18 pixels) of source and change, where the source has clear structure: edges
    as wide as halos, which neither noise nor its removal makes."""
    band, change = (three - nine for three, nine in (_blurred(own), _blurred(made - own)))
    strength = np.abs(band)
    clear = (strength >= 4) & (strength >= np.percentile(strength, 80))
    clear &= (own > 10) & (own < 245)
    return band[clear], change[clear]


def _gains(details: list[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Return by how much middle frequencies were raised, and which share of them is left.

    Sharpening by one source pixel raises them by at most a half, halos of two pixels and more double them; a blur by
    three pixels leaves a quarter."""
    own = np.concatenate([part for part, _ in details]) if details else np.empty(0, np.float32)
    if own.size < 16:
        return 0.0, 1.0
    change = np.concatenate([part for _, part in details])
    gain = float((own * change).sum() / (own * own).sum())
    return max(gain, 0.0), 1 + min(gain, 0.0)


def _mosaic(cells: list[NDArray[np.bool_]], down: NDArray[np.int_], across: NDArray[np.int_]) -> float:
    """Return the largest share of a twelfth of the sides in which `_cells` finds cells along both axes."""
    if len(cells) < 2:
        return 0.0
    rows = cells[0][:, np.minimum(across // _HOP, cells[0].shape[1] - 1)]
    columns = cells[1][:, np.minimum(down // _HOP, cells[1].shape[1] - 1)]
    both = (rows & columns.T).astype(np.float32)
    part = max(1, both.shape[0] // 12), max(1, both.shape[1] // 12)
    return float(np.lib.stride_tricks.sliding_window_view(both, part).mean(axis=(2, 3)).max())


def _cells(s: NDArray[np.int16], r: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return per window of each strip whether the result changes only at some columns while the source changes at all
    of them: cells of one colour, which no removal of noise leaves along both axes."""
    own, made = (
        np.abs(np.diff(values, axis=2)).sum(axis=1, dtype=np.int16).astype(np.float32) / _STRIP for values in (s, r)
    )
    # Removal of grain leaves changes where the source has its largest.
    alike = _windows(own * made) / np.sqrt(_windows(own * own) * _windows(made * made) + 1e-6)
    cells = np.zeros(alike.shape, dtype=bool)
    kept = np.where(own >= _CHANGES, made / np.maximum(own, 1), 1.0)
    # What is cut off at black or white is neither dead nor a border.
    ended: NDArray[np.bool_] = np.asarray(((r <= 1) | (r >= 254)).any(axis=1))
    kept[ended[:, 1:] | ended[:, :-1]] = 0.5
    for dead, alive in _CELLS:
        # Borders of cells go straight on through the next strip; contours wind.
        border = kept > alive
        on = np.pad(border, ((2, 2), (0, 0)))
        straight = border & (on[:-4] | on[4:] | (on[1:-3] & on[3:-1]))
        inside, borders, winding = (
            _windows(columns.astype(np.float32)) for columns in (kept < dead, straight, border & ~straight)
        )
        cells |= (inside >= _INSIDE) & (borders >= _BORDERS) & (winding <= _WINDING * borders) & (alike < _ALIKE)
    return cells


def _windows(values: Floats) -> Floats:
    """Return the means over the windows of each strip."""
    count = max((values.shape[1] - _WINDOW) // _HOP + 1, 1)
    parts = [values[:, at : at + _HOP * count : _HOP] for at in range(min(_WINDOW, values.shape[1]))]
    means: Floats = np.mean([part[:, :count] for part in parts], axis=0, dtype=np.float32)
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
