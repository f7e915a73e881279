"""Submissions: preparation of a paid job, the calls to Upsampler, and the answers to status calls."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError

from smi_pipeline.core import faults
from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.lifecycle import callback_token, token_hash
from smi_pipeline.core.models import ImageInfo, Submission, UpscaleReply
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import PollResult, Stage, Status, SubmissionState
from smi_pipeline.state import transitions
from smi_pipeline.state.breakers import STOPPED, lock_open, record_success
from smi_pipeline.state.database import Database, as_record, in_
from smi_pipeline.state.heartbeat import UP_SINCE, record_heartbeat
from smi_pipeline.state.job_rows import record_progress
from smi_pipeline.state.starts import IN_FLIGHT
from smi_pipeline.state.submission_updates import (
    MAY_SUCCEED,
    POLLABLE,
    accept,
    finish,
    make_all_polls_due,
    tell_shared_id,
    time_out,
)

LONGEST_CALL = timedelta(minutes=1)
"""Longer than any call to Upsampler: its client times out before."""


class Submissions:
    """Calls to Upsampler."""

    def __init__(self, database: Database, secret_keys: Sequence[str]) -> None:
        self._database = database
        self._secret_keys = secret_keys

    def prepared(
        self,
        job_id: str,
        lease_id: str,
        *,
        source: ImageInfo,
        source_key: str,
        source_url: str,
        expected_seconds: float,
        policy: Policy,
        actor: str,
    ) -> None:
        """Set the job to `processing` with its stored source. Raise LeaseLost."""
        with self._database.transaction() as tx:
            record_success(tx, faults.source(source_url), max_hold=policy.max_hold)
            transitions.begin_processing(
                tx,
                transitions.leased(tx, job_id, lease_id),
                source=source,
                source_key=source_key,
                expected_seconds=expected_seconds,
                actor=actor,
            )

    def of_job(self, job_id: str) -> list[Submission]:
        """Return all calls of a job, oldest first."""
        return self._database.records(
            Submission, "SELECT * FROM smi.submissions WHERE job_id = :id ORDER BY submission_id", id=job_id
        )

    def begin(self, job_id: str, lease_id: str, *, actor: str) -> tuple[int, str] | None:
        """Commit the intent of a call. Return (submission_id, callback token), or None while another call is open.
        Raise LeaseLost."""
        try:
            with self._database.transaction() as tx:
                row = tx.row(
                    """INSERT INTO smi.submissions (job_id, round)
                       SELECT job_id, round FROM smi.upscale_jobs
                       WHERE job_id = :id AND lease_id = :lease AND lease_until > smi.now() -- else it may be failed
                       RETURNING submission_id""",
                    id=job_id,
                    lease=lease_id,
                )
                if row is None:
                    raise LeaseLost(f"job {job_id} was leased to another run")
                token = callback_token(self._secret_keys[0], row["submission_id"])
                tx.run(
                    "UPDATE smi.submissions SET token_hash = :hash WHERE submission_id = :id",
                    id=row["submission_id"],
                    hash=token_hash(token),
                )
                tx.audit(job_id, "submitting", actor=actor, submission=row["submission_id"])
                return row["submission_id"], token
        except IntegrityError:  # submissions_one_open: another call is open already
            return None

    def accepted(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> bool:
        """Record that Upsampler has accepted: the job leaves the queue, its deadline starts. Needs no lease: Upsampler
        has confirmed it. Return False when another call has the same id: the call stays open, with a manual task."""
        try:
            with self._database.transaction() as tx:
                lock_open(tx)
                record_success(tx, faults.SUBMISSIONS, max_hold=policy.max_hold)
                accept(tx, submission_id, reply, policy, actor)
                return True
        except IntegrityError:  # external_id is unique
            with self._database.transaction() as tx:
                tell_shared_id(tx, submission_id, reply.external_id or "")
                return False

    def mark_rejected(self, submission_id: int, error: str) -> None:
        """Close a call that was certainly not accepted."""
        self._database.run(
            f"""UPDATE smi.submissions SET state = '{SubmissionState.REJECTED}', error = :error,
                      finished_at = smi.now()
               WHERE submission_id = :id AND state = '{SubmissionState.SENDING}'""",
            id=submission_id,
            error=error[:500],
        )

    def mark_lost(self, submission_id: int, *, actor: str) -> bool:
        """Close an unanswered call after the grace time. Return False when it is not open."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"""UPDATE smi.submissions SET state = '{SubmissionState.LOST}', finished_at = smi.now()
                   WHERE submission_id = :id AND state = '{SubmissionState.SENDING}' RETURNING job_id""",
                id=submission_id,
            )
            if row:
                tx.audit(row["job_id"], "submission_lost", actor=actor, submission=submission_id)
            return row is not None

    def mark_for_poll(self, hash_: str, reply: UpscaleReply, *, policy: Policy) -> bool:
        """Make the status call of the submission with this token hash due now: its webhook came. Return False for an
        unknown hash."""
        with self._database.transaction() as tx:
            lock_open(tx)
            row = tx.row("SELECT * FROM smi.submissions WHERE token_hash = :hash FOR UPDATE", hash=hash_)
            if row is None:
                return False
            if row["external_id"] is None and reply.external_id:
                taken = tx.value("SELECT 1 FROM smi.submissions WHERE external_id = :id", id=reply.external_id)
                if not taken and row["state"] == SubmissionState.SENDING:
                    accept(tx, row["submission_id"], reply, policy, "upsampler webhook")
                elif not taken:
                    tx.run(
                        """UPDATE smi.submissions SET external_id = :external_id, accepted_at = smi.now(),
                                  deadline_at = coalesce(deadline_at, created_at + CAST(:life AS interval))
                           WHERE submission_id = :id""",
                        external_id=reply.external_id,
                        id=row["submission_id"],
                        life=policy.max_processing,
                    )
            tx.run(
                f"""UPDATE smi.submissions SET next_poll_at = smi.now(), hinted = true
                   WHERE submission_id = :id AND external_id IS NOT NULL AND state IN {in_(POLLABLE)}""",
                id=row["submission_id"],
            )
            return True

    def claim_due_polls(self, limit: int) -> list[Submission]:
        """Claim the submissions due for a status call: those near their deadline first, then those with a webhook."""
        rows = self._database.rows(
            f"""UPDATE smi.submissions SET next_poll_at = smi.now() + interval '60 seconds'
               WHERE submission_id IN (
                   SELECT submission_id FROM smi.submissions WHERE next_poll_at <= smi.now()
                   ORDER BY state = '{SubmissionState.ACCEPTED}'
                                AND deadline_at < smi.now() + interval '60 seconds' DESC NULLS LAST,
                            hinted DESC, next_poll_at
                   LIMIT :limit FOR UPDATE SKIP LOCKED)
               RETURNING *""",
            limit=limit,
        )
        return [as_record(Submission, row) for row in sorted(rows, key=lambda row: not row["hinted"])]

    def release_poll(self, submission_id: int, *, seconds: float) -> None:
        """Give a claimed status call back; it is due again in `seconds`."""
        self._database.run(
            """UPDATE smi.submissions SET next_poll_at = smi.now() + make_interval(secs => :seconds)
               WHERE submission_id = :id AND next_poll_at IS NOT NULL""",
            id=submission_id,
            seconds=seconds,
        )

    def poll_answered(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> PollResult:
        """Apply the answer to a status call."""
        with self._database.transaction() as tx:
            if record_success(tx, faults.STATUS, max_hold=policy.max_hold):
                make_all_polls_due(tx)  # their pauses have grown meanwhile
            row = tx.row(
                "SELECT *, smi.now() AS now FROM smi.submissions WHERE submission_id = :id FOR UPDATE",
                id=submission_id,
            )
            if row is None or row["state"] not in (SubmissionState.SENDING, *POLLABLE):
                return PollResult.KNOWN
            tx.run(
                """UPDATE smi.submissions SET polls = polls + 1, poll_errors = 0, hinted = false,
                          credits = coalesce(:credits, credits) WHERE submission_id = :id""",
                id=submission_id,
                credits=reply.credits,
            )
            over = row["state"] == SubmissionState.TIMED_OUT or (
                row["deadline_at"] and row["deadline_at"] <= row["now"]
            )
            # The address of a result can come later than its success.
            succeeded = reply.stage is Stage.COMPLETED
            waited = row["finished_at"] and row["finished_at"] + policy.address_patience <= row["now"]
            if reply.stage is Stage.FAILED or (succeeded and (reply.result_url or over or waited)):
                return finish(tx, row, reply, actor)
            if over:
                return time_out(tx, row, actor)
            stage = Stage.PROCESSING if succeeded else reply.stage
            tx.run(
                """UPDATE smi.submissions SET next_poll_at =
                          least(smi.now() + CAST(:every AS interval), greatest(deadline_at, smi.now())),
                          finished_at = CASE WHEN :succeeded THEN coalesce(finished_at, smi.now()) END
                   WHERE submission_id = :id""",
                id=submission_id,
                succeeded=succeeded,
                every=policy.poll_every,
            )
            record_progress(tx, row["job_id"], row["round"], stage, reply.estimated_completion)
            return PollResult.WAITING

    def poll_failed(
        self, submission_id: int, *, seconds: float, policy: Policy, actor: str, counts: bool
    ) -> PollResult:
        """Postpone a status call that was not answered; time the submission out when its deadline is long over."""
        with self._database.transaction() as tx:
            row = tx.row(
                f"""SELECT *, smi.now() AS now, greatest(deadline_at, {UP_SINCE}) AS last_asked_from
                    FROM smi.submissions WHERE submission_id = :id FOR UPDATE""",
                id=submission_id,
            )
            if row is None or row["state"] not in POLLABLE:
                return PollResult.KNOWN
            if row["deadline_at"] and row["last_asked_from"] + policy.last_poll_patience <= row["now"]:
                return time_out(tx, row, actor)
            tx.run(
                """UPDATE smi.submissions SET poll_errors = poll_errors + :counts,
                          next_poll_at = CASE WHEN deadline_at > smi.now()
                              THEN least(smi.now() + make_interval(secs => :seconds), deadline_at)
                              ELSE smi.now() + make_interval(secs => least(:seconds, 10)) END
                   WHERE submission_id = :id""",
                id=submission_id,
                seconds=seconds,
                counts=int(counts),
            )
            return PollResult.LATER

    def expire_unstarted(self, *, policy: Policy) -> int:
        """Hand jobs past `start_by` without an open call to fulfilment, which fails them. Return their number. Close
        unanswered calls whose jobs nobody works on any more."""
        with self._database.transaction() as tx:
            record_heartbeat(tx, policy)
            # The worker of such a call is gone, and its job may be closed or on hold: nothing else would close it.
            rows = tx.rows(
                f"""UPDATE smi.submissions SET state = '{SubmissionState.LOST}', finished_at = smi.now()
                   WHERE state = '{SubmissionState.SENDING}' AND created_at + CAST(:longest AS interval) <= smi.now()
                   RETURNING job_id, submission_id""",
                longest=policy.ambiguous_grace + LONGEST_CALL,
            )
            for row in rows:
                tx.audit(row["job_id"], "submission_lost", actor="clock", submission=row["submission_id"])
            return transitions.hand_unstarted_to_fulfilment(
                tx, max_hold=policy.max_hold, open_call=MAY_SUCCEED, stopped=STOPPED
            )

    def latest_external_id(self) -> str | None:
        """Return the id of the latest upscale that Upsampler has accepted, or None."""
        latest: str | None = self._database.value(
            """SELECT external_id FROM smi.submissions WHERE external_id IS NOT NULL
               ORDER BY submission_id DESC LIMIT 1"""
        )
        return latest

    def in_flight(self) -> int:
        """Return the number of open calls and of leased jobs that are about to make one."""
        count: int = self._database.value(f"SELECT {IN_FLIGHT}")
        return count

    def recent_seconds(self, megapixels: float) -> list[float]:
        """Return the durations of recent deliveries of about this output size."""
        rows = self._database.rows(
            f"""SELECT extract(epoch FROM completed_at - processing_at)::float AS seconds
               FROM (SELECT * FROM smi.upscale_jobs WHERE status = '{Status.COMPLETED}' -- by its index, not all
                     ORDER BY created_at DESC LIMIT 1000) AS recent
               WHERE processing_at IS NOT NULL
                 AND source_width::float * source_height * scale * scale / 1e6 BETWEEN :low AND :high
               ORDER BY completed_at DESC LIMIT 50""",
            low=megapixels / 2,
            high=megapixels * 2,
        )
        return [row["seconds"] for row in rows]

    def now(self) -> datetime:
        """Return the time by the state's clock."""
        return self._database.now()
