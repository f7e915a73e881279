"""The sources: photographs that packages ship, and drawn scenes of what photographs lack."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFilter

_SKIMAGE = Path(os.path.dirname(skimage.__file__)) / "data"  # noqa: PTH120 - skimage names a string
_PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "logo.png", "moon.png",
    "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
_SIDES = (96, 128, 160, 200, 256)
Pixels = np.ndarray


@dataclass(frozen=True)
class Source:
    """A picture of 40 to 256 pixels and the photograph or scene that it shows."""

    scene: str
    name: str
    image: Image.Image


def sources(folder: Path | None, seed: int) -> Iterator[Source]:
    """Yield three pictures of every photograph, also of those in `folder`, and of every scene."""
    files = [_SKIMAGE / name for name in _PHOTOGRAPHS]
    if folder:
        files += sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    for path in files:
        image = Image.open(path).convert("RGB")
        image.info.clear()
        for number in range(3):
            rng = np.random.default_rng([seed, number, *path.stem.encode()])
            yield Source(path.stem, f"{path.stem}-{number}", _cut(image, number, rng))
    for scene, draw in _SCENES.items():
        for number in range(3):
            rng = np.random.default_rng([seed, number, *scene.encode()])
            long = int(rng.choice(_SIDES)) if scene != "tiny" else (40, 48, 24)[number]
            width, height = (long, long * 3 // 4) if number else (long * 3 // 4, long)
            pixels = draw(height, width, rng)
            levels = np.broadcast_to(np.clip(pixels, 0, 255), (height, width, 3)).astype(np.uint8)
            yield Source(scene, f"{scene}-{number}", Image.fromarray(levels))


def _cut(image: Image.Image, number: int, rng: np.random.Generator) -> Image.Image:
    """Take the whole picture, a half of it, or a piece with all its pixels."""
    share = (1.0, 0.5, 0.0)[number]
    side = int(rng.choice(_SIDES))
    width = max(int(image.width * share), min(side, image.width))
    height = max(int(image.height * share), min(side * 3 // 4, image.height))
    left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    piece = image.crop((left, top, left + width, top + height))
    piece.thumbnail((side, side), Image.Resampling.LANCZOS)
    return piece


def _axes(h: int, w: int) -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    return y, x


def _clouds(h: int, w: int, rng: np.random.Generator, power: float = 1.6) -> Pixels:
    """Noise of a spectrum that falls as natural pictures' do, about 0, of deviation 1."""
    spectrum = np.fft.rfft2(rng.normal(size=(h, w)))
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    radius[0, 0] = 1
    field = np.fft.irfft2(spectrum / radius**power, s=(h, w))
    return (field - field.mean()) / field.std()


def _colour(value: Pixels, low: tuple[int, ...], high: tuple[int, ...]) -> Pixels:
    return np.array(low) + value[..., None] * (np.array(high) - np.array(low))


def _sky(h: int, w: int, rng: np.random.Generator) -> Pixels:
    y, _ = _axes(h, w)
    return _colour(y / h, (60, 110, 190), (190, 210, 235)) + rng.normal(0, 1, (h, w, 1))


def _night(h: int, w: int, rng: np.random.Generator) -> Pixels:
    base = 14 + 6 * _clouds(h, w, rng)[..., None] + rng.normal(0, 7, (h, w, 3))
    lights = (rng.random((h, w)) < 0.004)[..., None] * 220
    return base + lights


def _landscape(h: int, w: int, rng: np.random.Generator) -> Pixels:
    y, x = _axes(h, w)
    sky = _colour(y / h, (90, 130, 200), (170, 190, 215))
    far = y > h * 0.45 + 6 * np.sin(x / 21)
    near = y > h * 0.65 + 9 * np.sin(x / 13 + 1)
    grass = _colour(np.clip(0.5 + 0.25 * _clouds(h, w, rng, 0.6), 0, 1), (40, 60, 25), (130, 160, 70))
    hills = _colour(np.clip(0.5 + 0.2 * _clouds(h, w, rng), 0, 1), (70, 90, 110), (110, 125, 135))
    return np.where(near[..., None], grass, np.where(far[..., None], hills, sky)) + rng.normal(0, 2, (h, w, 1))


def _sunset(h: int, w: int, rng: np.random.Generator) -> Pixels:
    y, _ = _axes(h, w)
    sky = _colour(np.clip(y / (0.6 * h), 0, 1), (50, 40, 90), (250, 140, 40))
    sea = _colour(np.clip(0.5 + 0.3 * _clouds(h, w, rng, 0.8), 0, 1), (20, 25, 50), (160, 90, 60))
    return np.where((y > 0.6 * h)[..., None], sea, sky)


def _foliage(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return _colour(np.clip(0.45 + 0.28 * _clouds(h, w, rng, 0.35), 0, 1), (10, 25, 5), (190, 215, 110))


def _speckled(h: int, w: int, rng: np.random.Generator) -> Pixels:
    """An even half and a darker one with bright grains, of equal means: what denoisers make darker."""
    y, x = _axes(h, w)
    a = 80 + 22 * np.sin(x / 6) * np.sin(y / 5) + rng.normal(0, 1.0, (h, w))
    a[h // 2 :] += (rng.random((h - h // 2, w)) < 0.09) * 85.0 - 7.5
    return a[..., None] * (0.9, 1.0, 0.7)


def _faces(h: int, w: int, rng: np.random.Generator) -> Pixels:
    y, x = _axes(h, w)
    pixels = np.full((h, w, 3), (120.0, 110, 100)) + 12 * _clouds(h, w, rng)[..., None]
    for _ in range(3):
        cy, cx, r = rng.uniform(0.3, 0.7) * h, rng.uniform(0.15, 0.85) * w, rng.uniform(0.12, 0.22) * w
        inside = np.clip((r - np.hypot((y - cy) / 1.3, x - cx)) / 1.5, 0, 1)[..., None]
        skin = np.array((215.0, 170, 140)) - 25 * ((x - cx) / r)[..., None]
        for eye in (-0.4, 0.4):
            skin = np.where((np.hypot(y - cy + 0.2 * r, x - cx - eye * r) < 0.13 * r)[..., None], 30, skin)
        pixels = pixels * (1 - inside) + skin * inside
    return pixels


def _drawn(h: int, w: int, background: str, draw: Callable[[ImageDraw.ImageDraw], None], smooth: float) -> Pixels:
    big = Image.new("RGB", (w * 4, h * 4), background)
    draw(ImageDraw.Draw(big))
    if smooth:
        big = big.filter(ImageFilter.GaussianBlur(smooth))
    return np.asarray(big.resize((w, h), Image.Resampling.BOX)).astype(np.float64)


def _line_art(h: int, w: int, rng: np.random.Generator) -> Pixels:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for _ in range(40):
            x, y, r = rng.uniform(0, 4 * w), rng.uniform(0, 4 * h), rng.uniform(10, 0.8 * w)
            pen.arc((x - r, y - r, x + r, y + r), rng.uniform(0, 180), rng.uniform(180, 360), "black", 5)

    return _drawn(h, w, "white", draw, 0)


def _text(h: int, w: int, rng: np.random.Generator) -> Pixels:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for row in range(8, 4 * h, 52):
            words = " ".join("".join(rng.choice(list("abdeghimnorstuvw"), rng.integers(2, 9))) for _ in range(24))
            pen.text((12, row), words, "#202020", font_size=40)

    return _drawn(h, w, "#fbfaf5", draw, 0)


def _screenshot(h: int, w: int, rng: np.random.Generator) -> Pixels:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, 4 * w, 70), "#24405f")
        pen.rectangle((0, 70, w, 4 * h), "#e8ecf1")
        for row in range(100, 4 * h, 64):
            pen.text((20, row), "item " * int(rng.integers(1, 3)), "#333333", font_size=32)
            colour = tuple(int(v) for v in rng.integers(60, 240, 3))
            pen.rectangle((w + 40, row, w + 40 + int(rng.uniform(0.5, 2.8) * w), row + 36), colour)

    return _drawn(h, w, "white", draw, 0)


def _comic(h: int, w: int, rng: np.random.Generator) -> Pixels:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for _ in range(14):
            x, y, r = rng.uniform(0, 4 * w), rng.uniform(0, 4 * h), rng.uniform(60, 1.2 * w)
            colour = tuple(int(v) for v in rng.integers(30, 255, 3))
            pen.ellipse((x - r, y - r, x + r, y + r), colour, "black", 7)

    return _drawn(h, w, "#ffe9b0", draw, 0)


def _buildings(h: int, w: int, rng: np.random.Generator) -> Pixels:
    """Upright edges and windows at regular distances: what looks like a grid and is none."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        x = 0
        while x < 4 * w:
            wide, top = int(rng.integers(120, 300)), int(rng.uniform(0.1, 0.5) * 4 * h)
            shade = int(rng.integers(60, 200))
            pen.rectangle((x, top, x + wide, 4 * h), (shade, shade - 10, shade - 25))
            for row in range(top + 20, 4 * h, 48):
                for column in range(x + 16, x + wide - 24, 40):
                    pen.rectangle((column, row, column + 20, row + 28), (shade // 3, shade // 3 + 10, shade // 2))
            x += wide

    return _drawn(h, w, "#b8cce4", draw, 2) + rng.normal(0, 2, (h, w, 1))


def _tiled_floor(h: int, w: int, rng: np.random.Generator) -> Pixels:
    y, x = _axes(h, w)
    checks = ((y // 16 + x // 16) % 2)[..., None]
    joints = ((y % 16 < 1) | (x % 16 < 1))[..., None]
    return np.where(joints, 60, 120 + 60 * checks) + 6 * _clouds(h, w, rng, 0.8)[..., None]


def _near_black(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return 5 + 4 * _clouds(h, w, rng)[..., None] * (1, 0.9, 1.2) + rng.normal(0, 1.5, (h, w, 3))


def _near_white(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return 246 + 5 * _clouds(h, w, rng)[..., None] * (1, 1, 0.8) + rng.normal(0, 1, (h, w, 1))


def _sensor_noise(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return _landscape(h, w, rng) * 0.6 + rng.normal(0, 14, (h, w, 3))


def _flat(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return np.full((h, w, 3), rng.integers(20, 235, 3)).astype(np.float64)


def _soft(h: int, w: int, rng: np.random.Generator) -> Pixels:
    """Out of focus throughout: no edge to judge sharpness by."""
    return 128 + 45 * np.dstack([_clouds(h, w, rng, 2.6) for _ in range(3)])


def _grey_photograph(h: int, w: int, rng: np.random.Generator) -> Pixels:
    return np.repeat(128 + 50 * _clouds(h, w, rng, 1.3)[..., None], 3, axis=2)


_SCENES: dict[str, Callable[[int, int, np.random.Generator], Pixels]] = {
    "sky": _sky, "night": _night, "landscape": _landscape, "sunset": _sunset, "foliage": _foliage,
    "speckled": _speckled, "faces": _faces, "line art": _line_art, "typed text": _text, "screenshot": _screenshot,
    "comic": _comic, "buildings": _buildings, "tiled floor": _tiled_floor, "near black": _near_black,
    "near white": _near_white, "sensor noise": _sensor_noise, "one colour": _flat, "soft": _soft,
    "grey photograph": _grey_photograph, "tiny": _landscape,
}  # fmt: skip
