"""Files of the storage: removed when their links have expired (W24), compared with the rows that name them.

Removed by itself is only what a row explains: the left-over of a job that is closed, is not worked on and names
other files or none. A file of a job that we do not know, or of a round that we do not know, may be somebody's whose
row was lost with a restored database: a person is told.
"""

import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from smi_pipeline.core.errors import NotFound, SmiError
from smi_pipeline.core.models import StoredFile
from smi_pipeline.services.context import ServiceContext, log

CURSOR = "files_compared"

EVERY = timedelta(hours=1)
"""How often all files are compared: on an object store each round costs 512 listings."""

DIGITS = "0123456789abcdef"
"""Compared is by the first digit of the job's id; keys begin with two of them, after their kind."""

ORPHAN_AFTER, REMOVE_AFTER = 3600.0, 86_400.0
"""Age in seconds by the storage's clock: a file is stored before its row names it."""

_KEY = re.compile(
    r"(?:sources/[0-9a-f]{2}/([0-9a-f]{32})|results/[0-9a-f]{2}/([0-9a-f]{32})-(\d{1,9}))-[0-9a-f]{16}\.\w+"
)


def sweep_temporary_files(ctx: ServiceContext) -> int:
    """Removes what killed processes have left half written. Returns the number of files."""
    return ctx.storage.sweep() + ctx.fetcher.sweep()


def remove_expired_files(ctx: ServiceContext, limit: int = 200) -> int:
    """Removes sources and results whose links have expired for a day (W24). Returns the number of jobs."""
    removed = 0
    for job_id in ctx.state.deliveries.expired_files(limit):
        # The row first: a job that was taken up again meanwhile keeps its files. What a crash leaves is an orphan.
        keys = ctx.state.deliveries.give_up_files(job_id)
        for key in keys:
            ctx.storage.delete(key)
        removed += bool(keys)
    return removed


@dataclass(kw_only=True)
class _Round:
    """How far the storage was compared; kept between calls."""

    shard: int | None = None  # None: no round is under way
    ended: str | None = None
    unexplained: int = 0
    unexplained_bytes: int = 0
    examples: list[str] = field(default_factory=list)


def compare_files(ctx: ServiceContext, *, seconds: float = 20.0, spot_checks: int = 3) -> Counter[str]:
    """Goes on comparing the storage with the rows for so many seconds; a whole round at most once an hour. Some
    delivered files are read and compared by their SHA-256 as well. Returns how many files had which result.

    Raises TransientError when the storage or the database does not answer; then nothing is removed.
    """
    now = ctx.state.submissions.now()
    place = _Round(**json.loads(ctx.state.intake.cursor(CURSOR) or "{}"))
    tally: Counter[str] = Counter()
    if place.shard is None:
        if place.ended and now - datetime.fromisoformat(place.ended) < EVERY:
            return tally
        place = _Round(shard=0, ended=place.ended)
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
        place.shard, place.ended = None, now.astimezone(UTC).isoformat()
        comparison.tell_of_unexplained()
    ctx.state.intake.set_cursor(CURSOR, json.dumps(vars(place)))
    return tally


class _Comparison:
    def __init__(self, ctx: ServiceContext, place: _Round, tally: Counter[str]) -> None:
        self._ctx, self._place, self._tally = ctx, place, tally
        self._told = {(task.kind, task.subject) for task in ctx.state.manual_tasks.opened()}
        self._delivered: list[dict[str, Any]] = []

    def shard(self, shard: str) -> None:
        """Compares the files of the jobs whose ids begin so."""
        found = {file.key: file for file in self._listed(shard)}
        # Read after the listing: what is stored meanwhile is missing from the list, and asked for singly.
        window = self._ctx.policy.download_ttl + timedelta(days=3)
        rows = self._ctx.state.reconciliation.jobs_with_files(shard, window)
        for row in rows:
            self._row(row, found)
        named = {key for row in rows for key in (row["source_key"], row["result_key"])}
        self._orphans([file for key, file in found.items() if key not in named])
        self._tally["compared"] += len(found)

    def _listed(self, shard: str) -> Iterator[StoredFile]:
        for kind in ("sources", "results"):
            for digit in DIGITS:
                yield from self._ctx.storage.listing(f"{kind}/{shard}{digit}/")

    # -- files without a row

    def _orphans(self, files: list[StoredFile]) -> None:
        old = [file for file in files if _age(file) > ORPHAN_AFTER]
        jobs = {file.key: _job_of(file.key) for file in old}
        if not old:
            return
        claims = self._ctx.state.reconciliation.claims(sorted({job for job, _ in jobs.values() if job}))
        for file in old:
            job_id, number = jobs[file.key]
            row = claims.get(job_id or "")
            if row is None or number > row["round"]:
                self._unexplained(file)
            elif file.key not in (row["source_key"], row["result_key"]) and row["at_rest"]:
                self._left_over(file, job_id or "")

    def _left_over(self, file: StoredFile, job_id: str) -> None:
        if _age(file) <= REMOVE_AFTER:
            self._tally["left over"] += 1
            return
        # Asked once more, as late as can be: an admin may have taken the job up again.
        row = self._ctx.state.reconciliation.claims([job_id]).get(job_id)
        if row and row["at_rest"] and file.key not in (row["source_key"], row["result_key"]):
            self._ctx.storage.delete(file.key)
            self._tally["removed"] += 1

    def _unexplained(self, file: StoredFile) -> None:
        self._tally["unexplained"] += 1
        self._place.unexplained += 1
        self._place.unexplained_bytes += file.bytes
        if len(self._place.examples) < 3:
            self._place.examples.append(file.key)

    def tell_of_unexplained(self) -> None:
        """Names the files without a row to a person, as long as there are some."""
        place = self._place
        if not place.unexplained:
            if ("orphan_files", "storage") in self._told:
                self._ctx.state.manual_tasks.close("orphan_files", "storage", actor=self._ctx.actor)
            return
        self._ctx.state.manual_tasks.open(
            kind="orphan_files",
            subject="storage",
            job_id=None,
            message=f"{place.unexplained} file(s) in the storage ({place.unexplained_bytes:,} bytes) belong to no "
            f"upscale job we know, for example {', '.join(place.examples)}.",
            next_step="Was the database restored, or do two installations share SMI_STORAGE_URL? They are never "
            "removed by themselves: remove by hand what nobody needs.",
        )

    # -- rows without a file

    def _row(self, row: dict[str, Any], found: dict[str, StoredFile]) -> None:
        if row["status"] == "completed" and row["link"] and row["result_key"]:
            self._result(row, found.get(row["result_key"]))
        elif row["status"] == "processing" and row["source_key"] and row["source_key"] not in found:
            self._source(row)

    def _result(self, row: dict[str, Any], file: StoredFile | None) -> None:
        job_id = row["job_id"]
        size = file.bytes if file else self._size(row["result_key"])
        if size is None:
            self._tally["missing"] += 1
            self._tell(
                "file_missing",
                job_id,
                f"The delivered file of job {job_id} is missing from the storage.",
                f"Restore {row['result_key']}, or run `smi jobs retry {job_id} --admin-override`.",
            )
        elif size != row["result_bytes"]:
            self._damaged(row, f"has {size:,} bytes instead of {row['result_bytes']:,}")
        else:
            self._fine("file_missing", job_id)
            self._delivered.append(row)

    def _size(self, key: str) -> int | None:
        try:
            return self._ctx.storage.size(key)
        except NotFound:
            return None

    def read_some(self, count: int, ends: float) -> None:
        """Reads some delivered files to their end; those first that were damaged before."""
        random.shuffle(self._delivered)
        self._delivered.sort(key=lambda row: ("file_damaged", row["job_id"]) not in self._told)
        for row in self._delivered[:count]:
            if time.monotonic() > ends and self._tally["read"]:
                return
            try:
                with self._ctx.storage.open(row["result_key"]) as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            except NotFound:
                continue  # removed since; the next round says if it should not have been
            self._tally["read"] += 1
            if content == row["result_sha256"]:
                self._fine("file_damaged", row["job_id"])
            else:
                self._damaged(row, "does not have the content that was checked")

    def _damaged(self, row: dict[str, Any], how: str) -> None:
        self._tally["damaged"] += 1
        self._tell(
            "file_damaged",
            row["job_id"],
            f"The delivered file of job {row['job_id']} {how}.",
            f"Restore {row['result_key']}, or run `smi jobs retry {row['job_id']} --admin-override`.",
        )

    def _source(self, row: dict[str, Any]) -> None:
        """The source of a job at work is gone: its result could not be compared. It is fetched once more."""
        if self._size(row["source_key"]) is not None:
            return
        job_id = row["job_id"]
        try:
            limit = self._ctx.policy.max_source_bytes
            with self._ctx.fetcher.fetch(row["source_url"], kind="source", max_bytes=limit) as fetched:
                if fetched.sha256 == row["source_sha256"]:
                    self._ctx.storage.put(row["source_key"], fetched.path)
                    self._tally["fetched again"] += 1
                    self._fine("file_missing", job_id)
                    return
                why = "the shop has another image there now"
        except SmiError as error:
            why = str(error)
        self._tally["missing"] += 1
        self._tell(
            "file_missing",
            job_id,
            f"The kept source of job {job_id} is missing from the storage and cannot be fetched again: {why}.",
            f"Restore {row['source_key']}, or return the payment with `smi jobs cancel {job_id}`.",
        )

    def _tell(self, kind: str, job_id: str, message: str, next_step: str) -> None:
        log.error(message)
        self._ctx.state.manual_tasks.open(
            kind=kind, subject=job_id, job_id=job_id, message=message, next_step=next_step
        )

    def _fine(self, kind: str, job_id: str) -> None:
        if (kind, job_id) in self._told:
            self._ctx.state.manual_tasks.close(kind, job_id, actor=self._ctx.actor)


def _age(file: StoredFile) -> float:
    """Seconds; none when the storage does not say: then a file is never old enough."""
    return time.time() - file.modified if file.modified is not None else 0.0


def _job_of(key: str) -> tuple[str | None, int]:
    """The job and round that a key speaks of; (None, 0) for a name that is not ours."""
    found = _KEY.fullmatch(key)
    return (found[1] or found[2], int(found[3] or 0)) if found else (None, 0)
