"""Which colours a file's numbers mean where no ICC profile says it: PNG's cICP, sRGB, gAMA and cHRM, in that order.

Browsers apply them; libvips does not."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Primaries = tuple[float, ...]  # x and y of white, red, green, blue

_WHITE = (0.3127, 0.3290)
_SRGB: Primaries = (*_WHITE, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CICP: dict[int, Primaries] = {
    1: _SRGB,
    9: (*_WHITE, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_SRGB_CURVE = 0.0
_TRANSFER = {1: 1 / 2.2, 4: 1 / 2.2, 5: 1 / 2.8, 6: 1 / 2.2, 8: 1.0, 13: _SRGB_CURVE, 14: 1 / 2.2, 15: 1 / 2.2}
_USUAL_GAMMA = (0.42, 0.48)  # 0.45455 is what sRGB is usually called


@dataclass(frozen=True)
class Colour:
    """The primaries and the exponent with which numbers are coded (0: sRGB's curve, None: none that is known)."""

    primaries: Primaries = _SRGB
    exponent: float | None = _SRGB_CURVE

    @property
    def known(self) -> bool:
        """Return whether the numbers can be converted."""
        return self.exponent is not None


def named_colour(path: Path) -> Colour | None:
    """Return the colours that a PNG's chunks name; None when these are sRGB's or a profile says it."""
    chunks = _chunks(path)
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4:
        primaries, transfer = _CICP.get(cicp[0]), _TRANSFER.get(cicp[1])
        known = primaries is not None and transfer is not None
        colour = Colour(primaries or _SRGB, transfer if known else None)
    elif b"iCCP" in chunks or b"sRGB" in chunks:
        return None
    else:
        gamma, points = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
        exponent = int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else 0.0
        if not 0.05 < exponent < 5 or _USUAL_GAMMA[0] < exponent < _USUAL_GAMMA[1]:
            exponent = _SRGB_CURVE
        primaries = _SRGB
        # Without gAMA browsers ignore cHRM.
        if len(gamma) == 4 and len(points) == 32:
            primaries = tuple(value / 100_000 for value in struct.unpack(">8I", points))
        colour = Colour(primaries, exponent)
    usual = np.allclose(colour.primaries, _SRGB, atol=0.004) and colour.exponent == _SRGB_CURVE
    return None if usual else colour


def shown(pixels: Bytes, colour: Colour) -> Bytes:
    """Return pixels as an sRGB screen shows them."""
    assert colour.exponent is not None
    levels = np.linspace(0, 1, 256).astype(np.float32)
    table = _linear(levels) if colour.exponent == _SRGB_CURVE else levels ** np.float32(1 / colour.exponent)
    matrix = None
    if not np.allclose(colour.primaries, _SRGB, atol=0.004):
        matrix = (np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(colour.primaries)).astype(np.float32)
    out = pixels.copy()
    coded = _coded_table()
    for top in range(0, len(pixels), 64):
        light = table[pixels[top : top + 64, :, :3]]
        if matrix is not None:
            light = light @ matrix.T
        out[top : top + 64, :, :3] = coded[(np.clip(light, 0, 1) * (len(coded) - 1)).astype(np.int32)]
    return out


def dropped_colour(bare: Bytes, meant: Bytes, result: Bytes, least: float, way: float) -> float:
    """Return by how many levels a twentieth of the pixels look otherwise when a result has the source's bare numbers
    instead of the colours they mean; 0 when it has not, or when these are less than `least` apart.

    On the way from the former (0) to the latter (1) a converted result stands behind `way`, whatever else changed."""
    if result.shape[:2] != bare.shape[:2]:
        result = result.swapaxes(0, 1)
    step = 1 + len(bare) // 500, 1 + bare.shape[1] // 500
    start, path, change = (image[:: step[0], :: step[1], :3].astype(np.float32) for image in (bare, meant, result))
    path, change = path - start, change - start
    seen = float(np.percentile(np.abs(path).max(axis=2), 95))
    if seen < least:
        return 0.0
    # Sharpening darkens and brightens letters along the same way.
    sharper = start - (np.roll(start, 1, axis=0) + np.roll(start, -1, axis=0)) / 4
    sharper -= (np.roll(start, 1, axis=1) + np.roll(start, -1, axis=1)) / 4
    causes = np.stack([path, sharper]).reshape(2, -1)
    products = causes @ causes.T + np.float32(1e-3) * np.eye(2, dtype=np.float32)
    came = float(np.linalg.solve(products, causes @ change.ravel())[0])
    return seen if came < way else 0.0


def _coded_table() -> Bytes:
    light = np.arange(4096 * 4, dtype=np.float32) / (4096 * 4 - 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    table: Bytes = np.rint(255 * coded).astype(np.uint8)
    return table


def _linear(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _to_xyz(primaries: Primaries) -> NDArray[np.float64]:
    """Return the matrix from linear RGB to XYZ, with white scaled away."""
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    xyz = np.stack([x / y, np.ones_like(x), (1 - x - y) / y])
    scaled = np.linalg.solve(xyz[:, 1:], xyz[:, 0])
    # Whites are mapped onto each other plainly; they hardly ever differ.
    matrix: NDArray[np.float64] = xyz[:, 1:] * scaled / xyz[:, :1]
    return matrix


def _chunks(path: Path) -> dict[bytes, bytes]:
    """Return the first short chunks before the pixels of a PNG; nothing for another file."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return found
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4], "big")
            body = file.read(length) if length <= 64 else b""
            file.seek(length - len(body) + 4, 1)
            found.setdefault(head[4:], body)
    return found


def jpeg_quality(path: Path) -> float | None:
    """Return the quality (1 to 100, in libjpeg's sense) that a JPEG's first quantisation table says; None without."""
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return None
        while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:
            length = int.from_bytes(head[2:], "big") - 2
            if head[1] != 0xDB:
                file.seek(length, 1)
                continue
            body = file.read(length)
            wide = body[0] >> 4
            table = np.frombuffer(body[1 : 65 + 64 * wide], dtype=">u2" if wide else "u1")
            # The low frequencies, which are never cut off at 255: 13.2 in libjpeg's table of quality 50.
            percent = max(float(table[:10].mean()) / 13.2 * 100, 1)
            return 5000 / percent if percent > 100 else (200 - percent) / 2
    return None
