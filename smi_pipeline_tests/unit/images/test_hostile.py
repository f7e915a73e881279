"""Files made to exhaust a worker: refused from the header, in little memory."""

import json
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline_tests.unit.images.pictures import encoded, photo, png, png_header

Write = Callable[..., Path]


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP header of any size, with next to nothing behind it."""
    body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(20)
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body + b"\x00" * (len(body) & 1)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def jpeg_of(width: int, height: int, **options: Any) -> bytes:
    data = bytearray(encoded(photo(), "JPEG", **options))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    return png(png_header(width, height), (b"IDAT", zlib.compress(bytes(1_000_000), 9)), (b"IEND", b""))


BOMBS = {
    "png": png_of(100_000, 100_000),
    "png of the largest sides": png_of(2**31 - 1, 2**31 - 1),
    "webp": webp_of(16_384, 16_384),
    "jpeg": jpeg_of(65_535, 65_535),
    "progressive jpeg": jpeg_of(15_000, 15_000, progressive=True, subsampling=0),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_as_a_source_and_as_a_result(images: VipsImages, write: Write, kind: str) -> None:
    bomb = write(BOMBS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (images.inspect, images.check_source):
            with pytest.raises(PermanentError) as caught:
                call(bomb)
            assert caught.value.reason == reasons.SOURCE_TOO_LARGE
        assert not images.check_result(write(photo()), bomb, 4).ok


def test_a_result_of_the_right_size_that_cannot_be_decoded_in_rows_is_refused_before_it_is_decoded(
    write: Write,
) -> None:
    checks = VipsImages(300, 10**7)
    source = write(photo().resize((2000, 2000)), "JPEG")
    for bomb in (webp_of(16_000, 16_000), jpeg_of(16_000, 16_000, progressive=True)):
        verdict = checks.check_result(source, write(bomb), 8)
        assert verdict.reason == reasons.RESULT_REJECTED
        assert "too many to be checked" in verdict.message


def test_a_profile_that_inflates_without_end_is_cut(images: VipsImages, write: Write) -> None:
    whole = encoded(photo(), "PNG")
    bomb = b"p\x00\x00" + zlib.compress(bytes(200_000_000), 9)
    images.inspect(write(whole[:33] + png((b"iCCP", bomb))[8:] + whole[33:]))


def measured(code: str, *arguments: Path) -> dict[str, float]:
    """Runs code in a fresh process; it prints JSON with the growth of its peak memory in MB."""
    head = """
        import json, resource, sys
        from pathlib import Path
        from smi_pipeline.adapters.images import VipsImages
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = peak()
        started = [name for name in ("pyvips", "skimage", "pandas", "matplotlib") if name in sys.modules]
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_bombs_cost_no_memory(write: Write) -> None:
    found = measured(
        """
        for name in sys.argv[2:]:
            for call in (VipsImages(300, 10**7).check_source,):
                try:
                    call(Path(name))
                except Exception:
                    pass
            VipsImages(300, 10**7).check_result(Path(sys.argv[1]), Path(name), 4)
        print(json.dumps({"grown": peak() - before, "started": started}))
        """,
        write(photo()),
        *(write(bomb) for bomb in BOMBS.values()),
    )
    assert found["grown"] < 30
    assert not found["started"], "importing the checks must start nothing"


def test_checking_64_megapixels_grows_the_process_by_at_most_120_mb(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, pyvips
                x = pyvips.Image.xyz(1000, 1000)
                pattern = (x[0] * x[1] / 9).sin() * 60 + (x[0] / 50).sin() * 50 + 128
                source = pattern.bandjoin([pattern * 0.8, x[0] / 4]).cast("uchar").copy(interpretation="srgb")
                source.pngsave(sys.argv[1])
                source.resize(8, kernel="cubic").pngsave(sys.argv[2], compression=1, filter="sub")
                """
            ),
            str(tmp_path / "source"),
            str(tmp_path / "result"),
        ],
        check=True,
        timeout=60,
    )
    found = measured(
        """
        verdict = VipsImages(300, 10**8).check_result(Path(sys.argv[1]), Path(sys.argv[2]), 8)
        banned = [name for name in ("skimage", "pandas", "matplotlib", "scipy") if name in sys.modules]
        print(json.dumps({"grown": peak() - before, "ok": verdict.ok, "said": verdict.message, "banned": banned}))
        """,
        tmp_path / "source",
        tmp_path / "result",
    )
    assert found["ok"], found["said"]
    assert found["grown"] <= 120
    assert not found["banned"]
