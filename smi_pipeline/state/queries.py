"""Reads: single jobs, lists, the queue in numbers, the alarm query."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from smi_pipeline.core import faults
from smi_pipeline.core.allowance import Calls
from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.models import Alarm, QueueFigures, RecordedPayment, UpscaleJob
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import (
    OPEN_CALLS,
    RETURNED,
    UNSENT,
    CallPurpose,
    DisputeState,
    ManualTaskKind,
    Queue,
    RefundState,
    Status,
    SubmissionState,
)
from smi_pipeline.state.breakers import STOPPED
from smi_pipeline.state.database import Aggregate, Transaction, as_record, in_
from smi_pipeline.state.heartbeat import UP_SINCE
from smi_pipeline.state.rate_limiter import seconds_for

ALARM = f"""
    SELECT j.job_id, j.status, j.reason_code, j.start_by, j.deadline_at FROM smi.upscale_jobs j
    WHERE j.payment_intent_id IS NOT NULL AND j.imported_from IS NULL
      AND least(greatest(j.start_by, j.deadline_at, j.failed_at, j.learned_at, {UP_SINCE}),
                greatest(j.start_by, j.deadline_at, j.failed_at, j.learned_at) + CAST(:max_outage AS interval))
          + CAST(:patience AS interval) < smi.now()
      AND (j.status IN {in_(UNFINISHED)}
           OR (j.status = '{Status.FAILED}' AND j.round = 1 AND NOT EXISTS (
               SELECT FROM smi.refunds r WHERE r.job_id = j.job_id
                 AND (r.state IN {in_(RETURNED)} OR r.state = '{RefundState.OWED}' AND (r.waits_for_balance OR EXISTS (
                     SELECT FROM smi.breakers b WHERE b.name = '{faults.STRIPE}' AND b.opened_at IS NOT NULL))))))
      AND (j.hold_reason IS NULL
           OR greatest(j.start_by, j.held_at) + CAST(:max_hold AS interval) + CAST(:patience AS interval) < smi.now())
      AND (j.queue = '{Queue.SUBMIT}' AND coalesce(j.deadline_at, j.start_by) + {STOPPED}
               + CAST(:patience AS interval) > smi.now()) IS NOT TRUE -- a job at Upsampler is in no queue
      AND (j.queue = '{Queue.FULFIL}' AND j.result_ready_at + CAST(:result_life AS interval) > smi.now()
           AND EXISTS (SELECT FROM smi.breakers b WHERE b.name = '{faults.RESULTS}' AND b.opened_at IS NOT NULL))
          IS NOT TRUE
      AND NOT EXISTS (SELECT FROM smi.person_tasks t WHERE t.job_id = j.job_id AND t.closed_at IS NULL
                      AND (t.acknowledged_at IS NOT NULL
                           OR t.kind = '{ManualTaskKind.REFUND_FAILED}' AND t.subject = j.payment_intent_id
                              AND j.status = '{Status.FAILED}'))
    ORDER BY j.learned_at
"""
"""The alarm: paid, past its last deadline, neither delivered nor refunded, and not acknowledged. Always empty.
A refund of a failed job that failed has a task of its own. After an outage of the service the patience begins when it
is back, as long as `max_outage` covers it; while a circuit breaker is open, the clocks of the jobs that wait for it
stand still."""


def credits_used(tx: Transaction, until: date | None = None) -> int:
    """Return the credits used in the month of the day `until` (default: today, UTC), that day included.

    This is the one definition of "budget used": what Upsampler has booked; what a call whose answer was lost is
    expected to have cost; and what the completed jobs imported for this month are expected to have cost.
    """
    used: int = tx.value(
        f"""WITH month AS (
               SELECT date_trunc('month', day) AT TIME ZONE 'UTC' AS begins,
                      (day + interval '1 day') AT TIME ZONE 'UTC' AS ends
               FROM (SELECT coalesce(CAST(:until AS date), (smi.now() AT TIME ZONE 'UTC')::date)::timestamp) AS d(day)
           ), used AS (
               SELECT CASE WHEN credits IS NULL AND state = '{SubmissionState.LOST}' THEN
                          (SELECT expected_credits FROM smi.upscale_jobs j WHERE j.job_id = s.job_id)
                      ELSE credits END AS credits
               FROM smi.submissions s, month WHERE created_at >= begins AND created_at < ends
               UNION ALL
               SELECT expected_credits FROM smi.upscale_jobs j, month
               WHERE paid_at >= begins AND paid_at < ends AND imported_from IS NOT NULL
                 AND status = '{Status.COMPLETED}'
                 AND NOT EXISTS (SELECT FROM smi.submissions s WHERE s.job_id = j.job_id))
           SELECT coalesce(sum(credits), 0)::bigint FROM used""",
        until=until,
    )
    return used


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One entry of the audit trail of a job."""

    at: datetime
    event: str
    from_status: Status | None
    to_status: Status | None
    actor: str
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LateRefund:
    """A refund that is owed for too long."""

    payment_intent_id: str
    job_id: str | None
    last_error: str | None


class Queries(Aggregate):
    """Reads only."""

    def job(self, job_id: str) -> UpscaleJob | None:
        """Return one job."""
        return self._database.record(UpscaleJob, "SELECT * FROM smi.upscale_jobs WHERE job_id = :id", id=job_id)

    def jobs(self, *, status: str | None = None, limit: int = 50) -> list[UpscaleJob]:
        """Return the newest jobs."""
        return self._database.records(
            UpscaleJob,
            """SELECT * FROM smi.upscale_jobs WHERE CAST(:status AS text) IS NULL OR status = :status
               ORDER BY created_at DESC LIMIT :limit""",
            status=status,
            limit=limit,
        )

    def events(self, job_id: str) -> list[AuditEvent]:
        """Return the audit trail of a job."""
        return self._database.records(
            AuditEvent,
            """SELECT at, event, from_status, to_status, actor, details FROM smi.job_events
               WHERE job_id = :id ORDER BY event_id""",
            id=job_id,
        )

    def payment(self, payment_intent_id: str) -> RecordedPayment | None:
        """Return a recorded payment."""
        return self._database.record(
            RecordedPayment, "SELECT * FROM smi.payments WHERE payment_intent_id = :id", id=payment_intent_id
        )

    def counts(self) -> dict[str, int]:
        """Return the number of jobs per status."""
        rows = self._database.rows("SELECT status, count(*) AS n FROM smi.upscale_jobs GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    def queue(self) -> QueueFigures:
        """Return the queue in numbers."""
        row = self._database.one(
            f"""SELECT count(*) FILTER (WHERE queue = '{Queue.SUBMIT}' AND hold_reason IS NULL) AS to_submit,
                      count(*) FILTER (WHERE queue = '{Queue.FULFIL}') AS to_fulfil,
                      count(*) FILTER (WHERE hold_reason IS NOT NULL) AS on_hold,
                      count(*) FILTER (WHERE lease_until > smi.now()) AS leased,
                      (SELECT count(*) FROM smi.submissions WHERE state IN {in_(OPEN_CALLS)}) AS in_flight,
                      (SELECT count(*) FROM smi.refunds WHERE state = '{RefundState.OWED}') AS refunds_owed,
                      (SELECT count(*) FROM smi.refunds WHERE state = '{RefundState.PENDING}') AS refunds_pending,
                      (SELECT count(*) FROM smi.emails WHERE state IN {in_(UNSENT)}) AS mails_owed,
                      (SELECT count(*) FROM smi.person_tasks WHERE closed_at IS NULL) AS person_tasks,
                      (SELECT count(*) FROM smi.api_calls WHERE purpose = '{CallPurpose.SUBMIT}'
                       AND at > smi.now() - interval '1 minute') AS submissions_minute,
                      (SELECT count(*) FROM smi.api_calls WHERE purpose = '{CallPurpose.SUBMIT}'
                       AND at > smi.now() - interval '1 hour') AS submissions_hour,
                      (SELECT count(*) FROM smi.api_calls WHERE purpose <> '{CallPurpose.SUBMIT}'
                       AND at > smi.now() - interval '1 minute') AS status_calls_minute,
                      (SELECT extract(epoch FROM smi.now() - at)::float FROM smi.heartbeat) AS silent_seconds
               FROM smi.upscale_jobs WHERE queue IS NOT NULL -- both sides by their index: orders wait for this
                  OR (hold_reason IS NOT NULL AND status IN {in_((Status.AWAITING_PAYMENT, *UNFINISHED))})"""
        )
        return as_record(QueueFigures, row)

    def alarms(self, policy: Policy) -> list[Alarm]:
        """Return overdue jobs: there should be none."""
        return self._database.records(
            Alarm,
            ALARM,
            patience=policy.alarm_patience,
            max_hold=policy.max_hold,
            max_outage=policy.max_outage,
            result_life=policy.result_life,
        )

    def late_refunds(self, policy: Policy) -> list[LateRefund]:
        """Return refunds that are owed for longer than `refund_patience` and wait for nothing that has its own task."""
        return self._database.records(
            LateRefund,
            f"""SELECT r.payment_intent_id, r.job_id, r.last_error
               FROM smi.refunds r LEFT JOIN smi.payments p USING (payment_intent_id)
               WHERE r.state = '{RefundState.OWED}'
                 AND NOT r.waits_for_balance -- which has a task of its own, as has an open circuit breaker
                 AND NOT EXISTS (SELECT FROM smi.breakers b
                                 WHERE b.name = '{faults.STRIPE}' AND b.opened_at IS NOT NULL)
                 AND r.created_at + CAST(:patience AS interval) < smi.now()
                 AND p.dispute IS DISTINCT FROM '{DisputeState.OPEN}' -- which has a task of its own
               ORDER BY r.refund_row""",
            patience=policy.refund_patience,
        )

    def forecast_wait_seconds(self, policy: Policy) -> float:
        """Return how long a job paid now would wait for its submission: a call for each job ahead of it, by what the
        API allows today."""
        with self._database.transaction() as tx:
            waiting: int = tx.value(
                f"SELECT count(*) FROM smi.upscale_jobs WHERE queue = '{Queue.SUBMIT}' AND hold_reason IS NULL"
            )
            return seconds_for(tx, Calls.SUBMISSIONS, policy.submissions, waiting)

    def credits_this_month(self) -> int:
        """Return the credits used since the first of the month, UTC."""
        with self._database.transaction() as tx:
            return credits_used(tx)
