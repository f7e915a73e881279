"""How long to wait before the next try."""

import random

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 900.0


def retry_seconds(attempts: int, *, asked: float | None, first: float = FIRST_SECONDS) -> float:
    """Seconds until the next try: what the other side asked for, else exponential from `first`, at most 15 minutes,
    with a tenth of jitter so that rows that failed together do not come back together."""
    seconds = asked if asked is not None else first * 2 ** min(max(attempts - 1, 0), 16)
    return max(0.1, min(seconds, LONGEST_SECONDS) * random.uniform(1.0, 1.1))
