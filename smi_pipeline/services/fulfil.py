"""A known result becomes a delivery, or a failure with its refund owed (W11, W12)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import LeaseLost, PermanentError, TransientError
from smi_pipeline.core.models import Fetched, Queue, Submission, UpscaleJob
from smi_pipeline.services.context import ServiceContext, StepResult, outage, run_step

_NO_RESULT = "the result could not be fetched"


def verify_result(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Downloads the result, checks it and stores it. Raises PermanentError after `failed` was committed."""
    job = ctx.state.queries.job(job_id)
    if job is None or job.lease_id != lease_id:
        return StepResult(state="lost", message="another run has this job")
    try:
        return run_step(ctx, Queue.FULFIL, job_id, lease_id, job.attempts, lambda: _verify(ctx, job, lease_id))
    except PermanentError as error:
        try:
            ctx.state.deliveries.fail(job_id, lease_id, reason=error.reason, words=str(error), actor=ctx.actor)
        except LeaseLost as lost:
            return StepResult(state="lost", message=str(lost))
        raise


def deliver(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Decides the outcome, makes the token, completes the job and owes the mail: one transaction."""

    def step() -> StepResult:
        if not ctx.state.deliveries.deliver(job_id, lease_id, ttl=ctx.policy.download_ttl, actor=ctx.actor):
            return StepResult(state="settled", message="the outcome of this job was decided before")
        return StepResult(state="done", message="delivered; the customer's link is valid")

    return run_step(ctx, Queue.FULFIL, job_id, lease_id, 1, step)


def _verify(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    if job.attempts > ctx.policy.max_attempts:
        raise PermanentError(
            reasons.SET_ASIDE, f"set aside after {job.attempts - 1} attempts; last error: {job.last_error or 'none'}"
        )
    submission = _result_of(job, ctx.state.submissions.of_job(job.job_id))
    if job.source_key is None or not submission.result_url:
        raise PermanentError(reasons.NO_RESULT, "Upsampler reported success without an image")
    with ctx.storage.local_path(job.source_key) as source, _fetched(ctx, job, submission.result_url) as result:
        verdict = ctx.images.check_result(source, result.path, job.scale)
        if not verdict.ok or verdict.facts is None:
            raise PermanentError(verdict.reason or reasons.RESULT_REJECTED, verdict.message)
        # Named by its content, too: a worker that was thought dead cannot put another file over the delivered one.
        name = f"{job.job_id}-{job.round}-{verdict.facts.sha256[:16]}"
        key = f"results/{job.job_id[:2]}/{name}.{verdict.facts.format.lower()}"
        ctx.storage.put(key, result.path)
    ctx.state.deliveries.verified(job.job_id, lease_id, verdict, result_key=key, actor=ctx.actor)
    if job.result_key not in (None, key):  # an earlier round's: no link leads to it any more
        ctx.storage.delete(job.result_key or "")
    facts = verdict.facts
    return StepResult(
        state="done",
        message=f"{facts.format} {facts.width} x {facts.height}, {facts.bytes} bytes, matches its source",
        details={
            "bytes": facts.bytes,
            "credits": submission.credits,
            "min_ssim": verdict.min_ssim,
            "mean_colour_shift": verdict.mean_colour_shift,
            "warnings": list(verdict.warnings),
        },
    )


@contextmanager
def _fetched(ctx: ServiceContext, job: UpscaleJob, url: str) -> Iterator[Fetched]:
    """The result in a temporary file. An outage of its host is waited for until a little after the deadline, and
    whoever came to the result late himself tries twice."""
    max_bytes = int(ctx.policy.max_output_megapixels * 1e6 * 4)  # RGBA, uncompressed
    fetch = ctx.fetcher.fetch(url, kind="result", max_bytes=max_bytes)
    with ExitStack() as stack:
        try:
            result = stack.enter_context(fetch)
        except TransientError as error:
            now = ctx.state.submissions.now()
            ends = max(at for at in (job.deadline_at, job.result_ready_at, job.learned_at, job.created_at) if at)
            tried_before = (job.last_error or "").startswith(_NO_RESULT)
            if tried_before and now >= ends + ctx.policy.last_poll_patience:
                raise PermanentError(reasons.RESULT_UNREACHABLE, str(error)) from error
            told = TransientError(f"{_NO_RESULT}: {error}", retry_after=error.retry_after)
            raise outage(told, since=job.result_ready_at, now=now) from error
        yield result


def _result_of(job: UpscaleJob, submissions: list[Submission]) -> Submission:
    """The completed submission of this round, whichever came first. Raises PermanentError saying why there is none."""
    of_round = [s for s in submissions if s.round == job.round]
    for submission in of_round:
        if submission.state == "completed":
            return submission
    for submission in reversed(of_round):
        if submission.state == "failed":
            raise PermanentError(
                reasons.UPSCALE_FAILED, f"Upsampler could not process it: {submission.error or 'no reason given'}"
            )
        if submission.state == "timed_out":
            raise PermanentError(
                reasons.TIMED_OUT, f"Upsampler did not finish by {submission.deadline_at:%Y-%m-%d %H:%M:%S} UTC"
            )
    raise PermanentError(reasons.NOT_STARTED_IN_TIME, f"not submitted by {job.start_by:%Y-%m-%d %H:%M:%S} UTC")
