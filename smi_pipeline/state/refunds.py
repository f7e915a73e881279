"""Refunds: the key is committed when the refund is decided, the amount before Stripe is called."""

from datetime import datetime

from smi_pipeline.core.models import Refund, StripeRefund
from smi_pipeline.state.database import Database, Transaction, as_record
from smi_pipeline.state.emails import queue_email
from smi_pipeline.state.manual_tasks import close_task, open_task
from smi_pipeline.state.refund_updates import (
    lock_job_of,
    mark_refunded,
    record_outside,
    refund_failed,
    settle_refund,
)
from smi_pipeline.state.webhook_inbox import record_event_once


def create_pending_refund(
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


class Refunds:
    """Money owed and given back."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def get(self, refund_row: int) -> Refund | None:
        """One refund."""
        with self._database.transaction() as tx:
            row = tx.row("SELECT * FROM smi.refunds WHERE refund_row = :id", id=refund_row)
        return as_record(Refund, row) if row else None

    def of_job(self, job_id: str) -> list[Refund]:
        """All refunds of a job, oldest first."""
        with self._database.transaction() as tx:
            rows = tx.rows("SELECT * FROM smi.refunds WHERE job_id = :id ORDER BY refund_row", id=job_id)
        return [as_record(Refund, row) for row in rows]

    def owe(
        self, *, job_id: str | None, payment_intent_id: str, kind: str, currency: str, reason: str, actor: str
    ) -> bool:
        """Commits the intent to return the rest of a payment. False when one is under way, or when an `unmatched` one
        is settled."""
        with self._database.transaction() as tx:
            if kind == "unmatched" and not tx.run(  # locked: somebody may be adopting it
                """UPDATE smi.payments SET settled_by = :actor
                   WHERE payment_intent_id = :pi AND role = 'orphan' AND settled_by IS NULL""",
                actor=actor,
                pi=payment_intent_id,
            ):
                return False
            owed = create_pending_refund(
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
        """Commits amount and key right before Stripe is called; None when the lease was lost."""
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

    def settle(self, refund_row: int, facts: StripeRefund, *, actor: str) -> str:
        """Applies Stripe's answer about one of our refunds; owes the mail. Returns the recorded state."""
        with self._database.transaction() as tx:
            return settle_refund(tx, refund_row, facts, actor, self._mail_domain)

    def settle_by_facts(self, facts: StripeRefund, *, event: tuple[str, str] | None, actor: str) -> str:
        """Applies a refund learned from an event: one of ours by id or key, else one made outside."""
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, *event, "refund"):
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
                return settle_refund(tx, row["refund_row"], facts, actor, self._mail_domain)
            return record_outside(tx, facts, actor, self._mail_domain)

    def not_needed(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> bool:
        """Closes an owed refund whose money is back already."""
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
                mark_refunded(tx, row["job_id"], actor)
                queue_email(tx, row["job_id"], "refund", self._mail_domain, context={"refund_row": row["refund_row"]})
            return True

    def give_up(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> None:
        """Makes a refund a person's task."""
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
                refund_failed(tx, row, why, actor)

    def note_dispute(
        self, payment_intent_id: str, state: str, began: datetime | None, *, event: tuple[str, str], actor: str
    ) -> bool:
        """Notes a dispute's state (open, won, lost) once per event. The newest dispute counts, a loss always."""
        with self._database.transaction() as tx:
            if not record_event_once(tx, *event, "dispute"):
                return False
            lock_job_of(tx, payment_intent_id)
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
