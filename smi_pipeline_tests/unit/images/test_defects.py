"""What spoils a picture without moving anything is warned of or refused; an upscaler's freedom is not."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core.models import Verdict
from smi_pipeline_tests.bench_images.bad import BAD
from smi_pipeline_tests.bench_images.encoding import P3, jpeg, png, profile, shown_as, shown_with
from smi_pipeline_tests.bench_images.honest import HONEST, enlarged
from smi_pipeline_tests.bench_images.scenes import Source, sources
from smi_pipeline_tests.unit.images.pictures import photo

Write = Callable[..., Path]
WORDS = {
    "seams of 16 levels": "seam",
    "seams of 8 levels": "seam",
    "halos": "halos",
    "JPEG of quality 5 to 10": "of quality",
    "mosaic of 1/36": "mosaic",
    "blurred by 3 pixels": "less sharp",
    "profile dropped": "profile was dropped",
    "gAMA 1.0 dropped": "profile was dropped",
    "gAMA of a Mac dropped": "profile was dropped",
    "cICP dropped": "profile was dropped",
    "cHRM dropped": "profile was dropped",
    "tone +25 %": "tone is changed",
}


def judged(write: Write, files: tuple[bytes, bytes], fidelity: str = "observe") -> Verdict:
    images = VipsImages(256, 10**7, fidelity=fidelity)  # type: ignore[arg-type]
    return images.check_result(write(files[0]), write(files[1]), 4)


@pytest.mark.parametrize(("kind", "words"), WORDS.items())
@pytest.mark.parametrize("name", ["coffee.png", "motorcycle_left.png"])
def test_a_spoiled_picture_is_warned_of_and_refused_when_enforced(
    write: Write, kind: str, words: str, name: str
) -> None:
    files = BAD[kind](photo(name, 200), 4, np.random.default_rng(3))
    observed = judged(write, files)
    assert words in " ".join((*observed.warnings, observed.message))
    assert not judged(write, files, "enforce").ok


@pytest.mark.parametrize("place", [(0, 0), (37, 50), (120, 90), (90, 190)])
def test_a_small_piece_from_elsewhere_is_warned_of_wherever_it_lies(write: Write, place: tuple[int, int]) -> None:
    source = photo("rocket.jpg", 200)
    pixels = np.asarray(enlarged(source, 4)).copy()
    y, x = (4 * side for side in place)
    pixels[y : y + 40, x : x + 40] = np.asarray(enlarged(photo("coffee.png", 100), 4))[100:140, 200:240]
    observed = judged(write, (png(source), jpeg(Image.fromarray(pixels))))
    assert "something else" in " ".join((*observed.warnings, observed.message))


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png"])
def test_an_upscalers_freedom_costs_no_word(write: Write, kind: str, name: str) -> None:
    verdict = judged(write, HONEST[kind](photo(name, 160), 4, np.random.default_rng(1)), "enforce")
    assert (verdict.ok, verdict.warnings) == (True, ()), verdict.message


@pytest.mark.parametrize("kind", ["saturation +20 %", "saturation -20 %", "gamma 1.1", "tone +8 %"])
@pytest.mark.parametrize("scene", ["sunset", "sky", "landscape", "screenshot", "comic", "near white"])
def test_tones_that_change_with_the_picture_are_no_drift(write: Write, kind: str, scene: str) -> None:
    for source in drawn(scene):
        big = enlarged(source.image, 4)
        changed = Image.open(io.BytesIO(HONEST[kind](source.image, 4, np.random.default_rng(1))[1])).convert("RGB")
        assert changed.size == big.size
        assert judged(write, (png(source.image), jpeg(changed, 85))).ok


def drawn(scene: str) -> list[Source]:
    return [source for source in sources(None, 1) if source.scene == scene]


@pytest.mark.parametrize("colour", [(12, -6, 0), (0, -4, 14), (-9, -9, -9)])
def test_colours_that_are_off_from_some_row_on_are_seen_in_a_sky_that_changes_from_row_to_row(
    write: Write, colour: tuple[int, int, int]
) -> None:
    source = drawn("sky")[0].image
    pixels = np.asarray(enlarged(source, 4)).astype(int)
    pixels[pixels.shape[0] // 3 // 16 * 16 :] += colour
    damaged = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    assert "from some row on" in judged(write, (png(source), jpeg(damaged))).message


def test_grain_that_is_removed_from_the_lower_half_is_no_drift(write: Write) -> None:
    for source in drawn("speckled"):
        clean = enlarged(source.image.filter(ImageFilter.MedianFilter(3)), 4)
        for result in (jpeg(clean), png(clean)):
            verdict = judged(write, (png(source.image), result))
            assert verdict.ok, verdict.message


@pytest.mark.parametrize("orientation", range(2, 9))
def test_either_reading_of_a_webps_orientation_is_accepted(write: Write, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo("coffee.png", 96)
    out = io.BytesIO()
    stored.save(out, "WEBP", quality=92, exif=exif.tobytes())
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    for shown in (stored, stored.transpose(turns[orientation])):
        verdict = judged(write, (out.getvalue(), png(enlarged(shown, 4))))
        assert verdict.ok, verdict.message
    other = stored.transpose(turns[2 if orientation != 2 else 3])
    assert not judged(write, (out.getvalue(), png(enlarged(other, 4)))).ok


CHUNKS = [(b"cICP", bytes([12, 13, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_colours_that_a_chunk_names_may_be_kept(write: Write, chunk: tuple[bytes, bytes]) -> None:
    source = photo("coffee.png")
    verdict = judged(write, (png(source, chunk), png(enlarged(source, 4), chunk)), "enforce")
    assert verdict.ok, verdict.message


def test_colours_that_a_chunk_names_may_be_converted(write: Write) -> None:
    source = photo("coffee.png")
    shown = shown_as(source, profile(P3))
    lighter = source.point([round(255 * (level / 255) ** (1 / 2.2)) for level in range(256)] * 3)
    for chunk, right in zip(CHUNKS, (shown, lighter), strict=True):
        verdict = judged(write, (png(source, chunk), png(enlarged(right, 4))), "enforce")
        assert verdict.ok, verdict.message


@pytest.mark.parametrize(
    "chunks", [[(b"gAMA", struct.pack(">I", 45_455))], [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))]]
)
def test_chunks_that_name_the_usual_colours_mean_nothing(write: Write, chunks: list[tuple[bytes, bytes]]) -> None:
    source = photo("coffee.png")
    assert judged(write, (png(source, *chunks), png(enlarged(source, 4))), "enforce").ok


def test_the_profile_of_a_grey_picture_may_be_converted_and_is_not_dropped_silently(write: Write) -> None:
    source = photo("coffee.png").convert("L")
    shown = shown_with(source, 1.0)
    original = png(source, icc_profile=grey_profile())
    for right in (shown, shown.convert("RGB")):
        verdict = judged(write, (original, png(enlarged(right, 4))), "enforce")
        assert verdict.ok, verdict.message
    assert "profile was dropped" in " ".join(judged(write, (original, png(enlarged(source, 4)))).warnings)


def grey_profile() -> bytes:
    """The smallest ICC profile of grey, with linear levels."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv" + bytes(8)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(tags) + len(white) + len(curve), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ "
    )
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
    return (head.ljust(68, b"\0") + white[8:]).ljust(128, b"\0") + tags + white + curve


@pytest.mark.parametrize("name", ["text.png", "page.png"])
@pytest.mark.parametrize("percent", [0, 150])
def test_sharpened_letters_hide_no_dropped_colours(write: Write, name: str, percent: int) -> None:
    source = photo(name, 160)
    chunk = (b"gAMA", struct.pack(">I", 55_556))
    sharpen = ImageFilter.UnsharpMask(3, percent, 0)
    dropped, right = (png(enlarged(image, 4).filter(sharpen)) for image in (source, shown_with(source, 1.8)))
    assert "profile was dropped" in " ".join(judged(write, (png(source, chunk), dropped)).warnings)
    assert "profile was dropped" not in " ".join(judged(write, (png(source, chunk), right)).warnings)


def test_colours_that_are_not_known_are_not_dropped_silently(write: Write) -> None:
    source = photo("coffee.png")
    verdict = judged(write, (png(source, (b"cICP", bytes([9, 16, 0, 1]))), png(enlarged(source, 4))))
    assert verdict.ok
    assert "profile was dropped" in " ".join(verdict.warnings)
