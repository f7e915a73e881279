import errno
import os
import shutil
import stat
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from smi_pipeline.adapters import storage as module
from smi_pipeline.adapters.storage import TEMPORARY_PREFIX, FileStorage
from smi_pipeline.core.errors import NotFound, RefusedError, TransientError
from smi_pipeline_tests import servers
from smi_pipeline_tests.stored_keys import stored_keys

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of moto's server."""
    with servers.s3("a-bucket") as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield "s3://a-bucket"


@pytest.fixture(params=["folder", "file-url", "memory", "s3"])
def storage(request: pytest.FixtureRequest, folder: Path) -> FileStorage:
    if request.param == "s3":
        return FileStorage(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")
    roots = {"folder": str(folder), "file-url": folder.as_uri(), "memory": f"memory://shop-{uuid.uuid4().hex}/files"}
    return FileStorage(roots[request.param])


@pytest.fixture
def local(folder: Path) -> FileStorage:
    return FileStorage(str(folder))


def test_what_was_put_is_read_back(storage: FileStorage, tmp_path: Path) -> None:
    original = tmp_path / "original.png"
    original.write_bytes(os.urandom(3_000_000))
    storage.put("results/ab/job.png", original)
    assert storage.size("results/ab/job.png") == 3_000_000
    with storage.open("results/ab/job.png") as file:
        assert file.read() == original.read_bytes()
    assert original.exists()


def test_an_opened_file_can_be_read_from_anywhere_for_ranges(storage: FileStorage) -> None:
    storage.put_bytes("a.bin", bytes(range(100)))
    with storage.open("a.bin") as file:
        assert file.seekable()
        file.seek(90)
        assert file.read(5) == bytes(range(90, 95))
        file.seek(-3, os.SEEK_END)
        assert file.read() == bytes([97, 98, 99])


def test_a_second_put_replaces_the_first(storage: FileStorage) -> None:
    storage.put_bytes("a.bin", b"first and longer")
    storage.put_bytes("a.bin", b"second")
    with storage.open("a.bin") as file:
        assert file.read() == b"second"
    assert stored_keys(storage) == ["a.bin"]


def test_an_empty_file_is_a_file(storage: FileStorage) -> None:
    storage.put_bytes("empty", b"")
    assert storage.size("empty") == 0
    assert stored_keys(storage) == ["empty"]


def test_names_of_all_languages_and_with_spaces_are_kept(storage: FileStorage) -> None:
    key = "quellen/Köln am Rhein ☀ 100% #1?.jpg"
    storage.put_bytes(key, b"x")
    assert stored_keys(storage) == [key]
    assert storage.size(key) == 1


def test_a_local_path_has_the_content_for_as_long_as_it_is_needed(storage: FileStorage) -> None:
    storage.put_bytes("results/job.png", b"content")
    with storage.local_path("results/job.png") as path:
        assert path.read_bytes() == b"content"
        assert path.suffix == ".png"
    assert storage.size("results/job.png") == 7


def test_a_folder_gives_the_real_path_and_a_remote_store_a_copy_that_goes_away(folder: Path) -> None:
    local, remote = FileStorage(str(folder)), FileStorage(f"memory://shop-{uuid.uuid4().hex}")
    for storage in (local, remote):
        storage.put_bytes("a/b.png", b"x")
    with local.local_path("a/b.png") as real, remote.local_path("a/b.png") as copy:
        assert real == folder / "a/b.png"
        assert copy.exists()
    assert real.exists()
    assert not copy.exists()


def test_a_missing_file_is_not_found(storage: FileStorage) -> None:
    storage.put_bytes("results/job.png", b"x")
    for key in ("nothing", "results", "results/other.png", "results/job.png/below"):
        with pytest.raises(NotFound):
            storage.open(key)
        with pytest.raises(NotFound):
            storage.size(key)
        with pytest.raises(NotFound), storage.local_path(key):
            pass


def test_deleting_is_done_once_and_may_be_repeated(storage: FileStorage) -> None:
    storage.put_bytes("a/b/c.png", b"x")
    storage.put_bytes("a/d.png", b"x")
    storage.delete("a/b/c.png")
    storage.delete("a/b/c.png")
    storage.delete("never/there.png")
    assert stored_keys(storage) == ["a/d.png"]


def test_keys_are_listed_in_order_by_the_text_they_begin_with(storage: FileStorage) -> None:
    for key in ("results/b.png", "results/a/1.png", "results/a.png", "sources/x.png", "results-old/y.png"):
        storage.put_bytes(key, b"x")
    assert stored_keys(storage, "results/") == ["results/a.png", "results/a/1.png", "results/b.png"]
    assert stored_keys(storage, "results/a") == ["results/a.png", "results/a/1.png"]
    assert stored_keys(storage, "results") == [
        "results-old/y.png", "results/a.png", "results/a/1.png", "results/b.png",
    ]  # fmt: skip
    assert len(stored_keys(storage)) == 5
    assert stored_keys(storage, "nothing/") == []


def test_an_empty_storage_lists_nothing(storage: FileStorage) -> None:
    assert stored_keys(storage) == []


@pytest.mark.parametrize(
    "key",
    [
        "", "/etc/passwd", "../x", "a/../../x", "a/..", "..", ".", "a/./b", "a//b", "a/", "a\\b", "..\\x", "a\0b",
        "a\nb", "C:/x", "s3://bucket/x", "x" * 300, "a/" * 600 + "b", f"a/{TEMPORARY_PREFIX}1",
    ],
)  # fmt: skip
def test_a_key_that_could_leave_the_root_is_refused_everywhere(storage: FileStorage, tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(RefusedError):
        storage.put(key, source)
    with pytest.raises(RefusedError):
        storage.put_bytes(key, b"x")
    for call in (storage.open, storage.size, storage.delete, storage.local_path):
        with pytest.raises(RefusedError):
            call(key)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../..", "a//"])
def test_a_prefix_cannot_leave_the_root_either(storage: FileStorage, prefix: str) -> None:
    with pytest.raises(RefusedError):
        storage.listing(prefix)


def test_a_full_disk_is_noticed_before_writing_and_named_in_bytes(
    local: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1_234))
    with pytest.raises(TransientError, match=r"5,000 bytes needed .* 1,234 free") as caught:
        local.put_bytes("a.bin", b"x" * 5_000)
    assert caught.value.counts is False
    assert list(folder.rglob("*")) == []


def test_a_disk_that_fills_up_while_writing_leaves_the_old_file_and_no_rubbish(
    local: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put_bytes("a.bin", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(TransientError, match="Not enough disk space"):
        local.put_bytes("a.bin", b"new")
    assert (folder / "a.bin").read_bytes() == b"old"
    assert [path.name for path in folder.iterdir()] == ["a.bin"]


def test_a_failing_disk_is_worth_another_try(local: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(TransientError, match="Input/output error"):
        local.put_bytes("a.bin", b"x")


def test_the_file_and_its_folders_are_on_disk_before_put_returns(
    local: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        what = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append(f"{what} {Path(f'/proc/self/fd/{descriptor}').readlink().name}"[:14])
        real(descriptor)

    monkeypatch.setattr(module.os, "fsync", note)
    local.put_bytes("a/b.bin", b"x")
    assert synced == [f"folder {folder.parent.name}"[:14], "folder files", f"file {TEMPORARY_PREFIX}"[:14], "folder a"]


def test_a_reader_never_sees_half_a_file(local: FileStorage) -> None:
    sizes = (10, 2_000_000)
    local.put_bytes("a.bin", b"x" * sizes[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            with local.open("a.bin") as file:
                seen.add(len(file.read()))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        local.put_bytes("a.bin", b"x" * sizes[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(sizes)


def test_a_put_survives_a_delete_that_takes_its_folder_away(local: FileStorage) -> None:
    failures: list[Exception] = []

    def churn(name: str) -> None:
        try:
            for _ in range(60):
                local.put_bytes(f"job/{name}", b"x")
                local.delete(f"job/{name}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_left_over_temporary_files_are_not_listed_and_are_swept_when_old(local: FileStorage, folder: Path) -> None:
    local.put_bytes("a/b.png", b"x")
    old, fresh = folder / f"a/{TEMPORARY_PREFIX}old", folder / f"a/{TEMPORARY_PREFIX}fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert stored_keys(local) == ["a/b.png"]
    assert local.sweep(older_than_seconds=3600) == 1
    assert fresh.exists()
    assert not old.exists()


def test_empty_folders_of_deleted_files_go_with_them_but_the_root_stays(local: FileStorage, folder: Path) -> None:
    local.put_bytes("results/2026/job/a.png", b"x")
    local.delete("results/2026/job/a.png")
    assert folder.exists()
    assert list(folder.iterdir()) == []


def test_a_listing_that_fails_is_never_taken_for_an_empty_one(
    local: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put_bytes("a/b.png", b"x")

    def broken(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.os, "scandir", broken)
    with pytest.raises(TransientError, match="Permission denied"):
        stored_keys(local)


def test_a_remote_service_that_fails_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        """Like those of cloud clients, which are no OSErrors."""

    def broken(*_: object, **__: object) -> None:
        raise ClientError("https://bucket.example.com/?secret")

    remote = FileStorage(f"memory://shop-{uuid.uuid4().hex}")
    filesystem = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(filesystem, "pipe_file", broken)
    monkeypatch.setattr(filesystem, "find", broken)
    with pytest.raises(TransientError, match="ClientError") as caught:
        remote.put_bytes("a.bin", b"x")
    assert "secret" not in str(caught.value)
    with pytest.raises(TransientError):
        stored_keys(remote)


def test_a_listing_says_how_large_and_how_old_each_file_is(storage: FileStorage) -> None:
    storage.put_bytes("a/b.bin", b"12345")
    storage.put_bytes("a.bin", b"1")
    listed = {file.key: file for file in storage.listing("")}
    assert {key: file.bytes for key, file in listed.items()} == {"a.bin": 1, "a/b.bin": 5}
    for file in listed.values():
        assert file.modified is not None
        assert abs(time.time() - file.modified) < 600
    assert [file.key for file in storage.listing("a/")] == ["a/b.bin"]


def test_a_bucket_that_is_not_there_is_named_and_worth_another_try(bucket: str) -> None:
    with pytest.raises(TransientError, match="there is no such bucket"):
        FileStorage(f"{bucket}-that-is-not-there").put_bytes("results/x.png", b"x")


def test_a_download_from_s3_reads_little_ahead(bucket: str) -> None:
    remote = FileStorage(f"{bucket}/{uuid.uuid4().hex}")
    remote.put_bytes("large.png", bytes(12_000_000))
    with remote.open("large.png") as stream:
        stream.read(1)
        cache: Any = stream
        assert len(cache.cache.cache) < 5_000_000
