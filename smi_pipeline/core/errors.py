"""Every error the pipeline raises on purpose.

`TransientError` reschedules a row, `PermanentError` ends a job with a refund, `RefusedError` answers a caller whose
request is not carried out.
"""

from smi_pipeline.core.faults import AGAIN, Again, Scope
from smi_pipeline.core.reasons import FAULTS_OF_THE_ORDER, SOURCE_CHANGED


class SmiError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one readable line."""


class TransientError(SmiError):
    """Worth another attempt. `retry_after`: seconds, if the other side named a time; `counts` False: not an attempt of
    the job (a 429 or an outage); `scope`: whose fault it is."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        counts: bool = True,
        scope: Scope = Scope.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.counts = counts
        self.scope = scope


class RateLimited(TransientError):
    """No call may be made now, by our own limiter or by the service's 429."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after, counts=False)


class LocalError(TransientError):
    """A disk or the database of ours does not work. It is no attempt of the job, and does not count for the circuit
    breakers, which stand for services."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after, counts=False)


class AmbiguousError(TransientError):
    """The request may or may not have been carried out: no answer, a 5xx, or an unreadable answer."""


class UnreadableError(AmbiguousError):
    """An answer, or an object in it, without what it must have."""


class AnsweredError(AmbiguousError):
    """The answer was a 5xx. It is repeated to each call with the same idempotency key, whether the request was carried
    out or not: look first, then ask with another key."""


class AccountError(TransientError):
    """The service refuses our account (401, 402, 403), or Upsampler's API is not at the configured address (405, a
    redirect, or a 404 for a submission). Upsampler's opens the circuit breaker; no job fails."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=60.0, counts=False, scope=Scope.SHOP)


class PermanentError(SmiError):
    """A definite no. `reason` is a code of `core.reasons` if it ends a job, else of the adapter.

    `scope` and `again` say whether it is believed at first sight, `next_step` what an operator can do if it hits every
    order. `breaker` is the part of the shop that said it; `services.steps.watched` sets it."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        scope: Scope = Scope.UNKNOWN,
        next_step: str = "",
        breaker: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.scope = Scope.ORDER if reason in FAULTS_OF_THE_ORDER else scope
        self.again = AGAIN.get(reason, Again.NEVER)
        self.next_step = next_step
        self.breaker = breaker


class OtherPicture(PermanentError):
    """The source shows another picture of the same size than it did at the order. A person is asked what to do if
    `SMI_SOURCE_CHANGED` says so. `seen`: the fingerprint of what it shows."""

    def __init__(self, message: str, *, seen: bytes) -> None:
        super().__init__(SOURCE_CHANGED, message)
        self.seen = seen


class RefusedError(SmiError):
    """A request is not carried out. `status`: the HTTP status of the answer.

    What was done before a late refusal is true or harmless by itself: `assign_payment` has recorded Stripe's refunds of
    the payment, `retry` and `cancel` have expired the Checkout session of an unpaid job."""

    status = 400

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class NotFound(RefusedError):
    """The named object does not exist."""

    status = 404


class Conflict(RefusedError):
    """The request does not fit the present state."""

    status = 409


class Unavailable(RefusedError):
    """No new orders now; `retry_after` in seconds."""

    status = 503

    def __init__(self, message: str, *, retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LeaseLost(SmiError):
    """Another worker has the row now: this one must change nothing more."""
