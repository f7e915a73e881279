"""What upscalers honestly make: each kind takes a source and its enlargement and returns the files of both."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter
from skimage.restoration import denoise_tv_chambolle

from smi_pipeline_tests.bench_images.encoding import P3, jpeg, png, profile, shown_as, usual

Rng = np.random.Generator
Files = tuple[bytes, bytes]
Make = Callable[[Image.Image, int, Rng], Files]
_LUMA = np.array([0.299, 0.587, 0.114])


def enlarged(source: Image.Image, scale: int, how: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """Return the source enlarged."""
    return source.resize((source.width * scale, source.height * scale), how)


def image_of(pixels: np.ndarray) -> Image.Image:
    """Return levels as an image."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def saturated(image: Image.Image, share: float) -> Image.Image:
    """Return the image with its saturation changed."""
    a = np.asarray(image).astype(np.float32)
    grey = (a @ _LUMA.astype(np.float32))[..., None]
    return image_of(grey + (a - grey) * share)


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    """Return the image with other middle tones."""
    return image.point([round(255 * (level / 255) ** (1 / exponent)) for level in range(256)] * 3)


def tone(image: Image.Image, share: float) -> Image.Image:
    """Return the image brighter or darker."""
    return image.point([min(255, round(level * share)) for level in range(256)] * 3)


def sharpened(image: Image.Image, scale: int, rng: Rng) -> Image.Image:
    """Return the image sharpened by at most a source pixel around each edge."""
    radius, percent = rng.uniform(0.5, scale), int(rng.integers(60, 200))
    return image.filter(ImageFilter.UnsharpMask(radius, percent, int(rng.integers(0, 4))))


def grain(image: Image.Image, rng: Rng, low: float = 4, high: float = 16) -> Image.Image:
    """Return the image with noise."""
    a = np.asarray(image).astype(np.float32)
    return image_of(a + rng.normal(0, rng.uniform(low, high), (*a.shape[:2], 1)))


def texture(image: Image.Image, rng: Rng) -> Image.Image:
    """Return the image with invented detail, more where there is some."""
    small = rng.integers(0, 256, (image.height // 2 + 1, image.width // 2 + 1), dtype=np.uint8)
    made = np.asarray(Image.fromarray(small).resize(image.size, Image.Resampling.BICUBIC)).astype(np.float32) - 128
    a = np.asarray(image).astype(np.float32)
    busy = np.abs(a - np.asarray(image.filter(ImageFilter.GaussianBlur(6)))).mean(axis=2)
    return image_of(a + (made * (rng.uniform(0.03, 0.12) + np.minimum(busy, 20) * rng.uniform(0, 0.01)))[..., None])


def crisp(image: Image.Image, scale: int) -> Image.Image:
    """Return the image with edges as narrow as networks draw them: each pixel goes to the nearer of the extremes."""
    size = scale // 2 * 2 - 1
    low, high = image.filter(ImageFilter.MinFilter(size)), image.filter(ImageFilter.MaxFilter(size))
    a, lo, hi = (np.asarray(part).astype(np.float32) for part in (image, low, high))
    return image_of(0.4 * a + 0.6 * np.where(a - lo < hi - a, lo, hi))


def _each(change: Callable[[Image.Image, int, Rng], Image.Image]) -> Make:
    """Make a kind of a change of the enlarged image."""
    return lambda source, scale, rng: (png(source), usual(change(enlarged(source, scale), scale, rng), rng))


def _denoised(source: Image.Image, scale: int, rng: Rng) -> Files:
    clean = source.filter(ImageFilter.MedianFilter(3))
    # It wipes out thin strokes, which no upscaler takes for noise.
    strokes = np.abs(np.asarray(clean).astype(int) - np.asarray(source)).mean() > 10
    if strokes or rng.random() < 0.5:
        clean = image_of(denoise_tv_chambolle(np.asarray(source), weight=rng.uniform(0.03, 0.06), channel_axis=2) * 255)
    return png(source), usual(sharpened(enlarged(clean, scale), scale, rng), rng)


def _half_pixel(source: Image.Image, scale: int, rng: Rng) -> Files:
    half = scale // 2
    moved = np.pad(np.asarray(enlarged(source, scale)), ((0, half), (half, 0), (0, 0)), mode="edge")
    return png(source), usual(Image.fromarray(np.ascontiguousarray(moved[half:, : -half or None])), rng)


def _grey(source: Image.Image, scale: int, rng: Rng) -> Files:
    grey = source.convert("L")
    big = enlarged(grey.convert("RGB"), scale)
    a = np.asarray(big).astype(np.float32) + rng.uniform(-1, 1, 3)
    return png(grey), usual(image_of(a) if rng.random() < 0.5 else big.convert("L").convert("RGB"), rng)


def _jpeg_source(source: Image.Image, scale: int, rng: Rng) -> Files:
    data = jpeg(source, int(rng.integers(40, 90)))
    return data, usual(sharpened(enlarged(source.filter(ImageFilter.SMOOTH), scale), scale, rng), rng)


def _all(big: Image.Image, scale: int, rng: Rng) -> Image.Image:
    return sharpened(grain(texture(crisp(big, scale), rng), rng, 2, 8), scale, rng)


def _mixed(big: Image.Image, scale: int, rng: Rng) -> Image.Image:
    big = saturated(gamma(texture(big, rng), rng.uniform(0.95, 1.05)), rng.uniform(0.9, 1.1))
    return sharpened(tone(big, rng.uniform(0.96, 1.04)), scale, rng)


def _local_contrast(big: Image.Image, scale: int, rng: Rng) -> Image.Image:
    return big.filter(ImageFilter.UnsharpMask(rng.uniform(8, 16) * scale, int(rng.integers(10, 30)), 0))


def _p3_converted(source: Image.Image, scale: int, rng: Rng) -> Files:
    return png(source, icc_profile=profile(P3)), usual(enlarged(shown_as(source, profile(P3)), scale), rng)


def _p3_kept(source: Image.Image, scale: int, rng: Rng) -> Files:
    p3 = profile(P3)
    return png(source, icc_profile=p3), jpeg(texture(enlarged(source, scale), rng), 90, icc_profile=p3)


HONEST: dict[str, Make] = {
    "lanczos": _each(lambda big, scale, rng: big),
    "bicubic": lambda s, scale, rng: (png(s), usual(enlarged(s, scale, Image.Resampling.BICUBIC), rng)),
    "bilinear": lambda s, scale, rng: (png(s), usual(enlarged(s, scale, Image.Resampling.BILINEAR), rng)),
    "sharpening": _each(sharpened),
    "grain": _each(lambda big, scale, rng: grain(big, rng)),
    "texture": _each(lambda big, scale, rng: texture(big, rng)),
    "crisp edges": _each(lambda big, scale, rng: crisp(big, scale)),
    "all of these": _each(_all),
    "saturation +20 %": _each(lambda big, scale, rng: saturated(big, 1.2)),
    "saturation -20 %": _each(lambda big, scale, rng: saturated(big, 0.8)),
    "gamma 1.1": _each(lambda big, scale, rng: gamma(big, 1.1)),
    "gamma 1/1.1": _each(lambda big, scale, rng: gamma(big, 1 / 1.1)),
    "tone +8 %": _each(lambda big, scale, rng: tone(big, 1.08)),
    "tone -8 %": _each(lambda big, scale, rng: tone(big, 0.92)),
    "mixed": _each(_mixed),
    "local contrast": _each(_local_contrast),
    "denoised": _denoised,
    "half a source pixel": _half_pixel,
    "grey as RGB": _grey,
    "source is a JPEG": _jpeg_source,
    "JPEG of quality 50 to 75": lambda s, scale, rng: (
        png(s), jpeg(texture(enlarged(s, scale), rng), int(rng.integers(50, 76)))
    ),
    "saturation as JPEG": lambda s, scale, rng: (
        png(s), jpeg(saturated(texture(enlarged(s, scale), rng), rng.uniform(0.8, 1.2)), 85)
    ),
    "P3 converted": _p3_converted,
    "P3 kept": _p3_kept,
}  # fmt: skip
