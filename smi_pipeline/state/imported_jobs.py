"""History of another shop system, imported as closed jobs."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.vocabulary import (
    RETURNED,
    UNSUCCESSFUL_REFUNDS,
    DisputeState,
    ManualTaskKind,
    Outcome,
    PaymentRole,
    RefundKind,
    RefundState,
    Stage,
    Status,
    SubmissionState,
)
from smi_pipeline.state import transitions
from smi_pipeline.state.database import Aggregate, Transaction, in_
from smi_pipeline.state.disputes import apply_dispute
from smi_pipeline.state.manual_tasks import close_task
from smi_pipeline.state.payment_rows import NO_REFUND_OF_OURS
from smi_pipeline.state.refund_updates import assign_refunds


@dataclass(frozen=True, kw_only=True)
class HistoricRefund:
    """Money that was returned. `refund_id` is Stripe's, None where the other system is the only source."""

    refund_id: str | None
    amount_cents: int
    created_at: datetime
    status: str = RefundState.SUCCEEDED

    @property
    def state(self) -> RefundState:
        """Its state here: a word that is not known means that the money is on its way."""
        known = (RefundState.SUCCEEDED, *UNSUCCESSFUL_REFUNDS)
        return RefundState(self.status) if self.status in known else RefundState.PENDING


@dataclass(frozen=True, kw_only=True)
class HistoricDispute:
    """A dispute of the payment as it is now. `appeal`: a lost one is fought on."""

    state: DisputeState
    began: datetime | None
    appeal: bool = False


@dataclass(frozen=True, kw_only=True)
class HistoricJob:
    """One closed order. `origin` says where it came from, `wordpress:17`; times are UTC; money is in cents.

    `status` is completed, failed, refunded or abandoned. What the other system did not keep is None."""

    job_id: str
    origin: str
    post_id: int | None
    attachment_id: int | None
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
    received_cents: int
    currency: str
    expected_credits: int
    credit_cents: Decimal | None
    payment_intent_id: str | None
    charge_id: str | None
    fee_cents: int | None
    checkout_session_id: str | None
    paid_at: datetime | None
    processing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    refunds: tuple[HistoricRefund, ...]
    disputes: tuple[HistoricDispute, ...]
    external_id: str | None
    credits: int | None
    reason_code: str | None
    reason_text: str | None
    remark: str | None

    @property
    def values(self) -> dict[str, Any]:
        """The fields as parameters of a statement, without `refunds` and `disputes`."""
        names = {each.name for each in fields(self)} - {"refunds", "disputes"}
        found = {name: getattr(self, name) for name in names}
        return found | {"status": str(self.status)}


_COLUMNS = """post_id, attachment_id, created_at, source_url, file_name, resolution, scale, customer_email,
    source_format, source_width, source_height, price_cents, currency, expected_credits, credit_cents,
    payment_intent_id, checkout_session_id, paid_at, processing_at, completed_at, failed_at, reason_code, reason_text"""
_VALUES = ", ".join(f":{name.strip()}" for name in _COLUMNS.split(","))
_STAGE = f"CASE :status WHEN '{Status.COMPLETED}' THEN '{Stage.COMPLETED}' ELSE '{Stage.FAILED}' END"

_INSERT_JOB = f"""
INSERT INTO smi.upscale_jobs ({_COLUMNS}, job_id, imported_from, status, updated_at, source_bytes, source_sha256,
                              learned_at, files_removed_at, stage)
VALUES ({_VALUES}, :job_id, :origin, :status, smi.now(), 1, '', :paid_at, smi.now(), {_STAGE})
ON CONFLICT DO NOTHING
"""

_UPDATE_JOB = f"""
UPDATE smi.upscale_jobs SET ({_COLUMNS}, learned_at, stage) = ROW ({_VALUES}, :paid_at, {_STAGE})
WHERE job_id = :job_id
"""


class PostgresHistory(Aggregate):
    """Imported jobs."""

    def closed(self, job_ids: Collection[str]) -> set[str]:
        """Return which of the jobs have been imported. An abandoned one is not among them: its customer may have paid
        since."""
        rows = self._database.rows(
            f"""SELECT job_id FROM smi.upscale_jobs
               WHERE job_id = ANY(:ids) AND imported_from IS NOT NULL AND status <> '{Status.ABANDONED}'""",
            ids=list(job_ids),
        )
        return {row["job_id"] for row in rows}

    def insert(self, job: HistoricJob, *, actor: str) -> bool:
        """Insert a job with all that belongs to it, or what has become of one that was abandoned when it was imported.
        Return False when that is on record. Raise RefusedError, and change nothing, when it contradicts the record."""
        try:
            with self._database.transaction() as tx:
                return _insert(tx, job, actor)
        except (DataError, IntegrityError, ValueError) as error:
            raise RefusedError(f"the database does not take it ({type(error).__name__})") from error


def take_payment(tx: Transaction, job_id: str, payment_intent_id: str, *, actor: str) -> None:
    """Make a payment on record that of an imported job, which had none."""
    tx.run("UPDATE smi.upscale_jobs SET payment_intent_id = :pi WHERE job_id = :id", pi=payment_intent_id, id=job_id)
    close_task(tx, kind=ManualTaskKind.UNMATCHED_PAYMENT, subject=payment_intent_id, actor=actor)
    tx.audit(job_id, "payment_matched", actor=actor, payment_intent=payment_intent_id)


def _insert(tx: Transaction, job: HistoricJob, actor: str) -> bool:
    if not tx.run(_INSERT_JOB, **job.values):
        before = tx.row(
            "SELECT imported_from, status FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job.job_id
        )
        if before is None:
            raise RefusedError("its payment or Checkout session belongs to another job")
        if before["imported_from"] is None:
            raise RefusedError("its job_id is that of an order of this shop")
        if before["status"] != Status.ABANDONED or job.status is Status.ABANDONED:
            return False
        _close(tx, job)
    _insert_payment(tx, job, actor)
    _insert_rest(tx, job, actor)
    return True


def _close(tx: Transaction, job: HistoricJob) -> None:
    """Bring an abandoned job to its end."""
    taken = tx.value(
        """SELECT 1 FROM smi.upscale_jobs WHERE job_id <> :job_id
           AND (payment_intent_id = :payment_intent_id OR checkout_session_id = :checkout_session_id)""",
        **job.values,
    )
    if taken:
        raise RefusedError("its payment or Checkout session belongs to another job")
    transitions.close_imported(tx, job.job_id, job.status)
    tx.run(_UPDATE_JOB, **job.values)


def _insert_payment(tx: Transaction, job: HistoricJob, actor: str) -> None:
    if not job.payment_intent_id:
        return
    # Reconciliation may have recorded the payment as unmatched, with its refunds, before its job was imported.
    recorded = tx.run(
        f"""INSERT INTO smi.payments AS p (payment_intent_id, job_id, role, received_cents, currency, charge_id,
                                     fee_cents, refunded_cents, paid_at, learned_at, learned_from)
           VALUES (:payment_intent_id, :job_id, '{PaymentRole.ORDER}', :received_cents, :currency, :charge_id,
                   :fee_cents, :refunded_cents, :paid_at, :paid_at, :origin)
           ON CONFLICT (payment_intent_id) DO UPDATE SET job_id = excluded.job_id, role = excluded.role,
                   charge_id = coalesce(excluded.charge_id, p.charge_id),
                   fee_cents = coalesce(excluded.fee_cents, p.fee_cents), refunded_cents = excluded.refunded_cents
           WHERE p.role = '{PaymentRole.UNMATCHED}' AND {NO_REFUND_OF_OURS}""",
        **job.values,
        refunded_cents=sum(refund.amount_cents for refund in job.refunds),
    )
    if not recorded:
        raise RefusedError(f"the payment {job.payment_intent_id} is on record for another job")
    assign_refunds(tx, job.payment_intent_id, job.job_id)
    close_task(tx, kind=ManualTaskKind.UNMATCHED_PAYMENT, subject=job.payment_intent_id, actor=actor)


def _insert_rest(tx: Transaction, job: HistoricJob, actor: str) -> None:
    if job.status is not Status.ABANDONED:
        tx.run(
            """INSERT INTO smi.outcomes (job_id, round, outcome, reason, decided_at, actor)
               VALUES (:job_id, 1, :outcome, :reason_code, :decided_at, :actor)""",
            **job.values,
            outcome={Status.COMPLETED: Outcome.DELIVER, Status.REFUNDED: Outcome.REFUND}.get(job.status, Outcome.NONE),
            decided_at=job.completed_at or job.failed_at or job.created_at,
            actor=actor,
        )
    for refund in job.refunds if job.payment_intent_id else ():
        _insert_refund(tx, job, refund, actor)
    for dispute in job.disputes:
        if job.payment_intent_id:
            apply_dispute(tx, job.payment_intent_id, dispute.state, dispute.began, actor=actor, appeal=dispute.appeal)
    if job.external_id:
        recorded = tx.run(
            """INSERT INTO smi.submissions (job_id, round, state, external_id, created_at, accepted_at, finished_at,
                                            credits)
               VALUES (:job_id, 1, :state, :external_id, :began, :began, :ended, :credits) ON CONFLICT DO NOTHING""",
            **job.values,
            state=SubmissionState.COMPLETED if job.status is Status.COMPLETED else SubmissionState.FAILED,
            began=job.processing_at or job.paid_at or job.created_at,
            ended=job.completed_at or job.failed_at,
        )
        if not recorded:
            raise RefusedError(f"the upscale {job.external_id} is on record for another job")
    tx.audit(job.job_id, "imported", actor=actor, to_status=str(job.status), origin=job.origin, remark=job.remark)


def _insert_refund(tx: Transaction, job: HistoricJob, refund: HistoricRefund, actor: str) -> None:
    """Insert a refund, unless reconciliation has recorded it with the payment."""
    tx.run(
        f"""INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, state, amount_cents, currency,
                                    stripe_refund_id, stripe_status, reason_code, actor, created_at, settled_at)
           SELECT :job_id, :pi, '{RefundKind.EXTERNAL}', 0, :state, :amount_cents, :currency, :refund_id,
                  :stripe_status, '{reasons.REFUNDED_OUTSIDE}', :actor, :at, :at
           WHERE CAST(:refund_id AS text) IS NOT NULL OR NOT EXISTS (
               SELECT FROM smi.refunds WHERE payment_intent_id = :pi AND state IN {in_(RETURNED)})
           ON CONFLICT (stripe_refund_id) DO NOTHING""",
        job_id=job.job_id,
        pi=job.payment_intent_id,
        state=str(refund.state),
        amount_cents=refund.amount_cents,
        currency=job.currency,
        refund_id=refund.refund_id,
        stripe_status=refund.status if refund.refund_id else None,
        actor=actor,
        at=refund.created_at,
    )
