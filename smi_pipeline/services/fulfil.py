"""A known result becomes a delivery, or a failure with its refund."""

from contextlib import ExitStack

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import LocalError, PermanentError, TransientError
from smi_pipeline.core.faults import RESULTS
from smi_pipeline.core.models import Fetched, ImageInfo, Submission, UpscaleJob, Verdict
from smi_pipeline.core.vocabulary import FetchKind, Queue, Stage, StepState, SubmissionState
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.steps import StepResult, host_outage, job_step, run_step, upscale_failed, watched


def verify_result(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Download the result, check it and store it. Raise PermanentError after `failed` was committed."""
    return job_step(ctx, Queue.FULFIL, job_id, lease_id, lambda job: _verify(ctx, job, lease_id))


def deliver(ctx: ServiceContext, job_id: str, lease_id: str) -> StepResult:
    """Decide for delivery, make the link, complete the job and queue the mail, in one transaction."""

    def step() -> StepResult:
        if not ctx.state.deliveries.deliver(job_id, lease_id, ttl=ctx.policy.download_ttl, actor=ctx.actor):
            return StepResult(state=StepState.SETTLED, message="the outcome of this job was decided before")
        return StepResult(state=StepState.DONE, message="delivered; the customer's link is valid")

    return run_step(ctx, Queue.FULFIL, job_id, lease_id, 1, step)


def _verify(ctx: ServiceContext, job: UpscaleJob, lease_id: str) -> StepResult:
    submission = _result_of(job, ctx.state.submissions.of_job(job.job_id))
    verdict, facts, key, left_out = _store_result(ctx, job, submission)
    ctx.state.deliveries.verified(job.job_id, lease_id, verdict, result_key=key, policy=ctx.policy, actor=ctx.actor)
    if job.result_key not in (None, key):  # of an earlier round: no link leads to it any more
        ctx.storage.delete(job.result_key or "")
    return StepResult(
        state=StepState.DONE,
        message=f"{facts.format} {facts.width} x {facts.height}, {facts.bytes} bytes, matches its source",
        details={
            "bytes": facts.bytes,
            "credits": submission.credits,
            "min_ssim": verdict.min_ssim,
            "mean_colour_shift": verdict.mean_colour_shift,
            "warnings": list(verdict.warnings),
            "left out": left_out or None,
        },
    )


def _store_result(
    ctx: ServiceContext, job: UpscaleJob, submission: Submission
) -> tuple[Verdict, ImageInfo, str, list[str]]:
    """Fetch, clean, check and store a result. Return the verdict, the facts and the key of the file, and what was left
    out of it."""
    with ExitStack() as stack:
        with watched(ctx, RESULTS, job.job_id):
            if job.source_key is None or not submission.result_url:
                raise PermanentError(reasons.NO_RESULT, "Upsampler reported success without an image")
            source = stack.enter_context(ctx.storage.local_path(job.source_key))
            result = _fetched(ctx, job, submission.result_url, stack)
            # First, so that what is checked, hashed and stored is the file that the customer gets.
            left_out = ctx.images.clean_result(result.path)
            verdict = ctx.images.check_result(source, result.path, job.scale)
            if not verdict.ok or verdict.facts is None:
                raise PermanentError(verdict.reason or reasons.RESULT_REJECTED, verdict.message)
        # The name holds the content hash, so that a worker believed dead cannot overwrite the delivered file.
        facts = verdict.facts
        name = f"{job.job_id}-{job.fulfilment_round}-{facts.sha256[:16]}"
        key = f"results/{job.job_id[:2]}/{name}.{facts.format.lower()}"
        ctx.storage.put(key, result.path)
    return verdict, facts, key, left_out


def _fetched(ctx: ServiceContext, job: UpscaleJob, url: str, stack: ExitStack) -> Fetched:
    """Return the result in a temporary file that lives as long as `stack`. An outage of its host is waited out until a
    little after the deadline, and for one more attempt when the first one comes later."""
    max_bytes = int(ctx.policy.max_output_megapixels * 1e6 * 4)  # RGBA, uncompressed
    try:
        return stack.enter_context(ctx.fetcher.fetch(url, kind=FetchKind.RESULT, max_bytes=max_bytes))
    except LocalError:
        raise
    except TransientError as error:
        now = ctx.state.submissions.now()
        ends = max(at for at in (job.deadline_at, job.result_ready_at, job.recorded_at, job.created_at) if at)
        tried_before = (job.last_error or "").startswith(reasons.RESULT_UNREACHABLE)
        if tried_before and now >= ends + ctx.policy.last_poll_patience:
            raise PermanentError(reasons.RESULT_UNREACHABLE, str(error)) from error
        unreachable = TransientError(f"{reasons.RESULT_UNREACHABLE}: {error}", retry_after=error.retry_after)
        raise host_outage(unreachable, since=job.result_ready_at, now=now) from error


def _result_of(job: UpscaleJob, submissions: list[Submission]) -> Submission:
    """Return the first completed submission of this round. Raise PermanentError saying why there is none.

    What a job has failed for is counted once: not again for one that expires before it is submitted again."""
    of_round = [s for s in submissions if s.fulfilment_round == job.fulfilment_round]
    for submission in of_round:
        if submission.state is SubmissionState.COMPLETED:
            return submission
    expired = job.stage is Stage.QUEUED  # as those are that wait to be submitted
    for submission in reversed(of_round):
        if submission.state is SubmissionState.FAILED:
            error = upscale_failed(submission.error or "")
            error.breaker = None if expired else error.breaker
            raise error
        if submission.state is SubmissionState.TIMED_OUT:
            late = f"Upsampler did not finish by {submission.deadline_at:%Y-%m-%d %H:%M:%S} UTC"
            raise PermanentError(reasons.TIMED_OUT, late, breaker=None if expired else RESULTS)
    raise PermanentError(reasons.NOT_STARTED_IN_TIME, f"not submitted by {job.start_by:%Y-%m-%d %H:%M:%S} UTC")
