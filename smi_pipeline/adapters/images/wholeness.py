"""Decode a source from its first pixel to its last, and judge whether all of them are in the file.

libjpeg never says that a file is damaged: it warns, makes up the rest, and goes on. libvips passes on the first warning
alone, and none about the last rows.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from smi_pipeline.adapters.images.decoding import load, said_in_one_line, vips
from smi_pipeline.adapters.images.rewriting import rewritten
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
# Two sequences of bits that differ from the first one on, and contain no marker.
_BEHIND = bytes(5 * n % 251 + 2 for n in range(200))
_BEHIND_TOO = bytes(255 - byte for byte in _BEHIND)


def decode_whole(path: Path, layout: Layout) -> None:
    """Decode every pixel of a source and keep none. Raises PermanentError(invalid_image)."""
    if layout.format != "JPEG":
        with said_in_one_line(layout):
            load(path, layout).avg()
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
        with said_in_one_line(layout), rewritten(path, layout, height=_height_that_warns(layout), bare=bare) as copy:
            load(copy, layout, fail_on="warning").avg()
    except PermanentError as error:
        if _CUT_OFF in str(error):
            raise damaged(_CUT_OFF_IN_WORDS) from error
        if not any(words in str(error) for words in _HARMLESS):
            raise
        warned = True  # it may have hidden another
    if warned and layout.doubtful and layout.several_scans:
        raise damaged(_LEFT_OVER)
    if warned or (layout.doubtful and not layout.several_scans):
        _compare(path, layout, bare=bare)


def _height_that_warns(layout: Layout) -> int:
    """Return the height to announce so that warnings about the last rows are passed on; 0 for the file's own.

    libvips asks for strips of 8 rows and looks for warnings before each. So there must be one more strip after the one
    for which the last row of MCUs is decoded. Decoders of several scans decode all before the first strip."""
    if layout.several_scans:
        return 0
    down = layout.unit[1]
    height = -(-layout.height // down) * down + (8 if down == 8 else 0)
    return height if height <= MAX_SIDE else 0


def _compare(path: Path, layout: Layout, *, bare: bool) -> None:
    """Raise PermanentError when pixels are missing, or data is left over where zeros were doubtful.

    The file is decoded twice, each time with other bytes behind its data. A pixel that differs was made of them: its
    own data is missing. Of a further row of MCUs all must differ: what does not was made of data that was left over,
    because lost data moved the blocks behind it."""
    across, down = layout.unit
    rows = -(-layout.height // down) * down
    spare = layout.doubtful and not layout.several_scans and rows + down <= MAX_SIDE and layout.width > 2 * across
    height = rows + down if spare else 0
    with (
        said_in_one_line(layout),
        rewritten(path, layout, height=height, behind=_BEHIND, bare=bare) as one,
        rewritten(path, layout, height=height, behind=_BEHIND_TOO, bare=bare) as other,
    ):
        images = [load(copy, layout, fail_on="none", unlimited=True) for copy in (one, other)]
        difference = images[0] != images[1]
        region = vips().Region.new(difference)

        def differ(left: int, top: int, width: int, height: int) -> bool:
            return bool(np.frombuffer(region.fetch(left, top, width, height), np.uint8).any())

        if any(differ(0, top, layout.width, min(8, layout.height - top)) for top in range(0, layout.height, 8)):
            raise damaged(_CUT_OFF_IN_WORDS)
        # The first MCU begins with the bits that pad the data.
        if spare and not differ(across, rows + 1, min(2 * across, layout.width - across), down - 1):
            raise damaged(_LEFT_OVER)
