"""Registering jobs and recording what Stripe says of their payments."""

from datetime import datetime

from smi_pipeline.core import reasons
from smi_pipeline.core.models import NewJob, Status, StripePayment
from smi_pipeline.core.policy import Policy
from smi_pipeline.state.database import Database, Transaction
from smi_pipeline.state.manual_tasks import open_task
from smi_pipeline.state.refunds import create_pending_refund
from smi_pipeline.state.webhook_inbox import record_event_once


class Intake:
    """Orders and payments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, job: NewJob, *, actor: str) -> None:
        """Inserts an unpaid job."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.upscale_jobs (job_id, source_url, file_name, resolution, scale, customer_email,
                       customer_name, source_format, source_width, source_height, source_bytes, source_sha256,
                       price_cents, currency, expected_credits)
                   VALUES (:job_id, :source_url, :file_name, :resolution, :scale, :customer_email, :customer_name,
                       :format, :width, :height, :bytes, :sha256, :price_cents, :currency, :expected_credits)""",
                job_id=job.job_id,
                source_url=job.source_url,
                file_name=job.file_name,
                resolution=job.resolution,
                scale=job.scale,
                customer_email=job.customer_email,
                customer_name=job.customer_name,
                format=job.source.format,
                width=job.source.display_size[0],
                height=job.source.display_size[1],
                bytes=job.source.bytes,
                sha256=job.source.sha256,
                price_cents=job.price_cents,
                currency=job.currency,
                expected_credits=job.expected_credits,
            )
            tx.event(
                job.job_id,
                "registered",
                actor=actor,
                to_status=Status.AWAITING_PAYMENT,
                resolution=job.resolution,
                price_cents=job.price_cents,
            )

    def checkout_created(self, job_id: str, session_id: str, expires_at: datetime) -> None:
        """Notes where the customer pays."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.upscale_jobs SET checkout_session_id = :session_id, checkout_expires_at = :expires_at
                   WHERE job_id = :job_id""",
                job_id=job_id,
                session_id=session_id,
                expires_at=expires_at,
            )

    def seen_events(self, event_ids: list[str]) -> set[str]:
        """Which of these Stripe events have had their effect."""
        with self._database.transaction() as tx:
            rows = tx.rows("SELECT event_id FROM smi.webhook_inbox WHERE event_id = ANY(:ids)", ids=event_ids)
        return {row["event_id"] for row in rows}

    def note_event(self, event_id: str, type_: str, effect: str) -> bool:
        """Records an event without further effect; False when it was known."""
        with self._database.transaction() as tx:
            return record_event_once(tx, event_id, type_, effect)

    def record_payment(
        self,
        facts: StripePayment,
        job_id: str,
        *,
        event: tuple[str, str] | None,
        source: str,
        policy: Policy,
        adopt: bool = False,
    ) -> str:
        """Records a succeeded payment with the event that told of it, in one transaction. Returns its role: order
        (the job starts), duplicate or mismatch (a refund is owed), orphan (no such job, or one that was imported);
        or known / repeated (no change). `adopt` takes an unsettled orphan up again, as the payment of this job."""
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, event[0], event[1], "payment"):
                return "repeated"
            job = tx.row("SELECT * FROM smi.upscale_jobs WHERE job_id = :job_id FOR UPDATE", job_id=job_id)
            role = _role(job, facts)
            if adopt:
                fresh = role != "orphan" and _assign_unmatched(tx, facts.payment_intent_id, job_id, role, source)
            else:
                fresh = _record(tx, facts, None if role == "orphan" else job_id, role, source)
            if adopt or not fresh:
                tx.run(
                    """UPDATE smi.payments SET refunded_cents = :refunded, fee_cents = coalesce(:fee, fee_cents),
                           charge_id = coalesce(:charge_id, charge_id)
                       WHERE payment_intent_id = :pi""",
                    pi=facts.payment_intent_id,
                    refunded=facts.refunded_cents,
                    fee=facts.fee_cents,
                    charge_id=facts.charge_id,
                )
            if job is None or role == "orphan":
                return role if fresh or adopt else "known"
            if not fresh:
                return "known"
            if role == "order":
                _start(tx, job, facts, source, policy)
            elif role == "duplicate":
                create_pending_refund(
                    tx,
                    job_id=job_id,
                    payment_intent_id=facts.payment_intent_id,
                    kind="duplicate_payment",
                    currency=facts.currency,
                    reason=reasons.DUPLICATE_PAYMENT,
                    actor=source,
                )
                tx.event(job_id, "second_payment", actor=source, payment_intent=facts.payment_intent_id)
            else:
                _refuse_amount(tx, job, facts, source)
            return role

    def abandoned_candidates(self, limit: int) -> list[tuple[str, str | None]]:
        """(job_id, session_id) of unpaid jobs past their Checkout's life, without those put off."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT job_id, checkout_session_id FROM smi.upscale_jobs
                   WHERE status = 'awaiting_payment'
                     AND coalesce(checkout_expires_at, created_at + interval '24 hours') < smi.now()
                     AND coalesce(next_attempt_at <= smi.now(), true)
                   ORDER BY created_at LIMIT :limit""",
                limit=limit,
            )
        return [(row["job_id"], row["checkout_session_id"]) for row in rows]

    def not_abandoned(self, job_id: str, *, seconds: float) -> None:
        """Puts an unpaid job off that could not be closed."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() + make_interval(secs => :seconds)
                   WHERE job_id = :id AND status = 'awaiting_payment'""",
                id=job_id,
                seconds=seconds,
            )

    def abandon(self, job_id: str, *, actor: str, event: tuple[str, str] | None = None) -> bool:
        """Closes an unpaid job; False when it is not unpaid any more."""
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, event[0], event[1], "abandon"):
                return False
            changed = tx.run(
                "UPDATE smi.upscale_jobs SET status = 'abandoned' WHERE job_id = :id AND status = 'awaiting_payment'",
                id=job_id,
            )
            if changed:
                tx.event(
                    job_id,
                    "abandoned",
                    actor=actor,
                    from_status=Status.AWAITING_PAYMENT,
                    to_status=Status.ABANDONED,
                )
            return bool(changed)

    def cursor(self, name: str) -> str | None:
        """How far an outside list was read."""
        with self._database.transaction() as tx:
            return tx.value("SELECT value FROM smi.cursors WHERE name = :name", name=name)

    def set_cursor(self, name: str, value: str) -> None:
        """Notes how far an outside list was read."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.cursors (name, value) VALUES (:name, :value)
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
                name=name,
                value=value,
            )


def _record(tx: Transaction, facts: StripePayment, job_id: str | None, role: str, source: str) -> bool:
    """False when the payment is on record already."""
    recorded = tx.run(
        """INSERT INTO smi.payments (payment_intent_id, job_id, role, received_cents, currency, charge_id,
               fee_cents, refunded_cents, paid_at, learned_from)
           VALUES (:pi, :job_id, :role, :received, :currency, :charge_id, :fee, :refunded,
               least(coalesce(CAST(:paid_at AS timestamptz), smi.now()), smi.now()), :source)
           ON CONFLICT (payment_intent_id) DO NOTHING""",
        pi=facts.payment_intent_id,
        job_id=job_id,
        role=role,
        received=facts.amount_received_cents,
        currency=facts.currency,
        charge_id=facts.charge_id,
        fee=facts.fee_cents,
        refunded=facts.refunded_cents,
        paid_at=facts.created_at,
        source=source,
    )
    return bool(recorded)


def _assign_unmatched(tx: Transaction, payment_intent_id: str, job_id: str, role: str, actor: str) -> bool:
    """Gives an orphan that is neither settled nor being returned by us to a job, with what is known of its refunds."""
    taken = tx.run(
        """UPDATE smi.payments p SET job_id = :job_id, role = :role, learned_from = :actor, learned_at = smi.now()
           WHERE payment_intent_id = :pi AND role = 'orphan' AND settled_by IS NULL
             AND NOT EXISTS (SELECT FROM smi.refunds r WHERE r.payment_intent_id = p.payment_intent_id
                             AND r.kind <> 'outside' AND r.state IN ('owed', 'pending', 'succeeded'))""",
        pi=payment_intent_id,
        job_id=job_id,
        role=role,
        actor=actor,
    )
    if taken:
        tx.run(
            "UPDATE smi.refunds SET job_id = :job_id WHERE payment_intent_id = :pi", job_id=job_id, pi=payment_intent_id
        )
        tx.event(None, "orphan_taken_up", actor=actor, payment_intent=payment_intent_id)
    return bool(taken)


def _role(job, facts: StripePayment) -> str:
    if job is None or job["imported_from"]:  # another system took that order: never refunded by itself
        return "orphan"
    if job["status"] not in (Status.AWAITING_PAYMENT, Status.ABANDONED):
        return "duplicate"  # paid already, or closed before it was paid
    if (facts.amount_received_cents, facts.currency) != (job["price_cents"], job["currency"]):
        return "mismatch"
    return "order"


def _start(tx: Transaction, job, facts: StripePayment, source: str, policy: Policy) -> None:
    tx.run(
        """UPDATE smi.upscale_jobs SET status = 'pending', queue = 'submit', attempts = 0, next_attempt_at = smi.now(),
               payment_intent_id = :pi, learned_at = smi.now(), waits_since = smi.now(), stage = 'queued',
               paid_at = least(coalesce(CAST(:paid_at AS timestamptz), smi.now()), smi.now()),
               start_by = smi.now() + CAST(:max_wait AS interval)
           WHERE job_id = :job_id""",
        job_id=job["job_id"],
        pi=facts.payment_intent_id,
        paid_at=facts.created_at,
        max_wait=policy.max_wait,
    )
    tx.event(
        job["job_id"],
        "paid",
        actor=source,
        from_status=job["status"],
        to_status=Status.PENDING,
        payment_intent=facts.payment_intent_id,
        amount_cents=facts.amount_received_cents,
        currency=facts.currency,
    )


def _refuse_amount(tx: Transaction, job, facts: StripePayment, source: str) -> None:
    words = (
        f"paid {facts.amount_received_cents} {facts.currency} cents instead of "
        f"{job['price_cents']} {job['currency']} cents"
    )
    if job["status"] == Status.ABANDONED:  # the one step back, then on: the trigger knows no step abandoned → failed
        tx.run("UPDATE smi.upscale_jobs SET status = 'pending' WHERE job_id = :id", id=job["job_id"])
    tx.run(
        """INSERT INTO smi.outcomes (job_id, round, outcome, reason, actor)
           VALUES (:job_id, :round, 'refund', :reason, :actor)""",
        job_id=job["job_id"],
        round=job["round"],
        reason=reasons.WRONG_AMOUNT,
        actor=source,
    )
    tx.run(
        """UPDATE smi.upscale_jobs SET status = 'failed', queue = NULL, payment_intent_id = :pi, failed_at = smi.now(),
               learned_at = smi.now(), reason_code = :reason, reason_text = :words,
               paid_at = least(coalesce(CAST(:paid_at AS timestamptz), smi.now()), smi.now())
           WHERE job_id = :job_id""",
        job_id=job["job_id"],
        pi=facts.payment_intent_id,
        reason=reasons.WRONG_AMOUNT,
        words=words,
        paid_at=facts.created_at,
    )
    create_pending_refund(
        tx,
        job_id=job["job_id"],
        payment_intent_id=facts.payment_intent_id,
        kind="wrong_amount",
        currency=facts.currency,
        reason=reasons.WRONG_AMOUNT,
        actor=source,
    )
    tx.event(
        job["job_id"], "wrong_amount", actor=source, from_status=job["status"], to_status=Status.FAILED, words=words
    )
    open_task(
        tx,
        kind="wrong_amount",
        subject=facts.payment_intent_id,
        job_id=job["job_id"],
        message=f"Job {job['job_id']} was {words}; the payment is being returned.",
        next_step="Find out how the shop came to charge another amount; acknowledge when understood.",
    )
