"""Upscale jobs: registration, abandonment of unpaid ones, and what admins change."""

from dataclasses import asdict
from datetime import datetime, timedelta

from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.models import NewJob
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import EmailKind, ManualTaskKind, Queue, Status
from smi_pipeline.state import transitions
from smi_pipeline.state.breakers import STOPPED, lock_open
from smi_pipeline.state.database import Database, in_
from smi_pipeline.state.emails import queue_email, readdress
from smi_pipeline.state.job_rows import take_address
from smi_pipeline.state.manual_tasks import close_task
from smi_pipeline.state.ordered_pictures import allowed_pictures, answer, forget_closed, remember_picture
from smi_pipeline.state.refund_updates import make_refunds_due
from smi_pipeline.state.submission_updates import extend_submissions, make_polls_due
from smi_pipeline.state.webhook_inbox import record_event_once

_CAN_BE_HELD = in_((*UNFINISHED, Status.AWAITING_PAYMENT))


class Jobs:
    """Upscale jobs."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def register(self, job: NewJob, *, actor: str) -> None:
        """Insert an unpaid job."""
        width, height = job.source.display_size
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.upscale_jobs (job_id, source_url, file_name, resolution, scale, customer_email,
                       customer_name, source_format, source_alpha, source_width, source_height, source_bytes,
                       source_sha256, price_cents, currency, expected_credits, credit_cents)
                   VALUES (:job_id, :source_url, :file_name, :resolution, :scale, :customer_email, :customer_name,
                       :format, :has_alpha, :width, :height, :bytes, :sha256,
                       :price_cents, :currency, :expected_credits, :credit_cents)""",
                **{**asdict(job), **asdict(job.source), "width": width, "height": height},
            )
            remember_picture(tx, job.job_id, job.fingerprint)
            tx.audit(
                job.job_id,
                "registered",
                actor=actor,
                to_status=Status.AWAITING_PAYMENT,
                resolution=job.resolution,
                price_cents=job.price_cents,
            )

    def allowed_pictures(self, job_id: str) -> list[bytes]:
        """Return the fingerprints of which the source of a job must have one; none when any will do."""
        return allowed_pictures(self._database, job_id)

    def forget_closed_pictures(self) -> None:
        """Forget what the pictures of orders showed that have ended a week ago without a stored source."""
        with self._database.transaction() as tx:
            forget_closed(tx)

    def checkout_created(self, job_id: str, session_id: str, expires_at: datetime) -> None:
        """Store the Checkout session in which the customer pays."""
        self._database.run(
            """UPDATE smi.upscale_jobs SET checkout_session_id = :session_id, checkout_expires_at = :expires_at
               WHERE job_id = :job_id""",
            job_id=job_id,
            session_id=session_id,
            expires_at=expires_at,
        )

    def abandoned_candidates(self, limit: int) -> list[tuple[str, str | None]]:
        """Return (job_id, session_id) of unpaid jobs whose Checkout session has expired, without postponed ones."""
        rows = self._database.rows(
            f"""SELECT job_id, checkout_session_id FROM smi.upscale_jobs
               WHERE status = '{Status.AWAITING_PAYMENT}'
                 AND coalesce(checkout_expires_at, created_at + interval '24 hours') < smi.now()
                 AND coalesce(next_attempt_at <= smi.now(), true)
               ORDER BY created_at LIMIT :limit""",
            limit=limit,
        )
        return [(row["job_id"], row["checkout_session_id"]) for row in rows]

    def postpone_abandonment(self, job_id: str, *, seconds: float) -> None:
        """Try again in `seconds` to close an unpaid job."""
        self._database.run(
            f"""UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() + make_interval(secs => :seconds)
               WHERE job_id = :id AND status = '{Status.AWAITING_PAYMENT}'""",
            id=job_id,
            seconds=seconds,
        )

    def payment_on_its_way(
        self, job_id: str, payment_intent_id: str, *, actor: str, event: tuple[str, str] | None, address: str = ""
    ) -> bool:
        """Note that the customer of an unpaid job has paid in a way that the bank decides later, and tell them, at
        `address` if the order has none. Return False when that is known, or the job is no longer unpaid."""
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, event[0], event[1], "payment on its way"):
                return False
            noted = tx.changes(
                f"""UPDATE smi.upscale_jobs SET paying_intent = :pi, updated_at = smi.now()
                   WHERE job_id = :id AND status = '{Status.AWAITING_PAYMENT}'
                     AND paying_intent IS DISTINCT FROM :pi""",
                id=job_id,
                pi=payment_intent_id,
            )
            if noted:
                tx.audit(job_id, "payment_on_its_way", actor=actor, payment_intent=payment_intent_id)
                take_address(tx, job_id, address, actor=actor)
                queue_email(tx, job_id, EmailKind.PAYMENT_STARTED, self._mail_domain)
            return noted

    def set_address(self, job_id: str, address: str, *, actor: str) -> None:
        """Replace the e-mail address of a customer, to which unsent mails then go, and close the task that asks for
        it."""
        with self._database.transaction() as tx:
            readdress(tx, job_id, address, self._mail_domain)
            tx.run(
                "UPDATE smi.upscale_jobs SET customer_email = :address WHERE job_id = :id", id=job_id, address=address
            )
            tx.audit(job_id, "address_set", actor=actor)
            close_task(tx, kind=ManualTaskKind.NO_ADDRESS, subject=job_id, actor=actor)

    def abandon(self, job_id: str, *, actor: str, event: tuple[str, str] | None = None) -> bool:
        """Close an unpaid job. Return False when it is no longer unpaid, or the event is known."""
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, event[0], event[1], "abandon"):
                return False
            return transitions.abandon(tx, job_id, actor=actor)

    def cancel(self, job_id: str, *, reason: str, message: str, actor: str) -> bool:
        """Fail a paid job, whoever has its lease. Return False when it is closed or decided."""
        with self._database.transaction() as tx:
            job = transitions.locked(tx, job_id)
            if job is None or job["status"] not in UNFINISHED:
                return False
            return transitions.fail(tx, job, reason=reason, message=message, actor=actor)

    def retry(self, job_id: str, *, max_wait: timedelta, actor: str) -> int | None:
        """Start a new round of a closed or unpaid job. Return its number, or None when the job is being worked on."""
        with self._database.transaction() as tx:
            job = transitions.locked(tx, job_id)
            if job is None or job["status"] in UNFINISHED:
                return None
            return transitions.retry(tx, job, max_wait=max_wait, actor=actor)

    def hold(self, job_id: str, reason: str, *, policy: Policy, actor: str) -> bool:
        """Hold an open job for `reason`. Return False when it is closed.

        The time on hold does not count against the promise, nor does that for which breakers have stopped its clocks.
        """
        with self._database.transaction() as tx:
            lock_open(tx)  # one that closes meanwhile would give its time back once more
            changed = tx.changes(
                f"""WITH held AS (
                        SELECT job_id, CASE WHEN queue = '{Queue.SUBMIT}' AND hold_reason IS NULL THEN {STOPPED}
                                            ELSE interval '0' END AS given
                        FROM smi.upscale_jobs j WHERE job_id = :id AND status IN {_CAN_BE_HELD} FOR UPDATE)
                    UPDATE smi.upscale_jobs j SET hold_reason = :reason, held_at = coalesce(held_at, smi.now()),
                           start_by = start_by + given, deadline_at = deadline_at + given, outage = outage + given
                    FROM held WHERE j.job_id = held.job_id""",
                id=job_id,
                reason=reason,
                max_hold=policy.max_hold,
            )
            if changed:
                tx.audit(job_id, "hold", actor=actor, reason=reason)
            return changed

    def release(self, job_id: str, *, actor: str) -> None:
        """End the hold of an open job."""
        with self._database.transaction() as tx:
            released = tx.changes(
                f"""WITH held AS (
                        SELECT job_id, smi.now() - held_at AS by, queue = '{Queue.SUBMIT}' AS waits
                        FROM smi.upscale_jobs
                        WHERE job_id = :id AND held_at IS NOT NULL AND status IN {_CAN_BE_HELD} FOR UPDATE)
                    UPDATE smi.upscale_jobs j SET hold_reason = NULL, held_at = NULL, waits_since = smi.now(),
                           start_by = start_by + by,
                           deadline_at = CASE WHEN waits THEN deadline_at + by ELSE deadline_at END
                    FROM held WHERE j.job_id = held.job_id""",
                id=job_id,
            )
            if released:
                tx.audit(job_id, "release", actor=actor)
                answer(tx, job_id, release=True, actor=actor)

    def extend(self, job_id: str, by: timedelta, *, actor: str) -> bool:
        """Move the deadlines of a job that is not in fulfilment yet. Return False for any other job."""
        with self._database.transaction() as tx:
            changed = tx.run(
                f"""UPDATE smi.upscale_jobs SET deadline_at = deadline_at + CAST(:by AS interval),
                       start_by = start_by + CAST(:by AS interval)
                   WHERE job_id = :id AND status IN {in_(UNFINISHED)} AND queue IS DISTINCT FROM '{Queue.FULFIL}'""",
                id=job_id,
                by=by,
            )
            if changed:
                extend_submissions(tx, job_id, by)
                tx.audit(job_id, "extended", actor=actor, seconds=by.total_seconds())
            return bool(changed)

    def check_now(self, job_id: str, *, actor: str) -> int:
        """Make everything a job waits for due now. Return the number of rows."""
        with self._database.transaction() as tx:
            due = make_polls_due(tx, job_id)
            due += tx.run(
                """UPDATE smi.upscale_jobs SET next_attempt_at = smi.now()
                   WHERE job_id = :id AND queue IS NOT NULL AND lease_id IS NULL""",
                id=job_id,
            )
            due += make_refunds_due(tx, job_id)
            if due:
                tx.audit(job_id, "check_now", actor=actor)
            return due
