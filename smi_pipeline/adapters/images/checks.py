"""Check which images are accepted as a source and whether a result may be delivered.

Accepted: EXIF rotation (the result may be upright or keep the tag), grey, palette, alpha, ICC profiles (compared in
sRGB, so the result may keep the profile or be converted). Refused before payment: CMYK, 16 bits per channel, animation,
and any format but PNG, JPEG and WebP.
"""

import hashlib
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smi_pipeline.adapters.images import containers
from smi_pipeline.adapters.images.anomalies import summarise
from smi_pipeline.adapters.images.cleaning import clean
from smi_pipeline.adapters.images.colour import Colour, dropped_colour, jpeg_quality, named_colour, shown
from smi_pipeline.adapters.images.decoding import Bytes, decode, in_srgb
from smi_pipeline.adapters.images.fingerprint import fingerprint
from smi_pipeline.adapters.images.structure import Layout
from smi_pipeline.adapters.images.wholeness import decode_whole
from smi_pipeline.core import image_rules, reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.image_rules import Fidelity, Measured, Thresholds
from smi_pipeline.core.models import ImageInfo, Verdict

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"%PDF-", b"\x7fELF")
_PAGES = (b"<script", b"<?php", b"<!doctype", b"<html", b"#!/")
_ARCHIVE_END = 70_000  # the last records of a ZIP archive, with the longest comment
_LAST_RECORD = re.compile(rb"PK\x05\x06\x00{4}|PK\x06\x07.{16}PK\x05\x06", re.DOTALL)
"""Of the first disk, or of a ZIP64 archive, whose locator comes before it and whose numbers may all be 0xFFFF."""


class _Image(NamedTuple):
    path: Path
    facts: ImageInfo
    layout: Layout


class VipsImages:
    """Implement `core.ports.ImagesPort` on libvips. Safe before a fork: libvips starts at the first decode."""

    def __init__(
        self,
        max_output_megapixels: float,
        max_source_bytes: int,
        fidelity: Fidelity = "observe",
        thresholds: Thresholds | None = None,
        keep_metadata: Collection[str] = ("copyright",),
    ) -> None:
        if fidelity not in ("observe", "enforce"):
            raise ValueError(f"fidelity is observe or enforce, not {fidelity!r}")
        self._max_megapixels = max_output_megapixels
        self._max_source_bytes = max_source_bytes
        self._fidelity = fidelity
        self._limits = thresholds or Thresholds()
        self._keep_metadata = frozenset(keep_metadata)

    def inspect(self, path: Path) -> ImageInfo:
        """Return the properties of a source from its structure, without decoding pixels.

        Raises PermanentError: source_too_large (also when not even the smallest scale sold fits), unsupported_format
        (another format, animation, CMYK, 16 bit), invalid_image (empty, truncated, no size, an archive attached)."""
        return replace(self._source(path).facts, sha256=_sha256(path))

    def check_source(self, path: Path) -> ImageInfo:
        """Inspect and fully decode a source. Raises PermanentError."""
        source = self._source(path)
        decode_whole(path, source.layout)
        return replace(source.facts, sha256=_sha256(path))

    def fingerprint(self, path: Path) -> bytes:
        """Return what a checked source shows (`fingerprint`)."""
        return fingerprint(path)

    def clean_result(self, path: Path) -> list[str]:
        """Take out of a result what must not be delivered (`cleaning`). Return it, in words.

        Raises PermanentError(result_rejected) for a file that cannot be read."""
        try:
            return clean(path, self._keep_metadata)
        except PermanentError as error:
            raise PermanentError(reasons.RESULT_REJECTED, str(error)) from error

    def check_result(self, source: Path, result: Path, scale: int) -> Verdict:
        """Compare a result with the kept source. A bad image is a verdict, an unreadable file an OSError."""
        try:
            before = self._source(source)
        except PermanentError as error:
            return Verdict(ok=False, facts=None, reason=error.reason, message=f"source: {error}")
        facts: ImageInfo | None = None
        try:
            after = _image(result)
            facts = after.facts
            problem = self._before_decoding(before, after, scale)
            if problem:
                return _refused(facts, problem)
            # Hash the result and decode the small source while the result is being decoded.
            with ThreadPoolExecutor(2) as beside:
                digest = beside.submit(_sha256, result)
                verdict = self._compare(before, after, scale, beside)
            return replace(verdict, facts=replace(facts, sha256=digest.result()))
        except _SourceBroken as error:
            return Verdict(ok=False, facts=facts, reason=error.reason, message=f"source: {error}")
        except PermanentError as error:
            return _refused(facts, str(error))

    def _source(self, path: Path) -> _Image:
        size = path.stat().st_size
        if size > self._max_source_bytes:
            raise PermanentError(
                reasons.SOURCE_TOO_LARGE, f"the file has {size} bytes; the limit is {self._max_source_bytes}"
            )
        image = _image(path)
        layout = image.layout
        problem = _unsold(layout)
        if problem:
            raise PermanentError(reasons.UNSUPPORTED_FORMAT, problem)
        if max(layout.width, layout.height) > image_rules.MAX_SIDE:
            raise PermanentError(
                reasons.SOURCE_TOO_LARGE,
                f"{layout.width} x {layout.height} pixels: a side may have {image_rules.MAX_SIDE:,} at most",
            )
        image_rules.check_output_size(image.facts, image_rules.SMALLEST_SCALE, self._max_megapixels)
        if layout.held > self._limits.max_decode_bytes:
            raise PermanentError(
                reasons.SOURCE_TOO_LARGE,
                f"{layout.width} x {layout.height} pixels, coded this way, are too many; save the image as a JPEG that "
                "is not progressive",
            )
        problem = self._tail(path, layout, original=True)
        if problem:
            raise PermanentError(reasons.INVALID_IMAGE, problem)
        return image

    def _tail(self, path: Path, layout: Layout, *, original: bool) -> str:
        """Return what is wrong with the bytes after the end marker.

        Zeros are padding. An original may keep whatever cameras, phones and editors attach, known or not, as nothing
        of it gets into the result; only an archive, a program or a page is refused, which none of them writes. A
        result, fresh from an encoder, may carry nothing at all."""
        extra = path.stat().st_size - layout.end
        if extra <= 0:
            return ""
        with path.open("rb") as file:
            file.seek(layout.end)
            tail = file.read(min(extra, self._limits.max_padding_bytes))
            if not tail.strip(b"\x00\r\n") and extra <= self._limits.max_padding_bytes:
                return ""
            if original:
                # An archive is read from its end, whatever comes before.
                file.seek(max(layout.end, layout.end + extra - _ARCHIVE_END))
                if not _is_program(tail) and not _ends_archive(file.read()):
                    return ""
        return f"{extra} bytes of something else are attached after the end of the image; save it again and retry"

    def _before_decoding(self, source: _Image, result: _Image, scale: int) -> str:
        path, facts, layout = result
        problem = image_rules.size_problem(source.facts, facts, scale)
        if problem and not _readings(source, result, scale):
            return problem
        if layout.animated or layout.mode == "CMYK" or layout.bits not in (1, 2, 4, 8, 16):
            return _unsold(layout)
        if not layout.ended:
            return "the result has no end: it is truncated"
        if layout.junk:
            return f"{layout.junk} bytes of the result belong to no part of an image"
        suffix = path.suffix.lower()
        named = [name for name, suffixes in image_rules.FORMATS.items() if suffix in suffixes]
        if named and named[0] != facts.format:
            return f"the result is named {suffix} but is {facts.format}"
        if facts.width * facts.height > self._max_megapixels * 1e6 or layout.held > self._limits.max_decode_bytes:
            return f"the result's {facts.width} x {facts.height} pixels, coded this way, are too many to be checked"
        return self._tail(path, layout, original=False) or image_rules.bytes_problem(
            facts, layout.payload, source.layout.payload, self._limits
        )

    def _compare(self, source: _Image, result: _Image, scale: int, beside: ThreadPoolExecutor) -> Verdict:
        _, facts, layout = result
        # With the same colours on both sides equal numbers look equal.
        marks = _marks(source), _marks(result)
        convert = marks[0] != marks[1]
        original = beside.submit(_pixels, source, convert, 1, _SourceBroken)
        _, after = _pixels(result, convert, scale)
        bare, before = original.result()
        fine = []
        if convert and marks[1] == _UNMARKED:
            named = marks[0][1]
            dropped = "the colour profile was dropped" if named and not named.known else ""
            levels = dropped_colour(bare, before, after, self._limits.dropped_colour, self._limits.dropped_way)
            if levels:
                dropped = f"the colour profile was dropped: colours differ by up to {levels:.0f} levels"
            if dropped:
                before = bare
                fine.append(dropped)
        found, messages = self._judged(source, result, scale, before, after)
        fine += image_rules.fine_points(found, self._limits)
        if layout.format == "JPEG":
            fine += image_rules.quality_problem(jpeg_quality(result.path), self._limits)
        warnings = []
        if layout.bits == 16:
            warnings.append("the result has 16 bits per channel")
        if self._fidelity == "enforce":
            messages += fine
        else:
            warnings += fine
        numbers = f"lowest SSIM {found.min_ssim:.2f}, mean colour shift {found.mean_colour:.1f}"
        return Verdict(
            ok=not messages,
            facts=facts,
            reason=reasons.RESULT_REJECTED if messages else "",
            message=f"{'; '.join(messages)} ({numbers})" if messages else numbers,
            min_ssim=round(found.min_ssim, 4),
            mean_colour_shift=round(found.mean_colour, 3),
            warnings=tuple(warnings),
        )

    def _judged(
        self, source: _Image, result: _Image, scale: int, before: Bytes, after: Bytes
    ) -> tuple[Measured, list[str]]:
        """Measure and judge by the reading of the orientations that fits."""
        judged = []
        for ours, theirs in _readings(source, result, scale):
            # With one orientation both are compared as stored.
            pair = (before, after) if ours == theirs else (_upright(before, ours), _upright(after, theirs))
            found = summarise(*pair, self._limits, jpeg=result.layout.format == "JPEG")
            judged.append((found, image_rules.refusals(found, self._limits)))
            if not judged[-1][1]:
                return judged[-1]
        return judged[0]


_UNMARKED: tuple[bytes, Colour | None] = (b"", None)
_Marks = tuple[bytes, Colour | None]


def _marks(image: _Image) -> _Marks:
    """Return what says which colours the numbers mean: the profile, or a PNG's chunks."""
    named = named_colour(image.path) if image.layout.format == "PNG" else None
    return (b"", named) if named else (image.layout.icc, None)


def _pixels(
    image: _Image, convert: bool, shrink: int, broken: type[PermanentError] = PermanentError
) -> tuple[Bytes, Bytes]:
    """Decode an image: its bare numbers and, if wanted, the colours that a screen shows."""
    pixels = decode(image.path, image.layout, shrink=shrink, strict=broken is PermanentError, broken=broken)
    profile, named = _marks(image) if convert else _UNMARKED
    if profile:
        return pixels, in_srgb(pixels, profile)
    return pixels, shown(pixels, named) if named and named.known else pixels


def _readings(source: _Image, result: _Image, scale: int) -> list[tuple[int, int]]:
    """Return the orientations of both by which the size is right. Of a WebP two are possible: browsers ignore its tag,
    and libvips honours it."""
    pairs = []
    for ours in _orientations(source):
        for theirs in _orientations(result):
            before, after = replace(source.facts, exif_orientation=ours), replace(result.facts, exif_orientation=theirs)
            if not image_rules.size_problem(before, after, scale):
                pairs.append((ours, theirs))
    return pairs


def _orientations(image: _Image) -> list[int]:
    tag = image.facts.exif_orientation
    if image.layout.format != "WEBP":
        return [tag]
    return list(dict.fromkeys([tag, containers.orientation(image.layout.exif), 1]))


def _upright(pixels: Bytes, orientation: int) -> Bytes:
    """Apply an EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    down, right = flips.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::down, ::right])


def _is_program(tail: bytes) -> bool:
    """Return whether an archive, a document or a program begins here or behind padding, or a page at once: behind
    padding, where a memory card held something else before, cameras leave pages, too."""
    if tail[:16].lower().startswith(_PAGES):
        return True
    head = tail.lstrip(b"\x00\xff \t\r\n")[:64]
    # Two bytes alone are found in anything: the header of a real program is mostly zeros.
    return head.startswith(_ARCHIVES) or (head.startswith(b"MZ") and head.count(0) > len(head) // 4)


def _ends_archive(last: bytes) -> bool:
    """Return whether a ZIP archive ends here."""
    return _LAST_RECORD.search(last) is not None


class _SourceBroken(PermanentError):
    """Raised when the kept source cannot be decoded, which is not the fault of the result."""


def _refused(facts: ImageInfo | None, message: str) -> Verdict:
    return Verdict(ok=False, facts=facts, reason=reasons.RESULT_REJECTED, message=message)


def _unsold(layout: Layout) -> str:
    if layout.animated:
        return f"the {layout.format} is animated; only still images are upscaled"
    if layout.mode == "CMYK":
        return "the JPEG is in CMYK, for printing; save it in RGB"
    if layout.bits > 8:
        return f"the {layout.format} has {layout.bits} bits per channel; save it with 8"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image(path: Path) -> _Image:
    """Read the structure of a file. Raises PermanentError."""
    layout = containers.read_layout(path)
    facts = ImageInfo(
        format=layout.format,
        width=layout.width,
        height=layout.height,
        bytes=path.stat().st_size,
        exif_orientation=containers.orientation(layout.exif),
        has_alpha=layout.has_alpha,
    )
    return _Image(path, facts, layout)
