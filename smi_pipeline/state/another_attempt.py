"""Whether a job that has failed waits for another attempt instead of ending, in the caller's transaction."""

from datetime import datetime, timedelta

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.faults import DOUBTED_FOR, LATE, Again, Breaker, Failure, Scope, may_wait
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import Queue, SubmissionState
from smi_pipeline.state import transitions
from smi_pipeline.state.breakers import record_failure
from smi_pipeline.state.database import Row, Transaction
from smi_pipeline.state.submission_updates import calls_of_round, give_up_results, try_other_result

RESUBMIT_SECONDS = 10.0
"""Pause before an image is submitted again: what made its upscale fail often passes."""


def note_failure(tx: Transaction, job_id: str, error: PermanentError) -> Breaker | None:
    """Count a failure for the part of the shop that it belongs to. Call it before the job is locked: whoever closes a
    breaker locks it first, and then the jobs that waited."""
    if error.breaker is None:
        return None
    failure = Failure(
        breaker=error.breaker,
        work_key=job_id,
        message=str(error),
        scope=Scope.UNKNOWN if _blamed_by_others(error) else error.scope,
        next_step=error.next_step,
        others_succeeded=error.reason in LATE and _later_ones_succeeded(tx, job_id),
    )
    return record_failure(tx, failure)


def seconds_until_next(
    tx: Transaction, job: Row, breaker: Breaker | None, error: PermanentError, policy: Policy, *, actor: str
) -> float | None:
    """Postpone a failed job that may wait, or hand it back to be submitted again. Return the seconds until it is due;
    None when it ends now."""
    message = f"{error.reason}: {error}"
    waits = breaker is not None and _may_wait(tx, job, breaker, error, policy)
    of_result = job["queue"] == Queue.FULFIL and not (waits and error.again is Again.SAME)
    if of_result and try_other_result(tx, job, error=message):
        tx.audit(job["job_id"], "other_result", actor=actor, message=message[:500])
        transitions.postpone(tx, job, seconds=0, error=message, uncounted=job["attempts"])
        return 0.0
    if breaker is None or not waits:
        return None
    seconds = (
        0.0
        if breaker.is_open
        else tx.value(
            "SELECT least(120, greatest(5, extract(epoch FROM smi.now() - :since) / 4))::float", since=_waits_since(job)
        )
    )
    tx.audit(job["job_id"], "asked_again", actor=actor, message=message[:500], breaker_open=breaker.is_open)
    if error.again is Again.RESUBMIT:
        give_up_results(tx, job, error=message, hits_all=breaker.is_open)
        seconds = max(seconds, RESUBMIT_SECONDS)
        late = _ended_by_its_deadline(job, error, tx.value("SELECT smi.now()"))
        # Only what has a result waits for a breaker after its upscale; before it, `accept` has counted the time.
        stopped = (
            _stopped(tx.value("SELECT smi.now()"), job, breaker, policy) if job["result_ready_at"] else timedelta()
        )
        transitions.hand_back_to_submission(
            tx, job, seconds=seconds, error=message, stopped=stopped, max_hold=policy.max_hold, new_deadline=late
        )
    else:
        # To set a job aside is no attempt: without the one before it would never be tried again.
        uncounted = 2 if error.reason == reasons.SET_ASIDE else 1
        transitions.postpone(tx, job, seconds=seconds, error=message, uncounted=uncounted)
    return seconds


def _may_wait(tx: Transaction, job: Row, breaker: Breaker, error: PermanentError, policy: Policy) -> bool:
    now = tx.value("SELECT smi.now()")
    calls = calls_of_round(tx, job)
    # A result that cannot be used is a failed upscale, too.
    failed = calls.count(SubmissionState.FAILED) + calls.count(SubmissionState.COMPLETED)
    believed = _ended_by_its_deadline(job, error, now)
    until = job["start_by"] if believed else job["deadline_at"] or job["start_by"]
    until_while_open = until + _stopped(now, job, breaker, policy)
    if error.again is Again.SAME and job["result_ready_at"]:
        until = max(until, job["result_ready_at"]) + policy.last_poll_patience
        if not (job["last_error"] or "").startswith(error.reason):
            until = max(until, now + timedelta(seconds=1))  # one more attempt, however late the first one came
        until_while_open = max(until, job["result_ready_at"] + policy.result_life)
    elif error.reason in DOUBTED_FOR:
        if (job["last_error"] or "").startswith(error.reason):
            until = min(until, job["waits_since"] + DOUBTED_FOR[error.reason])
    elif len(calls) >= policy.max_submissions:
        return False
    return may_wait(
        breaker,
        Scope.UNKNOWN if breaker.is_open and _blamed_by_others(error) else error.scope,
        error.again,
        now=now,
        until=until,
        until_while_open=until_while_open,
        left=policy.max_resubmissions + 1 - failed,
        believed=believed,
    )


def _ended_by_its_deadline(job: Row, error: PermanentError, now: datetime) -> bool:
    """Return whether no time is left: a deadline that has passed ends a job, unless it passes for every order."""
    return error.reason in LATE and (error.reason == reasons.TIMED_OUT or job["deadline_at"] <= now)


def _later_ones_succeeded(tx: Transaction, job_id: str) -> bool:
    """Return whether a submission made after the last one of this job has a result."""
    return bool(
        tx.value(
            f"""SELECT EXISTS (
                    SELECT FROM smi.submissions
                    WHERE submission_id > (SELECT max(submission_id) FROM smi.submissions WHERE job_id = :id)
                      AND state = '{SubmissionState.COMPLETED}' AND result_url <> '')""",
            id=job_id,
        )
    )


def _blamed_by_others(error: PermanentError) -> bool:
    """Return whether Upsampler blames the image, not a check of ours: it may blame the image of every order."""
    return error.scope is Scope.ORDER and error.reason not in reasons.FAULTS_OF_THE_ORDER


def _stopped(now: datetime, job: Row, breaker: Breaker, policy: Policy) -> timedelta:
    """Return for how long the clocks of a job have stood still for a breaker."""
    if breaker.opened_at is None:
        return timedelta()
    return min(now - max(breaker.opened_at, _waits_since(job)), policy.max_hold)


def _waits_since(job: Row) -> datetime:
    """Return since when a job waits for what it has failed at."""
    since: datetime = (job["queue"] == Queue.FULFIL and job["result_ready_at"]) or job["waits_since"]
    return since
