"""What becomes of refunds by what Stripe says of them, ours and those made by hand, in the caller's transaction."""

from smi_pipeline.core import reasons
from smi_pipeline.core.models import Status, StripeRefund
from smi_pipeline.state.database import Transaction
from smi_pipeline.state.emails import queue_email
from smi_pipeline.state.manual_tasks import close_task, open_task
from smi_pipeline.state.outcomes import decide

_MAIL_KIND = {
    "failure": "refund",
    "wrong_amount": "refund",
    "outside": "refund",
    "duplicate_payment": "duplicate_payment",
    "goodwill": "goodwill",
}


def lock_job_of(tx: Transaction, payment_intent_id: str) -> None:
    """Before the payment itself, as whoever records one does: the other way round two would wait for each other."""
    tx.run(
        """SELECT FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id) WHERE p.payment_intent_id = :pi
           FOR UPDATE OF j""",
        pi=payment_intent_id,
    )


def settle_refund(tx: Transaction, refund_row: int, facts: StripeRefund, actor: str, mail_domain: str) -> str:
    """Takes in how a refund on record stands at Stripe; its state then."""
    state = "pending" if facts.status == "requires_action" else facts.status
    before = tx.row("SELECT * FROM smi.refunds WHERE refund_row = :id FOR UPDATE", id=refund_row)
    if before is None or (before["state"] == state and before["stripe_refund_id"] == facts.refund_id):
        tx.run(
            """UPDATE smi.refunds SET lease_id = NULL, lease_until = NULL,
                      next_attempt_at = smi.now() + interval '1 hour' WHERE refund_row = :id""",
            id=refund_row,
        )
        return "known"
    if before["state"] in ("failed", "canceled"):
        return "known"  # terminal at Stripe too: an older event arrived late
    if before["state"] == "succeeded" and state == "pending":
        return "known"
    tx.run(
        """UPDATE smi.refunds SET state = :state, stripe_refund_id = :stripe_id, amount_cents = :amount,
               failure = :failure, lease_id = NULL, lease_until = NULL, attempts = 0,
               first_called_at = coalesce(first_called_at, smi.now()),
               settled_at = CASE WHEN :state = 'pending' THEN NULL ELSE smi.now() END,
               next_attempt_at = smi.now() + interval '1 hour'
           WHERE refund_row = :id""",
        id=refund_row,
        state=state,
        stripe_id=facts.refund_id,
        amount=facts.amount_cents,
        failure=facts.failure_reason,
    )
    tx.event(
        before["job_id"],
        f"refund_{state}",
        actor=actor,
        refund=facts.refund_id,
        amount_cents=facts.amount_cents,
        currency=facts.currency,
        reason=before["reason_code"],
    )
    if state in ("failed", "canceled"):
        if before["kind"] == "outside" and _owed_again(tx, before["job_id"], facts, actor):
            return state
        refund_failed(tx, before, facts.failure_reason or f"Stripe says {facts.status}", actor)
        return state
    if before["kind"] == "outside":  # made by hand, known since it was begun: whoever made it tells the customer
        return state
    if state == "succeeded" and _kept_cents(tx, before["payment_intent_id"]) <= 0:
        close_task(tx, kind="refund_failed", subject=before["payment_intent_id"], actor=actor)
    if state == "succeeded" and before["kind"] in ("failure", "wrong_amount", "goodwill"):
        mark_refunded(tx, before["job_id"], actor)
    if before["job_id"] and before["kind"] in _MAIL_KIND:
        queue_email(tx, before["job_id"], _MAIL_KIND[before["kind"]], mail_domain, context={"refund_row": refund_row})
    return state


def _owed_again(tx: Transaction, job_id: str | None, facts: StripeRefund, actor: str) -> bool:
    """One made by hand has failed. Was ours not made because of it, ours looks again what is left to return."""
    owed = tx.run(
        """UPDATE smi.refunds r SET state = 'owed', settled_at = NULL, failure = NULL, attempts = 0,
                  next_attempt_at = smi.now()
           WHERE payment_intent_id = :pi AND state = 'not_needed' AND failure = :why AND NOT EXISTS (
               SELECT FROM smi.refunds o WHERE o.payment_intent_id = r.payment_intent_id AND (
                   o.refund_row > r.refund_row AND o.kind <> 'outside'
                   OR o.kind <> 'outside' AND o.state IN ('owed', 'pending', 'succeeded')))""",
        pi=facts.payment_intent_id,
        why=reasons.REFUNDED_IN_FULL,
    )
    if owed:
        tx.event(job_id, "refund_owed_again", actor=actor, outside_refund=facts.refund_id)
    return bool(owed)


def _kept_cents(tx: Transaction, payment_intent_id: str) -> int:
    """What the shop still has of a payment, by the refunds on record."""
    kept = tx.value(
        """SELECT received_cents - (SELECT coalesce(sum(amount_cents), 0) FROM smi.refunds r
                                    WHERE r.payment_intent_id = p.payment_intent_id
                                      AND r.state IN ('pending', 'succeeded'))
           FROM smi.payments p WHERE payment_intent_id = :pi""",
        pi=payment_intent_id,
    )
    return int(kept or 0)


def mark_refunded(tx: Transaction, job_id: str | None, actor: str) -> bool:
    """Closes a failed job whose money is back."""
    marked = tx.run(
        "UPDATE smi.upscale_jobs SET status = 'refunded' WHERE job_id = :id AND status = 'failed'", id=job_id
    )
    if marked:
        tx.event(job_id, "refunded", actor=actor, from_status=Status.FAILED, to_status=Status.REFUNDED)
    return bool(marked)


def _gave_up(tx: Transaction, payment_intent_id: str) -> bool:
    """Whether our refund for a failed job has failed, and none of ours follows."""
    return bool(
        tx.value(
            """SELECT bool_or(kind IN ('failure', 'wrong_amount') AND state IN ('failed', 'canceled'))
                      AND NOT bool_or(state IN ('owed', 'pending', 'succeeded'))
               FROM smi.refunds WHERE payment_intent_id = :pi AND kind <> 'outside'""",
            pi=payment_intent_id,
        )
    )


def refund_failed(tx: Transaction, row, why: str, actor: str) -> None:
    """Gives a refund that will not come to a person."""
    tx.event(row["job_id"], "refund_failed", actor=actor, why=why, payment_intent=row["payment_intent_id"])
    again = f"smi jobs refund {row['job_id']}"
    role = tx.value("SELECT role FROM smi.payments WHERE payment_intent_id = :pi", pi=row["payment_intent_id"])
    if role in ("duplicate", "orphan"):  # `refund` would return the payment that the job was delivered for
        again = f"smi jobs refund-payment {row['payment_intent_id']}"
    step = f"Run `{again}`, or return the money another way (Stripe dashboard or bank transfer)."
    if tx.value(
        """SELECT 1 FROM smi.refunds WHERE payment_intent_id = :pi AND kind <> 'outside'
           AND state IN ('owed', 'pending', 'succeeded')""",
        pi=row["payment_intent_id"],
    ):  # ours returned the rest, or will: no command makes another
        step = "What the shop still keeps of it, return another way (Stripe dashboard or bank transfer)."
    elif role == "orphan":  # it waits for a person's word again
        tx.run("UPDATE smi.payments SET settled_by = NULL WHERE payment_intent_id = :pi", pi=row["payment_intent_id"])
    open_task(
        tx,
        kind="refund_failed",
        subject=row["payment_intent_id"],
        job_id=row["job_id"],
        message=f"The refund of {row['payment_intent_id']} failed: {why}.",
        next_step=step,
    )


def record_outside(tx: Transaction, facts: StripeRefund, actor: str, mail_domain: str) -> str:
    """A refund made by hand in the Stripe dashboard. A full one before delivery is the outcome of the job."""
    lock_job_of(tx, facts.payment_intent_id)
    payment = tx.row("SELECT * FROM smi.payments WHERE payment_intent_id = :pi FOR UPDATE", pi=facts.payment_intent_id)
    if payment is None:
        return "ignored"
    if not facts.alive:
        return "owed again" if _owed_again(tx, payment["job_id"], facts, actor) else "ignored"
    tx.run(  # imported history knows it without its id
        """UPDATE smi.refunds SET stripe_refund_id = :id WHERE refund_row = (
               SELECT min(refund_row) FROM smi.refunds WHERE payment_intent_id = :pi AND kind = 'outside'
               AND stripe_refund_id IS NULL AND amount_cents = :amount)""",
        id=facts.refund_id,
        pi=facts.payment_intent_id,
        amount=facts.amount_cents,
    )
    tx.run(
        """INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, state, amount_cents, currency,
                                    stripe_refund_id, reason_code, actor, settled_at)
           VALUES (:job_id, :pi, 'outside', 0, :state, :amount, :currency, :stripe_id, :reason, :actor, smi.now())
           ON CONFLICT (stripe_refund_id) DO UPDATE SET state = excluded.state""",
        job_id=payment["job_id"],
        pi=facts.payment_intent_id,
        state="pending" if facts.status == "requires_action" else facts.status,
        amount=facts.amount_cents,
        currency=facts.currency,
        stripe_id=facts.refund_id,
        reason=reasons.REFUNDED_OUTSIDE,
        actor=actor,
    )
    kept = _kept_cents(tx, facts.payment_intent_id)
    tx.run(
        "UPDATE smi.payments SET refunded_cents = received_cents - :kept WHERE payment_intent_id = :pi",
        kept=kept,
        pi=facts.payment_intent_id,
    )
    tx.event(
        payment["job_id"], "refunded_outside", actor=actor, refund=facts.refund_id, amount_cents=facts.amount_cents
    )
    if kept > 0:
        return "outside"
    close_task(tx, kind="refund_failed", subject=facts.payment_intent_id, actor=actor)
    if payment["role"] == "orphan":
        tx.run(
            "UPDATE smi.payments SET settled_by = coalesce(settled_by, :actor) WHERE payment_intent_id = :pi",
            actor=actor,
            pi=facts.payment_intent_id,
        )
        close_task(tx, kind="orphan_payment", subject=facts.payment_intent_id, actor=actor)
    if payment["role"] not in ("order", "mismatch"):
        return "outside"
    job = tx.row("SELECT * FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=payment["job_id"])
    # A gift of the shop (a later round) ends without money, whatever becomes of the payment.
    decided = job is not None and job["round"] == 1 and decide(tx, job, "refund", reasons.REFUNDED_OUTSIDE, actor)
    if job is not None and decided:
        tx.run(
            """UPDATE smi.upscale_jobs SET status = 'failed', queue = NULL, lease_id = NULL, lease_until = NULL,
                   hold_reason = NULL, held_at = NULL,
                   failed_at = smi.now(), reason_code = :reason, reason_text = :words WHERE job_id = :id""",
            id=job["job_id"],
            reason=reasons.REFUNDED_OUTSIDE,
            words=reasons.FOR_CUSTOMER[reasons.REFUNDED_OUTSIDE],
        )
        tx.event(
            job["job_id"],
            "failed",
            actor=actor,
            from_status=job["status"],
            to_status=Status.FAILED,
            reason=reasons.REFUNDED_OUTSIDE,
        )
    # A person has returned what ours could not: nothing else would close the job.
    if (
        job is not None
        and (decided or _gave_up(tx, facts.payment_intent_id))
        and mark_refunded(tx, job["job_id"], actor)
    ):
        outside = tx.value("SELECT refund_row FROM smi.refunds WHERE stripe_refund_id = :id", id=facts.refund_id)
        queue_email(tx, job["job_id"], "refund", mail_domain, context={"refund_row": outside})
    return "outside"
