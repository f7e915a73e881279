"""The frame of a step on a leased row: what each kind of error does to the row and its job."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from smi_pipeline.core import reasons
from smi_pipeline.core.backoff import LONGEST_SECONDS, retry_seconds
from smi_pipeline.core.errors import (
    AmbiguousError,
    LeaseLost,
    LocalError,
    PermanentError,
    RateLimited,
    TransientError,
)
from smi_pipeline.core.faults import (
    MAIL,
    NOT_BELIEVED,
    RESULTS,
    STATUS,
    STRIPE,
    SUBMISSIONS,
    Failure,
    Scope,
    advice,
    headline,
    scope_of_words,
)
from smi_pipeline.core.models import UpscaleJob
from smi_pipeline.core.vocabulary import Queue, StepState
from smi_pipeline.services.context import ServiceContext


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of a step; `later` comes with the seconds until the row is due again."""

    state: StepState
    message: str
    retry_seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def run_step(
    ctx: ServiceContext,
    queue: Queue,
    work_key: str,
    lease_id: str,
    attempts: int,
    step: Callable[[], StepResult],
    *,
    longest: float = LONGEST_SECONDS,
) -> StepResult:
    """Run one step on a leased row. A transient error reschedules the row and is returned, not raised. `longest`: limit
    of the pauses that grow with each attempt, in seconds.

    Raise PermanentError as the step raised it (the caller commits what that means), and any unexpected error after
    the row was rescheduled.
    """
    try:
        return step()
    except LeaseLost as error:
        return StepResult(state=StepState.LOST, message=str(error))
    except TransientError as error:
        seconds = retry_seconds(attempts, asked=error.retry_after, longest=longest)
        ctx.state.leases.reschedule(queue, work_key, lease_id, seconds=seconds, error=str(error), counts=error.counts)
        return StepResult(state=StepState.LATER, message=str(error), retry_seconds=round(seconds, 1))
    except PermanentError:
        raise
    except Exception as error:
        ctx.state.leases.reschedule(
            queue,
            work_key,
            lease_id,
            seconds=retry_seconds(attempts, asked=None),
            error=f"{type(error).__name__}: {error}",
            counts=True,
        )
        raise


def job_step(
    ctx: ServiceContext, queue: Queue, job_id: str, lease_id: str, step: Callable[[UpscaleJob], StepResult]
) -> StepResult:
    """Run one step on a leased job, as `run_step`. Raise PermanentError after the job was committed `failed`.

    A job that was started more often than `max_attempts` is set aside: it may have killed its workers.
    """
    job = ctx.state.queries.job(job_id)
    if job is None or job.lease_id != lease_id:
        return StepResult(state=StepState.LOST, message="another run has this job")

    def attempt() -> StepResult:
        if job.attempts > ctx.policy.max_attempts:
            raise PermanentError(
                reasons.SET_ASIDE,
                f"set aside after {job.attempts - 1} attempts; last error: {job.last_error or 'none'}",
                breaker=SUBMISSIONS if queue is Queue.SUBMIT else RESULTS,
            )
        return step(job)

    try:
        return run_step(ctx, queue, job_id, lease_id, job.attempts, attempt)
    except PermanentError as error:
        try:
            seconds = ctx.state.deliveries.fail(job_id, lease_id, error, policy=ctx.policy, actor=ctx.actor)
        except LeaseLost as lost:
            return StepResult(state=StepState.LOST, message=str(lost))
        if seconds is not None:
            return StepResult(state=StepState.LATER, message=str(error), retry_seconds=round(seconds, 1))
        raise


@contextmanager
def watched(ctx: ServiceContext, breaker: str, work_key: str, *, needs: Sequence[str] = ()) -> Iterator[None]:
    """Attribute what fails inside to a part of the shop. Raise TransientError at once while its breaker, or one of
    `needs`, is open and this row does not probe it."""
    if shut := ctx.state.breakers.in_the_way([breaker, *needs], work_key):
        raise TransientError(f"waits: {headline(shut)}", retry_after=1.0, counts=False)
    try:
        yield
    except PermanentError as error:
        error.breaker = error.breaker or breaker
        raise
    except (RateLimited, LocalError):
        raise
    except TransientError as error:
        ctx.state.breakers.note(failure_of(error, breaker, work_key))
        raise


def failure_of(error: TransientError, breaker: str, work_key: str) -> Failure:
    """Return what an error that may pass tells about a part of the shop."""
    ambiguous = isinstance(error, AmbiguousError)
    return Failure(
        breaker=breaker,
        work_key=work_key,
        message=str(error),
        scope=error.scope,
        # To ask once more costs credits, or sends a mail twice; a refund has its key, and to read costs nothing.
        passing=breaker in (STRIPE, STATUS) or not ambiguous,
        # Many refused logins in a row lock an account.
        costly=(ambiguous and breaker == SUBMISSIONS) or (breaker == MAIL and error.scope is Scope.SHOP),
    )


def host_outage(error: TransientError, *, since: datetime | None, now: datetime) -> TransientError:
    """Return the error of an image host that does not answer: it is not counted as an attempt, and the pause grows
    with the outage. A deadline of the job ends it, not a number of attempts."""
    waited = (now - since).total_seconds() if since else 0.0
    pause = error.retry_after if error.retry_after is not None else min(120.0, max(5.0, waited / 4))
    return TransientError(str(error), retry_after=pause, counts=False)


def upscale_failed(words: str) -> PermanentError:
    """Return what it means that Upsampler could not process an image, by its words, or that its result was no good."""
    reason, _, of_result = words.removeprefix(NOT_BELIEVED).partition(": ")
    if reason in (reasons.RESULT_REJECTED, reasons.NO_RESULT):
        return PermanentError(reason, of_result, breaker=RESULTS)
    message = f"Upsampler could not process it: {words or 'no reason given'}"
    blamed = scope_of_words(words)
    return PermanentError(
        reasons.UPSCALE_FAILED,
        message,
        scope=blamed,
        next_step=advice(SUBMISSIONS) if blamed is Scope.SHOP else "",
        breaker=RESULTS,  # which an acceptance does not close: these were accepted, too
    )
