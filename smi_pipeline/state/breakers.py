"""Circuit breakers, shared by every process: who has failed, which are open, and who may probe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from smi_pipeline.core import faults
from smi_pipeline.core.faults import Breaker, Failure
from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import ManualTaskKind, Queue, Stage, SubmissionState
from smi_pipeline.state.database import Aggregate, Row, Transaction, as_record, in_
from smi_pipeline.state.job_rows import give_waiting_time_back
from smi_pipeline.state.manual_tasks import close_task, open_task

PROBE_SECONDS = 90
"""After this long without an answer another row may probe: the worker of the last one may be dead."""

HALF_OPEN, HALF_OPEN_ALONE = timedelta(minutes=15), timedelta(minutes=1)
"""How long after the last probe orders are taken again, although nothing has succeeded; the second while no job waits
that could probe, nor is at Upsampler and tells of it: then only a new order can try."""

_BREAKER_OF_HOST = "'source:' || lower(split_part(source_url, '/', 3))"
"""SQL: `faults.source` of a job."""

OF_SUBMISSIONS = (faults.SUBMISSIONS, faults.STATUS, faults.RESULTS)
"""Breakers for which all jobs that are not submitted wait."""

_FORGET_FAILURES = f"failed = '{{}}', failed_before = (failed || failed_before)[1:{faults.KEPT}]"

STOPPED = f"""coalesce((
    SELECT max(least(smi.now() - greatest(b.opened_at, j.waits_since),
                     greatest(interval '0', CAST(:max_hold AS interval) - j.outage)))
    FROM smi.breakers b WHERE b.opened_at IS NOT NULL
      AND (b.name = ANY(ARRAY['{"', '".join(OF_SUBMISSIONS)}'])
           OR source_key IS NULL AND b.name = {_BREAKER_OF_HOST})),
    interval '0')"""
"""SQL: how long the clock of the waiting job `j` has stood still for the breakers that are open now."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Rows of a queue that may be leased: a condition, how many of them, and the breakers that they probe."""

    where: str = "true"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    probes: tuple[str, ...] = ()


class Breakers(Aggregate):
    """Circuit breakers."""

    def all(self) -> list[Breaker]:
        """Return the breakers of all parts that have failed."""
        return self._database.records(Breaker, "SELECT * FROM smi.breakers ORDER BY opened_at NULLS LAST, name")

    def get(self, name: str) -> Breaker:
        """Return one breaker; a closed one if the part has never failed."""
        return self._database.record(Breaker, "SELECT * FROM smi.breakers WHERE name = :name", name=name) or Breaker(
            name=name
        )

    def note(self, failure: Failure) -> bool:
        """Record a failure that decides nothing. Return whether the breaker is open."""
        with self._database.transaction() as tx:
            return record_failure(tx, failure).is_open

    def note_success(self, name: str, policy: Policy) -> None:
        """Record a success outside of a step."""
        with self._database.transaction() as tx:
            record_success(tx, name, max_hold=policy.max_hold)

    def may_try(self, name: str, work_key: str) -> bool:
        """Return whether a call that no queue leases may be made: the breaker is closed, or it may probe now."""
        with self._database.transaction() as tx:
            row = tx.row(
                "SELECT * FROM smi.breakers WHERE name = :name AND opened_at IS NOT NULL FOR UPDATE", name=name
            )
            if row is None:
                return True
            may: bool = _may_probe(row, tx.value("SELECT smi.now()"))
            if may:
                begin_probe(tx, [name], work_key)
            return may

    def in_the_way(self, names: Sequence[str], work_key: str) -> str | None:
        """Return the name of an open breaker among `names` that this row does not probe, or None."""
        name: str | None = self._database.value(
            """SELECT name FROM smi.breakers WHERE name = ANY(:names) AND opened_at IS NOT NULL
               AND probe IS DISTINCT FROM :key LIMIT 1""",
            names=list(names),
            key=work_key,
        )
        return name

    def refusal(self, names: Sequence[str]) -> Breaker | None:
        """Return an open breaker among `names` that a new order would be hit by, or None."""
        return self._database.record(
            Breaker,
            f"""SELECT * FROM smi.breakers WHERE name = ANY(:names) AND opened_at IS NOT NULL
                 AND (by_hand OR greatest(opened_at, next_probe_at) > smi.now() - CASE
                      WHEN name = '{faults.CHECKOUT}' THEN CAST(:alone AS interval)
                      WHEN EXISTS (SELECT FROM smi.upscale_jobs WHERE queue IS NOT NULL AND hold_reason IS NULL)
                        OR name IN ('{faults.STATUS}', '{faults.RESULTS}') AND EXISTS (SELECT FROM smi.submissions
                               WHERE state = '{SubmissionState.ACCEPTED}' AND external_id IS NOT NULL)
                      THEN CAST(:half_open AS interval) ELSE CAST(:alone AS interval) END)
               ORDER BY opened_at LIMIT 1""",
            names=list(names),
            half_open=HALF_OPEN,
            alone=HALF_OPEN_ALONE,
        )

    def open_by_hand(self, name: str, *, message: str, actor: str) -> None:
        """Open a breaker until it is closed by hand."""
        with self._database.transaction() as tx:
            locked(tx, name)
            tx.run(
                """UPDATE smi.breakers SET opened_at = coalesce(opened_at, smi.now()), by_hand = true, probe = NULL,
                          message = :message, next_step = :next_step WHERE name = :name""",
                name=name,
                message=message[:300],
                next_step=f"Close it when the work is done: smi breakers close {name} REASON",
            )
            tx.audit(None, "breaker_opened", actor=actor, breaker=name, message=message[:300])

    def close_by_hand(self, name: str, *, policy: Policy, actor: str) -> bool:
        """Close a breaker. Return False when it is not open."""
        with self._database.transaction() as tx:
            return _close(tx, name, max_hold=policy.max_hold, actor=actor, also_by_hand=True)


def locked(tx: Transaction, name: str) -> Breaker:
    """Return a breaker, locked until the end of the transaction."""
    tx.run("INSERT INTO smi.breakers (name) VALUES (:name) ON CONFLICT DO NOTHING", name=name)
    return as_record(Breaker, tx.one("SELECT * FROM smi.breakers WHERE name = :name FOR UPDATE", name=name))


def lock_open(tx: Transaction) -> None:
    """Lock the open breakers in the order in which leasing does, before a transaction locks several, or a job."""
    tx.rows("SELECT name FROM smi.breakers WHERE opened_at IS NOT NULL ORDER BY name FOR UPDATE")


def record_failure(tx: Transaction, failure: Failure) -> Breaker:
    """Record a failure; open the breaker, with its manual task, when it is a fault of the shop. Return the breaker."""
    before = locked(tx, failure.breaker)
    after = faults.after_failure(before, failure, tx.value("SELECT smi.now()"))
    if after == before:
        return after
    tx.run(
        """UPDATE smi.breakers SET failed = :failed, failed_before = :failed_before, failing_since = :failing_since,
                  message = :message, next_step = :next_step, opened_at = :opened_at, probe = :probe,
                  next_probe_at = :next_probe_at, failed_probes = :failed_probes WHERE name = :name""",
        **{
            **asdict(after),
            "failed": list(after.failed),
            "failed_before": list(after.failed_before),
            "message": after.message[:300],
        },
    )
    if after.is_open and not before.is_open:
        tx.audit(None, "breaker_opened", actor="itself", breaker=after.name, message=after.message[:300])
        orders, ends = faults.meanwhile(after.name)
        open_task(
            tx,
            kind=ManualTaskKind.BREAKER,
            subject=after.name,
            job_id=None,
            message=f"{faults.headline(after.name)}: {after.message[:300].rstrip('.')}. {orders}",
            next_step=f"{after.next_step} {ends}",
        )
    return after


def forget_failure(tx: Transaction, name: str, counted_as: str) -> None:
    """Forget that something failed: it has succeeded. Its next failure may be the shop's."""
    tx.run(
        """UPDATE smi.breakers SET failed = array_remove(failed, :key),
                  failed_before = array_remove(failed_before, :key),
                  failing_since = CASE WHEN opened_at IS NOT NULL OR array_remove(failed, :key) <> '{}'
                                       THEN failing_since END
           WHERE name = :name AND :key = ANY(failed || failed_before)""",
        name=name,
        key=counted_as,
    )


def record_success(tx: Transaction, name: str, *, max_hold: timedelta) -> bool:
    """Record that a part works: close its breaker, unless an operator has opened it. Return whether it was open."""
    failed = tx.value(
        "SELECT 1 FROM smi.breakers WHERE name = :name AND (failed <> '{}' OR opened_at IS NOT NULL)", name=name
    )
    if not failed:
        return False
    closed = _close(tx, name, max_hold=max_hold, actor="itself", also_by_hand=False)
    if not closed:
        tx.run(
            f"""UPDATE smi.breakers SET {_FORGET_FAILURES}, failing_since = NULL
                WHERE name = :name AND opened_at IS NULL""",
            name=name,
        )
    return closed


def _close(tx: Transaction, name: str, *, max_hold: timedelta, actor: str, also_by_hand: bool) -> bool:
    opened_at: datetime | None = tx.value(
        f"""WITH before AS (SELECT name, opened_at FROM smi.breakers
                           WHERE name = :name AND opened_at IS NOT NULL AND (:also OR NOT by_hand) FOR UPDATE)
           UPDATE smi.breakers b SET {_FORGET_FAILURES}, opened_at = NULL, by_hand = false,
                  last_fault_from = coalesce(failing_since, before.opened_at), last_fault_until = smi.now(),
                  failing_since = NULL,
                  probe = NULL, probe_until = NULL, next_probe_at = NULL, failed_probes = 0
           FROM before WHERE b.name = before.name RETURNING before.opened_at""",
        name=name,
        also=also_by_hand,
    )
    if opened_at is None:
        return False
    if name in OF_SUBMISSIONS or faults.is_source(name):
        waits_for_it = f"source_key IS NULL AND {_BREAKER_OF_HOST} = :name" if faults.is_source(name) else "true"
        give_waiting_time_back(tx, waits_for_it, since=opened_at, limit=max_hold, name=name)
    close_task(tx, kind=ManualTaskKind.BREAKER, subject=name, actor="recovered" if actor == "itself" else actor)
    tx.audit(None, "breaker_closed", actor=actor, breaker=name)
    return True


def choices(tx: Transaction, queue: Queue) -> list[Choice]:
    """Return which rows of a queue may be leased, in the order of preference: all, unless a breaker is open."""
    rows = tx.rows(
        f"""SELECT b.*, EXISTS (SELECT FROM smi.upscale_jobs j WHERE j.job_id = b.probe
                               AND (j.hold_reason IS NOT NULL OR j.status NOT IN {in_(UNFINISHED)})) AS probe_is_over
            FROM smi.breakers b WHERE opened_at IS NOT NULL ORDER BY name FOR UPDATE"""
    )
    if not rows:
        return [Choice()]
    now = tx.value("SELECT smi.now()")
    # An order that has ended for a reason of its own, or is held, no longer probes: another one can.
    open_ = {row["name"]: {**row, "probe": None} if row["probe_is_over"] else row for row in rows}
    if queue is Queue.FULFIL:
        return _results(open_.get(faults.RESULTS), now)
    if queue is Queue.SUBMIT:
        return _submissions(tx, open_, now)
    part = open_.get(faults.STRIPE if queue is Queue.REFUND else faults.MAIL)
    if part is None:
        return [Choice()]
    return [Choice(limit=1, probes=(part["name"],))] if _may_probe(part, now) else []


def _results(part: Row | None, now: datetime) -> list[Choice]:
    if part is None:
        return [Choice()]
    needs_it = f"stage = '{Stage.COMPLETED}'"
    others = Choice(where=f"(NOT {needs_it} OR job_id = :probe)", parameters={"probe": part["probe"]})
    if _may_probe(part, now):
        return [Choice(where=needs_it, limit=1, probes=(part["name"],)), others]
    return [others]


def _submissions(tx: Transaction, open_: Mapping[str, Row], now: datetime) -> list[Choice]:
    parts = [open_[name] for name in OF_SUBMISSIONS if name in open_]
    hosts = [row for name, row in open_.items() if faults.is_source(name)]
    probes = [row["probe"] for row in (*parts, *hosts) if row["probe"]]
    reachable = f"(source_key IS NOT NULL OR {_BREAKER_OF_HOST} <> ALL(:shut))"
    shut = {"shut": [row["name"] for row in hosts]}
    again = Choice(where="job_id = ANY(:probes)", parameters={"probes": probes}, limit=1)
    hosts_to_try = [row["name"] for row in hosts if _may_probe(row, now)]
    if not parts:
        return [again, *(_of_host(name) for name in hosts_to_try), Choice(where=reachable, parameters=shut)]
    # What is under way already tells sooner, and for no credits, whether status calls or results work again.
    told_sooner = faults.RESULTS in open_ and tx.value(
        f"SELECT 1 FROM smi.upscale_jobs WHERE queue = '{Queue.FULFIL}' AND stage = '{Stage.COMPLETED}' LIMIT 1"
    )
    if faults.STATUS in open_ and not told_sooner:
        told_sooner = tx.value(
            f"""SELECT 1 FROM smi.submissions
                WHERE state = '{SubmissionState.ACCEPTED}' AND external_id IS NOT NULL LIMIT 1"""
        )
    if told_sooner or not all(_may_probe(part, now) for part in parts):
        return [again]
    probed = tuple(part["name"] for part in parts)
    return [
        again,
        Choice(where=reachable, parameters=shut, limit=1, probes=probed),
        *(_of_host(name, *probed) for name in hosts_to_try),  # when no other order is left
    ]


def _of_host(name: str, *others: str) -> Choice:
    """Return the choice of one order that probes the host of its source, and `others` on its way."""
    return Choice(
        where=f"source_key IS NULL AND {_BREAKER_OF_HOST} = :host",
        parameters={"host": name},
        limit=1,
        probes=(name, *others),
    )


def begin_probe(tx: Transaction, names: Sequence[str], work_key: str) -> None:
    """Record which row probes."""
    tx.run(
        """UPDATE smi.breakers SET probe = :key, probe_until = smi.now() + make_interval(secs => :seconds)
           WHERE name = ANY(:names)""",
        key=work_key,
        seconds=PROBE_SECONDS,
        names=list(names),
    )


def extend_probe(tx: Transaction, name: str, work_key: str, until: datetime) -> None:
    """Let a probe last until its upscale is due."""
    tx.run(
        "UPDATE smi.breakers SET probe_until = :until WHERE name = :name AND probe = :key",
        name=name,
        key=work_key,
        until=until,
    )


def _may_probe(part: Row, now: datetime) -> bool:
    if part["by_hand"] or (part["probe"] is not None and part["probe_until"] > now):
        return False
    return part["next_probe_at"] is None or part["next_probe_at"] <= now
