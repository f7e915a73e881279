"""A picture in 32 x 32 cells of colour, upright and in sRGB: what it shows, however it is coded."""

from pathlib import Path
from typing import Any

from smi_pipeline.adapters.images import containers
from smi_pipeline.adapters.images.decoding import vips
from smi_pipeline.core.likeness import SIDE

_LOADERS = {"PNG": "pngload", "JPEG": "jpegload", "WEBP": "webpload"}
_TURNS = {
    2: ("fliphor",), 3: ("rot180",), 4: ("flipver",), 5: ("rot90", "fliphor"), 6: ("rot90",),
    7: ("rot270", "fliphor"), 8: ("rot270",),
}  # fmt: skip


def fingerprint(path: Path) -> bytes:
    """Return the cells of a checked source, row by row, three bytes each; empty when it cannot be decoded."""
    layout = containers.read_layout(path)
    options: dict[str, Any] = {"access": "sequential"}
    # Little enough that the rounding of its sides moves no cell by more than a sixteenth.
    shrink = next((factor for factor in (8, 4, 2) if min(layout.width, layout.height) >= 16 * factor * SIDE), 1)
    if shrink > 1 and layout.format == "JPEG":
        options["shrink"] = shrink  # three times the speed
    try:
        image = getattr(vips().Image, _LOADERS[layout.format])(str(path), **options)
        if image.hasalpha():
            image = image.flatten(background=[255, 255, 255])
        small = _small(image).copy_memory()
        # Browsers do not turn WebP.
        for turn in _TURNS.get(containers.orientation(layout.exif) if layout.format != "WEBP" else 1, ()):
            small = getattr(small, turn)()
        return bytes(small.write_to_memory())
    except vips().Error:
        return b""


def _small(image: Any) -> Any:
    """Return the cells in sRGB; a profile that cannot be used is ignored, as browsers do."""
    options = {"height": SIDE, "size": "force", "no_rotate": True}
    try:
        small = image.thumbnail_image(SIDE, export_profile="srgb", **options).copy_memory()
    except vips().Error:
        small = image.thumbnail_image(SIDE, **options)
    return small.colourspace("srgb").cast("uchar")
