"""Store files by key below one root: a folder, or an fsspec URL (s3://…, gs://…, memory://).

Keys are relative POSIX paths.
"""

import errno
import io
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from upath import UPath

from smi_pipeline.core.errors import LocalError, NotFound, RefusedError, SmiError, TransientError
from smi_pipeline.core.models import StoredFile
from smi_pipeline.privileges.accounts import as_owner_of

TEMPORARY_PREFIX = ".smi-tmp-"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_AHEAD_BYTES = 4 * 1024 * 1024
_SPARE_BYTES = 16 * 1024 * 1024  # the database and the logs are often on the same disk


def safe_key(key: str, *, prefix: bool = False) -> str:
    """Return `key` unchanged if it stays below the root on every kind of storage; a `prefix` may also be empty or end
    in `/`. Raises RefusedError otherwise."""
    if prefix and not key:
        return key
    segments = (key[:-1] if prefix and key.endswith("/") else key).split("/")
    if (
        len(key.encode("utf-8", "replace")) > 1024
        or "\\" in key
        or any(ord(character) < 32 or ord(character) == 127 for character in key)
        or any(segment in ("", ".", "..") for segment in segments)
        or any(segment.startswith(TEMPORARY_PREFIX) or len(segment.encode()) > 255 for segment in segments)
        or ":" in segments[0]  # a drive letter or a URL of its own
    ):
        raise RefusedError("The name of the file is not acceptable.")
    return key


def local_folder(root_url: str) -> Path | None:
    """The folder that a storage's URL names; None: it is a service."""
    root = UPath(root_url)
    return Path(root.path) if root.protocol in ("", "file", "local") else None


class FileStorage:
    """Implement `core.ports.StoragePort` on a folder (`/var/lib/smi`, `file:///…`) or an fsspec URL.

    Every method raises RefusedError for a key that could leave the root, NotFound for one that does not exist (except
    `delete`), and TransientError when the disk or the service fails.
    """

    def __init__(self, root_url: str) -> None:
        # Use a folder directly where there is one: fsspec has no fsync and no atomic rename.
        folder = local_folder(root_url)
        self._store = _Folder(folder) if folder else _Remote(root_url)

    def put(self, key: str, path: Path) -> None:
        """Store a copy of `path` under `key` atomically, replacing an existing file."""
        self._store.put(safe_key(key), path)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content` under `key` atomically, replacing an existing file."""
        self._store.put(safe_key(key), content)

    def open(self, key: str) -> BinaryIO:
        """Return a seekable binary stream, which the caller closes."""
        return self._store.open(safe_key(key))

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """Return the path of the file, or of a temporary copy that lives as long as the context. Read only."""
        return self._store.local_path(safe_key(key))

    def size(self, key: str) -> int:
        """Return the size in bytes."""
        return self._store.size(safe_key(key))

    def delete(self, key: str) -> None:
        """Remove a file if it exists."""
        self._store.delete(safe_key(key))

    def listing(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield the files whose keys begin with `prefix` (as text, like an object store), in order of their keys, with
        size and age as the storage lists them."""
        return self._store.listing(safe_key(prefix, prefix=True))

    def sweep(self, older_than_seconds: float = 3600) -> int:
        """Remove temporary files that a killed process left behind, and return how many."""
        return self._store.sweep(older_than_seconds)

    def shortage(self) -> str | None:
        """Return a message when there is too little space to store more, else None. Remote storage has enough."""
        return self._store.shortage()


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def shortage(self) -> str | None:
        # The root is created with the first file.
        folder = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return f"the disk does not answer ({error.strerror})"
        return None if free >= _SPARE_BYTES else f"{free:,} bytes are free, below the reserve of {_SPARE_BYTES:,}"

    def put(self, key: str, content: Path | bytes) -> None:
        target = self._root / key
        with (
            content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source,
            _failures(key, "stored"),
            as_owner_of(target.parent),
        ):
            size = source.seek(0, os.SEEK_END)
            for last_try in (False, False, True):
                source.seek(0)
                try:
                    return self._write(target, size, source)
                except FileNotFoundError:
                    # `delete` removed the empty folder between mkdir and write.
                    if last_try:
                        raise

    def _write(self, target: Path, size: int, source: BinaryIO) -> None:
        self._make_folder(target.parent)
        free = shutil.disk_usage(target.parent).free
        if free < size + _SPARE_BYTES:
            raise _disk_full(size, free)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, 1024 * 1024)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise _disk_full(size, shutil.disk_usage(self._root).free) from None
            raise
        _sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)  # a folder that is not yet on disk would lose the file

    def open(self, key: str) -> BinaryIO:
        with _failures(key, "read"):
            return self._file(key).open("rb")

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        with _failures(key, "read"):
            return nullcontext(self._file(key))

    def size(self, key: str) -> int:
        with _failures(key, "read"):
            return self._file(key).stat().st_size

    def _file(self, key: str) -> Path:
        path = self._root / key
        if not path.is_file():
            raise FileNotFoundError
        return path

    def delete(self, key: str) -> None:
        path = self._root / key
        with _failures(key, "deleted"), as_owner_of(path.parent):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            # Remove the order's empty folders; rmdir refuses one in use.
            for folder in path.parents:
                if folder == self._root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    def listing(self, prefix: str) -> Iterator[StoredFile]:
        folder = self._root / prefix.rpartition("/")[0]
        for path in self._walk(folder):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(TEMPORARY_PREFIX):
                with suppress(FileNotFoundError):  # deleted since it was listed
                    stat = path.stat()
                    yield StoredFile(key=key, bytes=stat.st_size, modified=stat.st_mtime)

    def _walk(self, folder: Path) -> Iterator[Path]:
        # os.walk would skip an unreadable folder, and a failed read must never look like "no files".
        with _failures(folder.name, "listed"):
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name + "/" * entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)

    def sweep(self, older_than_seconds: float) -> int:
        removed = 0
        for path in self._walk(self._root):
            with suppress(FileNotFoundError):
                if path.name.startswith(TEMPORARY_PREFIX) and path.stat().st_mtime < time.time() - older_than_seconds:
                    path.unlink()
                    removed += 1
        return removed


class _Remote:
    """Storage by fsspec. Object stores show only complete uploads, so no temporary keys are needed."""

    def __init__(self, root_url: str) -> None:
        self._url = root_url

    def shortage(self) -> str | None:
        return None

    def _at(self, key: str) -> tuple[Any, str]:
        # Built anew each time: fsspec caches one filesystem per process, and a kept one would share its sockets with
        # a forked child. A cached listing would hide other workers' files.
        root = UPath(self._url, use_listings_cache=False)
        return root.fs, root.path.rstrip("/") + ("/" + key if key else "")

    def put(self, key: str, content: Path | bytes) -> None:
        with _failures(key, "stored"):
            fs, path = self._at(key)
            # Not through an open file: fsspec completes its upload even when it is closed after an error.
            if isinstance(content, Path):
                fs.put_file(str(content), path)
            else:
                fs.pipe_file(path, content)

    def open(self, key: str) -> BinaryIO:
        with _failures(key, "read"):
            fs, path = self._at(key)
            if fs.info(path)["type"] != "file":
                raise FileNotFoundError
            # The default of s3fs reads 50 MB ahead, in memory, for each download.
            return cast(BinaryIO, fs.open(path, "rb", block_size=_READ_AHEAD_BYTES))

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="smi-storage-") as folder:
            copy = Path(folder) / key.rpartition("/")[2]
            with self.open(key) as source, _failures(key, "read"), copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            yield copy

    def size(self, key: str) -> int:
        with _failures(key, "read"):
            fs, path = self._at(key)
            info = fs.info(path)
            if info["type"] != "file":
                raise FileNotFoundError
            return int(info["size"])

    def delete(self, key: str) -> None:
        with _failures(key, "deleted"), suppress(FileNotFoundError):
            fs, path = self._at(key)
            fs.rm_file(path)

    def listing(self, prefix: str) -> Iterator[StoredFile]:
        with _failures(prefix, "listed"):
            fs, root = self._at("")
            folder = prefix.rpartition("/")[0]
            found = fs.find(f"{root}/{folder}" if folder else root, detail=True)
            # Some filesystems return a leading slash, some do not.
            start = len(root.strip("/")) + 1 if root.strip("/") else 0
            listed = {path.strip("/")[start:]: info for path, info in found.items()}
        for key in sorted(listed):
            if key.startswith(prefix):
                yield StoredFile(key=key, bytes=int(listed[key].get("size") or 0), modified=_modified(listed[key]))

    def sweep(self, older_than_seconds: float) -> int:
        return 0


def _modified(info: Mapping[str, Any]) -> float | None:
    """Return the time of the last change, which each filesystem of fsspec names differently."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        with suppress(ValueError, OSError):
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                return value.timestamp()
            if isinstance(value, int | float):
                return float(value)
    return None


@contextmanager
def _failures(key: str, action: str) -> Iterator[None]:
    """Translate failures of a disk or a service into our errors. Client libraries raise their own exceptions, so all
    others count as transient."""
    try:
        yield
    except SmiError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        if action in ("read", "deleted"):
            raise NotFound("There is no such file in the storage.") from error
        cause = error.strerror or "there is no such bucket"
        raise TransientError(f"The file {key!r} could not be {action}: {cause}") from error
    except Exception as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        if isinstance(error, ImportError):  # of a library that only this kind of storage needs: it says which one
            cause = str(error)
        raise TransientError(f"The file {key!r} could not be {action}: {cause}") from error


def _disk_full(needed: int, free: int) -> LocalError:
    return LocalError(
        f"Not enough disk space: {needed:,} bytes needed beside a reserve of {_SPARE_BYTES:,}, {free:,} free.",
        retry_after=60.0,
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
