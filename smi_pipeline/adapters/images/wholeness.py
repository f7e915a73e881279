"""Decode a source from its first pixel to its last, and judge whether all of them are in the file.

libjpeg never says that a file is damaged: it warns, makes up the rest, and goes on. libvips passes on the first warning
alone, and none about the last rows.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from smi_pipeline.adapters.images.decoding import load, said_in_one_line
from smi_pipeline.adapters.images.rewriting import as_it_is, rewritten, shortened
from smi_pipeline.adapters.images.structure import Layout, damaged
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.image_rules import MAX_SIDE

_HARMLESS = (
    "extraneous bytes before marker",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
)
_CUT_OFF = "premature end of"  # in JWRN_HIT_MARKER and JWRN_JPEG_EOF
_CUT_OFF_IN_WORDS = "the JPEG's pixels end too early: it is cut off"
_LEFT_OVER = "the JPEG's data does not end where its pixels do: it is damaged"
_SPARE_BYTES = 64  # decoders of WebP read up to 16 ahead
# Two sequences of bits that differ from the first one on, and contain no marker.
_BEHIND = bytes(5 * n % 251 + 2 for n in range(200))
_BEHIND_TOO = bytes(255 - byte for byte in _BEHIND)


def decode_whole(path: Path, layout: Layout) -> None:
    """Decode every pixel of a source and keep none. Raises PermanentError(invalid_image)."""
    if layout.format != "JPEG":
        with said_in_one_line(layout):
            load(path, layout).avg()
        if layout.doubtful:
            _refuse_what_decodes_without_its_end(path, layout)
    elif layout.zeros_at_end:
        try:
            _decode_jpeg(path, layout, bare=True)
        except PermanentError:
            _decode_jpeg(path, replace(layout, doubtful=True), bare=False)
    else:
        _decode_jpeg(path, layout, bare=False)


def _decode_jpeg(path: Path, layout: Layout, *, bare: bool) -> None:
    warned = False
    try:
        height = _height_that_warns(layout)
        with said_in_one_line(layout), contextlib.ExitStack() as stack:
            changed = height or not as_it_is(layout, bare=bare)
            file = stack.enter_context(rewritten(path, layout, height=height, bare=bare)) if changed else path
            load(file, layout, fail_on="warning").avg()
    except PermanentError as error:
        if _CUT_OFF in str(error):
            raise damaged(_CUT_OFF_IN_WORDS) from error
        if not any(words in str(error) for words in _HARMLESS):
            raise
        warned = True  # it may have hidden another
    if warned:
        if layout.doubtful and layout.several_scans:
            raise damaged(_LEFT_OVER)
        _refuse_missing(path, layout, bare=bare)
    if layout.doubtful and not layout.several_scans:
        _refuse_left_over(path, layout, bare=bare)


def _refuse_what_decodes_without_its_end(path: Path, layout: Layout) -> None:
    """Raise PermanentError when a lossless WebP has all of its pixels before its end: lost data moved the rest."""
    try:
        with said_in_one_line(layout), shortened(path, layout, _SPARE_BYTES) as copy:
            load(copy, layout).avg()
    except PermanentError:
        return
    raise damaged("the WebP's data does not end where its pixels do: it is damaged")


def _height_that_warns(layout: Layout) -> int:
    """Return the height to announce so that warnings about the last rows are passed on; 0 for the file's own.

    libvips asks for strips of 8 rows and looks for warnings before each. So there must be one more strip after the one
    for which the last row of MCUs is decoded. Decoders of several scans decode all before the first strip."""
    if layout.several_scans:
        return 0
    down = layout.unit[1]
    height = -(-layout.height // down) * down + (8 if down == 8 else 0)
    return height if layout.height < height <= MAX_SIDE else 0


def _refuse_missing(path: Path, layout: Layout, *, bare: bool) -> None:
    """Raise PermanentError when the data of any pixel is missing.

    The file is decoded twice, each time with other bytes behind its data. A pixel that differs was made of them."""
    with (
        said_in_one_line(layout),
        rewritten(path, layout, behind=_BEHIND, bare=bare) as one,
        rewritten(path, layout, behind=_BEHIND_TOO, bare=bare) as other,
    ):
        images = [load(copy, layout, fail_on="none", unlimited=True) for copy in (one, other)]
        if (images[0] != images[1]).max():
            raise damaged(_CUT_OFF_IN_WORDS)


def _refuse_left_over(path: Path, layout: Layout, *, bare: bool) -> None:
    """Raise PermanentError when data is left over behind the last pixel, because lost data moved what came behind it.

    One row of MCUs more than there are is announced. The bits that pad the data make the first few of them; the others
    must be the even grey that libjpeg gives when data has run out."""
    across, down = layout.unit
    top, left = -(-layout.height // down) * down, 5 * across
    if top + down > MAX_SIDE or layout.width <= left:
        return
    with said_in_one_line(layout), rewritten(path, layout, height=top + down, bare=bare) as copy:
        image = load(copy, layout, fail_on="none", unlimited=True)
        rest = image.crop(left, top + 1, layout.width - left, down - 1)
        if (rest - 128).abs().max() > 1:
            raise damaged(_LEFT_OVER)
