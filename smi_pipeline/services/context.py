"""Everything a use case needs of the outside, in one value; and the frame in which one step on one leased row runs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from smi_pipeline.core.backoff import retry_seconds
from smi_pipeline.core.errors import LeaseLost, PermanentError, TransientError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.ports import (
    FetcherPort,
    ImagesPort,
    LimiterPort,
    MailerPort,
    PaymentsPort,
    StoragePort,
    UpscalerPort,
)
from smi_pipeline.core.pricing import Prices
from smi_pipeline.state import State

log = logging.getLogger("smi_pipeline")


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """The ports and rules one process works with. `actor` is who the audit trail names."""

    state: State
    upscaler: UpscalerPort
    payments: PaymentsPort
    mailer: MailerPort
    fetcher: FetcherPort
    images: ImagesPort
    storage: StoragePort
    limiter: LimiterPort
    policy: Policy
    prices: Prices
    secret_key: str
    actor: str = "service"

    def acting_as(self, actor: str) -> "ServiceContext":
        """Return a copy whose audit entries name `actor`."""
        return replace(self, actor=actor)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did: `done`, `later` (rescheduled in `retry_seconds`), `lost` (the lease is another's now) or
    `settled` (nothing was left to do)."""

    state: str
    message: str
    retry_seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def run_step(
    ctx: ServiceContext, queue: Queue, work_key: str, lease_id: str, attempts: int, step: Callable[[], StepResult]
) -> StepResult:
    """Runs one step on a leased row. A transient error reschedules the row and is reported, not raised.

    Raises PermanentError as the step raised it (the caller commits what that means), and any unexpected error after
    the row was rescheduled with it.
    """
    try:
        return step()
    except LeaseLost as error:
        return StepResult(state="lost", message=str(error))
    except TransientError as error:
        seconds = retry_seconds(attempts, asked=error.retry_after)
        ctx.state.leases.reschedule(queue, work_key, lease_id, seconds=seconds, error=str(error), counts=error.counts)
        return StepResult(state="later", message=str(error), retry_seconds=round(seconds, 1))
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


def outage(error: TransientError, *, since: datetime | None, now: datetime) -> TransientError:
    """A host of images that does not answer convicts no job (section 6 rule 5): the try is not counted, and the next
    one comes later the longer it lasts. A clock of the job ends it, not a number of tries."""
    waited = (now - since).total_seconds() if since else 0.0
    pause = error.retry_after if error.retry_after is not None else min(120.0, max(5.0, waited / 4))
    return TransientError(str(error), retry_after=pause, counts=False)
