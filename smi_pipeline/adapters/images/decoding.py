"""Decode pixels by libvips row by row, and shrink them in the same pass.

libvips starts threads and must be created after a fork, never before: pyvips is imported within functions, at first
use.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from smi_pipeline.adapters.images.rewriting import rewritten
from smi_pipeline.adapters.images.structure import Layout
from smi_pipeline.core import image_rules, reasons
from smi_pipeline.core.errors import PermanentError

Bytes = NDArray[np.uint8]
T = TypeVar("T")

_ENDS_EARLY = "premature end of"  # libjpeg's words, in JWRN_HIT_MARKER and JWRN_JPEG_EOF
_LOADERS = {"PNG": "pngload", "JPEG": "jpegload", "WEBP": "webpload"}


@functools.cache
def vips() -> Any:
    """Return pyvips with one thread per image, as several runs share the cores, and without a cache, which would only
    keep pixels in memory."""
    import pyvips

    # It warns of every JPEG that is decoded with a spare row; what matters comes as an error.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    if hasattr(pyvips.vips_lib, "vips_concurrency_set"):
        pyvips.vips_lib.vips_concurrency_set(1)
    pyvips.cache_set_max(0)
    return pyvips


def decode(
    path: Path,
    layout: Layout,
    *,
    shrink: int = 1,
    strict: bool = False,
    broken: type[PermanentError] = PermanentError,
) -> Bytes:
    """Decode a whole file and return it, shrunk by a whole number, as uint8 (height, width, 3 or 4): RGB weighted by
    alpha, and alpha if there is one. Grey is repeated.

    `strict` also refuses a JPEG whose data does not end with its pixels (`_leftover`): for files an encoder has just
    written. Raises `broken`(invalid_image)."""
    on_load = _on_load(layout, shrink)
    # Exact only without several scans, and at full size chroma bleeds between MCUs.
    spare = strict and layout.format == "JPEG" and on_load > 1 and not layout.held
    spare = spare and _spare_height(layout) <= image_rules.MAX_SIDE
    width, height = layout.width // shrink, layout.height // shrink

    def read(fail_on: str) -> Bytes:
        with contextlib.ExitStack() as stack, said_in_one_line(layout, broken):
            if spare:
                copy = rewritten(path, layout, height=_spare_height(layout))
                image = load(stack.enter_context(copy), layout, on_load)
            else:
                # A source was judged when it was taken: any number of harmless warnings is fine.
                file = path if layout.ended else stack.enter_context(rewritten(path, layout))
                image = load(file, layout, on_load, fail_on=fail_on, unlimited=not strict)
            if image.hasalpha():
                # Colours that nobody sees must not count: weighted by alpha before they are averaged.
                image = image.premultiply(max_alpha=65535 if image.format == "ushort" else 255)
            if shrink > on_load and not spare:
                image = image.shrink(shrink // on_load, shrink // on_load)
            if layout.bits == 16:
                image = image / 257
            if image.format != "uchar":
                image = image.rint().cast("uchar")
            if spare:
                rows = _array(image)
                if _leftover(rows, layout, on_load):
                    raise broken(
                        reasons.INVALID_IMAGE, "the JPEG's data does not end where its pixels do: it is damaged"
                    )
                if shrink == on_load:
                    return _three(rows[:height])
                bare = vips().Image.new_from_memory(rows, rows.shape[1], rows.shape[0], rows.shape[2], "uchar")
                image = bare.copy(interpretation=image.interpretation).crop(
                    0, 0, rows.shape[1], layout.height // on_load
                )
                image = image.shrink(shrink // on_load, shrink // on_load)
            if (image.width, image.height) != (width, height):
                raise broken(reasons.INVALID_IMAGE, "the file's header and its pixels disagree on the size")
            return _three(_array(image))

    return _unless_cut_off(read, broken) if strict and layout.format == "JPEG" else read("error")


def _unless_cut_off(read: Callable[[str], T], broken: type[PermanentError]) -> T:
    """Read a JPEG. Data that ends too early is refused; libjpeg only warns and fills the rest with grey. Its other
    warnings are harmless and also occur with cameras' files."""
    try:
        return read("warning")
    except PermanentError as error:
        if _ENDS_EARLY in str(error):
            raise broken(reasons.INVALID_IMAGE, "the JPEG's pixels end too early: it is cut off") from error
    return read("error")


@contextlib.contextmanager
def said_in_one_line(layout: Layout, broken: type[PermanentError] = PermanentError) -> Iterator[None]:
    """Turn an error of libvips into `broken`(invalid_image), with its last line."""
    try:
        yield
    except vips().Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = (lines or ["unknown error"])[-1]
        raise broken(reasons.INVALID_IMAGE, f"the {layout.format} cannot be decoded: {why}") from error


def _on_load(layout: Layout, shrink: int) -> int:
    """Return the part of the shrinking that the decoder does itself. All coded data is read nevertheless."""
    if layout.format == "JPEG":
        # The scaled inverse transform: twice the speed of full size.
        return next(factor for factor in (8, 4, 2, 1) if shrink % factor == 0)
    return shrink if layout.format == "WEBP" else 1


def load(
    file: Path | IO[bytes], layout: Layout, on_load: int = 1, *, fail_on: str = "error", unlimited: bool = False
) -> Any:
    """Return a libvips image that decodes a file, or an open copy of one, row by row as it is read."""
    # The loader is named, never guessed: no other of libvips's many readers ever sees the file.
    options: dict[str, Any] = {"access": "sequential", "fail_on": fail_on}
    if on_load > 1:
        options |= {"shrink": on_load} if layout.format == "JPEG" else {"scale": 1 / on_load}
    if unlimited and layout.format == "JPEG":
        options["unlimited"] = True
    name = _LOADERS[layout.format]
    if isinstance(file, Path):
        return getattr(vips().Image, name)(str(file), **options)
    return getattr(vips().Image, f"{name}_source")(vips().Source.new_from_descriptor(file.fileno()), **options)


def _spare_height(layout: Layout) -> int:
    down = layout.unit[1]
    return -(-layout.height // down) * down + down


def _leftover(rows: Bytes, layout: Layout, on_load: int) -> bool:
    """Return whether a JPEG's data goes on after its last pixel: then a flipped bit has moved the blocks behind it.

    Decoders are lenient: damaged entropy data falls into step again after some blocks, but often after a wrong number
    of them. So one row of MCUs more than there are was asked for. Its first MCU is decoded from the bits that pad the
    end; all others must be the even grey that libjpeg gives when data has run out."""
    across, down = layout.unit
    top = (_spare_height(layout) - down) // on_load
    # Chroma that is upsampled bleeds one pixel to the right and, with two rows of it per MCU, downwards.
    rest = rows[top + (down > on_load) :, -(-across // on_load) + 1 :]
    return bool((np.abs(rest.astype(np.int16) - 128) > 1).any())


def in_srgb(pixels: Bytes, profile: bytes) -> Bytes:
    """Return decoded pixels in the colours that a profile gives them; one that cannot be used is ignored, as browsers
    do."""
    grey = profile[16:20] == b"GRAY" and bool((pixels[:, :, 0] == pixels[:, :, 1]).all())
    stored = np.ascontiguousarray(pixels[:, :, [0, *range(3, pixels.shape[2])]] if grey else pixels)
    height, width, bands = stored.shape
    try:
        image = vips().Image.new_from_memory(stored, width, height, bands, "uchar")
        image = image.copy(interpretation="b-w" if grey else "srgb")
        image.set_type(vips().GValue.blob_type, "icc-profile-data", profile)
        return _three(_array(image.icc_transform("srgb", embedded=True, intent="relative")))
    except vips().Error:
        return pixels


def _array(image: Any) -> Bytes:
    flat = np.frombuffer(image.write_to_memory(), dtype=np.uint8)
    return flat.reshape(image.height, image.width, image.bands)


def _three(pixels: Bytes) -> Bytes:
    bands = pixels.shape[2]
    if bands == 1:
        return np.repeat(pixels, 3, axis=2)
    if bands == 2:
        return pixels[:, :, [0, 0, 0, 1]]
    return pixels
