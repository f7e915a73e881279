"""Read a few tags of an EXIF block, and build a block that holds nothing else.

Written by hand: Pillow reads and decodes every tag of a block and writes them in its own way. Here only the tags asked
for are read, each of them short, and their bytes are kept as they are.
"""

import struct
from collections.abc import Collection
from typing import NamedTuple

ORIENTATION, COPYRIGHT, ARTIST = 0x0112, 0x8298, 0x013B
PREFIX = b"Exif\x00\x00"
_EXIF_IFD, _VERSION = 0x8769, 0x9000
_LONGEST = 3072
"""Bytes of a value: all tags that may be kept fit into one segment of a JPEG, which holds 65,535."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_ASCII, _SHORT, _LONG = 2, 3, 4


class Tag(NamedTuple):
    """A value as it is stored: its type, how many of them, and their bytes in the order of the block."""

    kind: int
    number: int
    value: bytes


class Exif(NamedTuple):
    """Tags of the picture and of its taking (the EXIF directory). `order`: `<` or `>`."""

    order: str
    picture: dict[int, Tag]
    taking: dict[int, Tag]

    def orientation(self) -> int:
        """Return how the picture is turned, 1 to 8; 1 when it is missing or invalid, as viewers do."""
        tag = self.picture.get(ORIENTATION)
        if tag is None or tag.kind not in (_SHORT, _LONG) or tag.number != 1:
            return 1
        value = int.from_bytes(tag.value, "little" if self.order == "<" else "big")
        return value if 1 <= value <= 8 else 1


def read(block: bytes, picture: Collection[int], taking: Collection[int] = ()) -> Exif:
    """Return those tags of a block, with or without its prefix. What is damaged is missing."""
    tiff = block.removeprefix(PREFIX)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return Exif("<", {}, {})
    found = _directory(tiff, order, struct.unpack_from(order + "I", tiff, 4)[0], {*picture, _EXIF_IFD})
    further = found.pop(_EXIF_IFD, None)
    at = (
        struct.unpack(order + "I", further.value)[0]
        if further and further.kind == _LONG and further.number == 1
        else None
    )
    return Exif(order, found, _directory(tiff, order, at, taking) if at and taking else {})


def build(exif: Exif) -> bytes:
    """Return the block of these tags, without prefix; empty when there are none."""
    taking = exif.taking if exif.taking.keys() - {_VERSION} else {}
    if not exif.picture and not taking:
        return b""
    head = (b"II*\x00" if exif.order == "<" else b"MM\x00*") + struct.pack(exif.order + "I", 8)
    picture = dict(exif.picture)
    if taking:  # its offset is known when the size of the first directory is
        picture[_EXIF_IFD] = Tag(_LONG, 1, bytes(4))
        at = 8 + len(_written(picture, exif.order, 8))
        picture[_EXIF_IFD] = Tag(_LONG, 1, struct.pack(exif.order + "I", at))
        return head + _written(picture, exif.order, 8) + _written(taking, exif.order, at)
    return head + _written(picture, exif.order, 8)


def text(words: str) -> Tag:
    """Return a text as a tag, in UTF-8 as all programs write it."""
    value = words.encode()[: _LONGEST - 1] + b"\x00"
    return Tag(_ASCII, len(value), value)


def _directory(tiff: bytes, order: str, at: int, wanted: Collection[int]) -> dict[int, Tag]:
    found: dict[int, Tag] = {}
    if at + 2 > len(tiff):
        return found
    (count,) = struct.unpack_from(order + "H", tiff, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, entry)
        size = _SIZES.get(kind, 0) * number
        if tag not in wanted or tag in found or not 0 < size <= _LONGEST:
            continue
        where = entry + 8 if size <= 4 else struct.unpack_from(order + "I", tiff, entry + 8)[0]
        if where + size <= len(tiff):
            found[tag] = Tag(kind, number, tiff[where : where + size])
    return found


def _written(tags: dict[int, Tag], order: str, at: int) -> bytes:
    entries, values = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for number, tag in sorted(tags.items()):
        value = tag.value.ljust(4, b"\x00")
        if len(value) > 4:
            value, longer = struct.pack(order + "I", behind + len(values)), value
            values += longer + b"\x00" * (len(longer) % 2)
        entries += struct.pack(order + "HHI", number, tag.kind, tag.number) + value
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + values
