"""Files of the storage: removed when their links have expired, and compared with the rows that name them.

A file without a row is removed automatically only when it is the left-over of a closed job that names other files or
none. A file of an unknown job or round may belong to a row that was lost with a restored database: it becomes a manual
task.
"""

import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta

from pydantic import Field

from smi_pipeline.core.errors import NotFound, SmiError
from smi_pipeline.core.models import StoredFile
from smi_pipeline.core.vocabulary import FetchKind, ManualTaskKind, Status
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.services.one_object import kept_apart
from smi_pipeline.services.reconciliation.progress import Progress
from smi_pipeline.services.submit import as_ordered
from smi_pipeline.state.reconciliation import JobFiles

CURSOR = "files_compared"

EVERY = timedelta(hours=1)
"""How often all files are compared: on an object store each comparison costs 512 listings."""

DIGITS = "0123456789abcdef"
"""Files are compared by the first digit of the job's id; keys begin with two digits, after their kind."""

UNMATCHED_AFTER, REMOVE_AFTER = 3600.0, 86_400.0
"""Age in seconds by the storage's clock: a file is stored before its row names it."""

_KEY = re.compile(
    r"(?:sources/[0-9a-f]{2}/([0-9a-f]{32})|results/[0-9a-f]{2}/([0-9a-f]{32})-(\d{1,9}))-[0-9a-f]{16}\.\w+"
)


def sweep_temporary_files(ctx: ServiceContext) -> int:
    """Remove what killed processes have left half written. Return the number of files."""
    return ctx.storage.sweep() + ctx.fetcher.sweep()


def remove_expired_files(ctx: ServiceContext, limit: int = 200) -> int:
    """Remove sources and results whose links expired a day ago. Return the number of jobs."""
    ctx.state.jobs.forget_closed_pictures()
    removed = 0
    for job_id in ctx.state.deliveries.expired_files(limit):
        # The row first: a job that was retried meanwhile keeps its files. What a crash leaves is removed as left over.
        keys = ctx.state.deliveries.give_up_files(job_id)
        for key in keys:
            with kept_apart(ctx, f"the removal of {key}", job_id=job_id, told=False):
                ctx.storage.delete(key)
        removed += bool(keys)
    return removed


class _Place(Progress):
    """How far the storage was compared, and what was found of it."""

    shard: int | None = None  # None: no comparison is under way
    unexplained: int = 0
    unexplained_bytes: int = 0
    examples: list[str] = Field(default_factory=list)


def compare_files(ctx: ServiceContext, *, seconds: float = 20.0, spot_checks: int = 3) -> Counter[str]:
    """Compare the storage with the rows for `seconds`, from where the last call has ended; everything at most once an
    hour. Also read some delivered files and compare their SHA-256. Return the number of files per result.

    Raise TransientError when the storage or the database does not answer; then nothing is removed. Any other error
    about one file stays with it.
    """
    now = ctx.state.submissions.now()
    place = _Place.model_validate_json(ctx.state.reconciliation.cursor(CURSOR) or "{}")
    tally: Counter[str] = Counter()
    if place.shard is None:
        if place.ended and now - place.ended < EVERY:
            return tally
        place = _Place(shard=0, ended=place.ended)
    comparison = _Comparison(ctx, place, tally)
    ends = time.monotonic() + seconds
    shard = place.shard or 0
    while shard < len(DIGITS):
        comparison.shard(DIGITS[shard])
        shard += 1
        if time.monotonic() > ends:
            break
    place.shard = shard
    comparison.read_some(spot_checks, ends)
    if shard == len(DIGITS):
        place.shard, place.ended = None, now
        comparison.report_unmatched()
    ctx.state.reconciliation.set_cursor(CURSOR, place.model_dump_json())
    return tally


class _Comparison:
    def __init__(self, ctx: ServiceContext, place: _Place, tally: Counter[str]) -> None:
        self._ctx, self._place, self._tally = ctx, place, tally
        self._open_tasks = {(task.kind, task.subject) for task in ctx.state.manual_tasks.opened()}
        self._delivered: list[JobFiles] = []

    def shard(self, shard: str) -> None:
        """Compare the files of the jobs whose ids begin with `shard`."""
        found = {file.key: file for file in self._listed(shard)}
        # Read after the listing: a file stored meanwhile is missing from the list, so it is looked up individually.
        window = self._ctx.policy.download_ttl + timedelta(days=3)
        rows = self._ctx.state.reconciliation.jobs_with_files(shard, window)
        for row in rows:
            with self._apart(f"the comparison of the files of job {row.job_id}", row.job_id):
                self._row(row, found)
        named = {key for row in rows for key in (row.source_key, row.result_key)}
        self._unnamed([file for key, file in found.items() if key not in named])
        self._tally["compared"] += len(found)

    def _listed(self, shard: str) -> Iterator[StoredFile]:
        for kind in ("sources", "results"):
            for digit in DIGITS:
                yield from self._ctx.storage.listing(f"{kind}/{shard}{digit}/")

    # -- files without a row

    def _unnamed(self, files: list[StoredFile]) -> None:
        old = [file for file in files if _age(file) > UNMATCHED_AFTER]
        jobs = {file.key: _job_of(file.key) for file in old}
        if not old:
            return
        claims = self._ctx.state.reconciliation.claims(sorted({job for job, _ in jobs.values() if job}))
        for file in old:
            job_id, number = jobs[file.key]
            row = claims.get(job_id or "")
            if row is None or number > row.fulfilment_round:
                self._unmatched(file)
            elif file.key not in row.keys and row.at_rest:
                with self._apart(f"the removal of {file.key}", job_id):
                    self._left_over(file, job_id or "")

    def _left_over(self, file: StoredFile, job_id: str) -> None:
        if _age(file) <= REMOVE_AFTER:
            self._tally["left over"] += 1
            return
        # Asked once more, as late as possible: an admin may have retried the job.
        row = self._ctx.state.reconciliation.claims([job_id]).get(job_id)
        if row and row.at_rest and file.key not in row.keys:
            self._ctx.storage.delete(file.key)
            self._tally["removed"] += 1

    def _unmatched(self, file: StoredFile) -> None:
        self._tally["unexplained"] += 1
        self._place.unexplained += 1
        self._place.unexplained_bytes += file.bytes
        if len(self._place.examples) < 3:
            self._place.examples.append(file.key)

    def report_unmatched(self) -> None:
        """Open a manual task for the files without a row, or close it when there are none."""
        place = self._place
        if not place.unexplained:
            if (ManualTaskKind.UNMATCHED_FILES, "storage") in self._open_tasks:
                self._ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_FILES, "storage", actor=self._ctx.actor)
            return
        self._ctx.state.manual_tasks.open(
            kind=ManualTaskKind.UNMATCHED_FILES,
            subject="storage",
            message=f"{place.unexplained} file(s) in the storage ({place.unexplained_bytes:,} bytes) belong to no "
            f"upscale job we know, for example {', '.join(place.examples)}.",
            next_step="Was the database restored, or do two installations share SMI_STORAGE_URL? They are never "
            "removed automatically: remove by hand what nobody needs.",
        )

    # -- rows without a file

    def _row(self, row: JobFiles, found: dict[str, StoredFile]) -> None:
        if row.status is Status.COMPLETED and row.link and row.result_key:
            self._result(row, row.result_key, found.get(row.result_key))
        elif row.status is Status.PROCESSING and row.source_key and row.source_key not in found:
            self._source(row, row.source_key)

    def _result(self, row: JobFiles, key: str, file: StoredFile | None) -> None:
        job_id = row.job_id
        size = file.bytes if file else self._size(key)
        if size is None:
            self._tally["missing"] += 1
            self._report(
                ManualTaskKind.FILE_MISSING,
                job_id,
                f"The delivered file of job {job_id} is missing from the storage.",
                f"Restore {key}, or run `smi jobs retry {job_id} --admin-override`.",
            )
        elif size != row.result_bytes:
            self._damaged(row, f"has {size:,} bytes instead of {row.result_bytes or 0:,}")
        else:
            self._close(ManualTaskKind.FILE_MISSING, job_id)
            self._delivered.append(row)

    def _size(self, key: str) -> int | None:
        try:
            return self._ctx.storage.size(key)
        except NotFound:
            return None

    def read_some(self, count: int, ends: float) -> None:
        """Read some delivered files to their end, those first that were damaged before."""
        random.shuffle(self._delivered)
        self._delivered.sort(key=lambda row: (ManualTaskKind.FILE_DAMAGED, row.job_id) not in self._open_tasks)
        for row in self._delivered[:count]:
            if time.monotonic() > ends and self._tally["read"]:
                return
            with self._apart(f"the reading of the delivered file of job {row.job_id}", row.job_id):
                self._read(row)

    def _read(self, row: JobFiles) -> None:
        try:
            with self._ctx.storage.open(row.result_key or "") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # its protocol asks for more than it uses
        except NotFound:
            return  # removed since; the next comparison reports it if it should be there
        self._tally["read"] += 1
        if content == row.result_sha256:
            self._close(ManualTaskKind.FILE_DAMAGED, row.job_id)
        else:
            self._damaged(row, "does not have the content that was checked")

    def _damaged(self, row: JobFiles, how: str) -> None:
        self._tally["damaged"] += 1
        self._report(
            ManualTaskKind.FILE_DAMAGED,
            row.job_id,
            f"The delivered file of job {row.job_id} {how}.",
            f"Restore {row.result_key}, or run `smi jobs retry {row.job_id} --admin-override`.",
        )

    def _source(self, row: JobFiles, key: str) -> None:
        """Fetch the missing source of a job in processing again: without it the result cannot be checked."""
        if self._size(key) is not None:
            return
        job_id = row.job_id
        try:
            limit = self._ctx.policy.max_source_bytes
            seconds = self._ctx.policy.order_download.total_seconds()  # the comparison itself has not much more
            with self._ctx.fetcher.fetch(
                row.source_url, kind=FetchKind.SOURCE, max_bytes=limit, seconds=seconds
            ) as fetched:
                job = self._ctx.state.queries.job(job_id)
                if job is None:
                    return
                as_ordered(self._ctx, job, fetched.path)
                self._ctx.storage.put(key, fetched.path)
                self._tally["fetched again"] += 1
                self._close(ManualTaskKind.FILE_MISSING, job_id)
                return
        except SmiError as error:
            why = str(error)
        self._tally["missing"] += 1
        self._report(
            ManualTaskKind.FILE_MISSING,
            job_id,
            f"The stored source of job {job_id} is missing from the storage and cannot be fetched again: {why}.",
            f"Restore {key}, or return the payment with `smi jobs cancel {job_id}`.",
        )

    def _report(self, kind: ManualTaskKind, job_id: str, message: str, next_step: str) -> None:
        log.error(message)
        self._ctx.state.manual_tasks.open(
            kind=kind, subject=job_id, job_id=job_id, message=message, next_step=next_step
        )

    def _apart(self, subject: str, job_id: str | None) -> AbstractContextManager[None]:
        told = (ManualTaskKind.UNEXPECTED, subject) in self._open_tasks
        return kept_apart(self._ctx, subject, job_id=job_id, told=told)

    def _close(self, kind: ManualTaskKind, job_id: str) -> None:
        if (kind, job_id) in self._open_tasks:
            self._ctx.state.manual_tasks.close(kind, job_id, actor=self._ctx.actor)


def _age(file: StoredFile) -> float:
    """Return the age in seconds; 0 when the storage does not tell it: then a file is never old enough."""
    return time.time() - file.modified if file.modified is not None else 0.0


def _job_of(key: str) -> tuple[str | None, int]:
    """Return the job and round of a key; (None, 0) for a name that is not ours."""
    found = _KEY.fullmatch(key)
    return (found[1] or found[2], int(found[3] or 0)) if found else (None, 0)
