"""Deliveries: the decision for or against a result, the delivered file, its download links, the customer's rating."""

from collections.abc import Sequence
from datetime import timedelta

from smi_pipeline.core import faults
from smi_pipeline.core.errors import OtherPicture, PermanentError
from smi_pipeline.core.lifecycle import download_token, token_hash
from smi_pipeline.core.models import Download, DownloadLink, Verdict
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import UNSENT, EmailKind, ManualTaskKind, Status
from smi_pipeline.state import transitions
from smi_pipeline.state.another_attempt import note_failure, seconds_until_next
from smi_pipeline.state.breakers import record_success
from smi_pipeline.state.database import Database, Row, Transaction, as_record, in_
from smi_pipeline.state.emails import forget_content, queue_email
from smi_pipeline.state.job_rows import forget_files, record_result, revoke_pages, touch
from smi_pipeline.state.manual_tasks import open_task
from smi_pipeline.state.ordered_pictures import ask_about
from smi_pipeline.state.unsold import note_delivered_properties, note_failed_property

_EXPIRED = f"""files_removed_at IS NULL AND (source_key IS NOT NULL OR result_key IS NOT NULL)
    AND status IN {in_((Status.COMPLETED, Status.REFUNDED, Status.FAILED))}
    AND NOT EXISTS (SELECT FROM smi.download_tokens t WHERE t.job_id = j.job_id
                    AND t.expires_at > smi.now() - interval '1 day')
    AND NOT EXISTS (SELECT FROM smi.emails e WHERE e.job_id = j.job_id AND e.kind = '{EmailKind.COMPLETION}'
                    AND e.state IN {in_(UNSENT)})
    AND greatest(completed_at, failed_at) < smi.now() - interval '1 day'"""
"""Closed jobs whose files nobody can ask for any more."""


class Deliveries:
    """Decisions, delivered files and their links."""

    def __init__(self, database: Database, secret_keys: Sequence[str], mail_domain: str) -> None:
        self._database = database
        self._secret_keys = secret_keys
        self._mail_domain = mail_domain

    def verified(
        self, job_id: str, lease_id: str, verdict: Verdict, *, result_key: str, policy: Policy, actor: str
    ) -> None:
        """Record the checked and stored result. Raise LeaseLost."""
        with self._database.transaction() as tx:
            record_success(tx, faults.RESULTS, max_hold=policy.max_hold)
            record_result(tx, job_id, lease_id, verdict, result_key=result_key)
            size = verdict.facts.bytes if verdict.facts else None
            tx.audit(job_id, "verified", actor=actor, bytes=size, min_ssim=verdict.min_ssim)
            if verdict.warnings:
                open_task(
                    tx,
                    kind=ManualTaskKind.FIDELITY,
                    subject=job_id,
                    job_id=job_id,
                    message=f"The result of job {job_id} passed with warnings: {'; '.join(verdict.warnings)}.",
                    next_step="Compare source and result; refund as goodwill if the quality is not acceptable.",
                )

    def deliver(self, job_id: str, lease_id: str, *, ttl: timedelta, actor: str) -> bool:
        """Decide for delivery, complete the job, make its link and queue its mail. Return False when the round was
        decided before. Raise LeaseLost."""
        with self._database.transaction() as tx:
            job = transitions.leased(tx, job_id, lease_id)
            if not transitions.complete(tx, job, actor=actor):
                return False
            note_delivered_properties(tx, job)
            self._new_token(tx, job_id, job["round"], ttl)
            queue_email(tx, job_id, EmailKind.COMPLETION, self._mail_domain, again=job["round"] > 1)
            return True

    def fail(self, job_id: str, lease_id: str, error: PermanentError, *, policy: Policy, actor: str) -> float | None:
        """Decide against delivery, with the refund in the same transaction, unless the job may wait: its part of the
        shop fails for every order, or the failure is not believed yet. Return the seconds until such a job is due
        again, None for one that has ended. Raise LeaseLost.

        Failures are counted here, so that parallel batches together end no more orders than a breaker allows.
        """
        with self._database.transaction() as tx:
            breaker = note_failure(tx, job_id, error)
            job = transitions.leased(tx, job_id, lease_id)
            note_failed_property(tx, job, error)
            seconds = seconds_until_next(tx, job, breaker, error, policy, actor=actor)
            if seconds is None and isinstance(error, OtherPicture) and policy.source_changed == "ask":
                _ask_a_person(tx, job, error, actor=actor)
                return 0.0  # when it is released
            if seconds is None:
                transitions.fail(tx, job, reason=error.reason, message=str(error), actor=actor)
            return seconds

    def new_token(self, job_id: str, *, ttl: timedelta, revoke: bool, actor: str) -> int:
        """Make a further download link, and revoke the older ones if asked to. Return its sequence."""
        with self._database.transaction() as tx:
            round_ = tx.one("SELECT round FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job_id)["round"]
            if revoke:
                _revoke_tokens(tx, job_id)
            sequence = self._new_token(tx, job_id, round_, ttl)
            tx.audit(job_id, "new_token", actor=actor, serial=sequence, revoked_others=revoke)
            return sequence

    def revoke_links(self, job_id: str, *, ttl: timedelta, actor: str) -> None:
        """Revoke all links of a job: to its page, its rating, the end of its waiting, and its file. A job that has a
        file gets a new download link."""
        with self._database.transaction() as tx:
            job = revoke_pages(tx, job_id)
            _revoke_tokens(tx, job_id)
            if job["status"] == Status.COMPLETED and job["result_key"]:
                self._new_token(tx, job_id, job["round"], ttl)
            tx.audit(job_id, "links_revoked", actor=actor)

    def renew_links(self, ttl: timedelta, job_id: str | None = None) -> int:
        """Let links live on whose mail has not been accepted for half of their time, `job_id`'s or all. Return the
        number of links."""
        return self._database.run(
            f"""UPDATE smi.download_tokens t SET expires_at = smi.now() + CAST(:ttl AS interval)
                FROM smi.emails e JOIN smi.upscale_jobs j USING (job_id)
                WHERE t.job_id = e.job_id AND t.round = j.round AND t.revoked_at IS NULL AND j.files_removed_at IS NULL
                  AND e.kind = '{EmailKind.COMPLETION}' AND e.state IN {in_(UNSENT)}
                  AND e.created_at <= smi.now() - CAST(:ttl AS interval) / 2
                  AND t.expires_at < smi.now() + CAST(:ttl AS interval) / 2
                  AND (CAST(:job_id AS text) IS NULL OR e.job_id = :job_id)""",
            ttl=ttl,
            job_id=job_id,
        )

    def _new_token(self, tx: Transaction, job_id: str, round_: int, ttl: timedelta) -> int:
        sequence = int(
            tx.value(
                "SELECT coalesce(max(serial), 0) + 1 FROM smi.download_tokens WHERE job_id = :id AND round = :round",
                id=job_id,
                round=round_,
            )
        )
        tx.run(
            """INSERT INTO smi.download_tokens (token_hash, job_id, round, serial, expires_at)
               VALUES (:hash, :id, :round, :serial, smi.now() + CAST(:ttl AS interval))""",
            hash=token_hash(download_token(self._secret_keys[0], job_id, round_, sequence)),
            id=job_id,
            round=round_,
            serial=sequence,
            ttl=ttl,
        )
        return sequence

    def current_token(self, job_id: str) -> DownloadLink | None:
        """Return the newest link that was not revoked, None also if its key is no longer one of ours."""
        row = self._database.row(
            """SELECT token_hash, round, serial, expires_at, expires_at <= smi.now() AS expired FROM smi.download_tokens
               WHERE job_id = :id AND revoked_at IS NULL ORDER BY round DESC, serial DESC LIMIT 1""",
            id=job_id,
        )
        if row is None:
            return None
        for key in self._secret_keys:
            token = download_token(key, job_id, row["round"], row["serial"])
            if token_hash(token) == row["token_hash"]:
                return as_record(DownloadLink, {**row, "token": token, "newest_key": key == self._secret_keys[0]})
        return None

    def find_download(self, token: str) -> Download | None:
        """Return the file that a token leads to, or None for an unknown token. A token also counts as revoked if its
        key is no longer one of ours."""
        row = self._database.row(
            """SELECT t.job_id, t.round, t.serial, t.expires_at <= smi.now() AS expired,
                      t.revoked_at IS NOT NULL AS revoked, j.result_key, j.result_bytes, j.result_format,
                      j.result_sha256, j.file_name, j.resolution, j.status, j.files_removed_at
               FROM smi.download_tokens t JOIN smi.upscale_jobs j USING (job_id) WHERE token_hash = :hash""",
            hash=token_hash(token),
        )
        if row is None:
            return None
        ours = [download_token(key, row["job_id"], row["round"], row["serial"]) for key in self._secret_keys]
        return as_record(Download, {**row, "revoked": row["revoked"] or token not in ours})

    def downloaded(self, token: str) -> None:
        """Count a download."""
        self._database.run(
            """UPDATE smi.download_tokens SET downloads = downloads + 1, last_download_at = smi.now()
               WHERE token_hash = :hash""",
            hash=token_hash(token),
        )

    def expired_files(self, limit: int) -> list[str]:
        """Return closed jobs whose files nobody can ask for any more: every link expired a day ago."""
        rows = self._database.rows(
            f"SELECT job_id FROM smi.upscale_jobs j WHERE {_EXPIRED} ORDER BY job_id LIMIT :limit", limit=limit
        )
        return [row["job_id"] for row in rows]

    def give_up_files(self, job_id: str) -> list[str]:
        """Remove the files of such a job from its row. Return their keys; none when the job has changed meanwhile."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"SELECT source_key, result_key FROM smi.upscale_jobs j WHERE job_id = :id AND {_EXPIRED} FOR UPDATE",
                id=job_id,
            )
            if row is None:
                return []
            forget_files(tx, job_id)
        return [key for key in (row["source_key"], row["result_key"]) if key]

    def rate(self, job_id: str, score: int, comment: str | None) -> None:
        """Store a customer's stars (1 to 5). A later rating replaces an earlier one."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.feedback (job_id, score, comment) VALUES (:id, :score, :comment)
                   ON CONFLICT (job_id) DO UPDATE SET score = excluded.score, at = excluded.at,
                       comment = coalesce(excluded.comment, smi.feedback.comment)""",
                id=job_id,
                score=score,
                comment=comment,
            )
            touch(tx, job_id)
            tx.audit(job_id, "rated", actor="customer", score=score)


def _revoke_tokens(tx: Transaction, job_id: str) -> None:
    """Revoke all download links of a job. A mail of it that is still to be sent is written anew, with other links."""
    tx.run("UPDATE smi.download_tokens SET revoked_at = smi.now() WHERE job_id = :id AND revoked_at IS NULL", id=job_id)
    forget_content(tx, job_id)


def _ask_a_person(tx: Transaction, job: Row, error: OtherPicture, *, actor: str) -> None:
    job_id = job["job_id"]
    transitions.hold_for_a_person(
        tx, job, reason="the source shows another picture", error=f"{error.reason}: {error}", actor=actor
    )
    ask_about(tx, job_id, job["source_url"], error.seen)
