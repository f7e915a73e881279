"""What is taken as a source, and what is refused before payment."""

import io
import re
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.adapters.images.containers import read_layout
from smi_pipeline.core import image_rules, reasons
from smi_pipeline.core.errors import PermanentError, TransientError
from smi_pipeline_tests.unit.images import camera_files
from smi_pipeline_tests.unit.images.hostile import png_of
from smi_pipeline_tests.unit.images.pictures import PHOTOS, encoded, photo, png, png_header, upscale

Write = Callable[..., Path]


def refusal(call: Callable[[Path], object], path: Path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        call(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", PHOTOS[:3])
def test_a_photograph_is_taken_with_the_facts_that_pillow_reads(
    images: VipsImages, write: Write, format: str, name: str
) -> None:
    image = photo(name)
    path = write(image, format)
    facts = images.check_source(path)
    with Image.open(path) as known:
        assert (facts.format, facts.width, facts.height) == (known.format, *known.size)
    assert facts.bytes == path.stat().st_size
    assert len(facts.sha256) == 64
    assert images.inspect(path) == facts


@pytest.mark.parametrize(
    ("mode", "format", "expected"),
    [("L", "PNG", "L"), ("L", "JPEG", "L"), ("P", "PNG", "P"), ("1", "PNG", "L"), ("LA", "PNG", "LA")],
)
def test_grey_and_palette_sources_are_taken(
    images: VipsImages, write: Write, mode: str, format: str, expected: str
) -> None:
    path = write(photo().convert(mode), format)
    images.check_source(path)
    assert read_layout(path).mode == expected


def test_millions_of_restart_markers_hold_nobody(images: VipsImages, write: Write) -> None:
    """Behind a harmless warning, so that each of them is looked at."""
    plain = encoded(photo(side=64), restart_marker_blocks=1)
    first = plain.index(b"\xff\xd0")
    last = re.findall(rb"\xff([\xd0-\xd7])", plain)[-1][0]
    more = b"".join(bytes([0xFF, 0xD0 + (last + n) % 8]) for n in range(1, 9)) * 625_000
    path = write(plain[:first] + b"\x11\x22" + plain[first:-2] + more + b"\xff\xd9")
    began = time.process_time()
    assert images.check_source(path).width == 64
    assert time.process_time() - began < 3


def test_chunks_without_number_are_refused(images: VipsImages, write: Write) -> None:
    plain = encoded(photo(side=40), "WEBP")
    body = plain[8:] + b"ABCD\x00\x00\x00\x00" * 20_000
    path = write(b"RIFF" + len(body).to_bytes(4, "little") + body)
    assert "more than 10,000 chunks" in str(refusal(images.check_source, path))
    plain = encoded(photo(side=40), "PNG")
    empty = b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    path = write(plain[:-12] + empty * 300_000 + plain[-12:])
    assert "more than 250,000 chunks" in str(refusal(images.check_source, path))


@pytest.mark.parametrize("where", ["opened", "written"])
def test_a_copy_that_cannot_be_written_says_nothing_about_the_image(
    images: VipsImages, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """Nor does it count as an attempt of the order: the disk is full."""
    source, result = write(photo(side=200), "JPEG"), write(upscale(photo(side=200)), "JPEG")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if where == "opened":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        for check in (lambda: images.check_source(source), lambda: images.check_result(source, result, 4)):
            with pytest.raises(TransientError) as caught:
                check()
            assert not caught.value.counts
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_is_taken_and_noted(images: VipsImages, write: Write, format: str) -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for options in ({}, {"lossless": True}):
        path = write(image, format, **options)
        images.check_source(path)
        assert read_layout(path).has_alpha
    assert not read_layout(write(photo(), format)).has_alpha


def test_a_palette_with_a_transparent_colour_has_alpha(images: VipsImages, write: Write) -> None:
    path = write(photo().convert("P"), transparency=0)
    images.check_source(path)
    assert read_layout(path).has_alpha


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_rotation_swaps_the_displayed_sides(images: VipsImages, write: Write, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = images.check_source(write(photo("coffee.png"), format, exif=exif))
    assert facts.exif_orientation == 6
    assert facts.display_size == (facts.height, facts.width)


def test_nonsense_in_exif_means_no_rotation(images: VipsImages, write: Write) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert images.check_source(write(photo(), "JPEG", exif=exif)).exif_orientation == 1
    assert images.check_source(write(photo(), "JPEG", exif=b"Exif\x00\x00garbage")).exif_orientation == 1


def test_cmyk_is_refused_in_words(images: VipsImages, write: Write) -> None:
    error = refusal(images.inspect, write(photo().convert("CMYK"), "JPEG"))
    assert error.reason == reasons.UNSUPPORTED_FORMAT
    assert "CMYK" in str(error)


def test_sixteen_bits_are_refused_in_words(images: VipsImages, write: Write) -> None:
    grey = Image.new("I;16", (40, 30), 30_000)
    colour = png(png_header(2, 1, bits=16), (b"IDAT", zlib.compress(bytes(13))), (b"IEND", b""))
    for content in (encoded(grey, "PNG"), colour):
        error = refusal(images.inspect, write(content))
        assert error.reason == reasons.UNSUPPORTED_FORMAT
        assert "16 bits" in str(error)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_is_refused_in_words(images: VipsImages, write: Write, format: str) -> None:
    frames = [photo(name, 64).resize((64, 48)) for name in PHOTOS[:3]]
    error = refusal(images.inspect, write(frames[0], format, save_all=True, append_images=frames[1:]))
    assert error.reason == reasons.UNSUPPORTED_FORMAT
    assert "animated" in str(error)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PDF", "AVIF"])
def test_other_formats_are_refused_by_name_whatever_the_file_is_called(
    images: VipsImages, tmp_path: Path, format: str
) -> None:
    path = tmp_path / "photo.png"
    photo().save(path, format)
    error = refusal(images.inspect, path)
    assert error.reason == reasons.UNSUPPORTED_FORMAT
    assert format in str(error)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>404", b"hello", b"\x00" * 100, b"\x89PNG", b"RIFF\x00\x00"])
def test_what_is_no_image_is_refused(images: VipsImages, write: Write, content: bytes) -> None:
    assert refusal(images.inspect, write(content)).reason == reasons.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\x00", b"RIFF\xff\x00\x00\x00WEBP"]
)
def test_a_bare_beginning_is_a_damaged_image(images: VipsImages, write: Write, head: bytes) -> None:
    assert refusal(images.inspect, write(head)).reason == reasons.INVALID_IMAGE


def test_an_empty_file_is_refused(images: VipsImages, write: Write) -> None:
    error = refusal(images.inspect, write(b""))
    assert (error.reason, str(error)) == (reasons.INVALID_IMAGE, "the file is empty")


def test_a_size_of_nothing_is_refused(images: VipsImages, write: Write) -> None:
    for width, height in ((0, 0), (0, 5), (5, 0)):
        content = png(png_header(width, height), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        error = refusal(images.inspect, write(content))
        assert error.reason == reasons.INVALID_IMAGE
        assert f"{width} x {height}" in str(error)
    jpeg = bytearray(encoded(photo()))
    at = jpeg.find(b"\xff\xc0") + 5
    jpeg[at : at + 2] = b"\x00\x00"
    assert refusal(images.inspect, write(bytes(jpeg))).reason == reasons.INVALID_IMAGE


def test_too_many_bytes_are_refused(write: Write) -> None:
    path = write(photo())
    error = refusal(VipsImages(256, path.stat().st_size - 1).inspect, path)
    assert error.reason == reasons.SOURCE_TOO_LARGE
    assert VipsImages(256, path.stat().st_size).inspect(path)


def test_an_output_that_would_be_too_large_is_refused_by_scale(write: Write) -> None:
    image = photo("astronaut.png", 200)
    facts = VipsImages(256, 10**7).inspect(write(image))
    image_rules.check_output_size(facts, 4, 0.64)
    with pytest.raises(
        PermanentError, match=r"8x of 200 x 200 pixels would be 2\.56 megapixels, the limit is 0\.64; 4x gives 0\.64"
    ) as caught:
        image_rules.check_output_size(facts, 8, 0.64)
    assert caught.value.reason == reasons.SOURCE_TOO_LARGE
    with pytest.raises(PermanentError):
        VipsImages(0.6, 10**7).check_source(write(image))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_every_usual_coding_of_jpeg_is_taken(images: VipsImages, write: Write, options: dict[str, Any]) -> None:
    for mode in ("L", "RGB"):
        images.check_source(write(photo().convert(mode), "JPEG", **options))


def test_damaged_png_data_is_found_by_its_checksums(images: VipsImages, write: Write) -> None:
    whole = encoded(photo(), "PNG")
    for at in range(20, len(whole), len(whole) // 23):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        assert refusal(images.check_source, write(bytes(changed))).reason == reasons.INVALID_IMAGE


def test_padding_after_the_end_is_fine(images: VipsImages, write: Write) -> None:
    for format in ("PNG", "JPEG", "WEBP"):
        images.check_source(write(encoded(photo(), format) + bytes(4096)))


@pytest.mark.parametrize("name", camera_files.whole())
def test_what_every_decoder_shows_whole_is_taken(images: VipsImages, write: Write, name: str) -> None:
    images.check_source(write(camera_files.whole()[name]))


@pytest.mark.parametrize("name", camera_files.damaged())
def test_a_file_that_has_lost_a_part_is_refused(images: VipsImages, write: Write, name: str) -> None:
    assert refusal(images.check_source, write(camera_files.damaged()[name])).reason == reasons.INVALID_IMAGE


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("tail", [b"PK\x03\x04" + bytes(range(256)), b"<script>alert(1)</script>", b"%PDF-1.7"])
def test_an_archive_or_a_page_behind_the_image_is_refused(
    images: VipsImages, write: Write, format: str, tail: bytes
) -> None:
    error = refusal(images.inspect, write(encoded(photo(), format) + tail))
    assert error.reason == reasons.INVALID_IMAGE
    assert "attached" in str(error)


def test_what_cameras_attach_is_taken_but_not_an_archive_behind_it(images: VipsImages, write: Write) -> None:
    out = io.BytesIO()
    photo().save(out, "MPO", save_all=True, append_images=[photo("coffee.png")])
    motion = encoded(photo()) + camera_files.tails()["a video"]
    for carrier in (out.getvalue(), motion):
        images.check_source(write(carrier))
        ends = [
            b"PK\x05\x06" + bytes(18),
            b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + b"\xff" * 16 + bytes(2),  # ZIP64
            b"PK\x05\x06" + bytes(16) + b"\x06\x00PK\x05\x06\x01\x00",  # with a false one in its comment
        ]
        for end in ends:
            assert "attached" in str(refusal(images.inspect, write(carrier + end)))


@pytest.mark.parametrize(
    "name",
    ["JPEG baseline without an end marker", "JPEG with bytes before a restart", "JPEG with bytes before every restart"],
)
def test_a_result_is_compared_with_such_a_source_too(images: VipsImages, write: Write, name: str) -> None:
    source = write(camera_files.whole()[name])
    coding = {"end marker": "baseline", "a restart": "with restarts by row"}.get(
        " ".join(name.split()[-2:]), "with restarts by block"
    )
    with Image.open(io.BytesIO(camera_files.jpeg(coding))) as shown:
        result = write(upscale(shown), "PNG")
    verdict = images.check_result(source, result, 4)
    assert verdict.ok, verdict.message


def test_a_result_without_an_end_or_with_junk_is_refused(images: VipsImages, write: Write) -> None:
    source, result = encoded(photo(), "PNG"), encoded(upscale(photo()), "JPEG")
    assert images.check_result(write(source), write(result), 4).ok
    for changed, words in ((result[:-2], "truncated"), (result[:20] + b"123" + result[20:], "no part of an image")):
        verdict = images.check_result(write(source), write(changed), 4)
        assert verdict.reason == reasons.RESULT_REJECTED
        assert words in verdict.message


def test_a_side_longer_than_decoders_take_is_refused_at_once(images: VipsImages, write: Write) -> None:
    for width, height in ((1, 65_501), (16_000_000, 1)):
        error = refusal(images.inspect, write(png_of(width, height)))
        assert error.reason == reasons.SOURCE_TOO_LARGE
        assert "65,500 at most" in str(error)
    images.check_source(write(Image.new("L", (1, 65_500), 90)))


def test_an_unusable_profile_is_ignored(images: VipsImages, write: Write) -> None:
    images.check_source(write(photo(), "JPEG", icc_profile=b"no profile at all" * 10))
