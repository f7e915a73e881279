"""How long to wait before the next try."""

import random

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 900.0


def retry_seconds(
    attempts: int, *, asked: float | None, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS
) -> float:
    """Seconds until the next try: what the other side asked for, else exponential from `first` to `longest`, at most 15
    minutes, with a tenth of jitter so that rows that failed together do not come back together."""
    seconds = asked if asked is not None else min(longest, first * 2 ** min(max(attempts - 1, 0), 16))
    return max(0.1, min(seconds, LONGEST_SECONDS) * random.uniform(1.0, 1.1))


MAIL_PAUSES = (15.0, 45.0, 90.0, 180.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds between the tries of a mail that is refused for the time being, the last one for all further tries: most
hiccups pass at once, greylisting after five minutes, a full mailbox perhaps within the day."""


def mail_retry_seconds(refusals: int) -> float:
    """Seconds until the next try of a mail that was refused so often for the time being."""
    return MAIL_PAUSES[min(refusals, len(MAIL_PAUSES)) - 1] * random.uniform(1.0, 1.1)
