"""Results that are delivered, with every special kind, and files that are not what they should be."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core import reasons
from smi_pipeline.core.models import Verdict
from smi_pipeline_tests.unit.images.pictures import PHOTOS, STYLES, encoded, photo, png, png_header, upscale

Check = Callable[..., Verdict]
Write = Callable[..., Path]


def assert_delivered(verdict: Verdict) -> None:
    assert verdict.ok, verdict.message
    assert verdict.warnings == ()


def assert_refused(verdict: Verdict, words: str = "") -> None:
    assert not verdict.ok
    assert verdict.reason == reasons.RESULT_REJECTED
    assert words in verdict.message
    assert "\n" not in verdict.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_good_creative_results_pass_without_a_warning_even_when_enforced(write: Write, format: str) -> None:
    observed, enforced = VipsImages(256, 10**7), VipsImages(256, 10**7, fidelity="enforce")
    for number, name in enumerate(PHOTOS):
        for style in STYLES:
            scale = (4, 8)[number % 2]
            source = photo(name, 100 + 12 * number)
            files = write(source), write(upscale(source, scale, style, seed=number), format)
            verdict = observed.check_result(*files, scale)
            assert_delivered(verdict)
            assert verdict == enforced.check_result(*files, scale)
            assert verdict.facts
            assert verdict.facts.format == format
            assert len(verdict.facts.sha256) == 64
            assert verdict.min_ssim is not None
            assert verdict.mean_colour_shift is not None


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (3, 5), (7, 7), (15, 16), (17, 200)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_tiny_sources_work(check: Check, width: int, height: int, format: str) -> None:
    source = photo("coffee.png").resize((width, height))
    for scale in (4, 8):
        assert_delivered(check(source, upscale(source, scale), scale, format=format))


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
def test_every_scale_works(check: Check, scale: int) -> None:
    source = photo("chelsea.png", 60)
    for format in ("PNG", "JPEG", "WEBP"):
        assert_delivered(check(source, upscale(source, scale), scale, format=format))


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"subsampling": 0},
     {"subsampling": 1}, {"subsampling": 2}, {"optimize": True}, {"quality": 30}, {"quality": 100}],
)  # fmt: skip
def test_every_usual_coding_of_a_jpeg_result_passes(check: Check, options: dict[str, Any]) -> None:
    for side in (50, 57, 64, 99):
        for scale in (4, 8):
            source = photo("motorcycle_left.png", side)
            assert_delivered(check(source, encoded(upscale(source, scale), **options), scale))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_rotated_source_may_come_back_upright_or_with_its_tag_but_not_sideways(
    check: Check, orientation: int, format: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo("coffee.png", 96)
    source = encoded(stored, format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))
    assert_delivered(check(source, encoded(upscale(upright))))
    assert_delivered(check(source, encoded(upscale(stored), format, exif=exif)))
    if orientation != 1:
        assert_refused(check(source, encoded(upscale(stored))))
        assert_refused(check(source, encoded(upscale(upright), exif=exif)))


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_grey_and_palette_sources_may_come_back_as_grey_or_rgb(check: Check, mode: str) -> None:
    source = photo().convert(mode)
    big = upscale(source.convert("RGB"))
    assert_delivered(check(source, big))
    if mode != "P":
        assert_delivered(check(source, big.convert("L")))
        assert_delivered(check(source, big.convert("L"), format="PNG"))
    else:
        assert_delivered(check(source, big.convert("P"), format="PNG"))


def with_hole(image: Image.Image) -> Image.Image:
    """The image with a soft transparent ellipse, and nonsense in the colours that nobody sees."""
    mask = Image.new("L", image.size, 255)
    box = (image.width // 4, image.height // 4, image.width // 2, image.height // 2)
    mask.paste(0, box)
    out = image.copy()
    out.paste((255, 0, 255), box)
    out.putalpha(mask)
    return out


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_is_delivered_when_it_is_kept(check: Check, format: str) -> None:
    source = photo()
    big = with_hole(upscale(source, 4, "texture"))
    clean = Image.composite(big, Image.new("RGBA", big.size), big.getchannel("A"))
    for result in (big, clean):
        assert_delivered(check(with_hole(source), result, format=format))
    assert_delivered(check(source, upscale(source).convert("RGBA"), format=format))


def test_transparency_lost_or_gained_is_refused(check: Check) -> None:
    source = photo()
    assert_refused(check(with_hole(source), upscale(source)), "transparency")
    assert_refused(check(source, with_hole(upscale(source)), format="PNG"), "transparency")


def test_a_colour_profile_may_be_kept_or_applied(check: Check) -> None:
    source = photo("coffee.png")
    linear = _linear_profile()
    stored = encoded(source, "PNG", icc_profile=linear)
    applied = ImageCms.profileToProfile(
        source, ImageCms.getOpenProfile(io.BytesIO(linear)), ImageCms.createProfile("sRGB")
    )
    assert applied
    assert_delivered(check(stored, encoded(upscale(source), icc_profile=linear)))
    assert_delivered(check(stored, encoded(upscale(applied))))


def test_a_dropped_colour_profile_is_observed_and_refused_when_enforced(write: Write) -> None:
    source = photo("coffee.png")
    files = write(source, icc_profile=_linear_profile()), write(upscale(source), "JPEG")
    observed = VipsImages(256, 10**7).check_result(*files, 4)
    assert observed.ok, observed.message
    assert "profile was dropped" in observed.warnings[0]
    assert_refused(VipsImages(256, 10**7, fidelity="enforce").check_result(*files, 4), "profile was dropped")
    kept = write(source, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert_delivered(VipsImages(256, 10**7, fidelity="enforce").check_result(kept, files[1], 4))


def _linear_profile() -> bytes:
    """sRGB's primaries with linear tone curves: as far from sRGB as a usable profile gets."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for number in range(count):
        at = 132 + 12 * number
        if bytes(data[at : at + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(data[at + 4 : at + 8], "big")
            data[offset : offset + 12] = b"curv" + bytes(4) + bytes(4)  # no entries: identity
            data[at + 8 : at + 12] = (12).to_bytes(4, "big")
    return bytes(data)


def test_sixteen_bits_in_a_result_are_delivered_with_a_note(check: Check) -> None:
    source = photo("coffee.png", 64)
    pixels = np.asarray(upscale(source)).astype(">u2") * 257
    height, width = pixels.shape[:2]
    rows = b"".join(b"\x00" + row.tobytes() for row in pixels)
    content = png(png_header(width, height, bits=16), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    verdict = check(source, content)
    assert verdict.ok, verdict.message
    assert verdict.warnings == ("the result has 16 bits per channel",)


def test_colour_that_became_grey_is_refused(check: Check) -> None:
    source = photo("coffee.png")
    assert_refused(check(source, upscale(source).convert("L")), "grey")


def test_cmyk_and_animated_results_are_refused(check: Check) -> None:
    source = photo()
    assert_refused(check(source, upscale(source).convert("CMYK")), "CMYK")
    frames = [upscale(source, seed=seed, style="noise") for seed in range(2)]
    assert_refused(check(source, encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])), "animated")


@pytest.mark.parametrize("scale", [4, 8])
def test_wrong_dimensions_are_refused_with_the_right_ones_named(check: Check, scale: int) -> None:
    source = photo("coffee.png", 60)
    for size in ((59 * scale, 40 * scale), (60 * scale, 40 * scale + 1), (60, 40), (40 * scale, 60 * scale)):
        assert_refused(check(source, source.resize(size), scale), f"not {60 * scale} x {40 * scale}")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_anything_attached_to_a_result_is_refused(check: Check, format: str) -> None:
    source = photo("rocket.jpg", 80)
    whole = encoded(upscale(source), format)
    for tail in (b"PK\x03\x04" + bytes(30), b"<script>", encoded(source)):
        assert_refused(check(source, whole + tail), "attached")


def test_too_many_and_too_few_bytes_are_refused(check: Check) -> None:
    source = photo("rocket.jpg", 80)
    whole = encoded(upscale(source), "PNG")
    stuffed = whole[:33] + png((b"blOb", bytes(6_000_000)))[8:] + whole[33:]
    assert_refused(check(source, stuffed), "implausibly many")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    nothing = encoded(Image.new("RGB", (1200, 1200)), "WEBP", lossless=True)
    assert_refused(check(noise, nothing), "implausibly few")


def test_a_name_that_contradicts_the_content_is_refused(images: VipsImages, write: Write, tmp_path: Path) -> None:
    source = photo("rocket.jpg", 80)
    named = tmp_path / "result.png"
    named.write_bytes(encoded(upscale(source), "JPEG"))
    assert_refused(images.check_result(write(source), named, 4), "named .png but is JPEG")
    right = named.rename(named.with_suffix(".jpg"))
    assert_delivered(images.check_result(write(source), right, 4))


def test_a_result_that_is_no_image_is_refused(check: Check) -> None:
    for content in (b"", b"<html>expired</html>", encoded(photo(), "PNG")[:20]):
        assert_refused(check(photo(), content))


def test_a_damaged_source_is_not_blamed_on_the_result(check: Check) -> None:
    source = photo()
    broken = bytearray(encoded(source, "PNG"))
    broken[len(broken) // 2] ^= 1
    verdict = check(bytes(broken), upscale(source))
    assert (verdict.ok, verdict.reason) == (False, reasons.INVALID_IMAGE)
    assert verdict.message.startswith("source: ")


def test_fidelity_is_a_setting_with_two_values() -> None:
    with pytest.raises(ValueError, match="observe or enforce"):
        VipsImages(1, 1, fidelity="strict")  # type: ignore[arg-type]


def test_what_is_only_observed_is_refused_when_enforced(write: Write) -> None:
    source = photo("coffee.png")
    red = np.array([30, 0, 0])
    tinted = Image.fromarray(np.clip(np.asarray(upscale(source)) + red, 0, 255).astype(np.uint8))
    files = write(source), write(tinted, "PNG")
    observed = VipsImages(256, 10**7).check_result(*files, 4)
    assert observed.ok
    assert any("mean colour shift" in warning for warning in observed.warnings)
    enforced = VipsImages(256, 10**7, fidelity="enforce").check_result(*files, 4)
    assert_refused(enforced, "mean colour shift")
