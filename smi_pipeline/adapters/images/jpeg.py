"""Read the structure of a JPEG file: markers, header and the end of its scans."""

import re

from smi_pipeline.adapters.images.structure import FileBytes, Layout, damaged, u16, unsupported

# A marker that is neither a stuffed byte (FF00), a restart (FFD0-FFD7) nor fill (FFFF).
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END_OR_SCAN = re.compile(rb"\xff[\xd9\xda]")
_PROGRESSIVE_ROOM = 1.3  # what a decoder takes in all over its coefficients, as measured
_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}


def read_jpeg(data: FileBytes) -> Layout:
    """Read the markers from the first byte to the end marker. Raises PermanentError; ValueError or IndexError when the
    file is too short."""
    layout = Layout(format="JPEG")
    at, components = 2, 0
    profile: dict[int, bytes] = {}
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise damaged("the JPEG's structure is broken")
        marker = data[at + 1]
        if marker == 0xD9:
            if not layout.payload:
                raise damaged("the JPEG holds no pixels")
            layout.end = at + 2
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = u16(data, at + 2)
        if length < 2:
            raise damaged("the JPEG's structure is broken")
        body = at + 4
        if marker in _FRAMES:
            if layout.width:
                raise damaged("the JPEG has two frames")
            components = _jpeg_frame(layout, data, body, _FRAMES[marker] == "progressive")
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise unsupported("the JPEG uses a rare coding (lossless or arithmetic); save it as a usual JPEG")
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\x00\x00" and not layout.exif:
            layout.exif = data[body : body + length - 2]
        elif marker == 0xE2 and data[body : body + 12] == b"ICC_PROFILE\x00":
            profile[data[body + 12]] = data[body + 14 : body + length - 2]
        elif marker == 0xE2 and data[body : body + 4] == b"MPF\x00":
            layout.multi_picture = True
        at += 2 + length
        if marker == 0xDA:
            if not layout.width:
                raise damaged("the JPEG has pixels before its header")
            after = _after_scan(data, at)
            layout.payload += after - at
            at = after
    layout.icc = b"".join(profile[number] for number in sorted(profile))
    if components == 1:
        layout.mode = "L"
    elif components == 4:
        layout.mode = "CMYK"
    elif components != 3:
        raise unsupported(f"the JPEG has {components} colour channels; grey and RGB are taken")
    return layout


def _jpeg_frame(layout: Layout, data: FileBytes, body: int, progressive: bool) -> int:
    layout.bits = data[body]
    layout.height_at = body + 1
    layout.height, layout.width, components = u16(data, body + 1), u16(data, body + 3), data[body + 5]
    samplings = [data[body + 7 + 3 * number] for number in range(components)]
    across, down = max(s >> 4 for s in samplings), max(s & 15 for s in samplings)
    if not all(1 <= s >> 4 <= 4 and 1 <= s & 15 <= 4 for s in samplings):
        raise damaged("the JPEG's header is damaged")
    # A single component is never interleaved: its unit is one block, whatever sampling it claims.
    layout.unit = (8, 8) if components == 1 else (8 * across, 8 * down)
    if progressive:
        share = sum((s >> 4) * (s & 15) for s in samplings) / (across * down)
        layout.held = int(layout.width * layout.height * share * 2 * _PROGRESSIVE_ROOM)  # 16-bit coefficients
    return components


def _after_scan(data: FileBytes, at: int) -> int:
    """Return where the entropy-coded data that begins at `at` ends."""
    # End and start of a scan cannot occur within one. The exact search is slow, so this one comes first: when the end
    # marker is the file's last bytes and no other scan begins, that is it.
    first = data.search(_END_OR_SCAN, at)
    if first == len(data) - 2:
        return first
    found = data.search(_MARKER, at)
    if found < 0:
        raise damaged("the JPEG has no end marker: it is truncated")
    return found
