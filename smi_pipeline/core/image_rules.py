"""Decide which images are sold, which are too large, and which results are refused.

The measurements come from `adapters.images`. Levels are 0 to 255 per channel, a tile is one cell of a 16 x 16 grid over
the image, and a block is 7 x 7 source pixels.
"""

import math
from dataclasses import dataclass
from typing import Literal

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.models import ImageInfo

Fidelity = Literal["observe", "enforce"]

FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "WEBP": (".webp",)}
SMALLEST_SCALE = 4
"""The smallest factor sold: a source whose 4x is too large cannot be upscaled."""
MAX_SIDE = 65_500
"""Longest side of a source, the longest that libjpeg decodes: images are read row by row, and millions of rows of one
pixel each take longer than all pixels of a large image."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The limits of the image checks. "Good results" are upscales of 23 pictures (photographs, scans, drawings) with
    synthetic noise, texture, sharpening, tone, denoising, local contrast and half a pixel of shift, as PNG, JPEG and
    WebP; the extremes quoted are theirs."""

    # --- files ---
    max_decode_bytes: int = 256 * 2**20
    """Files that cannot be decoded row by row (progressive JPEG, interlaced PNG, lossless WebP) hold the whole image in
    memory: with 256 MiB a worker stays below 400 MB, and a 68 megapixel progressive 4:2:0 JPEG passes."""
    max_padding_bytes: int = 1024 * 1024
    """Zero bytes after the end marker: cameras and card recovery pad to whole blocks."""
    max_bytes_per_pixel: float = 8.0
    """RGBA is 4 bytes before compression; twice that is not an image alone."""
    spare_bytes: int = 4 * 2**20
    """Metadata (profile, preview, XMP) that an image may contain beyond its pixels."""
    min_share_of_source_bytes: float = 0.01
    """Good results hold 16 to 64 times the pixels in 0.5 to 60 times the bytes; a hundredth is an empty picture."""

    # --- always refused: no upscaler does this on purpose ---
    tile_colour: float = 56.0
    """Mean colour of a tile. Good results reach 32, with the strongest local contrast."""
    flat_block_share: float = 0.2
    """Share of a tile's blocks that are one single colour where the source is not: a black rectangle of an eighth of
    the image's side covers at least a quarter of some tile, wherever it lies."""
    flat_block_std: float = 0.5
    """Contrast below which a block of the result is one colour (an 8-bit level is 1)."""
    flat_block_colour: float = 36.0
    """... and how far that colour must be from the source's: strong contrast bleaches a pale wall by up to 28."""
    black: float = 2.0
    """Brightest channel of a block that counts as black ..."""
    not_black: float = 28.0
    """... where the source was at least this bright: an eye sees the rectangle."""
    flat_block_source_std: float = 16.0
    """... or how much contrast was there before: a network flattens sensor noise of up to 14."""
    flat_block_grain: float = 0.5
    """Share of all such blocks that are flat, from which a network took texture (grass) for grain everywhere."""
    foreign_colour: float = 14.0
    """Mean distance of a tile's blocks, when the structure is foreign as well."""
    foreign_source_std: float = 12.0
    """Tiles with less contrast are compared by colour: a sky may lose its grain."""
    foreign_correlation: float = 0.3
    """Correlation of a tile with its source, blocks of colour included."""
    foreign_block_colour: float = 20.0
    """Colour of a block whose structure is foreign too."""
    appeared_std: float = 20.0
    """Contrast of such a block where the source had none: sharpened noise, shrunk, reaches 14."""
    foreign_block_share: float = 0.45
    """Share of such blocks in a tile of at least 2 x 2. Good results: 0 but for one text block after a median filter
    (0.25)."""
    colour_outlier: float = 4.0
    """Mean over such a tile of a block's colour distance over its contrast (plus 10): the flatter a place, the less of
    a change it explains. Good results reach 2.5, with the strongest local contrast."""
    image_correlation: float = 0.8
    """Correlation of the whole image's block colours. Good results keep 0.97."""
    white: float = 250.0
    """Luminance of a block that a brighter tone may have cut off ..."""
    not_white: float = 225.0
    """... where the source was at least this bright: it has no layout to compare there."""
    image_std: float = 4.0
    """Below this contrast between blocks an image has no layout to compare."""
    shift_gain: float = 0.4
    """A tile counts as shifted when moving it by whole source pixels takes its squared error below this share. Half a
    source pixel, which resizers with another idea of a pixel's centre do mean, leaves 1.0; a whole one leaves 0.1."""
    shift_share: float = 0.3
    """Share of the structured tiles that agree on one shift: the image is shifted."""
    shift_gain_alone: float = 0.12
    """A single tile that fits elsewhere this much better was moved."""
    shift_rest: float = 0.25
    """Squared error that may remain at the other place, over the contrast there."""
    shift_directions: float = 0.12
    """Structure across an edge over structure along it, from which a tile has a definite place."""
    shift_rms: float = 10.0
    """Error in levels before a shift is looked for at all."""
    rotated_correlation: float = 0.7
    """A tile matches its source mirrored or rotated at least this well ..."""
    rotated_margin: float = 0.5
    """... and better than upright by this much."""
    drift_levels: float = 4.0
    """JPEG: from some row on every block is off by the same amount, which damaged entropy data leaves behind (DC values
    are coded as differences). Tone mapping follows the picture's own edges and is discounted. Good results reach 1."""
    drift_share: float = 0.95
    """Share of the columns that must agree on it."""
    alpha_levels: float = 48.0
    """Mean alpha of a tile: transparency lost or gained."""
    colour_kept: float = 0.15
    """Saturation of the result over the source's, below which colour became grey."""
    colour_source: float = 8.0
    """Mean saturation from which a source is a colour image."""

    # --- finer: warnings in observe, refused in enforce ---
    fine_mean_colour: float = 22.0
    """Mean colour shift over the whole image: 8 % of white are 20."""
    fine_tile_colour: float = 44.0
    """Mean colour of a tile."""
    misfit: float = 4.0
    """Levels by which six pixels are off beyond all that their surroundings and the picture's grain explain. About one
    honest result in 500 and one of 708 of networks has more, and nearly every tile from elsewhere (126 of 127)."""
    fine_drift_share: float = 0.8
    """Share of the columns from which a drift is suspected."""
    dropped_colour: float = 3.0
    """Levels by which a twentieth of the pixels must look otherwise before a dropped profile is reported."""
    dropped_way: float = 0.5
    """Where a result stands between the source's bare numbers (0) and the colours they mean (1)."""
    seam: float = 1.7
    """Levels of a step right across the image. On the thirds for tuning 14 of 2,000 honest results and 19 of 708 of
    networks, which darken one of two textures, have more, and 240 of 244 seams of 16 levels, 233 of 245 of 8 levels."""
    halo: float = 0.5
    """Share by which middle frequencies are raised. Honest: 0.42, with everything at its strongest. Halos: 0.8 in the
    median; those in dark or clipped places show less."""
    sharpness: float = 0.5
    """Share of them that is left. Honest: 0.52 and more, but grass by Real-ESRGAN (0.4) and denoised stars (0.05).
    Blur by 3 pixels: 0.49 and less."""
    mosaic: float = 0.3
    """Share of a twelfth of the sides that shows cells. Honest: 0 but after strong denoising and in rows of windows;
    five of six mosaics over 1/36 of the picture show more."""
    tone: float = 1.45
    """Change of tone over what is free. Honest: 1.05, Real-ESRGAN 1.4; +25 %: 1.8 and more."""
    jpeg_quality: float = 20.0
    """Quality that a JPEG's quantisation table says. Honest results are saved with 50 to 95."""
    structured_std: float = 10.0
    """Contrast within the blocks of a tile from which SSIM is meaningful: below, noise decides it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of a result. Tiles are (row, column) of the grid, counted from 0 at the top left."""

    min_ssim: float
    mean_colour: float
    tile_colour: float
    tile_colour_at: tuple[int, int]
    flat_block_share: float
    flat_block_at: tuple[int, int]
    foreign_tiles: int
    foreign_block_share: float
    colour_outlier: float
    image_correlation: float | None  # None: no layout to compare
    rotation: str  # how the image must be rotated to fit, "" for not at all
    shift: tuple[int, int]  # source pixels right and down that most shifted tiles agree on
    shifted_share: float
    shifted_alone: int
    rotated_tiles: int
    drift: float
    drift_suspected: float
    alpha: float
    source_saturation: float
    result_saturation: float
    misfit: float  # levels by which the worst place is off beyond what its surroundings explain
    seam: float  # levels of a step right across the image that the source does not have
    halo: float  # share by which middle frequencies are raised
    sharpness: float  # share of the middle frequencies that is left
    mosaic: float  # share of a sixth of the image that is of single-coloured cells
    tone: float  # change of tone over what is free


def check_output_size(facts: ImageInfo, scale: int, max_output_megapixels: float) -> None:
    """Raise PermanentError(source_too_large) when the upscale would exceed `max_output_megapixels`; it says what is
    possible: the smallest scale, or the size to which this image must be reduced for it."""
    width, height = facts.width * scale, facts.height * scale
    megapixels = width * height / 1e6
    if megapixels > max_output_megapixels:
        smaller = megapixels / scale**2 * SMALLEST_SCALE**2
        if scale > SMALLEST_SCALE and smaller <= max_output_megapixels:
            possible = f"{SMALLEST_SCALE}x gives {smaller:.3g}"
        else:
            largest = max_output_megapixels / SMALLEST_SCALE**2
            share = math.sqrt(max_output_megapixels / smaller)
            sides = [max(1, math.floor(side * share)) for side in facts.display_size]
            possible = (
                f"images of up to {largest:.3g} megapixels can be ordered, at {SMALLEST_SCALE}x; reduce this one to "
                f"{sides[0]} x {sides[1]} pixels"
            )
        raise PermanentError(
            reasons.SOURCE_TOO_LARGE,
            f"{scale}x of {facts.width} x {facts.height} pixels would be {megapixels:.4g} megapixels, the limit is "
            f"{max_output_megapixels:g}; {possible}",
        )


def size_problem(source: ImageInfo, result: ImageInfo, scale: int) -> str:
    """Return how the displayed size of the result differs from the exact one; empty when it does not."""
    width, height = (side * scale for side in source.display_size)
    if result.display_size == (width, height):
        return ""
    got = result.display_size
    return f"the result is {got[0]} x {got[1]} pixels, not {width} x {height} ({scale}x of the source)"


def bytes_problem(result: ImageInfo, result_payload: int, source_payload: int, limits: Thresholds) -> str:
    """Return how the number of bytes is implausible for the pixels; empty when it is not. Payloads are the bytes of
    coded pixels, without metadata."""
    pixels = result.width * result.height
    if result.bytes > pixels * limits.max_bytes_per_pixel + limits.spare_bytes:
        return f"{result.bytes} bytes for {pixels} pixels are implausibly many"
    if result_payload < source_payload * limits.min_share_of_source_bytes:
        return f"{result_payload} bytes of pixels are implausibly few for a source of {source_payload}"
    return ""


def refusals(found: Measured, limits: Thresholds) -> list[str]:
    """Return why a result is refused, the most obvious reason first; empty when it may be delivered."""
    messages = []
    if found.alpha >= limits.alpha_levels:
        messages.append(f"transparency differs by {found.alpha:.0f} levels in a part of the image")
    if found.image_correlation is not None and found.image_correlation < limits.image_correlation:
        what = f"is the source {found.rotation}" if found.rotation else "shows another image"
        messages.append(f"the result {what} (correlation {found.image_correlation:.2f})")
    if (
        found.source_saturation >= limits.colour_source
        and found.result_saturation < limits.colour_kept * found.source_saturation
    ):
        messages.append(
            f"colour became grey (saturation {found.source_saturation:.0f} to {found.result_saturation:.0f})"
        )
    if found.shifted_share >= limits.shift_share:
        messages.append(f"the image is shifted by {found.shift[0]}, {found.shift[1]} source pixels")
    if found.flat_block_share >= limits.flat_block_share:
        messages.append(
            f"{found.flat_block_share:.0%} of tile {found.flat_block_at} is a flat colour that the source lacks"
        )
    if found.tile_colour >= limits.tile_colour:
        messages.append(f"tile {found.tile_colour_at} is off by {found.tile_colour:.0f} levels")
    if found.foreign_tiles:
        messages.append(f"{_count(found.foreign_tiles, 'tile shows', 'tiles show')} something else")
    elif found.foreign_block_share >= limits.foreign_block_share:
        messages.append(f"{found.foreign_block_share:.0%} of a tile shows something else")
    elif found.colour_outlier >= limits.colour_outlier:
        messages.append(f"a part has another colour ({found.colour_outlier:.1f} times what its contrast allows)")
    if found.shifted_alone:
        messages.append(f"{_count(found.shifted_alone, 'tile is', 'tiles are')} shifted")
    if found.rotated_tiles:
        messages.append(f"{_count(found.rotated_tiles, 'tile is', 'tiles are')} mirrored or rotated")
    if found.drift >= limits.drift_levels:
        messages.append(f"from some row on all colours are off by {found.drift:.0f} levels: damaged image data")
    return messages


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def fine_points(found: Measured, limits: Thresholds) -> list[str]:
    """Return deviations that a creative upscaler may make and a faithful one does not."""
    messages = []
    if found.mean_colour > limits.fine_mean_colour:
        messages.append(f"mean colour shift {found.mean_colour:.1f} levels (limit {limits.fine_mean_colour:g})")
    if found.tile_colour > limits.fine_tile_colour:
        messages.append(f"tile {found.tile_colour_at} off by {found.tile_colour:.0f} levels")
    if found.misfit >= limits.misfit:
        messages.append(f"a part shows something else (off by {found.misfit:.0f} levels or more without a cause)")
    if limits.drift_levels <= found.drift_suspected and found.drift < limits.drift_levels:
        messages.append(f"from some row on most colours are off by {found.drift_suspected:.0f} levels")
    if found.seam >= limits.seam:
        messages.append(f"a seam of {found.seam:.0f} levels or more runs across the image")
    if found.halo >= limits.halo:
        messages.append(f"halos around edges ({found.halo:.0%} more contrast there)")
    if found.sharpness < limits.sharpness:
        messages.append(f"less sharp than the source ({found.sharpness:.0%} of its contrast at edges)")
    if found.mosaic >= limits.mosaic:
        messages.append("a part is a mosaic")
    if found.tone >= limits.tone:
        messages.append(f"the tone is changed {found.tone:.1f} times as much as an upscaler may")
    return messages


def quality_problem(quality: float | None, limits: Thresholds) -> list[str]:
    """Return that a JPEG is of low quality; nothing when it is not or does not say it."""
    if quality is None or quality >= limits.jpeg_quality:
        return []
    return [f"the JPEG is of quality {quality:.0f} (limit {limits.jpeg_quality:g})"]
