"""Rows of `payments`, in the caller's transaction."""

from dataclasses import asdict
from datetime import datetime

from smi_pipeline.core.models import StripePayment
from smi_pipeline.core.vocabulary import DisputeState, PaymentRole
from smi_pipeline.state.database import Row, Transaction
from smi_pipeline.state.pending_refunds import OURS_LIVE

NO_REFUND_OF_OURS = f"""NOT EXISTS (SELECT FROM smi.refunds r
    WHERE r.payment_intent_id = p.payment_intent_id AND {OURS_LIVE})"""
"""Condition on `smi.payments p`: we neither return the payment nor have returned it."""


def lock_job_of(tx: Transaction, payment_intent_id: str) -> None:
    """Lock the job of a payment before the payment itself, as `record_payment` does: the other order would deadlock."""
    tx.run(
        """SELECT FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id) WHERE p.payment_intent_id = :pi
           FOR UPDATE OF j""",
        pi=payment_intent_id,
    )


def insert_payment(tx: Transaction, facts: StripePayment, job_id: str | None, role: PaymentRole, source: str) -> bool:
    """Record a payment. Return False when it is on record."""
    return tx.changes(
        """INSERT INTO smi.payments (payment_intent_id, job_id, role, received_cents, currency, charge_id,
               fee_cents, refunded_cents, paid_at, learned_from)
           VALUES (:payment_intent_id, :job_id, :role, :amount_received_cents, :currency, :charge_id, :fee_cents,
               :refunded_cents, least(coalesce(CAST(:paid_at AS timestamptz), smi.now()), smi.now()), :source)
           ON CONFLICT (payment_intent_id) DO NOTHING""",
        **asdict(facts),
        paid_at=facts.paid_at,
        job_id=job_id,
        role=role,
        source=source,
    )


def update_payment(tx: Transaction, facts: StripePayment) -> None:
    """Store what Stripe says now of a payment on record."""
    tx.run(
        """UPDATE smi.payments SET refunded_cents = :refunded_cents, fee_cents = coalesce(:fee_cents, fee_cents),
               charge_id = coalesce(:charge_id, charge_id)
           WHERE payment_intent_id = :payment_intent_id""",
        **asdict(facts),
    )


def assign_unmatched(tx: Transaction, payment_intent_id: str, job_id: str, role: PaymentRole, actor: str) -> bool:
    """Assign an unmatched payment to a job. Return False when it is settled, or being returned by us."""
    return tx.changes(
        f"""UPDATE smi.payments p SET job_id = :job_id, role = :role, learned_from = :actor, learned_at = smi.now()
           WHERE payment_intent_id = :pi AND role = '{PaymentRole.UNMATCHED}' AND settled_by IS NULL
             AND {NO_REFUND_OF_OURS}""",
        pi=payment_intent_id,
        job_id=job_id,
        role=role,
        actor=actor,
    )


def settle_unmatched(tx: Transaction, payment_intent_id: str, actor: str) -> bool:
    """Note who has settled an unmatched payment. Return False when it is settled, or not unmatched."""
    return tx.changes(
        f"""UPDATE smi.payments SET settled_by = :actor
           WHERE payment_intent_id = :pi AND role = '{PaymentRole.UNMATCHED}' AND settled_by IS NULL""",
        actor=actor,
        pi=payment_intent_id,
    )


def reopen_unmatched(tx: Transaction, payment_intent_id: str) -> None:
    """Note that an unmatched payment must be settled again: its refund has failed."""
    tx.run("UPDATE smi.payments SET settled_by = NULL WHERE payment_intent_id = :pi", pi=payment_intent_id)


def record_kept(tx: Transaction, payment_intent_id: str, kept_cents: int) -> None:
    """Store how much of a payment the shop still has."""
    tx.run(
        "UPDATE smi.payments SET refunded_cents = received_cents - :kept WHERE payment_intent_id = :pi",
        kept=kept_cents,
        pi=payment_intent_id,
    )


def record_dispute(
    tx: Transaction, payment_intent_id: str, state: DisputeState, began: datetime | None, *, appeal: bool = False
) -> Row | None:
    """Apply the state of a dispute. Return job_id and the dispute state of the payment, None for an unknown payment.

    Events come in any order: a loss is final unless it is appealed; else the newest dispute counts, and of that one its
    end.
    """
    return tx.row(
        f"""UPDATE smi.payments SET disputed_at = greatest(disputed_at, :began), dispute = CASE
               WHEN :appeal AND dispute = '{DisputeState.LOST}' THEN :state
               WHEN dispute = '{DisputeState.LOST}' OR :state = '{DisputeState.LOST}' THEN '{DisputeState.LOST}'
               WHEN :began < disputed_at THEN dispute
               WHEN dispute = '{DisputeState.WON}' AND (:began > disputed_at) IS NOT TRUE THEN dispute
               ELSE :state END
           WHERE payment_intent_id = :pi RETURNING job_id, dispute""",
        pi=payment_intent_id,
        state=state,
        began=began,
        appeal=appeal,
    )
