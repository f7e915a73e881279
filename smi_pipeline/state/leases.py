"""Leases are the queue: who may work on which row, until when, and when a row is due again."""

import itertools
import uuid

from smi_pipeline.core.allowance import Room
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import UNFINISHED_REFUNDS, UNSENT, Queue
from smi_pipeline.state import breakers
from smi_pipeline.state.database import Aggregate, Row, in_
from smi_pipeline.state.starts import room_to_start

LEASE_SECONDS = 45
"""How long a lease lasts without renewal. Renewed every 10 s: four misses in a row make a worker dead."""

LONGEST_WAIT_SECONDS = 5
"""A row whose lease expired this long ago goes before new work: under load there is always some, and the jobs of a dead
worker shall run again within a minute."""

AFTER_A_DEATH = 8
"""Size of the groups in which the rows of a dead worker are leased again: row by row, a batch would take minutes. Rows
whose worker died twice are leased alone."""

BATCH_SECONDS = 5
"""A lease never holds more than about this much estimated work, so that the first mail of a batch comes early."""

# Per queue: table, its key columns with their types, and which rows are work.
_WORK: dict[Queue, tuple[str, dict[str, str], str]] = {
    Queue.SUBMIT: ("smi.upscale_jobs", {"job_id": "text"}, f"queue = '{Queue.SUBMIT}' AND hold_reason IS NULL"),
    Queue.FULFIL: ("smi.upscale_jobs", {"job_id": "text"}, f"queue = '{Queue.FULFIL}'"),
    Queue.REFUND: ("smi.refunds", {"refund_row": "bigint"}, f"state IN {in_(UNFINISHED_REFUNDS)}"),
    Queue.MAIL: (
        "smi.emails",
        {"job_id": "text", "kind": "text", "serial": "integer"},
        f"state IN {in_(UNSENT)}",
    ),
}

_TABLES = tuple(dict.fromkeys(table for table, _, _ in _WORK.values()))

# Jobs start in the order in which their payments were recorded, other rows in that of their due time.
_ORDER = dict.fromkeys(Queue, "next_attempt_at") | {Queue.SUBMIT: "coalesce(learned_at, created_at)"}

_START_LOCK = 727_464_004
"""pg_advisory_xact_lock key: one lease of jobs for submission at a time, so that a free call is given out once."""

# Estimated seconds of one row: a call, plus for images the decoding, measured per megapixel.
_SECONDS = {
    Queue.SUBMIT: "0.15 + source_width::float * source_height / 1e6 * 0.05",
    Queue.FULFIL: "0.15 + source_width::float * source_height * scale * scale / 1e6 * 0.05",
    Queue.REFUND: "0.6",
    Queue.MAIL: "0.15",
}


def _where_key(keys: dict[str, str], work_key: str) -> tuple[str, dict[str, str]]:
    """Return a condition on the key columns, which their index serves, and its parameters."""
    condition = " AND ".join(f"{name} = CAST(:key_{name} AS {kind})" for name, kind in keys.items())
    return condition, {f"key_{name}": part for name, part in zip(keys, work_key.split("/"), strict=True)}


def _after_a_death(limit: int) -> tuple[tuple[str, int], ...]:
    """Return which rows with an expired lease may be leased together, and how many of them."""
    return ("attempts = 0", limit), ("attempts = 1", min(limit, AFTER_A_DEATH)), ("attempts > 1", 1)


def _in_order(rows: list[Row]) -> list[str]:
    return [row["work_key"] for row in sorted(rows, key=lambda row: (row["place"], row["work_key"]))]


class Leases(Aggregate):
    """Who may work on which row, until when, and when a row is due again."""

    def lease(
        self, queue: Queue, limit: int, *, max_leases: int | None = None, policy: Policy | None = None
    ) -> tuple[str, list[str]] | None:
        """Lease up to `limit` due rows. Return (lease_id, work keys), or None when nothing is due or `max_leases`
        leases of this queue are live. With `policy` no more jobs are leased for submission than may start now."""
        table, keys, work = _WORK[queue]
        key = ", ".join(keys)
        since = ", leased_at = smi.now()" if table == "smi.upscale_jobs" else ""
        due = f"{work} AND next_attempt_at <= smi.now()"
        with self._database.transaction() as tx:
            if max_leases is not None:
                live = tx.value(
                    f"SELECT count(DISTINCT lease_id) FROM {table} WHERE lease_until > smi.now() AND {work}"
                )
                if live >= max_leases:
                    return None
            if policy is not None and queue is Queue.SUBMIT:
                tx.run("SELECT pg_advisory_xact_lock(:key)", key=_START_LOCK)
                limit = min(limit, room_to_start(tx, policy).free)
                if limit <= 0:
                    return None
            lease_id = uuid.uuid4().hex
            # A row whose last lease expired without a recorded error may have killed its worker: the second time it
            # is leased alone, so that one bad row does not fail the others of its batch. If no run started it, it has
            # killed nothing. New work goes first, but not for long.
            over = "lease_until <= smi.now()"
            waited = f"lease_until <= smi.now() - interval '{LONGEST_WAIT_SECONDS} seconds'"
            states = [(f"{waited} AND {started}", count) for started, count in _after_a_death(limit)]
            states.append(("lease_id IS NULL", limit))
            states += [(f"{over} AND {started}", count) for started, count in _after_a_death(limit)]
            for choice, (which, count) in itertools.product(breakers.choices(tx, queue), states):
                # Another row probes each time, so that one bad order does not keep a breaker open.
                order = "next_attempt_at" if choice.probes else _ORDER[queue]
                rows = tx.rows(
                    f"""WITH due AS (
                            SELECT {key}, {order} AS place, {_SECONDS[queue]} AS estimate
                            FROM {table} WHERE {due} AND {choice.where} AND {which}
                            ORDER BY place, {key} LIMIT :count FOR UPDATE SKIP LOCKED),
                        batch AS (
                            SELECT *, sum(estimate) OVER (ORDER BY place, {key}) - estimate AS before
                            FROM due)
                        UPDATE {table} SET lease_id = :lease_id,
                               lease_until = smi.now() + make_interval(secs => :seconds){since}
                        WHERE ({key}) IN (SELECT {key} FROM batch WHERE before < :batch_seconds)
                        RETURNING concat_ws('/', {key}) AS work_key, {order} AS place""",
                    lease_id=lease_id,
                    seconds=LEASE_SECONDS,
                    batch_seconds=BATCH_SECONDS,
                    count=min(count, choice.limit or count),
                    **choice.parameters,
                )
                if rows:
                    if choice.probes:
                        breakers.begin_probe(tx, choice.probes, rows[0]["work_key"])
                    return lease_id, _in_order(rows)
        return None

    def lease_one(self, queue: Queue, work_key: str) -> str | None:
        """Lease and start one row that nobody has, due or not. Return the lease_id, or None."""
        table, keys, work = _WORK[queue]
        condition, parameters = _where_key(keys, work_key)
        lease_id = uuid.uuid4().hex
        taken = self._database.run(
            f"""UPDATE {table} SET lease_id = :lease_id, attempts = attempts + 1,
                       lease_until = smi.now() + make_interval(secs => :seconds)
                WHERE {condition} AND {work} AND (lease_id IS NULL OR lease_until <= smi.now())""",
            lease_id=lease_id,
            seconds=LEASE_SECONDS,
            **parameters,
        )
        return lease_id if taken else None

    def room_to_start(self, policy: Policy) -> Room:
        """Return how many jobs may be leased for submission now, and what the next one waits for."""
        with self._database.transaction() as tx:
            return room_to_start(tx, policy)

    def due(self, queue: Queue) -> int:
        """Return the number of rows that are due and not leased."""
        table, _, work = _WORK[queue]
        count: int = self._database.value(
            f"SELECT count(*) FROM {table} WHERE {work} AND next_attempt_at <= smi.now() AND lease_id IS NULL"
        )
        return count

    def start(self, queue: Queue, lease_id: str) -> list[str]:
        """Start the rows of a lease. Return their work keys in the order of their queue.

        `attempts` of each row is raised and committed before any work; a lease whose run never starts is no attempt.
        """
        table, keys, _ = _WORK[queue]
        rows = self._database.rows(
            f"""UPDATE {table} SET attempts = attempts + 1 WHERE lease_id = :lease_id
                RETURNING concat_ws('/', {", ".join(keys)}) AS work_key, {_ORDER[queue]} AS place""",
            lease_id=lease_id,
        )
        return _in_order(rows)

    def renew(self, lease_id: str) -> int:
        """Renew a live lease. Return the number of rows. An expired lease is not revived."""
        with self._database.transaction() as tx:
            return sum(
                tx.run(
                    f"""UPDATE {table} SET lease_until = smi.now() + make_interval(secs => :seconds)
                        WHERE lease_id = :lease_id AND lease_until > smi.now()""",
                    lease_id=lease_id,
                    seconds=LEASE_SECONDS,
                )
                for table in _TABLES
            )

    def give_back(self, lease_id: str) -> int:
        """End a lease whose run could not be started: its rows are due again. Return their number."""
        with self._database.transaction() as tx:
            return sum(
                tx.run(
                    f"""UPDATE {table} SET lease_id = NULL, lease_until = NULL
                        WHERE lease_id = :lease_id""",
                    lease_id=lease_id,
                )
                for table in _TABLES
            )

    def reschedule(
        self, queue: Queue, work_key: str, lease_id: str, *, seconds: float, error: str, counts: bool
    ) -> bool:
        """End the lease of one row, which is due again in `seconds`. Return False when the lease was lost."""
        table, keys, _ = _WORK[queue]
        condition, parameters = _where_key(keys, work_key)
        return self._database.changes(
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
