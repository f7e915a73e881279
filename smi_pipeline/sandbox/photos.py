"""The photographs of the sandbox: those of scikit-image, in several sizes and formats.

A name is ``{photo}-{long side in pixels}.{png|jpg|webp}``, for example ``astronaut-512.jpg``. A file is made at its
first use, always with the same bytes, and cached in a folder.
"""

import functools
import io
import re
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from smi_pipeline.sandbox import files

# colour photographs, a picture of a microscope, textures, grey ones, a drawing whose alpha is opaque throughout, and a
# cut-out with real, soft transparency
PHOTOS = {
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "chelsea": "chelsea.png",
    "rocket": "rocket.jpg",
    "hubble": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "motorcycle": "motorcycle_left.png",
    "tissue": "ihc.png",
    "camera": "camera.png",
    "coins": "coins.png",
    "moon": "moon.png",
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "logo": "logo.png",
    "cutout": "chelsea.png",
}
CATALOGUE_SIZES = (200, 400, 1024)  # long side in pixels; 1024 of the square one is 1 MP
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
ATTACHED = {
    # what a Galaxy phone appends: a block with its name, its index and a mark
    "motorcycle": b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1500000000000"
    b"SEFH\x65\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x0a\x23\x00\x00\x00\x23\x00\x00\x00\x18\x00\x00\x00SEFT",
    "brick": b"\xff" * 512,  # padding to a whole block
    "retina": b"\x14",  # one stray byte, as of older cameras
}
"""Bytes behind the end marker of a photograph's JPEG files: decoders ignore them, and real sources have them."""
_NAME = re.compile(r"([a-z]+)-(\d{2,4})\.(png|jpg|webp)")


def _folder() -> Path:
    """Return the folder of scikit-image's photographs without importing scikit-image, which takes a second."""
    return Path(str(distribution("scikit-image").locate_file("skimage/data")))


@functools.lru_cache(maxsize=len(PHOTOS))
def original(photo: str) -> Image.Image:
    """Return the photograph in full size. Raises KeyError for an unknown one."""
    image = Image.open(_folder() / PHOTOS[photo])
    image.load()
    if photo == "cutout":
        image.putalpha(_oval(image.size))
    return image


def _oval(size: tuple[int, int]) -> Image.Image:
    """Return a mask: opaque in the middle, soft at the edge, transparent in the corners."""
    mask = Image.radial_gradient("L").resize(size)  # 0 in the middle, 181 at the middle of a side, 255 in the corner
    return mask.point(lambda value: max(0, min(255, (190 - value) * 4)))


def size(photo: str, long_side: int) -> tuple[int, int]:
    """Return width and height in pixels for this long side."""
    with Image.open(_folder() / PHOTOS[photo]) as image:
        width, height = image.size
    ratio = long_side / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def make(name: str, cache: Path) -> Path | None:
    """Return the file of this name, made if needed; None if there is no such photograph, or not that large."""
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in PHOTOS:
        return None
    photo, long_side, extension = found[1], int(found[2]), found[3]
    path = cache / name
    if path.exists():
        return path
    if long_side < 16 or long_side > max(original(photo).size):
        return None
    image = original(photo).resize(size(photo, long_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if extension == "jpg" and image.mode == "RGBA":  # JPEG has no alpha: on white, as a shop would show it
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.save(out, FORMATS[extension], quality=92)
    files.write(path, out.getvalue() + (ATTACHED.get(photo, b"") if extension == "jpg" else b""))
    return path


def catalogue(cache: Path) -> list[dict[str, Any]]:
    """Return every photograph in every catalogue size and format: name, width, height (pixels), format, bytes."""
    entries = []
    for photo, long_side, (extension, image_format) in product(PHOTOS, CATALOGUE_SIZES, FORMATS.items()):
        name = f"{photo}-{long_side}.{extension}"
        if path := make(name, cache):
            width, height = size(photo, long_side)
            entries.append(
                {
                    "name": name,
                    "path": f"/photos/{name}",
                    "width": width,
                    "height": height,
                    "format": image_format,
                    "bytes": path.stat().st_size,
                }
            )
    return entries
