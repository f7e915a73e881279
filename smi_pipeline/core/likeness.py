"""Whether two files show the same picture, by their cells of colour (`ImagesPort.fingerprint`).

Hosts code pictures anew at each request, strip profiles, reduce palettes: the bytes differ, the picture does not. The
limits, in levels of 0 to 255, were measured on photographs, stars, textures, text and fog.
"""

from collections.abc import Sequence

SIDE = 32
"""Cells across and down."""

MEAN = 20.0
"""How far cells may differ on the mean: saturation +25 % changes 15, a picture made grey up to 60."""

REST, REST_OF_CONTRAST = 2.5, 0.11
"""What may remain (root mean square) after tone and contrast are brought in line: in levels, or as a share of the
contrast. JPEG of quality 20: 2.4 and 0.08; 256 colours: 2.1; saturation +25 %: 0.10. Moved by a fiftieth of its width:
0.2 to 1.1, but less than 2.5 levels in dense fog."""

ANY = 32.0
"""What may remain in a single cell. All of those stay within 26; a patch of a hundredth of the picture makes 20 to
130."""


def same_picture(one: bytes, other: bytes) -> bool:
    """Return whether two fingerprints are of the same picture; False unless both are known."""
    if not one or len(one) != len(other):
        return False
    if sum(abs(a - b) for a, b in zip(one, other, strict=True)) > MEAN * len(one):
        return False
    squares = contrast = 0.0
    for channel in range(3):
        before = one[channel::3]
        rest = _rest(before, other[channel::3])
        if max(map(abs, rest)) > ANY:
            return False
        mean = sum(before) / len(before)
        squares += sum(level * level for level in rest)
        contrast += sum((level - mean) ** 2 for level in before)
    return squares <= max(REST**2 * len(one), REST_OF_CONTRAST**2 * contrast)


def _rest(before: Sequence[int], after: Sequence[int]) -> list[float]:
    """Return what of a channel is not explained by the other one, made brighter and stronger."""
    count = len(before)
    mean_before, mean_after = sum(before) / count, sum(after) / count
    spread = sum((a - mean_before) ** 2 for a in before)
    common = sum((a - mean_before) * (b - mean_after) for a, b in zip(before, after, strict=True))
    gain = min(1.5, max(0.67, common / spread)) if spread else 1.0
    return [b - mean_after - gain * (a - mean_before) for a, b in zip(before, after, strict=True)]
