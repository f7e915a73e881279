"""Which property of an image a failure names, and how it is said."""

import pytest

from smi_pipeline.core import image_rules, properties, reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.models import ImageInfo
from smi_pipeline.core.properties import Ordered

ORDER = Ordered(format="PNG", width=1000, height=753, scale=4, has_alpha=True)


@pytest.mark.parametrize(
    ("reason", "message", "found"),
    [
        (reasons.RESULT_REJECTED, "transparency differs by 255 levels in a part of the image", "alpha"),
        (reasons.RESULT_REJECTED, "the result is 4000 x 3008 pixels, not 4000 x 3012 (4x of the source)", "multiple-8"),
        (reasons.RESULT_REJECTED, "the result is 2048 x 1542 pixels, not 4000 x 3012 (4x of the source)", "size-4x-16"),
        (reasons.RESULT_REJECTED, "colour became grey (saturation 40 to 2)", None),
        (reasons.UPSCALE_FAILED, "Alpha channels are not supported", "alpha"),
        (reasons.UPSCALE_FAILED, "output dimensions exceed the maximum", "size-4x-16"),
        (reasons.REJECTED_BY_API, "image too large", "size-4x-16"),
        (reasons.REJECTED_BY_API, "unsupported image format", "format-PNG"),
        (reasons.UPSCALE_FAILED, "CUDA error", None),
        (reasons.UPSCALE_FAILED, "request exceeds the quota of your plan", None),
        (reasons.TIMED_OUT, "too large", None),
    ],
)
def test_a_failure_names_the_property_by_its_words_or_the_measured_difference(
    reason: str, message: str, found: str | None
) -> None:
    assert properties.blamed(ORDER, reason, message) == found
    assert found is None or found in properties.of(ORDER)


def test_an_image_without_alpha_is_not_blamed_for_it() -> None:
    opaque = Ordered(format="JPEG", width=1000, height=753, scale=4, has_alpha=False)
    assert properties.blamed(opaque, reasons.UPSCALE_FAILED, "alpha channel not supported") is None
    assert "alpha" not in properties.of(opaque)


@pytest.mark.parametrize(
    ("name", "what", "instead"),
    [
        ("alpha", "Images with transparency", "save the image without transparency"),
        ("format-WEBP", "WEBP images", "save the image in another format"),
        ("size-8x-64", "8x upscales to between 32 and 64 megapixels", "use a smaller image"),
        ("multiple-8", "Results with a side that is no multiple of 8 pixels", "crop the image to 1000 x 752 pixels"),
    ],
)
def test_a_property_is_said_with_what_is_possible_instead(name: str, what: str, instead: str) -> None:
    assert properties.in_words(name) == what
    assert properties.instead(name, ORDER).startswith(instead)


@pytest.mark.parametrize(
    ("size", "scale", "words"),
    [
        ((1500, 1000), 8, "would be 96 megapixels, the limit is 50; 4x gives 24"),
        (
            (3000, 2000),
            4,
            "is 50; images of up to 3.12 megapixels can be ordered, at 4x; reduce this one to 2165 x 1443 pixels",
        ),
        ((6000, 4000), 4, "would be 384 megapixels, the limit is 50; images of up to 3.12 megapixels"),
        ((9504, 6336), 4, "would be 963.5 megapixels, the limit is 50; .* reduce this one to 2165 x 1443 pixels"),
        ((3000, 2000), 8, "would be 384 megapixels, the limit is 50; images of up to 3.12 megapixels can be ordered"),
    ],
)
def test_what_is_too_large_is_said_with_what_is_possible(size: tuple[int, int], scale: int, words: str) -> None:
    facts = ImageInfo(format="PNG", width=size[0], height=size[1], bytes=1)
    with pytest.raises(PermanentError, match=words):
        image_rules.check_output_size(facts, scale, 50)
