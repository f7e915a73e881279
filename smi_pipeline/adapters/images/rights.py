"""Find the copyright notice where programs write it beside EXIF: in XMP and in IPTC."""

import struct
from xml.etree import ElementTree

XMP = b"http://ns.adobe.com/xap/1.0/\x00"
PHOTOSHOP = b"Photoshop 3.0\x00"
_RIGHTS = "{http://purl.org/dc/elements/1.1/}rights"
_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_LARGEST = 2**20
_IPTC, _NOTICE, _CHARACTER_SET = 0x0404, (2, 116), (1, 90)


def of_xmp(packet: bytes) -> str:
    """Return the notice of an XMP packet; empty when there is none, or it cannot be read."""
    try:
        # As text, so that no other encoding that it names hides what follows.
        text = packet.decode().strip("\x00 \r\n\t\ufeff")
        if len(text) > _LARGEST or "<!" in text:  # entities may expand without end; no program writes any
            return ""
        rights = ElementTree.fromstring(text).find(f".//{_RIGHTS}")  # noqa: S314 - see above
    except (ElementTree.ParseError, ValueError, LookupError):
        return ""
    if rights is None:
        return ""
    item = rights.find(f".//{_ITEM}")
    return ((item.text if item is not None else rights.text) or "").strip()


def of_photoshop(block: bytes) -> str:
    """Return the IPTC notice of Photoshop's block of a JPEG, likewise."""
    at = 0
    while block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        at += 6 + (block[at + 6] // 2 + 1) * 2  # its name, padded with its length to an even size
        size = int.from_bytes(block[at : at + 4], "big")
        if kind == _IPTC:
            return _of_iptc(block[at + 4 : at + 4 + size])
        at += 4 + size + size % 2
    return ""


def _of_iptc(records: bytes) -> str:
    at, utf8 = 0, False
    while records[at : at + 1] == b"\x1c" and at + 5 <= len(records):
        record, number, size = struct.unpack_from(">BBH", records, at + 1)
        value = records[at + 5 : at + 5 + size]
        if (record, number) == _CHARACTER_SET:
            utf8 = value == b"\x1b%G"
        elif (record, number) == _NOTICE:
            try:
                return value.decode().strip()
            except UnicodeDecodeError:
                return value.decode("utf-8" if utf8 else "latin-1", "replace").strip()
        at += 5 + size
    return ""
