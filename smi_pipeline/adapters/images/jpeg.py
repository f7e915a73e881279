"""Read the structure of a JPEG file: markers, header, and where its entropy-coded data lies.

As decoders do, and cameras need: bytes between segments are skipped, and data may end without an end marker.
"""

import re
from dataclasses import dataclass, field

from smi_pipeline.adapters.images.structure import FileBytes, Layout, damaged, exactly, u16, unsupported

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_END_OF_DATA = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte nor a restart
_PROGRESSIVE_ROOM = 1.3  # what a decoder takes in all over its coefficients, as measured
_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_BETWEEN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_MAX_SEGMENTS = 20_000  # 255 of a profile, up to a thousand of extended XMP; each costs time
_MAX_SCANS = 200  # encoders write about ten; each costs a pass over all pixels
_BLOCK = 2**20
_ZEROS = 128
"""Zero bytes in a row that no encoder writes, unless zero bits mean a flat area: they would be five blocks of 63 equal
coefficients. Storage and transfers lose at least 512 bytes at once."""
_KEPT_ZEROS = 16  # data may itself end in a few


@dataclass
class _Reading:
    """What is known so far of the file that is being read."""

    components: dict[int, list[int]] = field(default_factory=dict)
    """By name of a component, the lowest bit that has come of each of its 64 coefficients; 16 for none."""
    channels: int = 0  # names need not be unique
    zero_codes: dict[int, int] = field(default_factory=dict)
    """By class and number of a Huffman table, the symbol whose code is all zeros."""
    profile: dict[int, bytes] = field(default_factory=dict)
    progressive: bool = False
    scans: int = 0

    def whole(self, ended: bool) -> bool:
        """Return whether every coefficient has come in full. Encoders may leave out the details of colour of a grey
        image, but then close the file."""
        for number, bits in enumerate(self.components.values()):
            plain = ended and number > 0 and set(bits[1:]) == {16}
            if any(bits[:1] if plain else bits):
                return False
        return True


def read_jpeg(data: FileBytes) -> Layout:
    """Read the markers from the first byte to the end marker. Raises PermanentError; ValueError or IndexError when the
    file is too short."""
    layout = Layout(format="JPEG", ended=False)
    reading = _Reading()
    layout.keep(0, 2)
    at = 2
    for _ in range(_MAX_SEGMENTS):
        try:
            start = _next_marker(data, at)
            marker = data[start + 1]
            end = start + 2 if marker in _WITHOUT_LENGTH or marker == 0xD9 else start + 2 + u16(data, start + 2)
            if layout.payload and (end > len(data) or marker not in _BETWEEN_SCANS):
                layout.ended = marker == 0xD9
                at = end if layout.ended else at
                break
        except (IndexError, ValueError):
            if not layout.payload:
                raise
            break
        if marker in (0xD8, 0xD9):
            raise damaged("the JPEG holds no pixels")
        if marker not in _WITHOUT_LENGTH and end < start + 4:
            raise damaged("the JPEG's structure is broken")
        layout.junk += start - at
        layout.keep(start, end)
        at = end
        _read_segment(layout, reading, data, marker, start + 4, end)
        if marker == 0xDA:
            at = _read_scan(layout, reading, data, start + 4, end)
            if not layout.several_scans:  # decoders go no further
                layout.ended = data[at : at + 2] == b"\xff\xd9"
                at += 2 * layout.ended
                break
    else:
        raise damaged(f"the JPEG has more than {_MAX_SEGMENTS:,} segments")
    layout.end = at
    if layout.several_scans and not reading.whole(layout.ended):
        raise damaged("the JPEG's pixels end too early: scans are missing")
    layout.icc = b"".join(reading.profile[number] for number in sorted(reading.profile))
    if reading.channels == 1:
        layout.mode = "L"
    elif reading.channels == 4:
        layout.mode = "CMYK"
    elif reading.channels != 3:
        raise unsupported(f"the JPEG has {reading.channels} colour channels; grey and RGB are taken")
    return layout


def _next_marker(data: FileBytes, at: int) -> int:
    """Return where the next marker begins, behind fill bytes and whatever else comes before it."""
    if data[at] == 0xFF and 0 < data[at + 1] < 0xFF:
        return at
    found = data.search(_MARKER, at)
    if found < 0:
        raise ValueError("no further marker")
    return found


def _read_segment(layout: Layout, reading: _Reading, data: FileBytes, marker: int, body: int, end: int) -> None:
    if marker in _FRAMES:
        if layout.width:
            raise damaged("the JPEG has two frames")
        reading.progressive = _FRAMES[marker] == "progressive"
        _read_frame(layout, reading, data, body)
    elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
        raise unsupported("the JPEG uses a rare coding (lossless or arithmetic); save it as a usual JPEG")
    elif marker == 0xC4:
        _read_tables(reading, data[body:end])
    elif marker == 0xDD:
        layout.restarts = u16(data, body) > 0
    elif marker == 0xE1 and data[body : body + 6] == b"Exif\x00\x00" and not layout.exif:
        layout.exif = data[body:end]
    elif marker == 0xE2 and data[body : body + 12] == b"ICC_PROFILE\x00":
        reading.profile[data[body + 12]] = data[body + 14 : end]


def _read_frame(layout: Layout, reading: _Reading, data: FileBytes, body: int) -> None:
    layout.bits = data[body]
    layout.height_at = body + 1
    layout.height, layout.width, components = u16(data, body + 1), u16(data, body + 3), data[body + 5]
    samplings = [data[body + 7 + 3 * number] for number in range(components)]
    across, down = max(s >> 4 for s in samplings), max(s & 15 for s in samplings)
    if not all(1 <= s >> 4 <= 4 and 1 <= s & 15 <= 4 for s in samplings):
        raise damaged("the JPEG's header is damaged")
    reading.components = {data[body + 6 + 3 * number]: [16] * 64 for number in range(components)}
    reading.channels = components
    # A single component is never interleaved: its unit is one block, whatever sampling it claims.
    layout.unit = (8, 8) if components == 1 else (8 * across, 8 * down)
    share = sum((s >> 4) * (s & 15) for s in samplings) / (across * down)
    layout.coefficients = int(layout.width * layout.height * share * 2 * _PROGRESSIVE_ROOM)  # of 16 bits


def _read_tables(reading: _Reading, body: bytes) -> None:
    at = 0
    while at + 17 < len(body):
        reading.zero_codes[body[at]] = body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])


def _read_scan(layout: Layout, reading: _Reading, data: FileBytes, body: int, start: int) -> int:
    """Read a scan's header at `body` and its data from `start`. Return where they end."""
    if not layout.width:
        raise damaged("the JPEG has pixels before its header")
    count = data[body]
    rest = exactly(data, body + 1, 2 * count + 3)
    names, tables = rest[0 : 2 * count : 2], rest[1 : 2 * count : 2]
    first, last, bits = rest[-3], rest[-2], rest[-1]
    if not reading.progressive:
        first, last, bits = 0, 63, 0
    reading.scans += 1
    if reading.scans > _MAX_SCANS:
        raise damaged(f"the JPEG has more than {_MAX_SCANS} scans")
    layout.several_scans |= reading.progressive or count < reading.channels
    if layout.several_scans:
        layout.held = layout.coefficients
    for name in names:
        if name not in reading.components:
            raise damaged("the JPEG has pixels of an unknown channel")
        reading.components[name][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    after = _after_data(data, start)
    end = _without(b"\xff", data, start, after)  # fill bytes of the marker
    zeros = data.zeros(start, end, _ZEROS)
    bare = end
    if zeros >= 0:
        bare = min(end, _without(b"\x00", data, start, end) + _KEPT_ZEROS)
        within = zeros < bare - _KEPT_ZEROS
        if _zeros_are_flat(reading, tables, first, bits > 15):
            layout.doubtful |= within
            layout.zeros_at_end |= bare < end
        elif within:
            raise damaged("a part of the JPEG's data is lost: there are only zeros")
        else:
            layout.junk += end - bare  # padding
            end = bare
    layout.keep(start, end, bare=bare)
    layout.payload += bare - start
    return after


def _after_data(data: FileBytes, start: int) -> int:
    """Return where the marker is that ends the data which begins at `start`, or the end of the file."""
    found = data.search(_END_OF_DATA, start)
    return found if found >= 0 else len(data)


def _zeros_are_flat(reading: _Reading, tables: bytes, first: int, refines: bool) -> bool:
    """Return whether zero bits are the code of blocks that are like the one before."""
    # Without tables decoders take those of the standard: zeros mean a coefficient of -1 in the first of brightness.
    codes = {0x10: 1} | reading.zero_codes
    dc = [codes.get(table >> 4, 0) for table in tables]
    ac = [codes.get(0x10 | (table & 15), 0) for table in tables]
    if not reading.progressive:
        return not any(dc) and not any(ac)
    if first == 0:
        return refines or not any(dc)
    return all(code & 15 == 0 and code != 0xF0 for code in ac)  # the end of one block or of more


def _without(byte: bytes, data: FileBytes, start: int, end: int) -> int:
    """Return where the repeated byte begins with which the data ends."""
    length = 64  # mostly there is none
    while end > start:
        block = data[max(start, end - length) : end]
        kept = len(block.rstrip(byte))
        if kept:
            return end - len(block) + kept
        end -= len(block)
        length = _BLOCK
    return start
