"""Properties of images that the upscaling service may fail at, whichever image has them.

What failed twice for the same property is not sold again until it works, an operator lifts it, or time has passed.
"""

import math
import re
from dataclasses import dataclass

from smi_pipeline.core import reasons
from smi_pipeline.core.faults import Scope, scope_of_words

ENOUGH_ORDERS = 2
"""So many orders that fail for the same property, and no success of it since: it is not sold."""

ALPHA = "alpha"
_MULTIPLES = (8, 16, 32, 64)
"""Multiples to which upscalers round the sides of an image."""

_ALPHA_WORDS = re.compile(r"transparen|alpha", re.IGNORECASE)
_SIZE_WORDS = re.compile(
    r"too (large|big)|exceed|dimension|megapixel|(larger|bigger|more) than .*pixel|pixel limit", re.IGNORECASE
)
_FORMAT_WORDS = re.compile(r"(un|not )support\w* .*(format|type)|(format|type) .*(un|not )support", re.IGNORECASE)
_SIZES = re.compile(r"result is (\d+) x (\d+) pixels, not (\d+) x (\d+)")


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """What of an order decides its properties; sides in pixels as displayed."""

    format: str
    width: int
    height: int
    scale: int
    has_alpha: bool

    @property
    def output(self) -> tuple[int, int]:
        """Width and height of the result."""
        return self.width * self.scale, self.height * self.scale


def of(order: Ordered) -> tuple[str, ...]:
    """Return the names of all properties of an order."""
    rounded = (f"multiple-{n}" for n in _MULTIPLES if any(side % n for side in order.output))
    return *((ALPHA,) if order.has_alpha else ()), f"format-{order.format}", _size(order), *rounded


def blamed(order: Ordered, reason: str, message: str) -> str | None:
    """Return the property of an order that its failure names, in words or by a measured difference; None when it names
    none."""
    if reason == reasons.RESULT_REJECTED:
        sizes = _SIZES.search(message)
        if sizes:
            return _blamed_size(order, (int(sizes[1]), int(sizes[2])))
        return ALPHA if order.has_alpha and _ALPHA_WORDS.search(message) else None
    if reason not in (reasons.UPSCALE_FAILED, reasons.REJECTED_BY_API) or scope_of_words(message) is Scope.SHOP:
        return None
    if order.has_alpha and _ALPHA_WORDS.search(message):
        return ALPHA
    if _SIZE_WORDS.search(message):
        return _size(order)
    return f"format-{order.format}" if _FORMAT_WORDS.search(message) else None


def in_words(property_: str) -> str:
    """Return what a property is, as a plural that begins a sentence."""
    kind, _, value = property_.partition("-")
    if kind == "format":
        return f"{value} images"
    if kind == "size":
        scale, _, top = value.partition("-")
        sizes = f"between {int(top) // 2} and {top}" if int(top) > 2 else f"up to {top}"
        return f"{scale} upscales to {sizes} megapixels"
    if kind == "multiple":
        return f"Results with a side that is no multiple of {value} pixels"
    return "Images with transparency"


def instead(property_: str, order: Ordered) -> str:
    """Return what can be ordered instead."""
    kind, _, value = property_.partition("-")
    if kind == "format":
        return "save the image in another format (PNG, JPEG or WebP)"
    if kind == "size":
        return "order 4x instead" if order.scale > 4 else "use a smaller image"
    if kind == "multiple":
        per_side = int(value) // math.gcd(int(value), order.scale)
        width, height = (side - side % per_side for side in (order.width, order.height))
        return f"crop the image to {width} x {height} pixels"
    return "save the image without transparency"


def _size(order: Ordered) -> str:
    """Return the class of the output's size: megapixels up to a power of two, at this factor."""
    width, height = order.output
    return f"size-{order.scale}x-{2 ** max(1, math.ceil(math.log2(width * height / 1e6)))}"


def _blamed_size(order: Ordered, got: tuple[int, int]) -> str:
    close = all(abs(side - wanted) < _MULTIPLES[-1] for side, wanted in zip(got, order.output, strict=True))
    for n in _MULTIPLES if close else ():
        if any(side % n for side in order.output) and not any(side % n for side in got):
            return f"multiple-{n}"
    return _size(order)
