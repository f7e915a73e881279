"""What must not reach a customer silently. A kind raises Unseen where no eye would find its damage; the report counts
these with their reasons."""

import io
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

from smi_pipeline_tests.bench_images.encoding import ADOBE, P3, jpeg, png, profile, shown_as, shown_with, usual
from smi_pipeline_tests.bench_images.honest import Files, Rng, enlarged, image_of, sharpened, texture, tone

Make = Callable[[Image.Image, int, Rng], Files]
Change = Callable[[np.ndarray, int, Rng], np.ndarray]
_VISIBLE = 4.0  # levels: mean over the changed place
_OTHERWISE = 0.1  # share of the pixels that must look otherwise, by 8 levels
_GRAIN = "it changes hardly more than the grain and texture that the upscaler added"


class Unseen(Exception):
    """There is no damage of this kind that could be seen in this picture; the message says why."""


def _upscaled(source: Image.Image, scale: int, rng: Rng) -> Image.Image:
    """Return one of the honest results, to be damaged."""
    big = enlarged(source, scale)
    kind = rng.integers(0, 3)
    return big if kind == 0 else texture(big, rng) if kind == 1 else sharpened(big, scale, rng)


def _each(change: Change) -> Make:
    """Make a kind of a change of the result's levels."""

    def make(source: Image.Image, scale: int, rng: Rng) -> Files:
        changed = change(np.asarray(_upscaled(source, scale, rng)).astype(np.float32), scale, rng)
        return png(source), usual(image_of(changed), rng)

    return make


def _cells(a: np.ndarray, side: int) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    for row, y in enumerate(range(0, a.shape[0], side)):
        for column, x in enumerate(range(0, a.shape[1], side)):
            yield row, column, np.s_[y : y + side, x : x + side]


def _seams(levels: float) -> Make:
    def change(a: np.ndarray, scale: int, rng: Rng) -> np.ndarray:
        fitting = [side for side in (128, 192, 256, 400, 512, 64 * scale) if side <= 0.75 * max(a.shape[:2])]
        if not fitting:
            raise Unseen("the picture is smaller than two tiles")
        side, kind = int(rng.choice(fitting)), rng.integers(0, 3)
        out = a.copy()
        for row, column, cell in _cells(a, side):
            sign = 1 if (row + column) % 2 else -1
            if kind == 0:
                out[cell] += sign * levels / 2
            elif kind == 1:
                out[cell] += rng.uniform(0.5, 1) * sign * levels / 2 * np.array([1, 1, 1])
            else:
                out[cell] += sign * levels / 2 * np.roll([1.0, 0.6, 0.3], int(rng.integers(0, 3)))
        return _if_seen(a, out, levels / 4)

    return _each(change)


def _if_seen(before: np.ndarray, after: np.ndarray, levels: float = _VISIBLE) -> np.ndarray:
    """Return the changed levels if the change can be seen after they are cut off at black and white."""
    if np.abs(np.clip(after, 0, 255) - before).mean() < levels:
        raise Unseen(f"it changes less than {levels:g} levels in the mean")
    return after


def _filtered(choose: Callable[[int, Rng], ImageFilter.Filter], percent: int, levels: float) -> Make:
    """Make a kind of a filter over the whole picture where it can be seen without the grain and texture that the
    upscaler has added: halos need edges, and removed grain is no blur."""

    def make(source: Image.Image, scale: int, rng: Rng) -> Files:
        big, plain, filter = _upscaled(source, scale, rng), enlarged(source, scale), choose(scale, rng)
        plainly, with_grain = (
            np.percentile(np.abs(np.asarray(image.filter(filter)).astype(int) - image).mean(axis=2), percent) >= levels
            for image in (plain, big)
        )
        if not plainly:
            few = f"it changes less than {100 - percent} % of the pixels by {levels:g} levels"
            raise Unseen(_GRAIN if with_grain else few)
        return png(source), usual(big.filter(filter), rng)

    return make


def _halo(scale: int, rng: Rng) -> ImageFilter.Filter:
    return ImageFilter.UnsharpMask(rng.uniform(1.5, 4) * scale, int(rng.integers(200, 400)), 0)


def _quality(source: Image.Image, scale: int, rng: Rng) -> Files:
    return png(source), jpeg(_upscaled(source, scale, rng), int(rng.integers(5, 11)))


def _place(a: np.ndarray, share: int, rng: Rng) -> tuple[slice, slice]:
    height, width = max(a.shape[0] // share, 1), max(a.shape[1] // share, 1)
    y, x = int(rng.integers(0, a.shape[0] - height + 1)), int(rng.integers(0, a.shape[1] - width + 1))
    return np.s_[y : y + height, x : x + width]


def _shrunk(a: np.ndarray, scale: int) -> np.ndarray:
    """Return the means over source pixels."""
    height, width = (side // scale for side in a.shape[:2])
    return a[: height * scale, : width * scale].reshape(height, scale, width, scale, -1).mean(axis=(1, 3))


def _mosaic(a: np.ndarray, scale: int, rng: Rng) -> np.ndarray:
    cell, grain_alone = int(rng.uniform(3, 6) * scale), False
    for _ in range(20):
        place = _place(a, 6, rng)
        part = image_of(a[place])
        if min(part.size) < 3 * cell:
            raise Unseen("a sixth of the sides is less than three cells")
        small = part.resize((part.width // cell, part.height // cell), Image.Resampling.BOX)
        coarse = np.asarray(small.resize(part.size, Image.Resampling.NEAREST)).astype(np.float32)
        # Upscalers remove grain, too: what it does to that alone does not count.
        if np.abs(_shrunk(coarse - a[place], scale)).mean() >= _VISIBLE:
            out = a.copy()
            out[place] = coarse
            return out
        grain_alone |= bool(np.abs(coarse - a[place]).mean() >= _VISIBLE)
    raise Unseen(_GRAIN if grain_alone else f"it changes less than {_VISIBLE:g} levels in the mean")


def _blur(scale: int, rng: Rng) -> ImageFilter.Filter:
    return ImageFilter.GaussianBlur(3 * scale) if rng.random() < 0.5 else ImageFilter.BoxBlur(3 * scale)


def _tone(a: np.ndarray, scale: int, rng: Rng) -> np.ndarray:
    image = image_of(a)
    out, free = (np.asarray(tone(image, share)).astype(np.float32) for share in (1.25, 1.08))
    # near white both are cut off alike
    return _if_seen(free, out, 8)


def _tile(change: Callable[[np.ndarray, np.ndarray, Rng], np.ndarray]) -> Make:
    """Make a kind of what happens to a tile of an eighth of the sides."""

    def make(a: np.ndarray, scale: int, rng: Rng) -> np.ndarray:
        for _ in range(20):
            place = _place(a, 8, rng)
            changed = change(a[place], a, rng)
            if np.abs(changed - a[place]).mean() >= 40:
                out = a.copy()
                out[place] = changed
                return out
        raise Unseen("no tile changes 40 levels in the mean")

    return _each(make)


def _other_place(tile: np.ndarray, a: np.ndarray, rng: Rng) -> np.ndarray:
    y, x = (int(rng.integers(0, a.shape[axis] - tile.shape[axis] + 1)) for axis in (0, 1))
    return a[y : y + tile.shape[0], x : x + tile.shape[1]]


def _whole(change: Callable[[np.ndarray, int], np.ndarray]) -> Make:
    return _each(lambda a, scale, rng: _if_seen(a, np.asarray(change(a, scale)), 16))


def _bits(source: Image.Image, scale: int, rng: Rng) -> Files:
    """Flip bytes of the coded data, so that it still decodes."""
    good = jpeg(_upscaled(source, scale, rng), int(rng.integers(75, 95)), subsampling=int(rng.integers(0, 3)))
    before = np.asarray(Image.open(io.BytesIO(good)).convert("RGB")).astype(np.float32)
    start = good.find(b"\xff\xda") + 14
    for _ in range(10):
        data = bytearray(good)
        at = start + int(rng.random() * (len(data) - 20 - start))
        for index in range(at, at + int(rng.choice([1, 4, 16]))):
            changed = data[index] ^ int(rng.integers(1, 256))
            if 255 not in (data[index], changed, data[index - 1]):
                data[index] = changed
        try:
            after = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB")).astype(np.float32)
        except OSError:
            continue
        off = np.abs(after - before).max(axis=2)
        if (off > 24).mean() >= 0.01 or (off > 8).mean() >= 0.1:
            return png(source), bytes(data)
    raise Unseen("none of ten flips decodes and can be seen")


def _profile_dropped(source: Image.Image, scale: int, rng: Rng) -> Files:
    wide = profile(P3) if rng.random() < 0.5 else profile(ADOBE, 2.2)
    _must_look_otherwise(source, np.asarray(shown_as(source, wide)))
    return png(source, icc_profile=wide), usual(_upscaled(source, scale, rng), rng)


def _must_look_otherwise(source: Image.Image, shown: np.ndarray) -> None:
    if (np.abs(shown.astype(np.float32) - np.asarray(source)).max(axis=2) >= 8).mean() < _OTHERWISE:
        raise Unseen(f"fewer than {_OTHERWISE:.0%} of the pixels look otherwise")


def _chunk_dropped(*chunks: tuple[bytes, bytes], gamma: float = 0.0) -> Make:
    def make(source: Image.Image, scale: int, rng: Rng) -> Files:
        shown = shown_with(source, gamma) if gamma else shown_as(source, profile(P3))
        _must_look_otherwise(source, np.asarray(shown))
        return png(source, *chunks), usual(_upscaled(source, scale, rng), rng)

    return make


_CHRM_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)

BAD: dict[str, Make] = {
    "flipped bits": _bits,
    "seams of 16 levels": _seams(16),
    "seams of 8 levels": _seams(8),
    "seams of 4 levels": _seams(4),
    "halos": _filtered(_halo, 95, 24),
    "JPEG of quality 5 to 10": _quality,
    "mosaic of 1/36": _each(_mosaic),
    "blurred by 3 pixels": _filtered(_blur, 90, 2 * _VISIBLE),
    "profile dropped": _profile_dropped,
    "gAMA 1.0 dropped": _chunk_dropped((b"gAMA", struct.pack(">I", 100_000)), gamma=1.0),
    "gAMA of a Mac dropped": _chunk_dropped((b"gAMA", struct.pack(">I", 55_556)), gamma=1.8),
    "cICP dropped": _chunk_dropped((b"cICP", bytes([12, 13, 0, 1]))),
    "cHRM dropped": _chunk_dropped((b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", _CHRM_P3)),
    "tone +25 %": _each(_tone),
    "black tile": _tile(lambda tile, a, rng: np.zeros_like(tile)),
    "flat tile": _tile(lambda tile, a, rng: np.broadcast_to(a.mean(axis=(0, 1)), tile.shape)),
    "tile from elsewhere": _tile(_other_place),
    "shifted by 8": _whole(lambda a, scale: np.roll(a, (8, 8), axis=(0, 1))),
    "mirrored": _whole(lambda a, scale: a[:, ::-1]),
    "colour lost": _each(lambda a, scale, rng: _if_seen(a, np.repeat(a.mean(axis=2, keepdims=True), 3, axis=2), 8)),
}  # fmt: skip
HARDEST = ("seams of 8 levels", "mosaic of 1/36")
REPORTED_ONLY = ("seams of 4 levels",)
