"""Mails owed to customers: claimed → handed_over → accepted, each with one stable Message-ID."""

import json
from collections.abc import Mapping
from typing import Any

from smi_pipeline.core.models import Email
from smi_pipeline.state.database import Database, Transaction, as_record
from smi_pipeline.state.manual_tasks import open_task


def queue_email(
    tx: Transaction,
    job_id: str,
    kind: str,
    mail_domain: str,
    *,
    context: Mapping[str, Any] | None = None,
    again: bool = False,
) -> int:
    """Claims the mail of this kind once; `again` claims a further serial. Returns the number of rows inserted."""
    serial = 1
    if again:
        serial = tx.value(
            "SELECT coalesce(max(serial), 0) + 1 FROM smi.emails WHERE job_id = :job_id AND kind = :kind",
            job_id=job_id,
            kind=kind,
        )
    return tx.run(
        """INSERT INTO smi.emails (job_id, kind, serial, message_id, context, next_attempt_at)
           VALUES (:job_id, :kind, :serial, :message_id, CAST(:context AS jsonb), smi.now())
           ON CONFLICT DO NOTHING""",
        job_id=job_id,
        kind=kind,
        serial=serial,
        message_id=f"<{kind}.{serial}.{job_id}@{mail_domain}>",
        context=json.dumps(context or {}),
    )


class Emails:
    """Mails owed to customers."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def get(self, work_key: str) -> Email | None:
        """One mail by its work key `job_id/kind/serial`."""
        job_id, kind, serial = work_key.split("/")
        with self._database.transaction() as tx:
            row = tx.row(
                "SELECT * FROM smi.emails WHERE job_id = :job_id AND kind = :kind AND serial = :serial",
                job_id=job_id,
                kind=kind,
                serial=int(serial),
            )
        return as_record(Email, row) if row else None

    def of_job(self, job_id: str) -> list[Email]:
        """All mails of a job."""
        with self._database.transaction() as tx:
            rows = tx.rows("SELECT * FROM smi.emails WHERE job_id = :id ORDER BY created_at, serial", id=job_id)
        return [as_record(Email, row) for row in rows]

    def hand_over(self, email: Email, lease_id: str, content: bytes) -> bool:
        """Commits the bytes before the server gets them. False when the lease was lost."""
        with self._database.transaction() as tx:
            return bool(
                tx.run(
                    """UPDATE smi.emails SET state = 'handed_over', content = :content, hand_overs = hand_overs + 1,
                              handed_over_at = smi.now()
                       WHERE job_id = :job_id AND kind = :kind AND serial = :serial AND lease_id = :lease_id""",
                    job_id=email.job_id,
                    kind=email.kind,
                    serial=email.serial,
                    lease_id=lease_id,
                    content=content,
                )
            )

    def accepted(self, email: Email, *, actor: str) -> None:
        # Without a condition on the lease: the server has the mail, whoever works on the row now.
        """The server took the mail. Needs no lease: it is a fact."""
        with self._database.transaction() as tx:
            changed = tx.run(
                """UPDATE smi.emails SET state = 'accepted', accepted_at = smi.now(), lease_id = NULL,
                          lease_until = NULL, last_error = NULL
                   WHERE job_id = :job_id AND kind = :kind AND serial = :serial AND state <> 'accepted'""",
                job_id=email.job_id,
                kind=email.kind,
                serial=email.serial,
            )
            if changed:
                tx.event(email.job_id, "mail_accepted", actor=actor, kind=email.kind, serial=email.serial)
                tx.run(  # an earlier one of this kind that could not be sent needs nobody any more
                    """UPDATE smi.person_tasks SET closed_at = smi.now(), acknowledged_by = :actor
                       WHERE kind = 'mail_failed' AND closed_at IS NULL AND starts_with(subject, :prefix)""",
                    actor=actor,
                    prefix=f"{email.job_id}/{email.kind}/",
                )
                tx.run("UPDATE smi.upscale_jobs SET updated_at = smi.now() WHERE job_id = :id", id=email.job_id)

    def refused(self, email: Email, lease_id: str, *, seconds: float, error: str, counts: bool) -> None:
        """The server certainly did not take it: due again in `seconds`. An outage does not count as an attempt."""
        with self._database.transaction() as tx:
            tx.run(
                """UPDATE smi.emails SET state = 'claimed', lease_id = NULL, lease_until = NULL, last_error = :error,
                          hand_overs = hand_overs - 1, attempts = attempts - :uncounted,
                          next_attempt_at = smi.now() + make_interval(secs => :seconds)
                   WHERE job_id = :job_id AND kind = :kind AND serial = :serial AND lease_id = :lease_id""",
                job_id=email.job_id,
                kind=email.kind,
                serial=email.serial,
                lease_id=lease_id,
                seconds=seconds,
                error=error[:500],
                uncounted=0 if counts else 1,
            )

    def give_up(self, email: Email, lease_id: str, *, why: str, actor: str) -> None:
        """Makes a mail a person's task."""
        with self._database.transaction() as tx:
            changed = tx.run(
                """UPDATE smi.emails SET state = 'failed', lease_id = NULL, lease_until = NULL, last_error = :why
                   WHERE job_id = :job_id AND kind = :kind AND serial = :serial AND lease_id = :lease_id""",
                job_id=email.job_id,
                kind=email.kind,
                serial=email.serial,
                lease_id=lease_id,
                why=why[:500],
            )
            if changed:
                tx.event(email.job_id, "mail_failed", actor=actor, kind=email.kind, why=why)
                open_task(
                    tx,
                    kind="mail_failed",
                    subject=f"{email.job_id}/{email.kind}/{email.serial}",
                    job_id=email.job_id,
                    message=f"The {email.kind} mail of job {email.job_id} could not be sent: {why}.",
                    next_step=f"Check the address, then run `smi jobs resend {email.job_id}`.",
                )

    def resend(self, job_id: str, kind: str, *, context: Mapping[str, Any], actor: str) -> int:
        """Owes the mail once more under a new serial, which is returned."""
        with self._database.transaction() as tx:
            queue_email(tx, job_id, kind, self._mail_domain, context=context, again=True)
            serial = tx.value(
                "SELECT max(serial) FROM smi.emails WHERE job_id = :id AND kind = :kind", id=job_id, kind=kind
            )
            tx.event(job_id, "mail_resend", actor=actor, kind=kind, serial=serial)
            return serial
