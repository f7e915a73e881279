"""The storage against the rows: nothing that anybody needs is removed, and what is gone is noticed."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smi_pipeline.adapters.storage import FileStorage
from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import ManualTask
from smi_pipeline.services import admin
from smi_pipeline.services.reconciliation.stored_files import compare_files
from smi_pipeline_tests.integration.services.steps import Steps

DAY = 86_400
HASH = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def shop(empty_url: str, folder: Path) -> Iterator[Steps]:
    """A shop whose files lie in a real folder."""
    shop = Steps(empty_url)
    shop.ctx = replace(shop.ctx, storage=FileStorage(str(folder)))
    yield shop
    shop.close()


def compare(shop: Steps) -> dict[str, int]:
    """A whole round."""
    shop.later(hours=2)
    return {what: n for what, n in compare_files(shop.ctx).items() if what not in ("compared", "read")}


def stored(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def age(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def put(folder: Path, key: str, *, old: float) -> Path:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left over")
    os.utime(path, (time.time() - old,) * 2)
    return path


def result(shop: Steps, folder: Path, job_id: str) -> Path:
    return folder / (shop.job(job_id).result_key or "")


def task(shop: Steps) -> ManualTask:
    (found,) = shop.state.manual_tasks.opened()
    return found


def test_files_that_rows_name_are_kept_however_old(shop: Steps, folder: Path) -> None:
    shop.delivered()
    shop.paid()
    shop.submit_due()
    failed = shop.failed()
    before = stored(folder)
    assert len(before) == 4
    age(folder, 90 * DAY)
    shop.later(days=40)
    compare(shop)
    assert stored(folder) == before
    assert shop.job(failed).source_key is not None


def test_a_left_over_of_a_closed_job_is_removed_after_a_day_and_not_before(shop: Steps, folder: Path) -> None:
    job_id = shop.failed()
    shop.refund_due()
    kept = stored(folder)
    shard = job_id[:2]
    put(folder, f"results/{shard}/{job_id}-1-{HASH}.webp", old=DAY / 2)
    shop.later(days=2)
    assert compare(shop) == {"left over": 1}
    put(folder, f"results/{shard}/{job_id}-1-{HASH}.webp", old=DAY + 60)
    assert compare(shop) == {"removed": 1}
    assert stored(folder) == kept


def test_a_file_of_a_job_at_work_is_never_a_left_over(shop: Steps, folder: Path) -> None:
    job_id = shop.paid()
    shop.submit_due()
    path = put(folder, f"results/{job_id[:2]}/{job_id}-1-{HASH}.png", old=10 * DAY)
    shop.change("UPDATE smi.upscale_jobs SET updated_at = smi.now()")
    shop.later(days=3)
    assert compare(shop) == {}
    assert path.exists()


def test_a_job_that_is_taken_up_again_keeps_its_files(shop: Steps, folder: Path) -> None:
    job_id = shop.delivered()
    path = put(folder, f"results/{job_id[:2]}/{job_id}-1-{HASH}.webp", old=10 * DAY)
    shop.later(days=2)
    admin.retry(shop.ctx, job_id, admin_override=True)
    assert compare(shop) == {}
    assert path.exists()


@pytest.mark.parametrize(
    "key", ["sources/ab/ab{}-{}.png", "results/ab/ab{}-1-{}.png", "results/ab/notes.txt", "sources/ab/ab{}-1-{}.png"]
)
def test_a_file_of_a_job_that_we_do_not_know_is_told_and_never_removed(shop: Steps, folder: Path, key: str) -> None:
    shop.delivered()
    path = put(folder, key.format("0" * 30, HASH), old=400 * DAY)
    assert compare(shop) == {"unexplained": 1}
    assert compare(shop) == {"unexplained": 1}
    assert path.exists()
    assert task(shop).kind == "orphan_files"
    assert path.relative_to(folder).as_posix() in task(shop).message
    assert "SMI_STORAGE_URL" in task(shop).next_step
    path.unlink()
    assert compare(shop) == {}
    assert shop.tasks() == []


def test_a_fresh_file_is_no_orphan_yet(shop: Steps, folder: Path) -> None:
    put(folder, f"sources/ab/ab{'0' * 30}-{HASH}.png", old=3000)
    assert compare(shop) == {}


def test_an_empty_database_removes_nothing(shop: Steps, folder: Path) -> None:
    for n in range(20):
        put(folder, f"results/{n:02x}/{n:032x}-1-{HASH}.png", old=30 * DAY)
    assert compare(shop) == {"unexplained": 20}
    assert len(stored(folder)) == 20


def test_a_database_that_does_not_answer_removes_nothing(
    shop: Steps, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shop.failed()
    put(folder, f"results/{job_id[:2]}/{job_id}-1-{HASH}.webp", old=30 * DAY)
    shop.later(days=2)
    before = stored(folder)

    def silent(*_: object) -> None:
        raise TransientError("the database did not answer")

    for read in ("claims", "jobs_with_files"):
        with monkeypatch.context() as patch:
            patch.setattr(shop.state.reconciliation, read, silent)
            with pytest.raises(TransientError):
                compare(shop)
    assert stored(folder) == before
    assert compare(shop) == {"removed": 1}


def test_a_database_restored_from_an_older_day_removes_no_delivered_file(shop: Steps, folder: Path) -> None:
    """The backup knows the job, and not its later rounds."""
    job_id = shop.delivered()
    later = put(folder, f"results/{job_id[:2]}/{job_id}-2.png", old=2 * DAY)
    shop.later(days=2)
    assert compare(shop) == {"unexplained": 1}
    assert later.exists()


def test_a_delivered_file_that_is_gone_is_told_with_the_next_step(shop: Steps, folder: Path) -> None:
    job_id = shop.delivered()
    path = result(shop, folder, job_id)
    content = path.read_bytes()
    path.unlink()
    assert compare(shop) == {"missing": 1}
    assert compare(shop) == {"missing": 1}
    assert (task(shop).kind, task(shop).job_id) == ("file_missing", job_id)
    assert f"smi jobs retry {job_id} --admin-override" in task(shop).next_step
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert compare(shop) == {}
    assert shop.tasks() == []


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"!"])
def test_a_delivered_file_of_another_size_or_content_is_told(shop: Steps, folder: Path, damage) -> None:
    job_id = shop.delivered()
    path = result(shop, folder, job_id)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert compare(shop) == {"damaged": 1}
    assert task(shop).kind == "file_damaged"
    assert f"smi jobs retry {job_id} --admin-override" in task(shop).next_step
    path.write_bytes(content)
    compare(shop)
    assert shop.tasks() == []


def test_a_missing_file_without_a_valid_link_is_nobodys_problem(shop: Steps, folder: Path) -> None:
    result(shop, folder, shop.delivered()).unlink()
    shop.later(hours=25)
    assert compare(shop) == {}


def test_the_lost_source_of_a_job_at_work_is_fetched_again_and_its_result_delivered(shop: Steps, folder: Path) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (folder / (shop.job(job_id).source_key or "")).unlink()
    shop.change("UPDATE smi.submissions SET deadline_at = deadline_at + interval '1 day'")
    assert compare(shop) == {"fetched again": 1}
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_a_lost_source_that_is_another_image_now_is_a_persons(shop: Steps, folder: Path) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (folder / (shop.job(job_id).source_key or "")).unlink()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=rocket"
    assert compare(shop) == {"missing": 1}
    assert "another picture" in task(shop).message
    assert f"smi jobs cancel {job_id}" in task(shop).next_step


def test_a_lost_source_that_its_host_codes_anew_is_fetched_again(shop: Steps, folder: Path) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (folder / (shop.job(job_id).source_key or "")).unlink()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 quality=60"
    assert compare(shop) == {"fetched again": 1}
    assert (folder / (shop.job(job_id).source_key or "")).read_bytes() == b"PNG 100 80 quality=60"
    assert compare(shop) == {}


@pytest.mark.parametrize("body", [b"PNG 100 90", b"GIF 100 80"])
def test_a_lost_source_of_another_size_or_format_is_a_persons(shop: Steps, folder: Path, body: bytes) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (folder / (shop.job(job_id).source_key or "")).unlink()
    shop.fetcher.bodies[shop.job(job_id).source_url] = body
    assert compare(shop) == {"missing": 1}


def test_the_comparison_of_files_waits_no_longer_for_a_host_than_a_customer(shop: Steps, folder: Path) -> None:
    job_id = shop.paid()
    shop.submit_due()
    (folder / (shop.job(job_id).source_key or "")).unlink()
    compare(shop)
    assert shop.fetcher.seconds[-1] == 60


def test_a_round_is_bounded_in_time_goes_on_where_it_was_and_is_made_once_an_hour(
    shop: Steps, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = put(folder, f"results/ff/ff{'0' * 30}-1.png", old=2 * DAY)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    read = shop.state.reconciliation.jobs_with_files

    def slow(*arguments):
        clock[0] += 6
        return read(*arguments)

    monkeypatch.setattr(shop.state.reconciliation, "jobs_with_files", slow)
    calls = 0
    while not shop.tasks():
        began = clock[0]
        compare_files(shop.ctx, seconds=20)
        assert clock[0] - began < 27
        calls += 1
        assert calls < 20
    assert calls == 4
    assert unknown.exists()
    ended = clock[0]
    compare_files(shop.ctx)
    assert clock[0] == ended, "not again within the hour"
    shop.later(hours=1)
    compare_files(shop.ctx)
    assert clock[0] > ended


def test_a_storage_that_cannot_be_listed_is_no_empty_storage(
    shop: Steps, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.delivered()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refused)
        with pytest.raises(TransientError):
            compare(shop)
    assert shop.tasks() == []
    assert shop.state.reconciliation.standing()["files"].age_seconds is None
