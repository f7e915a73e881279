"""Leases are the queue (design section 4): who may work on which row, until when, and when a row is due again."""

import uuid

from smi_pipeline.core.models import Queue
from smi_pipeline.state.database import Database

LEASE_SECONDS = 45
"""How long a lease lasts without renewal. Renewed every 10 s: four misses in a row make a worker dead."""

LONGEST_WAIT_SECONDS = 5
"""A row whose lease ran out so long ago goes before new work: under load there is always some, and the jobs of a dead
worker are to be running again within a minute."""

AFTER_A_DEATH = 8
"""Rows that died together once are leased again in groups of so many: a whole batch by single rows would take minutes.
Who dies a second time goes alone."""

BATCH_SECONDS = 5
"""A lease never holds more than about this much estimated work, so that the first mail of a batch comes early."""

# Per queue: table, its key columns with their types, and which rows are work.
_WORK: dict[Queue, tuple[str, dict[str, str], str]] = {
    Queue.SUBMIT: ("smi.upscale_jobs", {"job_id": "text"}, "queue = 'submit' AND hold_reason IS NULL"),
    Queue.FULFIL: ("smi.upscale_jobs", {"job_id": "text"}, "queue = 'fulfil'"),
    Queue.REFUND: ("smi.refunds", {"refund_row": "bigint"}, "state IN ('owed', 'pending')"),
    Queue.MAIL: (
        "smi.emails",
        {"job_id": "text", "kind": "text", "serial": "integer"},
        "state IN ('claimed', 'handed_over')",
    ),
}

# Estimated seconds of one row: a call, plus for images the decoding, measured per megapixel.
_SECONDS = {
    Queue.SUBMIT: "0.15 + source_width::float * source_height / 1e6 * 0.05",
    Queue.FULFIL: "0.15 + source_width::float * source_height * scale * scale / 1e6 * 0.05",
    Queue.REFUND: "0.6",
    Queue.MAIL: "0.15",
}


def _where_key(keys: dict[str, str], work_key: str) -> tuple[str, dict[str, str]]:
    """A condition on the key columns (so that their index serves) and its parameters."""
    condition = " AND ".join(f"{name} = CAST(:key_{name} AS {kind})" for name, kind in keys.items())
    return condition, {f"key_{name}": part for name, part in zip(keys, work_key.split("/"), strict=True)}


def _after_a_death(limit: int) -> tuple[tuple[str, int], ...]:
    """Which rows whose lease ran out may be leased together, and how many of them."""
    return ("attempts = 0", limit), ("attempts = 1", min(limit, AFTER_A_DEATH)), ("attempts > 1", 1)


class Leases:
    """Who may work on which row, until when, and when a row is due again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, queue: Queue, limit: int, *, max_leases: int | None = None) -> tuple[str, list[str]] | None:
        """Leases up to `limit` due rows: (lease_id, work keys), or None when nothing is due or `max_leases` leases of
        this queue are live. A row whose last lease ran out without a recorded error is leased alone."""
        table, keys, work = _WORK[queue]
        key = ", ".join(keys)
        due = f"{work} AND next_attempt_at <= smi.now()"
        with self._database.transaction() as tx:
            if max_leases is not None:
                live = tx.value(
                    f"SELECT count(DISTINCT lease_id) FROM {table} WHERE lease_until > smi.now() AND {work}"
                )
                if live >= max_leases:
                    return None
            lease_id = uuid.uuid4().hex
            # A row whose last lease ran out without a recorded error may have killed its worker: the second time it
            # goes alone, so that one poisonous row never convicts its batch mates. If no run took it up, it has
            # killed nobody. New work goes first, but not for long.
            over = "lease_until <= smi.now()"
            waited = f"lease_until <= smi.now() - interval '{LONGEST_WAIT_SECONDS} seconds'"
            choices = [(f"{waited} AND {taken_up}", count) for taken_up, count in _after_a_death(limit)]
            choices.append(("lease_id IS NULL", limit))
            choices += [(f"{over} AND {taken_up}", count) for taken_up, count in _after_a_death(limit)]
            for which, count in choices:
                rows = tx.rows(
                    f"""WITH due AS (
                            SELECT {key}, next_attempt_at, {_SECONDS[queue]} AS estimate
                            FROM {table} WHERE {due} AND {which}
                            ORDER BY next_attempt_at LIMIT :count FOR UPDATE SKIP LOCKED),
                        batch AS (
                            SELECT *, sum(estimate) OVER (ORDER BY next_attempt_at, {key}) - estimate AS before
                            FROM due)
                        UPDATE {table} SET lease_id = :lease_id,
                               lease_until = smi.now() + make_interval(secs => :seconds)
                        WHERE ({key}) IN (SELECT {key} FROM batch WHERE before < :batch_seconds)
                        RETURNING concat_ws('/', {key}) AS work_key, next_attempt_at""",
                    lease_id=lease_id,
                    seconds=LEASE_SECONDS,
                    batch_seconds=BATCH_SECONDS,
                    count=count,
                )
                if rows:
                    ordered = sorted(rows, key=lambda row: row["next_attempt_at"])
                    return lease_id, [row["work_key"] for row in ordered]
        return None

    def lease_one(self, queue: Queue, work_key: str) -> str | None:
        """Leases and takes up one row, due or not, that nobody has. Returns the lease_id or None."""
        table, keys, work = _WORK[queue]
        condition, parameters = _where_key(keys, work_key)
        lease_id = uuid.uuid4().hex
        with self._database.transaction() as tx:
            taken = tx.run(
                f"""UPDATE {table} SET lease_id = :lease_id, attempts = attempts + 1,
                           lease_until = smi.now() + make_interval(secs => :seconds)
                    WHERE {condition} AND {work} AND (lease_id IS NULL OR lease_until <= smi.now())""",
                lease_id=lease_id,
                seconds=LEASE_SECONDS,
                **parameters,
            )
        return lease_id if taken else None

    def due(self, queue: Queue) -> int:
        """Rows that are due and leased by nobody."""
        table, _, work = _WORK[queue]
        with self._database.transaction() as tx:
            return tx.value(
                f"SELECT count(*) FROM {table} WHERE {work} AND next_attempt_at <= smi.now() AND lease_id IS NULL"
            )

    def start(self, queue: Queue, lease_id: str) -> list[str]:
        """A run begins to work on its lease: the work keys in order of their due time. Each row's `attempts` is raised
        and committed before any work; a lease whose run never starts is no attempt."""
        table, keys, _ = _WORK[queue]
        with self._database.transaction() as tx:
            rows = tx.rows(
                f"""UPDATE {table} SET attempts = attempts + 1 WHERE lease_id = :lease_id
                    RETURNING concat_ws('/', {", ".join(keys)}) AS work_key, next_attempt_at""",
                lease_id=lease_id,
            )
        return [row["work_key"] for row in sorted(rows, key=lambda row: row["next_attempt_at"])]

    def renew(self, lease_id: str) -> int:
        """Prolongs a live lease; returns the number of rows. A lease that ran out is not revived."""
        with self._database.transaction() as tx:
            return sum(
                tx.run(
                    f"""UPDATE {table} SET lease_until = smi.now() + make_interval(secs => :seconds)
                        WHERE lease_id = :lease_id AND lease_until > smi.now()""",
                    lease_id=lease_id,
                    seconds=LEASE_SECONDS,
                )
                for table in ("smi.upscale_jobs", "smi.refunds", "smi.emails")
            )

    def give_back(self, lease_id: str) -> int:
        """Ends a lease whose run could not be started: the rows are due again."""
        with self._database.transaction() as tx:
            return sum(
                tx.run(
                    f"""UPDATE {table} SET lease_id = NULL, lease_until = NULL
                        WHERE lease_id = :lease_id""",
                    lease_id=lease_id,
                )
                for table in ("smi.upscale_jobs", "smi.refunds", "smi.emails")
            )

    def reschedule(
        self, queue: Queue, work_key: str, lease_id: str, *, seconds: float, error: str, counts: bool
    ) -> bool:
        """Ends the lease of one row, due again in `seconds`. False when the lease was lost."""
        table, keys, _ = _WORK[queue]
        condition, parameters = _where_key(keys, work_key)
        with self._database.transaction() as tx:
            return bool(
                tx.run(
                    f"""UPDATE {table} SET lease_id = NULL, lease_until = NULL, last_error = :error,
                               attempts = greatest(attempts - :uncounted, 0),
                               next_attempt_at = smi.now() + make_interval(secs => :seconds)
                        WHERE {condition} AND lease_id = :lease_id""",
                    lease_id=lease_id,
                    seconds=seconds,
                    error=error[:500],
                    uncounted=0 if counts else 1,
                    **parameters,
                )
            )
