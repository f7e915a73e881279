"""A paid job goes to Upsampler: preparation (W4), then the one call that costs credits (W5, W6)."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    LeaseLost,
    NotFound,
    PermanentError,
    RateLimited,
    TransientError,
)
from smi_pipeline.core.image_rules import check_output_size
from smi_pipeline.core.models import Fetched, ImageInfo, Queue, Stage, Submission, SubmitRequest, UpscaleJob
from smi_pipeline.services.context import ServiceContext, StepResult, outage, run_step

SECONDS_PER_MEGAPIXEL = 1.5
"""First guess of the expected duration, until there is history."""


def prepare(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Checks payment and source, keeps the source, sets the job to `processing`.

    Raises PermanentError after the job was committed `failed`.
    """
    job = ctx.state.queries.job(job_id)
    if job is None or job.lease_id != lease_id:
        return StepResult(state="lost", message="another run has this job")
    return _failing_permanently(ctx, job, lease_id, lambda: _prepare(ctx, job, lease_id))


def submit(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Calls Upsampler once, with the intent committed before. Raises PermanentError after `failed` was committed."""
    job = ctx.state.queries.job(job_id)
    if job is None or job.lease_id != lease_id:
        return StepResult(state="lost", message="another run has this job")
    return _failing_permanently(ctx, job, lease_id, lambda: _submit(ctx, job, lease_id))


def _failing_permanently(ctx: ServiceContext, job: UpscaleJob, lease_id: str, step) -> StepResult:
    try:
        return run_step(ctx, Queue.SUBMIT, job.job_id, lease_id, job.attempts, step)
    except PermanentError as error:
        try:
            ctx.state.deliveries.fail(job.job_id, lease_id, reason=error.reason, words=str(error), actor=ctx.actor)
        except LeaseLost as lost:
            return StepResult(state="lost", message=str(lost))
        raise


def _prepare(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    if job.attempts > ctx.policy.max_attempts:
        raise PermanentError(
            reasons.SET_ASIDE, f"set aside after {job.attempts - 1} attempts; last error: {job.last_error or 'none'}"
        )
    if job.payment_intent_id is None and not job.admin_override:
        raise PermanentError(reasons.CANCELLED, "not paid, and no admin has overridden that")
    facts, key = _kept_source(ctx, job) or _keep_source(ctx, job)
    expected = expected_seconds(ctx, job)
    ctx.state.submissions.prepared(
        job.job_id, lease_id, source=facts, source_key=key, expected_seconds=expected, actor=ctx.actor
    )
    width, height = job.output_size
    return StepResult(
        state="done",
        message=f"{facts.format} {job.source_width} x {job.source_height} kept; {job.resolution} gives "
        f"{width} x {height}",
        details={"megapixels": round(job.output_megapixels, 2), "expected_seconds": round(expected, 1)},
    )


def _kept_source(ctx: ServiceContext, job: UpscaleJob) -> tuple[ImageInfo, str] | None:
    """The source as an earlier attempt has kept it, or None: then it is fetched (again)."""
    if job.source_key is None:
        return None
    try:
        with ctx.storage.local_path(job.source_key) as path:
            return ctx.images.inspect(path), job.source_key
    except NotFound:
        return None


def _keep_source(ctx: ServiceContext, job: UpscaleJob) -> tuple[ImageInfo, str]:
    with _fetched(ctx, job) as fetched:
        facts = ctx.images.check_source(fetched.path)
        check_output_size(facts, job.scale, ctx.policy.max_output_megapixels)
        if facts.display_size != (job.source_width, job.source_height):
            raise PermanentError(
                reasons.SOURCE_CHANGED,
                f"the source is {facts.display_size[0]} x {facts.display_size[1]} now, it was "
                f"{job.source_width} x {job.source_height} when it was ordered",
            )
        key = f"sources/{job.job_id[:2]}/{job.job_id}-{facts.sha256[:16]}.{facts.format.lower()}"
        ctx.storage.put(key, fetched.path)
    return facts, key


@contextmanager
def _fetched(ctx: ServiceContext, job: UpscaleJob) -> Iterator[Fetched]:
    """The source in a temporary file. An outage of its host is waited for until `start_by` ends the job."""
    fetch = ctx.fetcher.fetch(job.source_url, kind="source", max_bytes=ctx.policy.max_source_bytes)
    with ExitStack() as stack:
        try:
            fetched = stack.enter_context(fetch)
        except TransientError as error:
            raise outage(error, since=job.learned_at, now=ctx.state.submissions.now()) from error
        yield fetched


def expected_seconds(ctx: ServiceContext, job: UpscaleJob) -> float:
    """Median of recent jobs of about this size (half to double the output megapixels), else a guess."""
    recent = ctx.state.submissions.recent_seconds(job.output_megapixels)
    return statistics.median(recent) if len(recent) >= 3 else 10 + SECONDS_PER_MEGAPIXEL * job.output_megapixels


def _submit(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    earlier = [s for s in ctx.state.submissions.of_job(job.job_id) if s.round == job.round]
    waiting = _close_unanswered(ctx, earlier)
    if waiting is not None:
        raise waiting
    ctx.limiter.acquire("submit")
    begun = ctx.state.submissions.begin(job.job_id, lease_id, actor=ctx.actor)
    if begun is None:
        raise TransientError("a submission of this job is open already", retry_after=10, counts=False)
    submission_id, token = begun
    request = SubmitRequest(
        job_id=job.job_id,
        image_url=job.source_url,
        scale=job.scale,
        webhook_url=f"{ctx.policy.public_url}/smi-webhook/upsampler/{token}",
    )
    try:
        reply = ctx.upscaler.submit(request)
    except AmbiguousError as error:
        # The open row stays: only the webhook can tell which upscale it was (design section 6 rule 4).
        raise TransientError(
            f"no clear answer to the submission: {error}",
            retry_after=ctx.policy.ambiguous_grace.total_seconds(),
            counts=False,
        ) from error
    except AccountError as error:
        ctx.state.submissions.mark_rejected(submission_id, str(error))
        ctx.limiter.open_breaker(str(error))
        raise
    except RateLimited as error:
        ctx.state.submissions.mark_rejected(submission_id, str(error))
        pause = timedelta(seconds=error.retry_after or 1)
        ctx.limiter.blocked_until(ctx.state.submissions.now() + pause, str(error))
        raise
    except TransientError as error:
        ctx.state.submissions.mark_rejected(submission_id, str(error))
        raise TransientError(str(error), retry_after=error.retry_after, counts=False) from error
    except PermanentError as error:
        ctx.state.submissions.mark_rejected(submission_id, str(error))
        raise
    ctx.limiter.close_breaker()
    ctx.state.submissions.accepted(submission_id, reply, policy=ctx.policy, actor=ctx.actor)
    if reply.stage in (Stage.COMPLETED, Stage.FAILED):  # known at once: no need to ask again
        ctx.state.submissions.poll_answered(submission_id, reply, policy=ctx.policy, actor=ctx.actor)
    return StepResult(
        state="done",
        message=f"accepted by Upsampler as {reply.external_id}, {reply.stage}",
        details={"external_id": reply.external_id, "stage": str(reply.stage), "credits": reply.credits},
    )


def _close_unanswered(ctx: ServiceContext, earlier: list[Submission]) -> TransientError | None:
    """What to wait for before another call may be made; closes a call that was not answered for the grace time.

    Raises PermanentError after two calls that may have been carried out: it is never repeated a second time.
    """
    now = ctx.state.submissions.now()
    for submission in earlier:
        identified = submission.state == "lost" and submission.external_id is not None
        if submission.state in ("accepted", "completed") or identified:
            return TransientError("submitted already", retry_after=ctx.policy.poll_every.total_seconds(), counts=False)
        if submission.state == "sending":
            wait = (submission.created_at + ctx.policy.ambiguous_grace - now).total_seconds()
            if wait > 0:
                return TransientError(
                    f"submission {submission.submission_id} is unanswered; its webhook may still tell",
                    retry_after=wait,
                    counts=False,
                )
            ctx.state.submissions.mark_lost(submission.submission_id, actor=ctx.actor)
    if sum(s.state != "rejected" for s in earlier) >= 2:
        raise PermanentError(reasons.SUBMISSION_LOST, "submitted to Upsampler twice, without a clear answer")
    return None
