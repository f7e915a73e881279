"""What is taken out of a file that is delivered, and that its pixels stay the same bytes."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.adapters.images.cleaning import _PICTURE, _TAKING
from smi_pipeline.adapters.images.exif import read
from smi_pipeline.adapters.images.rights import of_xmp
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline_tests.unit.images.pictures import encoded, photo, upscale

Write = Callable[..., Path]
FORMATS = ("JPEG", "PNG", "WEBP")
NAME, SERIAL, MAKER, NOTICE = "Erika Mustermann", "SN-4711-0815", b"maker's own words", "© 2024 Studio Köln"
SECRETS = (NAME.encode(), SERIAL.encode(), MAKER, b"GPS", b"NORTH 52", b"thumb\xff")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = f"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"
xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="NORTH 52"><dc:creator><rdf:Seq><rdf:li>{NAME}</rdf:li>
</rdf:Seq></dc:creator><dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{NOTICE}</rdf:li></rdf:Alt></dc:rights>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>""".encode()


def exif(*, copyright: str = "", orientation: int = 1, **more: str) -> bytes:
    """What a camera writes: place, names, numbers, its own block."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F], tags[0x0110], tags[0x0131], tags[0x013B] = "Nikon", "Z 9", "Lightroom", NAME
    tags[0x011A], tags[0x011B], tags[0x0128] = 300.0, 300.0, 2
    if copyright:
        tags[0x8298] = copyright
    taking = tags.get_ifd(0x8769)
    taking.update({0xA431: SERIAL, 0xA430: NAME, 0x927C: MAKER, 0x9286: b"ASCII\0\0\0" + NAME.encode()})
    taking.update({0xA001: 1, 0x829D: 2.8, 0xA434: "50 mm"})
    tags.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0), 0x1D: "2024:01:01"})
    return tags.tobytes()


def iptc(*records: tuple[int, int, bytes]) -> bytes:
    body = b"".join(struct.pack(">BBBH", 0x1C, a, b, len(value)) + value for a, b, value in records)
    block = (
        b"Photoshop 3.0\x00" + b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(body)) + body + b"\x00" * (len(body) % 2)
    )
    return segment(0xED, block)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_everything(image: Image.Image, format: str, **tags: Any) -> bytes:
    """A file with all that cameras and editors write, and something behind its end."""
    options: dict[str, Any] = {"exif": exif(**tags), "icc_profile": PROFILE}
    if format == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Author", NAME)
        texts.add_itxt("Comment", NAME, zip=True)
        texts.add_text("Raw profile type iptc", NAME, zip=True)
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options |= {"pnginfo": texts, "dpi": (300, 300)}
    else:
        options |= {"xmp": XMP}
    whole = encoded(image, format, **options)
    if format == "JPEG":
        more = segment(0xFE, NAME.encode()) + iptc((2, 80, NAME.encode())) + segment(0xE4, MAKER)
        whole = whole[:2] + more + whole[2:]
    return whole + b"SEFH GPS" + MAKER


def coded(content: bytes) -> bytes:
    """The coded pixels of a file, and what decides how they are decoded."""
    if content[:2] == b"\xff\xd8":
        kept, at = b"", 2
        while content[at + 1] != 0xDA:
            after = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
            if content[at + 1] < 0xE0:
                kept += content[at:after]
            at = after
        return kept + content[at : content.index(b"\xff\xd9", at) + 2]
    found, at, png = b"", 8 if content[:4] == b"\x89PNG" else 12, content[:4] == b"\x89PNG"
    end = len(content) if png else 8 + int.from_bytes(content[4:8], "little")
    while at < end:
        length = (
            int.from_bytes(content[at : at + 4], "big") if png else int.from_bytes(content[at + 4 : at + 8], "little")
        )
        kind = content[at + 4 : at + 8] if png else content[at : at + 4]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"VP8 ", b"VP8L", b"ALPH"):
            found += content[at : at + 8 + length]
        at += 12 + length if png else 8 + length + length % 2
        if kind == b"IEND":
            break
    return found


def cleaned(path: Path, *kept: str) -> bytes:
    VipsImages(256, 10**7, keep_metadata=kept or ("copyright",)).clean_result(path)
    return path.read_bytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True, "lossless": True}, {"restart_marker_rows": 1}],
    ids=["plain", "scans", "restarts"],
)
def test_place_names_and_numbers_go_and_the_pixels_stay_byte_for_byte(
    write: Write, format: str, options: dict[str, Any]
) -> None:
    image = upscale(photo(side=60), 4)
    before = with_everything(image, format, copyright="(c) Studio")
    if options and format != "PNG":
        before = with_everything(
            Image.open(io.BytesIO(encoded(image, format, **options))), format, copyright="(c) Studio"
        )
    assert [secret for secret in SECRETS if secret in before]
    path = write(before)
    after = cleaned(path)
    assert [secret for secret in SECRETS if secret in after] == []
    assert coded(after) == coded(before) != b""
    one, other = Image.open(io.BytesIO(before)), Image.open(io.BytesIO(after))
    assert np.array_equal(np.asarray(one), np.asarray(other))
    assert other.info["icc_profile"] == PROFILE
    tags = other.getexif()
    assert tags[0x8298] == "(c) Studio"
    assert set(tags) <= {0x0112, 0x011A, 0x011B, 0x0128, 0x8298, 0x8769}
    assert dict(tags.get_ifd(0x8769)) == {0xA001: 1}
    assert cleaned(path) == after, "a second time changes nothing"


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_delivered_is_still_judged_as_before(images: VipsImages, write: Write, format: str) -> None:
    source = photo(side=80)
    result = write(with_everything(upscale(source), format), name="result")
    assert not images.check_result(write(source), result, 4).ok  # for what is behind its end
    left_out = images.clean_result(result)
    assert any("behind the end" in words for words in left_out)
    verdict = images.check_result(write(source), result, 4)
    assert verdict.ok, verdict.message
    assert verdict.facts
    assert verdict.facts.bytes == result.stat().st_size


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_stays_in_effect(write: Write, format: str, orientation: int) -> None:
    after = cleaned(write(with_everything(photo(side=40), format, orientation=orientation)))
    assert Image.open(io.BytesIO(after)).getexif()[0x0112] == orientation


@pytest.mark.parametrize("format", FORMATS)
def test_a_notice_that_only_xmp_has_stays_in_exif(write: Write, format: str) -> None:
    after = cleaned(write(with_everything(photo(side=40), format)))
    found = Image.open(io.BytesIO(after)).getexif()[0x8298]
    assert found.encode("latin-1", "replace").decode() == NOTICE or found == NOTICE
    assert NOTICE.encode() in after


@pytest.mark.parametrize(("set_", "value"), [((1, 90, b"\x1b%G"), NOTICE.encode()), (None, NOTICE.encode("latin-1"))])
def test_a_notice_that_only_iptc_has_stays_in_exif(write: Write, set_: Any, value: bytes) -> None:
    plain = encoded(photo(side=40))
    block = iptc(*([set_] if set_ else []), (2, 5, b"title"), (2, 80, NAME.encode()), (2, 116, value))
    after = cleaned(write(plain[:2] + block + plain[2:]))
    assert NOTICE.encode() in after
    assert NAME.encode() not in after


def test_what_decides_the_colours_of_a_png_stays(write: Write) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    colours = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", bytes(32)) + chunk(b"sRGB", b"\0")
    colours += chunk(b"cICP", bytes([12, 13, 0, 1])) + chunk(b"pHYs", bytes(9))
    notice = chunk(b"tEXt", b"Copyright\x00(c) Studio")
    rest = chunk(b"tIME", bytes(7)) + chunk(b"tEXt", b"Author\x00" + NAME.encode()) + chunk(b"caBX", NAME.encode())
    plain = encoded(photo(side=40), "PNG")
    after = cleaned(write(plain[:33] + colours + rest + notice + plain[33:]))
    assert after == plain[:33] + colours + notice + plain[33:]


def test_the_colour_transform_of_a_jpeg_and_its_resolution_stay(write: Write) -> None:
    plain = encoded(photo(side=40), dpi=(300, 300))
    adobe = segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x01")
    assert cleaned(write(plain[:20] + adobe + segment(0xE2, b"MPF\x00" + bytes(20)) + plain[20:])) == (
        plain[:20] + adobe + plain[20:]
    )


def test_a_comment_between_two_scans_goes_too(write: Write) -> None:
    plain = encoded(photo(side=64), progressive=True)
    second = [found.start() for found in re.finditer(rb"\xff\xda", plain)][1]
    assert cleaned(write(plain[:second] + segment(0xFE, NAME.encode()) + plain[second:])) == plain


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_without_any_of_that_is_not_touched(write: Write, images: VipsImages, format: str) -> None:
    path = write(encoded(photo(side=40), format, icc_profile=PROFILE))
    before = path.stat()
    assert images.clean_result(path) == []
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_kept_is_a_setting(write: Write, format: str) -> None:
    whole = with_everything(photo(side=40), format, copyright="(c) Studio")

    def tags(*kept: str) -> Image.Exif:
        return Image.open(io.BytesIO(cleaned(write(whole), *kept))).getexif()

    assert 0x8298 not in tags("none")
    assert (tags("artist")[0x013B], 0x8298 in tags("artist")) == (NAME, False)
    camera = tags("camera", "copyright")
    assert (camera[0x0110], camera[0x8298]) == ("Z 9", "(c) Studio")
    assert camera.get_ifd(0x8769)[0xA434] == "50 mm"
    assert SERIAL.encode() not in cleaned(write(whole), "camera", "artist", "copyright")
    everything = cleaned(write(whole), "all")
    assert whole.startswith(everything)
    assert whole[len(everything) :] == b"SEFH GPS" + MAKER


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_cannot_be_read_is_refused_and_stays_as_it_is(
    images: VipsImages, write: Write, format: str
) -> None:
    for content in (b"", b"text", encoded(photo(side=40), format)[:200]):
        path = write(content)
        with pytest.raises(PermanentError) as caught:
            images.clean_result(path)
        assert caught.value.reason == reasons.RESULT_REJECTED
        assert path.read_bytes() == content
        assert list(path.parent.glob(f"{path.name}-*")) == []


def test_no_thumbnail_of_jfif_and_nothing_else_that_its_segment_holds_stays(write: Write) -> None:
    """Nor what a damaged length makes a part of it, or of Adobe's segment."""
    plain = encoded(photo(side=40))
    head, rest = plain[4:18], plain[20:]
    with_thumbnail = segment(0xE0, head[2:14] + b"\x02\x02" + bytes(12) + exif()[:400])
    adobe = segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x01" + NAME.encode())
    after = cleaned(write(plain[:2] + with_thumbnail + adobe + rest))
    assert after == plain[:20] + segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x01") + rest


@pytest.mark.parametrize("length", [3000, 4000])
@pytest.mark.parametrize("format", FORMATS)
def test_tags_that_all_name_the_same_long_text_are_kept_if_they_fit_into_a_jpeg(
    write: Write, format: str, length: int
) -> None:
    kept = ("camera", "artist", "copyright")
    picture, taking = ([n for word in ("", *kept) for n in tags.get(word, ())] for tags in (_PICTURE, _TAKING))

    def directory(numbers: list[int], *more: tuple[int, int, int, int]) -> bytes:
        entries = sorted([*((number, 2, length, 1000) for number in numbers), *more])
        return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)

    first = directory(picture, (0x8769, 4, 1, 500))
    block = b"II*\x00" + struct.pack("<I", 8) + first.ljust(492, b"\x00") + directory(taking).ljust(500, b"\x00")
    block += NOTICE.encode() * 400
    plain = encoded(photo(side=40), format, exif=b"Exif\x00\x00" + block)
    after = cleaned(write(plain), *kept)
    assert coded(after) == coded(plain)
    assert (after.count(NOTICE.encode() * 100) >= 20) == (length == 3000)


def test_what_is_left_out_is_said_in_words_that_can_be_printed(images: VipsImages, write: Write) -> None:
    plain, kind = encoded(photo(side=40), "PNG"), b"a\x00\n\xff"
    odd = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    assert images.clean_result(write(plain[:33] + odd + plain[33:])) == ["an unknown chunk"]
    webp = encoded(photo(side=40), "WEBP")
    body = webp[8:] + kind + bytes(4)
    assert images.clean_result(write(b"RIFF" + struct.pack("<I", len(body)) + body)) == ["an unknown chunk"]


def test_damaged_metadata_is_left_out(write: Write) -> None:
    plain = encoded(photo(side=40))
    whole = exif(copyright="(c) Studio")
    for cut in range(0, len(whole), 7):
        block = whole[:cut].ljust(8, b"\xff")
        after = cleaned(write(plain[:2] + segment(0xE1, block) + plain[2:]))
        assert coded(after) == coded(plain)
        assert NAME.encode() not in after


def test_a_block_that_names_the_same_bytes_ten_thousand_times_costs_nothing() -> None:
    """Each tag of it claims a megabyte."""
    entries = b"".join(struct.pack("<HHII", number, 7, 2**20, 8) for number in range(60_000))
    block = b"II*\x00" + struct.pack("<IH", 8, 60_000) + entries + bytes(2**20)
    assert read(block, range(60_000)).picture == {}


@pytest.mark.parametrize("bomb", [b'<!DOCTYPE x [<!ENTITY a "aa">]><x>&a;</x>', b"<x" * 1000, b"\xff\xfe" * 50, b""])
def test_a_packet_that_cannot_be_read_has_no_notice(write: Write, bomb: bytes) -> None:
    plain = encoded(photo(side=40))
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + bomb)
    assert cleaned(write(plain[:20] + packet + plain[20:])) == plain


def test_no_encoding_hides_entities() -> None:
    tail = '<!DOCTYPE x [<!ENTITY a "(c) Studio">]><r xmlns="http://purl.org/dc/elements/1.1/"><rights>&a;</rights></r>'
    head = '<?xml version="1.0" encoding="{}"?>'
    assert of_xmp((head.format("utf-8") + tail).encode()) == ""
    assert of_xmp((head.format("utf-16") + tail).encode("utf-16")) == ""
    assert of_xmp(head.format("cp037").encode() + tail.encode("cp037")) == ""
    plain = '<r xmlns="http://purl.org/dc/elements/1.1/"><rights>(c) Studio</rights></r>'
    assert of_xmp(("\ufeff" + head.format("utf-8") + plain + " " * 2000).encode()) == "(c) Studio"


@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([b"II*\x00", b"MM\x00*"]))
def test_the_orientation_of_a_damaged_block_is_what_pillow_says(noise: bytes, at: int, order: bytes) -> None:
    """Where Pillow can read it at all."""
    block = bytearray(exif(orientation=6)[6:])
    if block[:4] == order:
        block[at : at + len(noise)] = noise
    found = read(bytes(block), (0x0112,)).orientation()
    assert 1 <= found <= 8
    tags = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tags.load(b"Exif\x00\x00" + bytes(block))
            value = tags.get(0x0112)  # None also when it gave up at a damaged tag before it
        except Exception:  # Pillow raises many kinds
            return
    if isinstance(value, int) and 1 <= value <= 8:
        assert found == value
