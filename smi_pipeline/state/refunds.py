"""Refunds: the key is committed when the refund is decided, the amount before Stripe is called."""

from smi_pipeline.core.models import Refund, StripeRefund
from smi_pipeline.core.vocabulary import REFUNDS_OF_FAILURE, EmailKind, ManualTaskKind, RefundKind, RefundState
from smi_pipeline.state.database import Database
from smi_pipeline.state.emails import queue_email
from smi_pipeline.state.manual_tasks import close_task
from smi_pipeline.state.payment_rows import settle_unmatched
from smi_pipeline.state.pending_refunds import create_pending_refund
from smi_pipeline.state.refund_updates import (
    open_balance_task,
    record_external_refund,
    refund_failed,
    settle_refund,
)
from smi_pipeline.state.transitions import mark_refunded
from smi_pipeline.state.webhook_inbox import record_event_once


class Refunds:
    """Refunds owed and made."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def get(self, refund_id: int) -> Refund | None:
        """Return one refund."""
        return self._database.record(Refund, "SELECT * FROM smi.refunds WHERE refund_row = :id", id=refund_id)

    def of_job(self, job_id: str) -> list[Refund]:
        """Return all refunds of a job, oldest first."""
        return self._database.records(
            Refund, "SELECT * FROM smi.refunds WHERE job_id = :id ORDER BY refund_row", id=job_id
        )

    def tell_soon(self, *, besides: int | None = None) -> bool:
        """Return whether a refund, `besides` one, will soon show whether Stripe carries refunds out: one that is
        retried each minute, not one that waits for a dispute or for the shop's balance, or is only looked up."""
        return bool(
            self._database.value(
                f"""SELECT 1 FROM smi.refunds
                    WHERE state = '{RefundState.OWED}' AND refund_row IS DISTINCT FROM :besides
                    AND (lease_id IS NOT NULL OR next_attempt_at <= smi.now() + interval '2 minutes') LIMIT 1""",
                besides=besides,
            )
        )

    def owe(
        self, *, job_id: str | None, payment_intent_id: str, kind: RefundKind, currency: str, reason: str, actor: str
    ) -> bool:
        """Commit the intent to return the rest of a payment. Return False when a refund exists, or when an unmatched
        payment is settled."""
        with self._database.transaction() as tx:
            # This locks the payment: an admin may be assigning it to a job.
            if kind == RefundKind.UNMATCHED and not settle_unmatched(tx, payment_intent_id, actor):
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
                tx.audit(job_id, "refund_owed", actor=actor, reason=reason, payment_intent=payment_intent_id)
            return owed

    def intend(self, refund_id: int, lease_id: str, amount_cents: int, *, renew_key: bool) -> Refund | None:
        """Commit amount and key before Stripe is called. Return None when the lease was lost."""
        return self._database.record(
            Refund,
            f"""UPDATE smi.refunds r SET amount_cents = :amount,
                   first_called_at = CASE WHEN :renew OR first_called_at IS NULL THEN smi.now()
                                          ELSE first_called_at END,
                   n = CASE WHEN :renew THEN next.n ELSE r.n END, key_spent = r.key_spent AND NOT :renew,
                   idempotency_key = CASE WHEN :renew
                       THEN concat_ws(':', 'refund', coalesce(r.job_id, r.payment_intent_id), next.n::text)
                       ELSE r.idempotency_key END
               FROM (SELECT coalesce(max(o.n), 0) + 1 AS n FROM smi.refunds o
                     JOIN smi.refunds m ON coalesce(o.job_id, o.payment_intent_id)
                                         = coalesce(m.job_id, m.payment_intent_id)
                     WHERE m.refund_row = :id) AS next
               WHERE r.refund_row = :id AND r.lease_id = :lease_id AND r.state = '{RefundState.OWED}'
               RETURNING r.*""",
            id=refund_id,
            lease_id=lease_id,
            amount=amount_cents,
            renew=renew_key,
        )

    def spend_key(self, refund_id: int, idempotency_key: str) -> None:
        """Note that Stripe has answered a key with an error, which it would repeat."""
        self._database.run(
            "UPDATE smi.refunds SET key_spent = true WHERE refund_row = :id AND idempotency_key = :key",
            id=refund_id,
            key=idempotency_key,
        )

    def await_balance(self, refund_id: int, *, why: str) -> None:
        """Note that a refund waits until the shop's balance at Stripe is large enough, and open the task of that."""
        with self._database.transaction() as tx:
            tx.run("UPDATE smi.refunds SET waits_for_balance = true WHERE refund_row = :id", id=refund_id)
            open_balance_task(tx, why)

    def settle(self, refund_id: int, facts: StripeRefund, *, actor: str) -> str:
        """Apply Stripe's answer about one of our refunds and queue its mail. Return the recorded state."""
        with self._database.transaction() as tx:
            return settle_refund(tx, refund_id, facts, actor, self._mail_domain)

    def settle_by_facts(self, facts: StripeRefund, *, event: tuple[str, str] | None, actor: str) -> str:
        """Apply a refund that Stripe reports: one of ours by id or key, else an external one. Return the effect."""
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
            return record_external_refund(tx, facts, actor, self._mail_domain)

    def not_needed(self, refund_id: int, lease_id: str, *, why: str, actor: str) -> bool:
        """Close an owed refund whose money is returned already. Return False when the lease was lost."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"""UPDATE smi.refunds SET state = '{RefundState.NOT_NEEDED}', failure = :why, settled_at = smi.now(),
                          lease_id = NULL, lease_until = NULL
                   WHERE refund_row = :id AND lease_id = :lease_id AND state = '{RefundState.OWED}' RETURNING *""",
                id=refund_id,
                lease_id=lease_id,
                why=why,
            )
            if row is None:
                return False
            tx.audit(row["job_id"], "refund_not_needed", actor=actor, why=why)
            close_task(tx, kind=ManualTaskKind.REFUND_FAILED, subject=row["payment_intent_id"], actor=actor)
            if row["kind"] in REFUNDS_OF_FAILURE:
                mark_refunded(tx, row["job_id"], actor=actor)
                queue_email(
                    tx, row["job_id"], EmailKind.REFUND, self._mail_domain, context={"refund_row": row["refund_row"]}
                )
            return True

    def give_up(self, refund_id: int, lease_id: str, *, why: str, actor: str) -> None:
        """Fail a refund and open its manual task."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"""UPDATE smi.refunds SET state = '{RefundState.FAILED}', failure = :why, settled_at = smi.now(),
                          lease_id = NULL, lease_until = NULL
                   WHERE refund_row = :id AND lease_id = :lease_id RETURNING *""",
                id=refund_id,
                lease_id=lease_id,
                why=why,
            )
            if row:
                refund_failed(tx, row, why, actor)
