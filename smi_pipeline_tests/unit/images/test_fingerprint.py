"""What counts as the same picture: however it is coded, and never another one."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageDraw, ImageEnhance, ImageOps

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core.likeness import same_picture
from smi_pipeline_tests.unit.images.pictures import PHOTOS, encoded, photo

Write = Callable[..., Path]
Seen = Callable[..., bytes]
PICTURES = (*PHOTOS, "motorcycle_right.png", "page.png", "text.png", "grass.png", "gravel.png", "brick.png", "moon.png")


@pytest.fixture
def seen(images: VipsImages, write: Write) -> Seen:
    def seen(content: bytes | Image.Image, format: str = "PNG", **options: object) -> bytes:
        cells = images.fingerprint(write(content, format, **options))
        assert len(cells) == 3 * 32 * 32
        return cells

    return seen


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_coded_anew_is_the_same(seen: Seen, name: str) -> None:
    picture = photo(name, 600)
    ordered = seen(picture)
    for quality in (20, 40, 85):
        assert same_picture(ordered, seen(picture, "JPEG", quality=quality))
        assert same_picture(seen(picture, "JPEG", quality=75), seen(picture, "JPEG", quality=quality, progressive=True))
    for quality in (40, 80):
        assert same_picture(ordered, seen(picture, "WEBP", quality=quality))
    assert same_picture(ordered, seen(picture.quantize(256)))
    stronger = ImageEnhance.Brightness(ImageEnhance.Color(picture).enhance(1.15)).enhance(0.95)
    assert same_picture(ordered, seen(stronger)), "as with a profile that was dropped"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_was_moved_turned_or_made_grey_is_another(seen: Seen, name: str) -> None:
    picture = photo(name, 600)
    width, height = picture.size
    less = width // 50
    assert not same_picture(
        seen(picture.crop((0, 0, width - less, height))), seen(picture.crop((less, 0, width, height)))
    )
    assert not same_picture(seen(picture), seen(ImageOps.mirror(picture)))
    assert not same_picture(seen(picture), seen(ImageOps.flip(picture)))
    assert not same_picture(seen(picture), seen(ImageOps.invert(picture)))


def test_pictures_of_different_things_are_never_the_same(seen: Seen) -> None:
    cells = {name: seen(photo(name, 600).resize((300, 300))) for name in PICTURES}
    assert [pair for pair in combinations(cells, 2) if same_picture(cells[pair[0]], cells[pair[1]])] == []


@pytest.mark.parametrize("name", PHOTOS)
def test_a_patch_over_a_photograph_makes_it_another(seen: Seen, name: str) -> None:
    picture = photo(name, 600)
    patched = picture.copy()
    ImageDraw.Draw(patched).rectangle((100, 100, 220, 220), fill=(255, 0, 255))
    assert not same_picture(seen(picture), seen(patched))


def test_a_photograph_made_grey_is_another(seen: Seen) -> None:
    picture = photo("coffee.png", 600)
    assert not same_picture(seen(picture), seen(ImageOps.grayscale(picture)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_turned_upright_is_the_same(seen: Seen, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tagged = encoded(photo(side=400), exif=tags)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(tagged)))
    assert same_picture(seen(tagged), seen(upright))


def test_a_profile_of_srgb_or_one_that_cannot_be_used_changes_nothing(seen: Seen) -> None:
    picture = photo("coffee.png", 400)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert same_picture(seen(picture, icc_profile=srgb.tobytes()), seen(picture))
    assert same_picture(seen(picture, icc_profile=b"no profile at all"), seen(picture))


def test_every_kind_of_source_has_a_likeness(seen: Seen) -> None:
    picture = photo(side=300)
    clear = picture.convert("RGBA")
    clear.putalpha(128)
    for kind in (picture.convert("L"), picture.convert("LA"), picture.convert("P"), clear, picture.convert("1")):
        seen(kind)
    for side in (1, 3, 31, 33, 1024, 2100):
        seen(picture.resize((side, 40)))


def test_what_cannot_be_decoded_has_no_likeness_and_is_like_nothing(images: VipsImages, write: Write) -> None:
    broken = bytearray(encoded(photo(), "PNG"))
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2 - 12) + broken[-12:]
    cells = images.fingerprint(write(bytes(broken)))
    assert cells == b"" or len(cells) == 3072
    assert not same_picture(b"", b"")
    assert not same_picture(b"", bytes(3072))
