"""Find a place that has no cause in the source nearby: a mosaic, a piece from elsewhere, a part that was lost.

Sharpening, blur, half a pixel of shift and tone are linear functions of the source nearby, grain is alike everywhere.
So they are fitted and taken off, and what remains must be far more than is usual in this picture. Only blocks that
differ most, and some all over the picture, are looked at, so that it costs the same for all sizes.
"""

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.fidelity import BLOCK, Blocks, Bytes, Floats

_BLOCKS = 24  # that are looked at, and as many for what is usual
_MARGIN = 7  # source pixels around a block that may be its causes
_NEAR, _FAR = 3, 11  # sides of squares: finer is grain and texture, coarser is local contrast
_EXPLAINED = 0.5  # levels of difference per level of a block's contrast that choose no block
_EDGE = 0.1  # levels per level of contrast within two pixels, which need no cause
_USUAL = 8  # times what is usual
_RANK = 6  # pixels that must differ as much
_TYPICAL = 0.9  # share of the pixels by which the causes are fitted


def _operators() -> Floats:
    """Return what turns a column around a block into means near and far of it, of its slope and of it blurred."""
    at = np.arange(BLOCK + 2 * _MARGIN)
    distance = np.abs(at - _MARGIN - np.arange(BLOCK)[:, None])
    means = np.concatenate([(distance <= side // 2) / side for side in (_NEAR, _FAR)])
    left, right = np.roll(means, -1, axis=1), np.roll(means, 1, axis=1)
    return np.concatenate([means, (right - left) / 2, (left + means + right) / 3]).astype(np.float32)


_ALL = _operators()
_PLAIN = _ALL[: 2 * BLOCK]


def find_misfit(source: Bytes, result: Bytes, blocks: Blocks) -> float:
    """Return by how many levels the worst place is off more than edges and grain explain; negative for nowhere."""
    off = blocks.source_std**2 + blocks.result_std**2 - 2 * blocks.covariance
    off = (np.sqrt(off.clip(min=0)) - _EXPLAINED * blocks.source_std).ravel()
    count = min(_BLOCKS, off.size)
    chosen = np.concatenate([
        np.argpartition(off, off.size - count)[off.size - count :],
        np.linspace(0, off.size - 1, count).astype(np.intp),
    ])  # fmt: skip
    rows, columns = (BLOCK * at for at in np.divmod(chosen, blocks.source_std.shape[1]))
    own, made = (_around(image, rows, columns) for image in (source, result))
    everywhere = _applied(own, _ALL)
    causes = np.stack([
        _detail(everywhere), _detail(_applied(own * own / np.float32(255), _PLAIN)),
        _detail(everywhere, 0, 1), _detail(everywhere, 1, 0), _detail(everywhere, 1, 1), _detail(everywhere, 2, 2),
    ]).reshape(6, -1)  # fmt: skip
    change = _detail(_applied(made - own, _PLAIN)).ravel()
    rest = np.abs(change - _fitted(causes, change) @ causes)
    # Once more without what does not fit; an edge that only the first fit explains is explained.
    typical = rest <= np.partition(rest, int(_TYPICAL * (rest.size - 1)))[int(_TYPICAL * (rest.size - 1))]
    rest = np.minimum(rest, np.abs(change - _fitted(causes[:, typical], change[typical]) @ causes))
    rest = rest.reshape(-1, BLOCK, BLOCK)
    usual = rest[count:].ravel()
    usual = np.partition(usual, usual.size // 2)[usual.size // 2]
    rest = rest[:count] - _EDGE * _range(own[:count])
    # The last blocks reach beyond the picture.
    inner = np.arange(BLOCK)
    below, right = (
        at[:count, None] + inner >= side for at, side in zip((rows, columns), source.shape[:2], strict=True)
    )
    rest[below[:, :, None] | right[:, None, :]] = -np.inf
    worst = np.partition(rest, rest.size - _RANK, axis=None)[rest.size - _RANK]
    return float(worst - _USUAL * usual)


def _around(image: Bytes, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
    """Return the green around blocks; at the sides of the picture its last pixels are repeated."""
    reach = np.arange(-_MARGIN, BLOCK + _MARGIN)
    down, across = (
        np.clip(at[:, None] + reach, 0, length - 1) for at, length in zip((rows, columns), image.shape[:2], strict=True)
    )
    around: Floats = image[down[:, :, None], across[:, None, :], 1].astype(np.float32)
    return around


def _applied(values: Floats, operators: Floats) -> Floats:
    applied: Floats = np.matmul(np.matmul(operators, values), operators.T, dtype=np.float32)
    return applied


def _detail(applied: Floats, down: int = 0, across: int = 0) -> Floats:
    """Return the mean near each pixel minus that far around it; `down` and `across`: 1 of slopes, 2 of the blurred."""
    y, x = 2 * BLOCK * down, 2 * BLOCK * across
    near = applied[:, y : y + BLOCK, x : x + BLOCK]
    far = applied[:, y + BLOCK : y + 2 * BLOCK, x + BLOCK : x + 2 * BLOCK]
    return np.subtract(near, far, dtype=np.float32)


def _fitted(causes: Floats, change: Floats) -> Floats:
    products = causes @ causes.T
    damping = np.float32(1e-5 * products.trace() + 1e-3)
    fitted: Floats = np.linalg.solve(products + damping * np.eye(len(causes), dtype=np.float32), causes @ change)
    return fitted


def _range(around: Floats) -> Floats:
    """Return the difference of the extremes within two pixels of each pixel of the blocks."""
    high = low = around[:, _MARGIN - 2 : _MARGIN + BLOCK + 2, _MARGIN - 2 : _MARGIN + BLOCK + 2]
    for _ in range(2):
        # The axes change places, and come back.
        high, low = high.swapaxes(1, 2), low.swapaxes(1, 2)
        high = np.maximum.reduce([high[:, at : at + BLOCK] for at in range(5)])
        low = np.minimum.reduce([low[:, at : at + BLOCK] for at in range(5)])
    extent: Floats = high - low
    return extent
