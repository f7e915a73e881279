"""Mails to customers: claimed → handed_over → accepted, each with one stable Message-ID."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from smi_pipeline.core.backoff import MAIL_PAUSES, mail_retry_seconds
from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.faults import MAIL, Failure, Scope
from smi_pipeline.core.models import Email
from smi_pipeline.core.vocabulary import UNSENT, EmailKind, EmailState, ManualTaskKind
from smi_pipeline.formatting import duration
from smi_pipeline.state.breakers import forget_failure, locked, record_failure
from smi_pipeline.state.database import Database, Transaction, in_
from smi_pipeline.state.job_rows import touch
from smi_pipeline.state.manual_tasks import close_task, close_tasks_about, open_task

_THIS = "job_id = :job_id AND kind = :kind AND serial = :serial"


_NOT_TAKEN = f"""state = '{EmailState.CLAIMED}', lease_id = NULL, lease_until = NULL, last_error = :error,
    hand_overs = hand_overs - 1, attempts = attempts - :uncounted,
    next_attempt_at = smi.now() + make_interval(secs => :seconds)"""
"""SQL: a mail that was certainly not accepted is due again."""


GIVE_UP_AFTER, FEWEST_REFUSALS = timedelta(days=1), len(MAIL_PAUSES)
"""How long a mail is tried that is refused for the time being, and how often at least: while the server refused the
shop, or nothing ran, it was not tried."""


@dataclass(frozen=True, kw_only=True)
class DelayedMails:
    """Mails that could not be sent: to how many recipients, since when, why, and whether for one of them the server
    gave no answer that is about this mail."""

    recipients: int
    since: datetime
    error: str
    outage: bool


def _key(email: Email) -> dict[str, Any]:
    """Return the parameters of `_THIS`."""
    return {"job_id": email.job_id, "kind": email.kind, "serial": email.sequence}


def queue_email(
    tx: Transaction,
    job_id: str,
    kind: EmailKind,
    mail_domain: str,
    *,
    context: Mapping[str, Any] | None = None,
    again: bool = False,
) -> int:
    """Queue the mail of this kind once; `again` queues a further one. Return the number of rows inserted."""
    sequence = 1
    if again:
        sequence = tx.value(
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
        serial=sequence,
        message_id=f"<{kind}.{sequence}.{job_id}@{mail_domain}>",
        context=json.dumps(context or {}),
    )


def readdress(tx: Transaction, job_id: str, address: str, mail_domain: str) -> None:
    """Have the unsent mails of a job written anew for another address, before the job gets it. One that a server may
    have is replaced by a new mail: its bytes name the old address, and its Message-ID has gone there."""
    if tx.value("SELECT customer_email FROM smi.upscale_jobs WHERE job_id = :id", id=job_id) == address:
        return
    # A worker that hands one over just now would else be seen by neither statement.
    tx.rows("SELECT 1 FROM smi.emails WHERE job_id = :id ORDER BY kind, serial FOR UPDATE", id=job_id)
    unclear = tx.rows(
        f"""UPDATE smi.emails SET state = '{EmailState.FAILED}', lease_id = NULL, lease_until = NULL,
                   last_error = 'the address was replaced before the mail was surely accepted'
            WHERE job_id = :id AND state IN {in_(UNSENT)} AND hand_overs > 0 RETURNING kind, context""",
        id=job_id,
    )
    tx.run(
        f"""UPDATE smi.emails SET content = NULL, lease_id = NULL, lease_until = NULL, attempts = 0,
                   refusals = 0, refused_since = NULL, next_attempt_at = smi.now()
            WHERE job_id = :id AND state IN ('{EmailState.CLAIMED}', '{EmailState.FAILED}') AND hand_overs = 0""",
        id=job_id,
    )
    for row in unclear:
        queue_email(tx, job_id, row["kind"], mail_domain, context=row["context"], again=True)


def claim_unaddressed(tx: Transaction, job_id: str) -> None:
    """Queue the mails again that had nobody to go to, except one that is no news any more."""
    tx.run(
        f"""UPDATE smi.emails SET state = '{EmailState.CLAIMED}', attempts = 0, refusals = 0, refused_since = NULL,
                   next_attempt_at = smi.now()
            WHERE job_id = :id AND state = '{EmailState.FAILED}' AND hand_overs = 0
              AND kind <> '{EmailKind.PAYMENT_STARTED}'""",
        id=job_id,
    )


def forget_content(tx: Transaction, job_id: str) -> None:
    """Have the mails of a job that were not accepted written anew at the next attempt."""
    tx.run(f"UPDATE smi.emails SET content = NULL WHERE job_id = :id AND state IN {in_(UNSENT)}", id=job_id)


def _recipient(tx: Transaction, job_id: str) -> str:
    """Return what stands for the recipient of a mail in the breaker: addresses are not written there."""
    address = tx.value("SELECT customer_email FROM smi.upscale_jobs WHERE job_id = :id", id=job_id)
    return hashlib.sha256((address or "").lower().encode()).hexdigest()[:16]


def _postpone(tx: Transaction, email: Email, lease_id: str, *, seconds: float, error: str, anew: bool) -> None:
    tx.run(
        f"""UPDATE smi.emails SET {_NOT_TAKEN},
                   content = CASE WHEN :anew AND hand_overs = 1 THEN NULL ELSE content END
            WHERE {_THIS} AND lease_id = :lease_id""",
        anew=anew,
        **_key(email),
        lease_id=lease_id,
        seconds=seconds,
        error=error[:500],
        uncounted=1,
    )


def _take_back(tx: Transaction, since: datetime | None) -> None:
    """Queue the mails again that were failed since then although the server has certainly not taken them: it was no
    fault of theirs. Not those that were queued anew by hand."""
    rows = tx.rows(
        f"""UPDATE smi.emails e SET state = '{EmailState.CLAIMED}', attempts = 0, refusals = 0,
                   refused_since = NULL, next_attempt_at = smi.now()
            FROM smi.person_tasks t
            WHERE t.kind = '{ManualTaskKind.MAIL_FAILED}' AND t.closed_at IS NULL AND t.opened_at >= :since
              AND t.subject = concat_ws('/', e.job_id, e.kind, e.serial)
              AND e.state = '{EmailState.FAILED}' AND e.hand_overs = 0
              AND NOT EXISTS (SELECT FROM smi.emails later WHERE later.job_id = e.job_id AND later.kind = e.kind
                              AND later.serial > e.serial)
            RETURNING t.subject, e.job_id, e.kind""",
        since=since,
    )
    for row in rows:
        close_task(tx, kind=ManualTaskKind.MAIL_FAILED, subject=row["subject"], actor="itself")
        tx.audit(row["job_id"], "mail_queued_again", actor="itself", kind=row["kind"])


class Emails:
    """Mails to customers."""

    def __init__(self, database: Database, mail_domain: str) -> None:
        self._database = database
        self._mail_domain = mail_domain

    def get(self, work_key: str) -> Email | None:
        """Return one mail by its work key."""
        job_id, kind, sequence = work_key.split("/")
        return self._database.record(
            Email, f"SELECT * FROM smi.emails WHERE {_THIS}", job_id=job_id, kind=kind, serial=int(sequence)
        )

    def of_job(self, job_id: str) -> list[Email]:
        """Return all mails of a job."""
        return self._database.records(
            Email, "SELECT * FROM smi.emails WHERE job_id = :id ORDER BY created_at, serial", id=job_id
        )

    def hand_over(self, email: Email, lease_id: str, content: bytes, *, to: str, signed_by: str | None = None) -> bool:
        """Commit the content before the server gets it, with the id of the key of its links. Return False when the
        lease was lost, or the customer has another address by now."""
        return self._database.changes(
            f"""UPDATE smi.emails SET state = '{EmailState.HANDED_OVER}', content = :content, signed_by = :signed_by,
                      hand_overs = hand_overs + 1, handed_over_at = smi.now()
               WHERE {_THIS} AND lease_id = :lease_id
                 AND EXISTS (SELECT FROM smi.upscale_jobs j WHERE j.job_id = :job_id AND j.customer_email = :to)""",
            to=to,
            **_key(email),
            lease_id=lease_id,
            content=content,
            signed_by=signed_by,
        )

    def accepted(self, email: Email, *, actor: str) -> None:
        """Record that the mail server has accepted the mail. Needs no lease: the server has confirmed it."""
        with self._database.transaction() as tx:
            forget_failure(tx, MAIL, _recipient(tx, email.job_id))
            changed = tx.run(
                f"""UPDATE smi.emails SET state = '{EmailState.ACCEPTED}', accepted_at = smi.now(), lease_id = NULL,
                          lease_until = NULL, last_error = NULL
                   WHERE {_THIS} AND state <> '{EmailState.ACCEPTED}'""",
                **_key(email),
            )
            if changed:
                tx.audit(email.job_id, "mail_accepted", actor=actor, kind=email.kind, serial=email.sequence)
                # An earlier mail of this kind that could not be sent needs nobody any more.
                close_tasks_about(
                    tx, kind=ManualTaskKind.MAIL_FAILED, prefix=f"{email.job_id}/{email.kind}/", actor=actor
                )
                touch(tx, email.job_id)

    def postpone(self, email: Email, lease_id: str, *, seconds: float, error: str, anew: bool) -> None:
        """Make a mail that was certainly not accepted due again in `seconds`. An outage, or a server that refuses the
        shop, is no attempt. `anew`: render it again then, because settings like the sender may change until then."""
        with self._database.transaction() as tx:
            _postpone(tx, email, lease_id, seconds=seconds, error=error, anew=anew)

    def refused(self, email: Email, lease_id: str, failure: Failure, *, final: bool, actor: str) -> float | None:
        """Record that the server has certainly not taken a mail, and why. Return the seconds until it is due again,
        None for a mail that has failed.

        A refusal for the time being (not `final`) is the mail's own: it is tried for a day. Definite ones count by
        their recipient; so many in a row, and refusals that name the shop, are no fault of the mail: it waits for the
        breaker, with those that were failed before it. Raise LeaseLost.
        """
        with self._database.transaction() as tx:
            before = locked(tx, failure.breaker)
            if not tx.value(
                f"SELECT 1 FROM smi.emails WHERE {_THIS} AND lease_id = :lease_id FOR UPDATE",
                **_key(email),
                lease_id=lease_id,
            ):
                raise LeaseLost("another worker has this mail")
            recipient = _recipient(tx, email.job_id)
            others_were_accepted = recipient in before.failed_before and not before.is_open
            if others_were_accepted or (not final and failure.scope is Scope.UNKNOWN):
                failure = replace(failure, scope=Scope.ORDER)
            after = record_failure(tx, replace(failure, counted_as=recipient))
            if after.is_open and failure.scope is not Scope.ORDER:
                if not before.is_open:
                    _take_back(tx, after.failing_since)
                anew = failure.scope is Scope.SHOP
                _postpone(tx, email, lease_id, seconds=60.0, error=failure.message, anew=anew)
                return 60.0
            if final:
                self._fail(tx, email, lease_id, why=failure.message, actor=actor, not_taken=True)
                return None
            return self._try_again(tx, email, lease_id, error=failure.message, actor=actor)

    def _try_again(self, tx: Transaction, email: Email, lease_id: str, *, error: str, actor: str) -> float | None:
        """Make a refused mail, whose row is locked under its lease, due again. Return None when a day of tries is
        over."""
        now: datetime = tx.value("SELECT smi.now()")
        since = email.refused_since or now
        if now - since >= GIVE_UP_AFTER and email.refusals + 1 >= FEWEST_REFUSALS:
            why = f"refused {email.refusals + 1} times in {duration((now - since).total_seconds())}: {error}"
            self._fail(tx, email, lease_id, why=why, actor=actor, not_taken=True)
            return None
        seconds = mail_retry_seconds(email.refusals + 1)
        tx.run(
            f"UPDATE smi.emails SET {_NOT_TAKEN}, refusals = refusals + 1, refused_since = :since WHERE {_THIS}",
            **_key(email),
            seconds=seconds,
            error=error[:500],
            uncounted=0,
            since=since,
        )
        return seconds

    def delayed(self, patience: timedelta) -> DelayedMails | None:
        """Return what is known of the mails that could not be sent for so long while no other mail was accepted; None
        if one was, or there are none."""
        found = self._database.record(
            DelayedMails,
            f"""SELECT count(DISTINCT j.customer_email) AS recipients, bool_or(refused_since IS NULL) AS outage,
                       min(coalesce(refused_since, e.created_at)) AS since,
                       (array_agg(e.last_error ORDER BY coalesce(refused_since, e.created_at)))[1] AS error
                FROM smi.emails e JOIN smi.upscale_jobs j USING (job_id)
                WHERE e.state IN {in_(UNSENT)} AND e.last_error IS NOT NULL
                  AND coalesce(refused_since, e.created_at) <= smi.now() - CAST(:patience AS interval)
                HAVING count(*) > 0 AND NOT EXISTS (
                    SELECT FROM smi.emails WHERE accepted_at > smi.now() - CAST(:patience AS interval))""",
            patience=patience,
        )
        return found

    def withdraw(self, email: Email, lease_id: str, *, why: str, actor: str) -> bool:
        """Remove a mail that is no longer true. Return False when a server may have it, or the lease was lost."""
        with self._database.transaction() as tx:
            removed = tx.run(
                f"""DELETE FROM smi.emails WHERE {_THIS} AND lease_id = :lease_id AND hand_overs = 0
                    AND state = '{EmailState.CLAIMED}'""",
                **_key(email),
                lease_id=lease_id,
            )
            if removed:
                tx.audit(email.job_id, "mail_withdrawn", actor=actor, kind=email.kind, why=why)
            return bool(removed)

    def give_up(self, email: Email, lease_id: str, *, why: str, actor: str, told: bool = False) -> None:
        """Fail a mail and open its manual task, unless another one tells of it."""
        with self._database.transaction() as tx:
            self._fail(tx, email, lease_id, why=why, actor=actor, told=told)

    def _fail(
        self,
        tx: Transaction,
        email: Email,
        lease_id: str,
        *,
        why: str,
        actor: str,
        not_taken: bool = False,
        told: bool = False,
    ) -> None:
        changed = tx.run(
            f"""UPDATE smi.emails SET state = '{EmailState.FAILED}', lease_id = NULL, lease_until = NULL,
                      last_error = :why, hand_overs = hand_overs - :not_taken
               WHERE {_THIS} AND lease_id = :lease_id""",
            **_key(email),
            lease_id=lease_id,
            why=why[:500],
            not_taken=int(not_taken),
        )
        if changed:
            tx.audit(email.job_id, "mail_failed", actor=actor, kind=email.kind, why=why)
        if changed and not told:
            open_task(
                tx,
                kind=ManualTaskKind.MAIL_FAILED,
                subject=email.work_key,
                job_id=email.job_id,
                message=f"The {email.kind} mail of job {email.job_id} could not be sent: {why}.",
                next_step=f"Check the address, then run `smi jobs resend {email.job_id}`.",
            )

    def resend(self, job_id: str, kind: EmailKind, *, context: Mapping[str, Any], actor: str) -> int:
        """Queue the mail once more under a new sequence, which is returned."""
        with self._database.transaction() as tx:
            queue_email(tx, job_id, kind, self._mail_domain, context=context, again=True)
            sequence = tx.value(
                "SELECT max(serial) FROM smi.emails WHERE job_id = :id AND kind = :kind", id=job_id, kind=kind
            )
            tx.audit(job_id, "mail_resend", actor=actor, kind=kind, serial=sequence)
            return int(sequence)
