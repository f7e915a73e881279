"""Refunds: the key is committed when the refund is decided, the amount before Stripe is called."""

from datetime import datetime

from smi_pipeline.adapters.postgres.database import Database, Transaction, as_record
from smi_pipeline.adapters.postgres.emails import owe_email
from smi_pipeline.adapters.postgres.inbox import into_inbox
from smi_pipeline.adapters.postgres.tasks import close_task, open_task
from smi_pipeline.core import reasons
from smi_pipeline.core.models import Refund, RefundFacts, Status

_MAIL_KIND = {
    "failure": "refund",
    "wrong_amount": "refund",
    "outside": "refund",
    "duplicate_payment": "duplicate_payment",
    "goodwill": "goodwill",
}


def owe_refund(
    tx: Transaction,
    *,
    job_id: str | None,
    payment_intent_id: str,
    kind: str,
    currency: str,
    reason: str,
    actor: str,
) -> bool:
    """Commits the intent to give the rest of a payment back, with its idempotency key. False when one is under way."""
    return bool(
        tx.run(
            """INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, idempotency_key, currency, reason_code,
                                        actor, next_attempt_at)
               SELECT :job_id, :pi, :kind, n, concat_ws(':', 'refund', coalesce(:job_id, :pi), n::text), :currency,
                      :reason, :actor, smi.now()
               FROM (SELECT coalesce(max(n), 0) + 1 AS n FROM smi.refunds
                     WHERE coalesce(job_id, payment_intent_id) = coalesce(:job_id, :pi)) AS next
               ON CONFLICT (payment_intent_id) WHERE kind <> 'outside' AND state IN ('owed', 'pending', 'succeeded')
               DO NOTHING""",
            job_id=job_id,
            pi=payment_intent_id,
            kind=kind,
            currency=currency,
            reason=reason,
            actor=actor,
        )
    )


class PostgresRefunds:
    """Implements `core.state.Refunds`."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def get(self, refund_row: int) -> Refund | None:
        with self._database.transaction() as tx:
            row = tx.row("SELECT * FROM smi.refunds WHERE refund_row = :id", id=refund_row)
        return as_record(Refund, row) if row else None

    def of_job(self, job_id: str) -> list[Refund]:
        with self._database.transaction() as tx:
            rows = tx.rows("SELECT * FROM smi.refunds WHERE job_id = :id ORDER BY refund_row", id=job_id)
        return [as_record(Refund, row) for row in rows]

    def owe(
        self, *, job_id: str | None, payment_intent_id: str, kind: str, currency: str, reason: str, actor: str
    ) -> bool:
        with self._database.transaction() as tx:
            if kind == "unmatched" and not tx.run(  # locked: somebody may be adopting it
                """UPDATE smi.payments SET settled_by = :actor
                   WHERE payment_intent_id = :pi AND role = 'orphan' AND settled_by IS NULL""",
                actor=actor,
                pi=payment_intent_id,
            ):
                return False
            owed = owe_refund(
                tx,
                job_id=job_id,
                payment_intent_id=payment_intent_id,
                kind=kind,
                currency=currency,
                reason=reason,
                actor=actor,
            )
            if owed:
                tx.event(job_id, "refund_owed", actor=actor, reason=reason, payment_intent=payment_intent_id)
            return owed

    def intend(self, refund_row: int, lease_id: str, amount_cents: int, *, renew_key: bool) -> Refund | None:
        with self._database.transaction() as tx:
            row = tx.row(
                """UPDATE smi.refunds r SET amount_cents = :amount,
                       first_called_at = CASE WHEN :renew OR first_called_at IS NULL THEN smi.now()
                                              ELSE first_called_at END,
                       n = CASE WHEN :renew THEN next.n ELSE r.n END,
                       idempotency_key = CASE WHEN :renew
                           THEN concat_ws(':', 'refund', coalesce(r.job_id, r.payment_intent_id), next.n::text)
                           ELSE r.idempotency_key END
                   FROM (SELECT coalesce(max(o.n), 0) + 1 AS n FROM smi.refunds o
                         JOIN smi.refunds m ON coalesce(o.job_id, o.payment_intent_id)
                                             = coalesce(m.job_id, m.payment_intent_id)
                         WHERE m.refund_row = :id) AS next
                   WHERE r.refund_row = :id AND r.lease_id = :lease_id AND r.state = 'owed'
                   RETURNING r.*""",
                id=refund_row,
                lease_id=lease_id,
                amount=amount_cents,
                renew=renew_key,
            )
        return as_record(Refund, row) if row else None

    def settle(self, refund_row: int, facts: RefundFacts, *, actor: str) -> str:
        with self._database.transaction() as tx:
            return _settle(tx, refund_row, facts, actor, self._mail_domain)

    def settle_by_facts(self, facts: RefundFacts, *, event: tuple[str, str] | None, actor: str) -> str:
        with self._database.transaction() as tx:
            if event and not into_inbox(tx, *event, "refund"):
                return "repeated"
            # Stripe's webhook may come before the answer to our own call: known by id, or by the key in its metadata
            # (with its payment: a database that was restored makes keys once more).
            row = tx.row(
                """SELECT refund_row FROM smi.refunds
                   WHERE stripe_refund_id = :id OR idempotency_key = :key AND payment_intent_id = :pi FOR UPDATE""",
                id=facts.refund_id,
                key=facts.metadata.get("idempotency_key", ""),
                pi=facts.payment_intent_id,
            )
            if row:
                return _settle(tx, row["refund_row"], facts, actor, self._mail_domain)
            return _record_outside(tx, facts, actor, self._mail_domain)

    def not_needed(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> bool:
        with self._database.transaction() as tx:
            row = tx.row(
                """UPDATE smi.refunds SET state = 'not_needed', failure = :why, settled_at = smi.now(),
                          lease_id = NULL, lease_until = NULL
                   WHERE refund_row = :id AND lease_id = :lease_id AND state = 'owed' RETURNING *""",
                id=refund_row,
                lease_id=lease_id,
                why=why,
            )
            if row is None:
                return False
            tx.event(row["job_id"], "refund_not_needed", actor=actor, why=why)
            close_task(tx, kind="refund_failed", subject=row["payment_intent_id"], actor=actor)
            if row["kind"] in ("failure", "wrong_amount"):
                _mark_refunded(tx, row["job_id"], actor)
                owe_email(tx, row["job_id"], "refund", self._mail_domain, context={"refund_row": row["refund_row"]})
            return True

    def give_up(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> None:
        with self._database.transaction() as tx:
            row = tx.row(
                """UPDATE smi.refunds SET state = 'failed', failure = :why, settled_at = smi.now(),
                          lease_id = NULL, lease_until = NULL
                   WHERE refund_row = :id AND lease_id = :lease_id RETURNING *""",
                id=refund_row,
                lease_id=lease_id,
                why=why,
            )
            if row:
                _refund_failed(tx, row, why, actor)

    def note_dispute(
        self, payment_intent_id: str, state: str, began: datetime | None, *, event: tuple[str, str], actor: str
    ) -> bool:
        with self._database.transaction() as tx:
            if not into_inbox(tx, *event, "dispute"):
                return False
            row = tx.row(
                # Events come in any order. A loss is final; else the newest dispute counts, and of one its end.
                """UPDATE smi.payments SET disputed_at = greatest(disputed_at, :began), dispute = CASE
                       WHEN dispute = 'lost' OR :state = 'lost' THEN 'lost'
                       WHEN :began < disputed_at THEN dispute
                       WHEN dispute = 'won' AND (:began > disputed_at) IS NOT TRUE THEN dispute
                       ELSE :state END
                   WHERE payment_intent_id = :pi RETURNING job_id, dispute""",
                pi=payment_intent_id,
                state=state,
                began=began,
            )
            if row is None:
                return False
            tx.event(row["job_id"], f"dispute_{state}", actor=actor, payment_intent=payment_intent_id)
            tx.run(  # won: an owed refund goes on; lost: it is settled as not needed
                """UPDATE smi.refunds SET next_attempt_at = smi.now()
                   WHERE payment_intent_id = :pi AND state = 'owed' AND lease_id IS NULL""",
                pi=payment_intent_id,
            )
            tx.run("UPDATE smi.upscale_jobs SET updated_at = smi.now() WHERE job_id = :id", id=row["job_id"])
            if row["dispute"] != "open":
                close_task(tx, kind="dispute", subject=payment_intent_id, actor=actor)
            else:
                open_task(
                    tx,
                    kind="dispute",
                    subject=payment_intent_id,
                    job_id=row["job_id"],
                    message=f"The customer of job {row['job_id']} disputes the payment {payment_intent_id}.",
                    next_step="Answer it in the Stripe dashboard before its due date.",
                )
            return True


def _settle(tx: Transaction, refund_row: int, facts: RefundFacts, actor: str, mail_domain: str) -> str:
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
        _refund_failed(tx, before, facts.failure_reason or f"Stripe says {facts.status}", actor)
        return state
    if before["kind"] == "outside":  # made by hand, known since it was begun: whoever made it tells the customer
        return state
    if state == "succeeded" and _kept_cents(tx, before["payment_intent_id"]) <= 0:
        close_task(tx, kind="refund_failed", subject=before["payment_intent_id"], actor=actor)
    if state == "succeeded" and before["kind"] in ("failure", "wrong_amount", "goodwill"):
        _mark_refunded(tx, before["job_id"], actor)
    if before["job_id"] and before["kind"] in _MAIL_KIND:
        owe_email(tx, before["job_id"], _MAIL_KIND[before["kind"]], mail_domain, context={"refund_row": refund_row})
    return state


def _owed_again(tx: Transaction, job_id: str | None, facts: RefundFacts, actor: str) -> bool:
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


def _mark_refunded(tx: Transaction, job_id: str | None, actor: str) -> bool:
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


def _refund_failed(tx: Transaction, row, why: str, actor: str) -> None:
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


def _record_outside(tx: Transaction, facts: RefundFacts, actor: str, mail_domain: str) -> str:
    """A refund made by hand in the Stripe dashboard. A full one before delivery is the outcome of the job."""
    tx.run(  # the job first, as whoever records a payment does: the other way round they would wait for each other
        """SELECT FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id) WHERE p.payment_intent_id = :pi
           FOR UPDATE OF j""",
        pi=facts.payment_intent_id,
    )
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
    decided = (
        job is not None
        and job["round"] == 1
        and tx.run(
            """INSERT INTO smi.outcomes (job_id, round, outcome, reason, actor)
           VALUES (:id, :round, 'refund', :reason, :actor) ON CONFLICT DO NOTHING""",
            id=job["job_id"],
            round=job["round"],
            reason=reasons.REFUNDED_OUTSIDE,
            actor=actor,
        )
    )
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
        and _mark_refunded(tx, job["job_id"], actor)
    ):
        outside = tx.value("SELECT refund_row FROM smi.refunds WHERE stripe_refund_id = :id", id=facts.refund_id)
        owe_email(tx, job["job_id"], "refund", mail_domain, context={"refund_row": outside})
    return "outside"
