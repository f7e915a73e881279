"""The corpus of hostile files: every one is refused, in little memory; what is too large from its header alone."""

import json
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline_tests.unit.images import hostile
from smi_pipeline_tests.unit.images.pictures import encoded, photo

Write = Callable[..., Path]


TOO_LARGE = ("png of ten gigapixels", "png of the largest sides", "interlaced png", "webp", "jpeg", "progressive jpeg")
REFUSALS = {reasons.INVALID_IMAGE, reasons.UNSUPPORTED_FORMAT, reasons.SOURCE_TOO_LARGE}
BOMBS = {name: hostile.bombs()[f"bomb: {name}"] for name in TOO_LARGE}


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
    for bomb in (hostile.webp_of(16_000, 16_000), hostile.jpeg_of(16_000, 16_000, progressive=True)):
        verdict = checks.check_result(source, write(bomb), 8)
        assert verdict.reason == reasons.RESULT_REJECTED
        assert "too many to be checked" in verdict.message


def measured(code: str, *arguments: Path) -> dict[str, Any]:
    """Runs code in a fresh process; it prints JSON with the growth of its peak memory in MB."""
    head = """
        import json, re, sys
        from pathlib import Path
        from smi_pipeline.adapters.images import VipsImages
        def peak():
            # Not ru_maxrss: a child inherits that of its parent, through exec as well, and would hide behind it.
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
        before = peak()
        started = [name for name in ("pyvips", "skimage", "pandas", "matplotlib") if name in sys.modules]
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=110, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a worker says of the whole corpus, as a source and as a result, and its memory in MB at the highest."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "source").write_bytes(encoded(hostile.source(), "PNG"))
    pairs: dict[str, tuple[str, int]] = {}
    for number, (name, content) in enumerate((hostile.good() | hostile.rejected() | hostile.odd()).items()):
        (folder / f"{number}").write_bytes(content)
        pairs[name] = (f"{number}", hostile.SCALE)
    for number, (name, (source, result)) in enumerate(hostile.heavy().items()):
        (folder / f"source-{number}").write_bytes(source)
        (folder / f"heavy-{number}").write_bytes(result)
        pairs[name] = (f"heavy-{number}", 8)
    (folder / "names.json").write_text(json.dumps(pairs))
    return measured(
        """
        import smi_pipeline.fulfilment.definitions  # what a worker has loaded
        from smi_pipeline.core.errors import PermanentError
        folder, checks, said = Path(sys.argv[1]), VipsImages(256, 50_000_000), {}

        def as_a_source(path):
            try:
                checks.check_source(path)
            except PermanentError as error:
                return error.reason
            except Exception as error:
                return repr(error)
            return "taken"

        def as_a_result(source, path, scale):
            try:
                verdict = checks.check_result(source, path, scale)
            except Exception as error:
                return repr(error)
            return "delivered" if verdict.ok else verdict.reason

        for name, (file, scale) in json.loads((folder / "names.json").read_text()).items():
            source = folder / file.replace("heavy", "source") if file.startswith("heavy") else folder / "source"
            said[name] = as_a_source(folder / file), as_a_result(source, folder / file, scale)
        assert peak() > before + 50, "the largest of them take room"
        print(json.dumps({"said": said, "peak": peak()}))
        """,
        folder,
    )


def test_every_hostile_image_is_refused_with_a_reason(judged: dict[str, Any]) -> None:
    said = {name: judged["said"][name] for name in hostile.rejected()}
    assert len(said) > 300
    wrong = {
        name: (source, result)
        for name, (source, result) in said.items()
        if source not in REFUSALS or result != reasons.RESULT_REJECTED
    }
    assert wrong == {}


def test_a_result_that_promises_as_much_as_may_be_held_and_holds_nothing_is_refused(judged: dict[str, Any]) -> None:
    assert {judged["said"][name][1] for name in hostile.heavy()} == {reasons.RESULT_REJECTED}


def test_strange_metadata_never_raises_anything_of_its_own(judged: dict[str, Any]) -> None:
    for name in hostile.odd():
        source, result = judged["said"][name]
        assert source in REFUSALS | {"taken"}, name
        assert result in (reasons.RESULT_REJECTED, "delivered"), name


def test_what_the_corpus_is_made_of_is_taken_and_delivered_while_it_is_whole(judged: dict[str, Any]) -> None:
    assert {tuple(judged["said"][name]) for name in hostile.good()} == {("taken", "delivered")}


def test_a_worker_that_goes_through_the_whole_corpus_stays_below_400_mb(judged: dict[str, Any]) -> None:
    assert judged["peak"] <= 400


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
