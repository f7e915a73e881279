"""Read the header Retry-After."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(value: str | None, sent: str | None = None, *, shortest: float = 0, longest: float) -> float | None:
    """Return the seconds to wait within the limits, or None when the header is absent or unreadable.

    `value` is a number or a date (RFC 9110, 10.2.3); a date is compared with the answer's own Date `sent`."""
    try:
        seconds = float(value or "")
        if not (math.isfinite(seconds) and seconds >= 0):
            return None
    except ValueError:
        at = http_date(value)
        if at is None:
            return None
        seconds = (at - (http_date(sent) or datetime.now(UTC))).total_seconds()
    return min(longest, max(shortest, seconds))


def http_date(value: str | None) -> datetime | None:
    """Return the time that a header says, None when it is absent or unreadable."""
    try:
        at = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
