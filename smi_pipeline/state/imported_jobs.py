"""History of another shop system, imported as closed jobs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from smi_pipeline.core import reasons
from smi_pipeline.core.vocabulary import (
    RETURNED,
    ManualTaskKind,
    Outcome,
    PaymentRole,
    RefundKind,
    RefundState,
    Stage,
    Status,
    SubmissionState,
)
from smi_pipeline.state.database import Aggregate, Transaction, in_
from smi_pipeline.state.manual_tasks import close_task
from smi_pipeline.state.payment_rows import NO_REFUND_OF_OURS
from smi_pipeline.state.refund_updates import assign_refunds


@dataclass(frozen=True, kw_only=True)
class HistoricJob:
    """One closed order. `origin` says where it came from, `wordpress:17`; times are UTC; money is in cents.

    `status` is completed, failed, refunded or abandoned. What the other system did not keep is None."""

    job_id: str
    origin: str
    status: Status
    created_at: datetime
    source_url: str
    file_name: str
    resolution: str
    scale: int
    customer_email: str
    source_format: str
    source_width: int
    source_height: int
    price_cents: int
    currency: str
    expected_credits: int
    payment_intent_id: str | None
    checkout_session_id: str | None
    paid_at: datetime | None
    processing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    refunded_at: datetime | None
    refund_cents: int | None
    external_id: str | None
    credits: int | None
    reason_code: str | None
    reason_text: str | None
    remark: str | None


_INSERT_JOB = f"""
INSERT INTO smi.upscale_jobs (job_id, imported_from, status, created_at, updated_at, source_url, file_name, resolution,
    scale, customer_email, source_format, source_width, source_height, source_bytes, source_sha256, price_cents,
    currency, expected_credits, payment_intent_id, checkout_session_id, paid_at, learned_at, processing_at,
    completed_at, failed_at, files_removed_at, stage, reason_code, reason_text)
VALUES (:job_id, :origin, :status, :created_at, smi.now(), :source_url, :file_name, :resolution, :scale,
    :customer_email, :source_format, :source_width, :source_height, 1, '', :price_cents, :currency, :expected_credits,
    :payment_intent_id, :checkout_session_id, :paid_at, :paid_at, :processing_at, :completed_at, :failed_at,
    smi.now(), CASE :status WHEN '{Status.COMPLETED}' THEN '{Stage.COMPLETED}' ELSE '{Stage.FAILED}' END,
    :reason_code, :reason_text)
ON CONFLICT DO NOTHING
"""


class PostgresHistory(Aggregate):
    """Imported jobs."""

    def insert(self, jobs: Sequence[HistoricJob], *, actor: str) -> tuple[int, list[tuple[str, str]]]:
        """Insert all of `jobs` that are not on record, in one transaction. Return their number and no problems; or
        insert nothing and return 0 with (job_id, problem) of each conflict."""
        try:
            with self._database.transaction() as tx:
                return _insert_all(tx, jobs, actor), []
        except _Nothing as nothing:
            return 0, nothing.problems


class _Nothing(Exception):
    """Roll the transaction back."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems


def _insert_all(tx: Transaction, jobs: Sequence[HistoricJob], actor: str) -> int:
    rows = tx.rows("SELECT job_id FROM smi.upscale_jobs WHERE job_id = ANY(:ids)", ids=[job.job_id for job in jobs])
    known = {row["job_id"] for row in rows}
    fresh = [job for job in jobs if job.job_id not in known]
    problems = [(job.job_id, problem) for job in fresh if (problem := _insert(tx, job, actor))]
    if problems:
        raise _Nothing(problems)
    return len(fresh)


def _insert(tx: Transaction, job: HistoricJob, actor: str) -> str | None:
    """Insert one job with all that belongs to it, or return the conflict."""
    if not tx.run(_INSERT_JOB, **{**asdict(job), "status": str(job.status)}):
        return "its payment or Checkout session belongs to another job"
    return _insert_payment(tx, job, actor) or _insert_rest(tx, job, actor)


def _insert_payment(tx: Transaction, job: HistoricJob, actor: str) -> str | None:
    if not job.payment_intent_id:
        return None
    # Reconciliation may have recorded the payment as unmatched, with its refunds, before its job was imported.
    recorded = tx.run(
        f"""INSERT INTO smi.payments AS p (payment_intent_id, job_id, role, received_cents, currency, refunded_cents,
                                     paid_at, learned_at, learned_from)
           VALUES (:payment_intent_id, :job_id, '{PaymentRole.ORDER}', :price_cents, :currency,
                   coalesce(:refund_cents, 0), :paid_at, :paid_at, :origin)
           ON CONFLICT (payment_intent_id) DO UPDATE SET job_id = excluded.job_id, role = excluded.role
           WHERE p.role = '{PaymentRole.UNMATCHED}' AND {NO_REFUND_OF_OURS}""",
        **asdict(job),
    )
    if not recorded:
        return f"the payment {job.payment_intent_id} is on record for another job"
    assign_refunds(tx, job.payment_intent_id, job.job_id)
    close_task(tx, kind=ManualTaskKind.UNMATCHED_PAYMENT, subject=job.payment_intent_id, actor=actor)
    return None


def _insert_rest(tx: Transaction, job: HistoricJob, actor: str) -> str | None:
    if job.status is not Status.ABANDONED:
        tx.run(
            """INSERT INTO smi.outcomes (job_id, round, outcome, reason, decided_at, actor)
               VALUES (:job_id, 1, :outcome, :reason_code, :decided_at, :actor)""",
            **asdict(job),
            outcome={Status.COMPLETED: Outcome.DELIVER, Status.REFUNDED: Outcome.REFUND}.get(job.status, Outcome.NONE),
            decided_at=job.completed_at or job.failed_at or job.created_at,
            actor=actor,
        )
    if job.refund_cents and job.payment_intent_id:
        tx.run(
            f"""INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, state, amount_cents, currency,
                                        reason_code, actor, created_at, settled_at)
               SELECT :job_id, :payment_intent_id, '{RefundKind.EXTERNAL}', 0, '{RefundState.SUCCEEDED}', :refund_cents,
                      :currency, '{reasons.REFUNDED_OUTSIDE}', :actor, :refunded_at, :refunded_at
               WHERE NOT EXISTS (SELECT FROM smi.refunds WHERE payment_intent_id = :payment_intent_id
                                 AND state IN {in_(RETURNED)})""",
            **asdict(job),
            actor=actor,
        )
    if job.external_id:
        recorded = tx.run(
            """INSERT INTO smi.submissions (job_id, round, state, external_id, created_at, accepted_at, finished_at,
                                            credits)
               VALUES (:job_id, 1, :state, :external_id, :began, :began, :ended, :credits) ON CONFLICT DO NOTHING""",
            **asdict(job),
            state=SubmissionState.COMPLETED if job.status is Status.COMPLETED else SubmissionState.FAILED,
            began=job.processing_at or job.paid_at or job.created_at,
            ended=job.completed_at or job.failed_at,
        )
        if not recorded:
            return f"the upscale {job.external_id} is on record for another job"
    tx.audit(job.job_id, "imported", actor=actor, to_status=str(job.status), origin=job.origin, remark=job.remark)
    return None
