"""A paid job goes to Upsampler: preparation, then the one call that costs credits."""

import statistics
from contextlib import ExitStack
from pathlib import Path

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    LocalError,
    NotFound,
    OtherPicture,
    PermanentError,
    RateLimited,
    TransientError,
)
from smi_pipeline.core.faults import RESULTS, STATUS, SUBMISSIONS, Scope, source
from smi_pipeline.core.image_rules import check_output_size
from smi_pipeline.core.likeness import same_picture
from smi_pipeline.core.models import Fetched, ImageInfo, Submission, SubmitRequest, UpscaleJob, UpscaleReply
from smi_pipeline.core.vocabulary import CallPurpose, FetchKind, Queue, Stage, StepState, SubmissionState
from smi_pipeline.services.completions import ask_status, tell_limiter
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.steps import StepResult, host_outage, job_step, upscale_failed, watched

SECONDS_PER_MEGAPIXEL = 1.5
"""Estimate of the duration until there is history."""


def prepare(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Check payment and source, store the source, and set the job to `processing`.

    Raise PermanentError after the job was committed `failed`.
    """
    return job_step(ctx, Queue.SUBMIT, job_id, lease_id, lambda job: _prepare(ctx, job, lease_id))


def submit(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Call Upsampler once, with the intent committed before. Raise PermanentError after `failed` was committed."""
    return job_step(ctx, Queue.SUBMIT, job_id, lease_id, lambda job: _submit(ctx, job, lease_id))


def _prepare(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    if job.payment_intent_id is None and not job.admin_override:
        raise PermanentError(reasons.CANCELLED, "not paid, and no admin has overridden it")
    facts, key = _stored_source(ctx, job) or _store_source(ctx, job)
    expected = expected_seconds(ctx, job)
    ctx.state.submissions.prepared(
        job.job_id,
        lease_id,
        source=facts,
        source_key=key,
        source_url=job.source_url,
        expected_seconds=expected,
        policy=ctx.policy,
        actor=ctx.actor,
    )
    width, height = job.output_size
    return StepResult(
        state=StepState.DONE,
        message=f"{facts.format} {job.source_width} x {job.source_height} stored; {job.resolution} gives "
        f"{width} x {height}",
        details={"megapixels": round(job.output_megapixels, 2), "expected_seconds": round(expected, 1)},
    )


def _stored_source(ctx: ServiceContext, job: UpscaleJob) -> tuple[ImageInfo, str] | None:
    """Return the source that an earlier attempt has stored, or None."""
    if job.source_key is None:
        return None
    try:
        with ctx.storage.local_path(job.source_key) as path:
            return ctx.images.inspect(path), job.source_key
    except NotFound:
        return None


def _store_source(ctx: ServiceContext, job: UpscaleJob) -> tuple[ImageInfo, str]:
    with ExitStack() as stack:
        with watched(ctx, source(job.source_url), job.job_id):
            fetched = _fetched(ctx, job, stack)
            facts = as_ordered(ctx, job, fetched.path)
            check_output_size(facts, job.scale, ctx.policy.max_output_megapixels)
        key = f"sources/{job.job_id[:2]}/{job.job_id}-{facts.sha256[:16]}.{facts.format.lower()}"
        ctx.storage.put(key, fetched.path)
    return facts, key


def as_ordered(ctx: ServiceContext, job: UpscaleJob, path: Path) -> ImageInfo:
    """Return the facts of a source. Raise PermanentError when it is bad, or not the image that passed the same check
    when it was ordered: its host may show a placeholder instead of each image."""
    ordered = f"it was {job.source_width} x {job.source_height} when it was ordered"
    try:
        facts = ctx.images.check_source(path)
    except PermanentError as error:
        if error.reason != reasons.UNSUPPORTED_FORMAT:
            raise
        raise PermanentError(reasons.SOURCE_CHANGED, f"the source is another file now: {error}; {ordered}") from error
    width, height = facts.display_size
    if (width, height) != (job.source_width, job.source_height):
        raise PermanentError(reasons.SOURCE_CHANGED, f"the source is {width} x {height} now, {ordered}")
    if facts.sha256 != job.source_sha256:
        _require_the_same_picture(ctx, job, path)
    return facts


def _require_the_same_picture(ctx: ServiceContext, job: UpscaleJob, path: Path) -> None:
    """Raise OtherPicture unless other bytes show the ordered picture, as those of a host that codes its images anew do,
    or one that a person has released, or nobody knows."""
    allowed = ctx.state.jobs.allowed_pictures(job.job_id)
    now = ctx.images.fingerprint(path) if allowed else b""
    if now and not any(same_picture(picture, now) for picture in allowed):
        size = f"{job.source_width} x {job.source_height}"
        raise OtherPicture(f"the source shows another picture than when it was ordered, of {size} pixels", seen=now)


def _fetched(ctx: ServiceContext, job: UpscaleJob, stack: ExitStack) -> Fetched:
    """Return the source in a temporary file that lives as long as `stack`. An outage of its host is waited out until
    `start_by` ends the job."""
    fetch = ctx.fetcher.fetch(job.source_url, kind=FetchKind.SOURCE, max_bytes=ctx.policy.max_source_bytes)
    try:
        return stack.enter_context(fetch)
    except LocalError:
        raise
    except TransientError as error:
        raise host_outage(error, since=job.recorded_at, now=ctx.state.submissions.now()) from error


def expected_seconds(ctx: ServiceContext, job: UpscaleJob) -> float:
    """Return the median of recent jobs of half to double the output megapixels, else an estimate."""
    recent = ctx.state.submissions.recent_seconds(job.output_megapixels)
    return statistics.median(recent) if len(recent) >= 3 else 10 + SECONDS_PER_MEGAPIXEL * job.output_megapixels


def _submit(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    earlier = [s for s in ctx.state.submissions.of_job(job.job_id) if s.fulfilment_round == job.fulfilment_round]
    waiting = _close_unanswered(ctx, earlier)
    if waiting is not None:
        raise waiting
    with watched(ctx, SUBMISSIONS, job.job_id, needs=[STATUS, RESULTS]):
        _refuse_another_call(ctx, earlier)
        _ask_whether_it_answers(ctx)
        called = _call(ctx, job, lease_id)
        if called and not ctx.state.submissions.accepted(*called, policy=ctx.policy, actor=ctx.actor):
            raise _unclear(ctx, f"the id {called[1].external_id} belongs to another submission")
    if called is None:  # which is no failure of Upsampler
        raise TransientError("a submission of this job is open already", retry_after=10, counts=False)
    submission_id, reply = called
    if reply.stage in (Stage.COMPLETED, Stage.FAILED):  # known at once: no need to ask again
        ctx.state.submissions.poll_answered(submission_id, reply, policy=ctx.policy, actor=ctx.actor)
    return StepResult(
        state=StepState.DONE,
        message=f"accepted by Upsampler as {reply.external_id}, {reply.stage}",
        details={"external_id": reply.external_id, "stage": str(reply.stage), "credits": reply.credits},
    )


def _refuse_another_call(ctx: ServiceContext, earlier: list[Submission]) -> None:
    """Raise PermanentError when the image must not be submitted once more. What was lost while Upsampler gave no clear
    answer to anybody does not count against this order."""
    for failed in (s for s in earlier if s.state is SubmissionState.FAILED):
        error = upscale_failed(failed.error or "")
        if error.scope is Scope.ORDER:
            raise error
    lost = [s for s in earlier if s.state in (SubmissionState.LOST, SubmissionState.SENDING)]
    if len(lost) >= 2:
        breaker = ctx.state.breakers.get(SUBMISSIONS)
        lost = [s for s in lost if not breaker.excuses(s.created_at)]
    made = sum(s.state is not SubmissionState.REJECTED for s in earlier)
    if len(lost) >= 2 or made >= ctx.policy.max_submissions:
        raise PermanentError(reasons.SUBMISSION_LOST, f"submitted to Upsampler {made} times, without a clear answer")


def _ask_whether_it_answers(ctx: ServiceContext) -> None:
    """Let a probe first ask for the status of any upscale: while Upsampler does not answer that either, no submission
    is used up. An unknown upscale is an answer, too. Raise TransientError without one."""
    external_id = ctx.state.submissions.latest_external_id()
    if external_id is None or not ctx.state.breakers.get(SUBMISSIONS).asks_first:
        return
    try:
        ctx.limiter.acquire(CallPurpose.POLL)
        ask_status(ctx, external_id)
    except (NotFound, RateLimited):  # which are answers, or cost no submission to go without
        return
    except AccountError:
        raise
    except TransientError as error:
        raise TransientError(f"no status call is answered either: {error}", retry_after=5, counts=False) from error


def _call(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> tuple[int, UpscaleReply] | None:
    """Make the call, with its intent committed before. Return the number of the submission and the reply; None while
    another one is open."""
    _acquire(ctx)
    begun = ctx.state.submissions.begin(job.job_id, lease_id, actor=ctx.actor)
    if begun is None:
        return None
    submission_id, token = begun
    request = SubmitRequest(
        job_id=job.job_id,
        image_url=job.source_url,
        scale=job.scale,
        webhook_url=f"{ctx.policy.public_url}/smi-webhook/upsampler/{token}",
    )
    try:
        return submission_id, ctx.upscaler.submit(request)
    except AmbiguousError as error:
        # The row stays open: only the webhook can tell which upscale it was.
        raise _unclear(ctx, str(error)) from error
    except (TransientError, PermanentError) as error:
        ctx.state.submissions.mark_rejected(submission_id, str(error))
        if isinstance(error, RateLimited):
            tell_limiter(ctx, CallPurpose.SUBMIT, error)
            raise _keeping_its_place(error) from error
        if isinstance(error, TransientError):
            error.counts = False  # nothing was attempted
        raise


def _acquire(ctx: ServiceContext) -> None:
    """Take a call of the allowance. There was one when the job was leased, unless a 429 came since."""
    try:
        ctx.limiter.acquire(CallPurpose.SUBMIT)
    except RateLimited as error:
        raise _keeping_its_place(error) from error


def _keeping_its_place(error: RateLimited) -> RateLimited:
    """Return the error of a job that is due at once: it is leased again, before those paid later, when there is a free
    call."""
    return RateLimited(str(error), retry_after=0.0)


def _unclear(ctx: ServiceContext, why: str) -> AmbiguousError:
    grace = ctx.policy.ambiguous_grace.total_seconds()
    return AmbiguousError(f"no clear answer to the submission: {why}", retry_after=grace, counts=False)


def _close_unanswered(ctx: ServiceContext, earlier: list[Submission]) -> TransientError | None:
    """Return what to wait for before another call may be made, and close a call unanswered for the grace time."""
    now = ctx.state.submissions.now()
    for submission in earlier:
        identified = submission.state is SubmissionState.LOST and submission.external_id is not None
        if submission.state in (SubmissionState.ACCEPTED, SubmissionState.COMPLETED) or identified:
            return TransientError("submitted already", retry_after=ctx.policy.poll_every.total_seconds(), counts=False)
        if submission.state is SubmissionState.SENDING:
            wait = (submission.created_at + ctx.policy.ambiguous_grace - now).total_seconds()
            if wait > 0:
                return TransientError(
                    f"submission {submission.submission_id} is unanswered; its webhook may still tell",
                    retry_after=wait,
                    counts=False,
                )
            ctx.state.submissions.mark_lost(submission.submission_id, actor=ctx.actor)
    return None
