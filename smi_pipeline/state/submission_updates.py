"""Submissions: what answers and deadlines mean for a call and its job, in the caller's transaction."""

from datetime import timedelta

from smi_pipeline.core import faults
from smi_pipeline.core.models import UpscaleReply
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import OPEN_CALLS, ManualTaskKind, PollResult, Stage, SubmissionState
from smi_pipeline.state.breakers import STOPPED, extend_probe
from smi_pipeline.state.database import Row, Transaction, in_
from smi_pipeline.state.manual_tasks import open_task
from smi_pipeline.state.transitions import hand_to_fulfilment, mark_submitted

MAY_SUCCEED = f"(state IN {in_(OPEN_CALLS)} OR state = '{SubmissionState.LOST}' AND external_id IS NOT NULL)"
"""A call that may still succeed: also one that was closed as lost and then identified by its webhook."""

POLLABLE = (SubmissionState.ACCEPTED, SubmissionState.LOST, SubmissionState.TIMED_OUT)
"""States in which the status of a call is asked for, late ones for their credits."""


def accept(tx: Transaction, submission_id: int, reply: UpscaleReply, policy: Policy, actor: str) -> None:
    """Record that Upsampler has accepted a call, and take its job out of the submit queue."""
    # The first status call comes after the announced completion, never later than the polling interval.
    row = tx.row(
        f"""UPDATE smi.submissions SET
               state = CASE WHEN state = '{SubmissionState.SENDING}' THEN '{SubmissionState.ACCEPTED}' ELSE state END,
               external_id = :external_id, accepted_at = smi.now(), finished_at = NULL,
               deadline_at = coalesce((SELECT j.deadline_at + {STOPPED} -- the first acceptance sets it
                                       FROM smi.upscale_jobs j
                                       WHERE j.job_id = smi.submissions.job_id AND j.round = smi.submissions.round),
                                      smi.now() + CAST(:life AS interval)),
               credits = coalesce(:credits, credits),
               next_poll_at = least(smi.now() + CAST(:every AS interval), smi.now() + CAST(:life AS interval))
           WHERE submission_id = :id AND external_id IS NULL
             AND state IN {in_((SubmissionState.SENDING, SubmissionState.LOST))}
           RETURNING job_id, round, state, deadline_at""",
        id=submission_id,
        external_id=reply.external_id,
        credits=reply.credits,
        life=policy.max_processing,
        every=policy.poll_every,
        max_hold=policy.max_hold,
    )
    if row is None or row["state"] != SubmissionState.ACCEPTED:
        return
    mark_submitted(
        tx,
        row["job_id"],
        row["round"],
        deadline=row["deadline_at"],
        stage=reply.stage if reply.stage in (Stage.QUEUED, Stage.PROCESSING) else Stage.PROCESSING,
        estimated_completion=reply.estimated_completion,
    )
    extend_probe(tx, faults.RESULTS, row["job_id"], until=row["deadline_at"])
    tx.audit(row["job_id"], "submitted", actor=actor, submission=submission_id, external_id=reply.external_id)


def tell_shared_id(tx: Transaction, submission_id: int, external_id: str) -> None:
    """Open the task for a call that Upsampler has answered with the id of another one."""
    job_id = tx.value("SELECT job_id FROM smi.submissions WHERE submission_id = :id", id=submission_id)
    open_task(
        tx,
        kind=ManualTaskKind.SHARED_ID,
        subject=external_id,
        job_id=job_id,
        message=f"Upsampler has answered two submissions with the id {external_id}. The second counts as unanswered:"
        " its webhook may still tell its id, or else the image is submitted once more.",
        next_step="Ask Upsampler for the credits of the call that cannot be found, and compare both delivered images.",
    )


def finish(tx: Transaction, row: Row, reply: UpscaleReply, actor: str) -> PollResult:
    """Close a completed or failed call, and hand its job to fulfilment unless another call may still succeed."""
    completed = reply.stage is Stage.COMPLETED
    tx.run(
        """UPDATE smi.submissions SET state = :state, result_url = :url, error = :error, next_poll_at = NULL,
                  finished_at = smi.now() WHERE submission_id = :id""",
        id=row["submission_id"],
        state=SubmissionState.COMPLETED if completed else SubmissionState.FAILED,
        url=reply.result_url,
        error=(reply.error or "")[:500] or None,
    )
    moved = (completed or not _another_may_succeed(tx, row)) and hand_to_fulfilment(
        tx, row["job_id"], row["round"], completed=completed
    )
    event = "upscaled" if completed else "upscale_failed"
    if completed and not moved:
        event = "late_success"
    tx.audit(
        row["job_id"], event, actor=actor, submission=row["submission_id"], credits=reply.credits, error=reply.error
    )
    return PollResult.READY if moved else PollResult.SETTLED


def time_out(tx: Transaction, row: Row, actor: str) -> PollResult:
    """Close a call past its deadline, and hand its job to fulfilment unless another call may still succeed.

    Its status is asked for three hours more (as long as result URLs live), so that late credits are booked.
    """
    tx.run(
        f"""UPDATE smi.submissions SET state = '{SubmissionState.TIMED_OUT}',
                  finished_at = coalesce(finished_at, smi.now()),
                  next_poll_at = CASE WHEN created_at > smi.now() - interval '3 hours'
                                      THEN smi.now() + interval '15 minutes' END
           WHERE submission_id = :id""",
        id=row["submission_id"],
    )
    if row["state"] == SubmissionState.TIMED_OUT:
        return PollResult.SETTLED
    tx.audit(row["job_id"], "upscale_timed_out", actor=actor, submission=row["submission_id"])
    moved = not _another_may_succeed(tx, row) and hand_to_fulfilment(tx, row["job_id"], row["round"], completed=False)
    return PollResult.READY if moved else PollResult.SETTLED


def _another_may_succeed(tx: Transaction, row: Row) -> bool:
    """Return whether another call of the round may still succeed: then nothing is decided yet. Lock the job, so that
    only one of two calls decides."""
    tx.run("SELECT FROM smi.upscale_jobs WHERE job_id = :job_id FOR UPDATE", job_id=row["job_id"])
    return bool(
        tx.value(
            f"SELECT 1 FROM smi.submissions WHERE job_id = :job_id AND round = :round AND {MAY_SUCCEED} LIMIT 1",
            job_id=row["job_id"],
            round=row["round"],
        )
    )


def calls_of_round(tx: Transaction, job: Row) -> list[SubmissionState]:
    """Return the states of the calls that were made for this round of a job and not refused."""
    rows = tx.rows(
        f"""SELECT state FROM smi.submissions
            WHERE job_id = :id AND round = :round AND state <> '{SubmissionState.REJECTED}'""",
        id=job["job_id"],
        round=job["round"],
    )
    return [SubmissionState(row["state"]) for row in rows]


def give_up_results(tx: Transaction, job: Row, *, error: str, hits_all: bool) -> None:
    """Close the completed calls of a round whose result cannot be used: the image is submitted again. `hits_all`: what
    Upsampler said of its failed calls is not about the image either, as every order fails."""
    believed = (SubmissionState.COMPLETED, SubmissionState.FAILED) if hits_all else (SubmissionState.COMPLETED,)
    tx.run(
        f"""UPDATE smi.submissions SET state = '{SubmissionState.FAILED}',
                  error = '{faults.NOT_BELIEVED}' || CASE WHEN state = '{SubmissionState.COMPLETED}' THEN :error
                                                          ELSE coalesce(error, '') END
            WHERE job_id = :id AND round = :round AND state IN {in_(believed)}
              AND NOT starts_with(coalesce(error, ''), '{faults.NOT_BELIEVED}')""",
        id=job["job_id"],
        round=job["round"],
        error=error[:450],
    )


def try_other_result(tx: Transaction, job: Row, *, error: str) -> bool:
    """Close the completed call whose result is of no use, the first one, when another of the round has completed, too.
    Return whether there is another."""
    return tx.changes(
        f"""WITH completed AS (
                SELECT submission_id FROM smi.submissions
                WHERE job_id = :id AND round = :round AND state = '{SubmissionState.COMPLETED}')
            UPDATE smi.submissions SET state = '{SubmissionState.FAILED}', error = '{faults.NOT_BELIEVED}' || :error
            WHERE submission_id = (SELECT min(submission_id) FROM completed HAVING count(*) > 1)""",
        id=job["job_id"],
        round=job["round"],
        error=error[:450],
    )


def extend_submissions(tx: Transaction, job_id: str, by: timedelta) -> None:
    """Move the deadlines of a job's calls."""
    tx.run(
        f"""UPDATE smi.submissions SET deadline_at = deadline_at + CAST(:by AS interval)
           WHERE job_id = :id AND state IN {in_((SubmissionState.ACCEPTED, SubmissionState.LOST))}""",
        id=job_id,
        by=by,
    )


def make_polls_due(tx: Transaction, job_id: str) -> int:
    """Make the status calls of a job due now. Return their number."""
    return tx.run(
        f"""UPDATE smi.submissions SET next_poll_at = smi.now(), hinted = true
           WHERE job_id = :id AND external_id IS NOT NULL AND state IN {in_(POLLABLE)}""",
        id=job_id,
    )


def make_all_polls_due(tx: Transaction) -> None:
    """Make the status calls of all upscales that are waited for due now."""
    tx.run(
        f"""UPDATE smi.submissions SET next_poll_at = smi.now()
            WHERE state = '{SubmissionState.ACCEPTED}' AND external_id IS NOT NULL AND next_poll_at > smi.now()"""
    )
