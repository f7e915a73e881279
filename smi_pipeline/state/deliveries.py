"""The outcome of a job, decided once per round; the delivered file, its token and its downloads."""

from datetime import timedelta
from typing import Any

from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.lifecycle import download_token, token_hash
from smi_pipeline.core.models import Status, Verdict
from smi_pipeline.state.database import Database, Transaction
from smi_pipeline.state.emails import queue_email
from smi_pipeline.state.manual_tasks import open_task
from smi_pipeline.state.outcomes import decide
from smi_pipeline.state.refunds import create_pending_refund

_OPEN = (Status.AWAITING_PAYMENT, Status.PENDING, Status.PROCESSING)

_EXPIRED = """files_removed_at IS NULL AND (source_key IS NOT NULL OR result_key IS NOT NULL)
    AND status IN ('completed', 'refunded', 'failed')
    AND NOT EXISTS (SELECT FROM smi.download_tokens t WHERE t.job_id = j.job_id
                    AND t.expires_at > smi.now() - interval '1 day')
    AND greatest(completed_at, failed_at) < smi.now() - interval '1 day'"""
"""Jobs at rest whose files nobody can ask for any more."""


class Deliveries:
    """The outcome, the delivered file and its links, and what admins change."""

    def __init__(self, database: Database, secret_key: str, mail_domain: str) -> None:
        self._database = database
        self._secret_key = secret_key
        self._mail_domain = mail_domain

    def verified(self, job_id: str, lease_id: str, verdict: Verdict, *, result_key: str, actor: str) -> None:
        """Notes the checked and stored result. Raises LeaseLost."""
        facts = verdict.facts
        if facts is None:
            raise ValueError("a verified result has facts")
        with self._database.transaction() as tx:
            changed = tx.run(
                """UPDATE smi.upscale_jobs SET result_key = :key, result_sha256 = :sha256, result_bytes = :bytes,
                       result_width = :width, result_height = :height, result_format = :format,
                       min_ssim = :min_ssim, mean_colour_shift = :shift
                   WHERE job_id = :id AND lease_id = :lease""",
                id=job_id,
                lease=lease_id,
                key=result_key,
                sha256=facts.sha256,
                bytes=facts.bytes,
                width=facts.display_size[0],
                height=facts.display_size[1],
                format=facts.format,
                min_ssim=verdict.min_ssim,
                shift=verdict.mean_colour_shift,
            )
            if not changed:
                raise LeaseLost(f"job {job_id} was leased to another run")
            tx.event(job_id, "verified", actor=actor, bytes=facts.bytes, min_ssim=verdict.min_ssim)
            if verdict.warnings:
                open_task(
                    tx,
                    kind="fidelity",
                    subject=job_id,
                    job_id=job_id,
                    message=f"The result of job {job_id} is delivered, but: {'; '.join(verdict.warnings)}.",
                    next_step="Compare source and result; refund as goodwill if the customer was let down.",
                )

    def deliver(self, job_id: str, lease_id: str, *, ttl: timedelta, actor: str) -> bool:
        """Decides for delivery, completes the job, makes its token, owes its mail. False when it was decided before.
        Raises LeaseLost."""
        with self._database.transaction() as tx:
            job = _leased(tx, job_id, lease_id)
            if not decide(tx, job, "deliver", None, actor):
                _release(tx, job_id, lease_id)
                return False
            tx.run(
                """UPDATE smi.upscale_jobs SET status = 'completed', queue = NULL, completed_at = smi.now(),
                       hold_reason = NULL, held_at = NULL,
                       lease_id = NULL, lease_until = NULL, reason_code = NULL, reason_text = NULL, last_error = NULL
                   WHERE job_id = :id""",
                id=job_id,
            )
            self._new_token(tx, job_id, job["round"], ttl)
            queue_email(tx, job_id, "completion", self._mail_domain, again=job["round"] > 1)
            tx.event(
                job_id,
                "delivered",
                actor=actor,
                from_status=job["status"],
                to_status=Status.COMPLETED,
                bytes=job["result_bytes"],
            )
            return True

    def fail(self, job_id: str, lease_id: str, *, reason: str, words: str, actor: str) -> bool:
        """Decides against delivery, with the refund owed in the same transaction. False when it was decided before.
        Raises LeaseLost."""
        with self._database.transaction() as tx:
            return _fail(tx, _leased(tx, job_id, lease_id), reason, words, actor)

    def cancel(self, job_id: str, *, reason: str, words: str, actor: str) -> bool:
        """As `fail`, by an admin, whoever has the lease."""
        with self._database.transaction() as tx:
            job = tx.row("SELECT * FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job_id)
            return job is not None and job["status"] in _OPEN and _fail(tx, job, reason, words, actor)

    def new_token(self, job_id: str, *, ttl: timedelta, revoke: bool, actor: str) -> int:
        """Makes a further download link; returns its serial."""
        with self._database.transaction() as tx:
            round_ = tx.value("SELECT round FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job_id)
            if revoke:
                tx.run(
                    "UPDATE smi.download_tokens SET revoked_at = smi.now() WHERE job_id = :id AND revoked_at IS NULL",
                    id=job_id,
                )
            serial = self._new_token(tx, job_id, round_, ttl)
            tx.event(job_id, "new_token", actor=actor, serial=serial, revoked_others=revoke)
            return serial

    def _new_token(self, tx: Transaction, job_id: str, round_: int, ttl: timedelta) -> int:
        serial = tx.value(
            "SELECT coalesce(max(serial), 0) + 1 FROM smi.download_tokens WHERE job_id = :id AND round = :round",
            id=job_id,
            round=round_,
        )
        tx.run(
            """INSERT INTO smi.download_tokens (token_hash, job_id, round, serial, expires_at)
               VALUES (:hash, :id, :round, :serial, smi.now() + CAST(:ttl AS interval))""",
            hash=token_hash(download_token(self._secret_key, job_id, round_, serial)),
            id=job_id,
            round=round_,
            serial=serial,
            ttl=ttl,
        )
        return serial

    def current_token(self, job_id: str) -> dict[str, Any] | None:
        """The newest link that was not revoked: round, serial, token, expires_at, expired."""
        with self._database.transaction() as tx:
            row = tx.row(
                """SELECT round, serial, expires_at, expires_at <= smi.now() AS expired FROM smi.download_tokens
                   WHERE job_id = :id AND revoked_at IS NULL ORDER BY round DESC, serial DESC LIMIT 1""",
                id=job_id,
            )
        if row is None:
            return None
        return {**row, "token": download_token(self._secret_key, job_id, row["round"], row["serial"])}

    def find_download(self, token: str) -> dict[str, Any] | None:
        """What a token leads to, or None."""
        with self._database.transaction() as tx:
            row = tx.row(
                """SELECT t.job_id, t.expires_at, t.expires_at <= smi.now() AS expired,
                          t.revoked_at IS NOT NULL AS revoked, j.result_key, j.result_bytes, j.result_format,
                          j.result_sha256, j.file_name, j.resolution, j.status, j.files_removed_at
                   FROM smi.download_tokens t JOIN smi.upscale_jobs j USING (job_id) WHERE token_hash = :hash""",
                hash=token_hash(token),
            )
        return dict(row) if row else None

    def downloaded(self, token: str) -> None:
        """Counts a download."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.download_tokens SET downloads = downloads + 1, last_download_at = smi.now()
                   WHERE token_hash = :hash""",
                hash=token_hash(token),
            )

    def expired_files(self, limit: int) -> list[str]:
        """Jobs whose files nobody can ask for any more: every link expired a day ago, and nothing is going on."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                f"SELECT job_id FROM smi.upscale_jobs j WHERE {_EXPIRED} ORDER BY job_id LIMIT :limit", limit=limit
            )
        return [row["job_id"] for row in rows]

    def give_up_files(self, job_id: str) -> list[str]:
        """Takes the files from such a job; returns their keys, none if it is not such a job any more."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"SELECT source_key, result_key FROM smi.upscale_jobs j WHERE job_id = :id AND {_EXPIRED} FOR UPDATE",
                id=job_id,
            )
            if row is None:
                return []
            tx.run(
                """UPDATE smi.upscale_jobs SET files_removed_at = smi.now(), source_key = NULL, result_key = NULL
                   WHERE job_id = :id""",
                id=job_id,
            )
        return [key for key in (row["source_key"], row["result_key"]) if key]

    def rate(self, job_id: str, score: int, comment: str | None) -> None:
        """Stores a customer's stars (1 to 5); a later rating replaces the earlier."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.feedback (job_id, score, comment) VALUES (:id, :score, :comment)
                   ON CONFLICT (job_id) DO UPDATE SET score = excluded.score, at = excluded.at,
                       comment = coalesce(excluded.comment, smi.feedback.comment)""",
                id=job_id,
                score=score,
                comment=comment,
            )
            tx.run("UPDATE smi.upscale_jobs SET updated_at = smi.now() WHERE job_id = :id", id=job_id)
            tx.event(job_id, "rated", actor="customer", score=score)

    def retry(self, job_id: str, *, new_round: bool, admin_override: bool, max_wait: timedelta, actor: str) -> int:
        """Puts a job back into the queue, in a new round when asked. Returns the round."""
        with self._database.transaction() as tx:
            job = tx.one("SELECT * FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job_id)
            if job["status"] == Status.AWAITING_PAYMENT:
                tx.run("UPDATE smi.upscale_jobs SET status = 'abandoned' WHERE job_id = :id", id=job_id)
            row = tx.one(
                """UPDATE smi.upscale_jobs SET status = 'pending', queue = 'submit', stage = 'queued',
                       round = round + :step, attempts = 0, next_attempt_at = smi.now(), lease_id = NULL,
                       lease_until = NULL, last_error = NULL, hold_reason = NULL, held_at = NULL,
                       reason_code = NULL, reason_text = NULL, deadline_at = NULL, processing_at = NULL,
                       submitted_at = NULL, admin_override = :override, files_removed_at = NULL,
                       learned_at = coalesce(learned_at, smi.now()), start_by = smi.now() + CAST(:max_wait AS interval),
                       waits_since = smi.now(), outage = '0'
                   WHERE job_id = :id RETURNING round""",
                id=job_id,
                step=int(new_round),
                override=admin_override,
                max_wait=max_wait,
            )
            tx.event(
                job_id, "retry", actor=actor, from_status=job["status"], to_status=Status.PENDING, round=row["round"]
            )
            return row["round"]

    def hold(self, job_id: str, reason: str | None, *, actor: str) -> bool:
        """Holds (reason) or releases (None) an open job."""
        with self._database.transaction() as tx:
            changed = tx.run(
                """UPDATE smi.upscale_jobs SET hold_reason = :reason,
                       held_at = CASE WHEN CAST(:reason AS text) IS NOT NULL THEN coalesce(held_at, smi.now()) END,
                       -- the wait on hold does not count against the promise
                       start_by = CASE WHEN CAST(:reason AS text) IS NULL AND held_at IS NOT NULL
                                       THEN start_by + (smi.now() - held_at) ELSE start_by END,
                       waits_since = CASE WHEN CAST(:reason AS text) IS NULL THEN smi.now() ELSE waits_since END
                   WHERE job_id = :id AND status IN ('pending', 'processing', 'awaiting_payment')""",
                id=job_id,
                reason=reason,
            )
            if changed:
                tx.event(job_id, "hold" if reason else "release", actor=actor, reason=reason)
            return bool(changed)

    def extend(self, job_id: str, by: timedelta, *, actor: str) -> bool:
        """Moves the deadlines of an open job."""
        with self._database.transaction() as tx:
            changed = tx.run(
                """UPDATE smi.upscale_jobs SET deadline_at = deadline_at + CAST(:by AS interval),
                       start_by = start_by + CAST(:by AS interval)
                   WHERE job_id = :id AND status IN ('pending', 'processing') AND queue IS DISTINCT FROM 'fulfil'""",
                id=job_id,
                by=by,
            )
            if changed:
                tx.run(
                    """UPDATE smi.submissions SET deadline_at = deadline_at + CAST(:by AS interval)
                       WHERE job_id = :id AND state IN ('accepted', 'lost')""",
                    id=job_id,
                    by=by,
                )
                tx.event(job_id, "extended", actor=actor, seconds=by.total_seconds())
            return bool(changed)

    def check_now(self, job_id: str, *, actor: str) -> int:
        """Makes whatever a job waits for due now; returns how much."""
        with self._database.transaction() as tx:
            due = tx.run(
                """UPDATE smi.submissions SET next_poll_at = smi.now(), hinted = true
                   WHERE job_id = :id AND external_id IS NOT NULL AND state IN ('accepted', 'lost', 'timed_out')""",
                id=job_id,
            )
            due += tx.run(
                """UPDATE smi.upscale_jobs SET next_attempt_at = smi.now()
                   WHERE job_id = :id AND queue IS NOT NULL AND lease_id IS NULL""",
                id=job_id,
            )
            due += tx.run(
                """UPDATE smi.refunds SET next_attempt_at = smi.now()
                   WHERE job_id = :id AND state IN ('owed', 'pending') AND lease_id IS NULL""",
                id=job_id,
            )
            if due:
                tx.event(job_id, "check_now", actor=actor)
            return due


def _leased(tx: Transaction, job_id: str, lease_id: str):
    job = tx.row(
        "SELECT * FROM smi.upscale_jobs WHERE job_id = :id AND lease_id = :lease FOR UPDATE", id=job_id, lease=lease_id
    )
    if job is None:
        raise LeaseLost(f"job {job_id} was leased to another run")
    return job


def _release(tx: Transaction, job_id: str, lease_id: str | None) -> None:
    tx.run(
        """UPDATE smi.upscale_jobs SET queue = NULL, lease_id = NULL, lease_until = NULL
           WHERE job_id = :id AND lease_id IS NOT DISTINCT FROM :lease""",
        id=job_id,
        lease=lease_id,
    )


def _delivered_before(tx: Transaction, job) -> bool:
    """Whether an earlier round was delivered and its file is still there."""
    return job["result_key"] is not None and bool(
        tx.value("SELECT 1 FROM smi.outcomes WHERE job_id = :id AND outcome = 'deliver' LIMIT 1", id=job["job_id"])
    )


def _keep_delivered(tx: Transaction, job, reason: str, words: str, actor: str) -> None:
    """A gift that came to nothing takes nothing away: the customer's link leads to the file it led to before."""
    for status in (Status.PROCESSING, Status.COMPLETED):  # the trigger knows no step from pending to completed
        tx.run(
            """UPDATE smi.upscale_jobs SET status = :status, queue = NULL, lease_id = NULL, lease_until = NULL,
                   hold_reason = NULL, held_at = NULL, stage = 'completed' WHERE job_id = :id""",
            id=job["job_id"],
            status=status,
        )
    tx.event(
        job["job_id"],
        "gift_failed",
        actor=actor,
        from_status=job["status"],
        to_status=Status.COMPLETED,
        reason=reason,
        words=words[:500],
    )


def _fail(tx: Transaction, job, reason: str, words: str, actor: str) -> bool:
    money = job["round"] == 1 and job["payment_intent_id"] is not None
    if not decide(tx, job, "refund" if money else "none", reason, actor):
        _release(tx, job["job_id"], job["lease_id"])
        return False
    if job["round"] > 1 and _delivered_before(tx, job):
        _keep_delivered(tx, job, reason, words, actor)
        return True
    tx.run(
        """UPDATE smi.upscale_jobs SET status = 'failed', queue = NULL, lease_id = NULL, lease_until = NULL,
               hold_reason = NULL, held_at = NULL,
               stage = 'failed', failed_at = smi.now(), reason_code = :reason, reason_text = :words
           WHERE job_id = :id""",
        id=job["job_id"],
        reason=reason,
        words=words[:500],
    )
    tx.event(
        job["job_id"],
        "failed",
        actor=actor,
        from_status=job["status"],
        to_status=Status.FAILED,
        reason=reason,
        words=words[:500],
    )
    if money:
        create_pending_refund(
            tx,
            job_id=job["job_id"],
            payment_intent_id=job["payment_intent_id"],
            kind="failure",
            currency=job["currency"],
            reason=reason,
            actor=actor,
        )
    return True
