"""Results of submitted upscales: status calls, prompted by webhooks, and deadlines."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from smi_pipeline.core.backoff import retry_seconds
from smi_pipeline.core.errors import AccountError, LocalError, NotFound, RateLimited, TransientError
from smi_pipeline.core.faults import STATUS, Failure
from smi_pipeline.core.lifecycle import token_hash
from smi_pipeline.core.models import Submission, UpscaleReply
from smi_pipeline.core.vocabulary import CallPurpose, PollResult, SubmissionState
from smi_pipeline.services import one_object
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.steps import failure_of


def take_hint(ctx: ServiceContext, token: str, body: bytes) -> UpscaleReply:
    """Make the status call of a submission due now because of its webhook, which proves nothing by itself.

    Raise NotFound for an unknown token, RefusedError (400) for an unreadable body.
    """
    reply = ctx.upscaler.parse_webhook(body)
    if not ctx.state.submissions.mark_for_poll(token_hash(token), reply, policy=ctx.policy):
        raise NotFound("unknown webhook token")
    return reply


def check_completions(ctx: ServiceContext, *, limit: int = 60, seconds: float = 12.0, threads: int = 4) -> Counter[str]:
    """Make the status calls that are due, those with a webhook first, within a time budget; enforce deadlines.

    Return the number of submissions per result. What is wrong with one of them stays with it.
    """
    ends = time.monotonic() + seconds
    tally: Counter[str] = Counter()
    tally["not_started"] = ctx.state.submissions.expire_unstarted(policy=ctx.policy)
    due = ctx.state.submissions.claim_due_polls(limit)

    def one(submission: Submission) -> str:
        if time.monotonic() > ends:
            ctx.state.submissions.release_poll(submission.submission_id, seconds=0)
            return "out_of_time"
        try:
            return str(_check(ctx, submission))
        except Exception as error:
            return _broken(ctx, submission, error)

    if due:
        with ThreadPoolExecutor(max_workers=min(threads, len(due))) as pool:
            tally.update(pool.map(one, due))
    return tally


def _broken(ctx: ServiceContext, submission: Submission, error: Exception) -> str:
    """Postpone a status call with an unexpected error, and tell it. Errors of many orders are a fault of the shop."""
    if not ctx.state.breakers.note(_failure(submission, one_object.in_words(error))):
        one_object.tell(ctx, _subject(submission), error, job_id=submission.job_id)
    ctx.state.submissions.poll_failed(
        submission.submission_id, seconds=_pause(ctx, submission), policy=ctx.policy, actor=ctx.actor, counts=True
    )
    return "failed"


def _check(ctx: ServiceContext, submission: Submission) -> PollResult:
    state = ctx.state.submissions
    failed = partial(state.poll_failed, submission.submission_id, policy=ctx.policy, actor=ctx.actor)
    if submission.external_id is None:  # its status cannot be asked for: only its deadline can end it
        return failed(seconds=60, counts=False)
    urgent = (
        submission.state is SubmissionState.ACCEPTED  # the others are asked for their credits only
        and submission.deadline_at is not None
        and (submission.deadline_at - state.now()).total_seconds() < 60
    )
    try:
        ctx.limiter.acquire(CallPurpose.URGENT_POLL if urgent else CallPurpose.POLL)
        reply = _ask(ctx, submission, submission.external_id)
    except (RateLimited, AccountError) as error:
        # No call was made: the last call after the deadline is still due, but only for `last_poll_patience`.
        return failed(seconds=error.retry_after or 5, counts=False)
    except (TransientError, NotFound):
        return failed(seconds=_pause(ctx, submission), counts=True)
    result = state.poll_answered(submission.submission_id, reply, policy=ctx.policy, actor=ctx.actor)
    if submission.poll_errors:
        one_object.settled(ctx, _subject(submission))
    return result


def ask_status(ctx: ServiceContext, external_id: str) -> UpscaleReply:
    """Make a status call, and tell the limiter of a 429. Raise NotFound or TransientError."""
    try:
        return ctx.upscaler.status(external_id)
    except RateLimited as error:
        tell_limiter(ctx, CallPurpose.POLL, error)
        raise


def _pause(ctx: ServiceContext, submission: Submission) -> float:
    """Return the seconds until a status call that has failed is made again."""
    return retry_seconds(submission.poll_errors + 1, asked=None, first=ctx.policy.poll_every.total_seconds())


def _subject(submission: Submission) -> str:
    """Name the status call of a submission in its manual task."""
    return f"the status call of submission {submission.submission_id}"


def _ask(ctx: ServiceContext, submission: Submission, external_id: str) -> UpscaleReply:
    """Make a status call. An upscale that is not told or not known may be its own fault, unless that hits every order;
    late ones, asked for their credits only, may be forgotten."""
    try:
        return ask_status(ctx, external_id)
    except (RateLimited, LocalError):
        raise
    except TransientError as error:
        ctx.state.breakers.note(failure_of(error, STATUS, submission.job_id))
        raise
    except NotFound as error:
        if submission.state is SubmissionState.ACCEPTED:
            ctx.state.breakers.note(_failure(submission, str(error), passing=True))
        raise


def _failure(submission: Submission, message: str, *, passing: bool = False) -> Failure:
    """Return what a status call that is no `TransientError` tells of an order."""
    return Failure(breaker=STATUS, work_key=submission.job_id, message=message, passing=passing)


def tell_limiter(ctx: ServiceContext, purpose: CallPurpose, error: RateLimited) -> None:
    """Tell the limiter of a 429, which holds for every process."""
    ctx.limiter.refused(purpose, retry_after=error.retry_after or 1.0, reason=str(error))
