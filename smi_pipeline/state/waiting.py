"""Orders that wait for a circuit breaker: what their customers are told, and how one ends the waiting."""

from datetime import datetime
from enum import StrEnum

from smi_pipeline.core import faults, reasons
from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import OPEN_CALLS, EmailKind, Queue, Stage
from smi_pipeline.state import transitions
from smi_pipeline.state.database import Database, Row, Transaction, in_
from smi_pipeline.state.emails import queue_email

BREAKER_OF_HOST = f"'{faults.source('https://')}' || lower(split_part(j.source_url, '/', 3))"
"""SQL: `faults.source` of the job `j`."""

WAITS_FOR = f"""(b.opened_at IS NOT NULL AND (
    (j.queue = '{Queue.SUBMIT}' AND j.hold_reason IS NULL
     AND (b.name IN ('{faults.SUBMISSIONS}', '{faults.RESULTS}')
          OR (j.source_key IS NULL AND b.name = {BREAKER_OF_HOST})))
    OR (j.queue = '{Queue.FULFIL}' AND j.stage = '{Stage.COMPLETED}' AND b.name = '{faults.RESULTS}')))"""
"""SQL: whether the job `j` waits for the breaker `b`."""

_UPSCALING = f"""EXISTS (SELECT FROM smi.submissions s WHERE s.job_id = j.job_id AND s.round = j.round
                         AND s.state IN {in_(OPEN_CALLS)})"""


class Ending(StrEnum):
    """What came of a customer's wish to end the waiting."""

    ENDED = "ended"
    ENDED_BEFORE = "ended_before"
    TOO_LATE = "too_late"  # it is being upscaled, or its round is decided


class Waiting:
    """Orders that wait for a circuit breaker."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def since(self, job_id: str) -> datetime | None:
        """Return since when a job waits for a breaker that is open; None when it does not."""
        since: datetime | None = self._database.value(
            f"""SELECT min(greatest(b.opened_at, CASE WHEN j.queue = '{Queue.FULFIL}' THEN j.result_ready_at
                                                      ELSE j.waits_since END))
                FROM smi.upscale_jobs j JOIN smi.breakers b ON {WAITS_FOR} WHERE j.job_id = :id""",
            id=job_id,
        )
        return since

    def can_end(self, job_id: str) -> bool:
        """Return whether a customer may end the waiting: the paid order is not at Upsampler, or its result waits."""
        with self._database.transaction() as tx:
            job = tx.row("SELECT * FROM smi.upscale_jobs WHERE job_id = :id", id=job_id)
            return job is not None and _can_end(tx, job)

    def end(self, job_id: str, *, actor: str) -> Ending:
        """End an order by its customer's wish, with the refund."""
        with self._database.transaction() as tx:
            job = transitions.locked(tx, job_id)
            if job is None:
                return Ending.TOO_LATE
            if job["reason_code"] == reasons.CANCELLED:
                return Ending.ENDED_BEFORE
            if not _can_end(tx, job):
                return Ending.TOO_LATE
            words = reasons.FOR_CUSTOMER[reasons.CANCELLED]
            ended = transitions.fail(tx, job, reason=reasons.CANCELLED, message=words, actor=actor)
            return Ending.ENDED if ended else Ending.TOO_LATE

    def queue_delay_mails(self, policy: Policy, limit: int = 100) -> int:
        """Queue the one mail about the delay for each paid order that waits beyond the promised time. Return the number
        of mails."""
        with self._database.transaction() as tx:
            late = tx.rows(
                f"""SELECT job_id FROM smi.upscale_jobs j
                    WHERE queue IS NOT NULL AND round = 1 AND payment_intent_id IS NOT NULL
                      AND status IN {in_(UNFINISHED)} AND paid_at + CAST(:promised AS interval) <= smi.now()
                      AND EXISTS (SELECT FROM smi.breakers b WHERE {WAITS_FOR})
                      AND NOT EXISTS (SELECT FROM smi.emails e WHERE e.job_id = j.job_id
                                      AND e.kind = '{EmailKind.DELAY}')
                    ORDER BY paid_at LIMIT :limit""",
                promised=policy.max_processing,
                limit=limit,
            )
            return sum(queue_email(tx, row["job_id"], EmailKind.DELAY, self._mail_domain) for row in late)


def _can_end(tx: Transaction, job: Row) -> bool:
    """Return whether a job may be ended by its customer: it is in a queue where it waits. A free retry ends without
    money, so that there is nothing to return."""
    if job["status"] not in UNFINISHED or job["round"] > 1 or job["payment_intent_id"] is None:
        return False
    return bool(
        tx.value(
            f"""SELECT 1 FROM smi.upscale_jobs j WHERE job_id = :id AND (
                    (queue = '{Queue.SUBMIT}' AND NOT {_UPSCALING})
                    OR EXISTS (SELECT FROM smi.breakers b WHERE {WAITS_FOR}))
                  AND NOT EXISTS (SELECT FROM smi.outcomes o WHERE o.job_id = j.job_id AND o.round = j.round)""",
            id=job["job_id"],
        )
    )
