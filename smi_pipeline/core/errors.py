"""Every error the pipeline raises on purpose. Nothing else belongs here.

The three families decide what happens to an upscale job:
`TransientError` reschedules its row, `PermanentError` ends it with a refund, `RefusedError` answers a caller and
changes nothing.
"""


class SmiError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line for a person."""


class TransientError(SmiError):
    """Worth trying again. `retry_after` in seconds when the other side named a time; `counts` False when the try
    must not count as an attempt of the job (429 and outages: design section 6 rule 5)."""

    def __init__(self, message: str, *, retry_after: float | None = None, counts: bool = True) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.counts = counts


class RateLimited(TransientError):
    """No call may be made now, by our own limiter or by the service's 429."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after, counts=False)


class AmbiguousError(TransientError):
    """The request may or may not have been carried out: no answer, a 5xx, or an unreadable answer."""


class AccountError(TransientError):
    """The service refuses our account (401, 402, 403): opens the circuit breaker, convicts no job."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=60.0, counts=False)


class PermanentError(SmiError):
    """Trying again cannot help. `reason` is one of `core.reasons`, the message says it in words."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedError(SmiError):
    """A caller's request is refused and nothing changed. `status` is the HTTP status that says so."""

    status = 400

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class NotFound(RefusedError):
    """What the caller named does not exist."""

    status = 404


class Conflict(RefusedError):
    """What the caller asks for does not fit the present state."""

    status = 409


class Unavailable(RefusedError):
    """No new orders now; `retry_after` in seconds."""

    status = 503

    def __init__(self, message: str, *, retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LeaseLost(SmiError):
    """The row belongs to another worker now: this one must change nothing more."""
