"""The rate limit of Upsampler: a maximum number of requests in any rolling minute and hour."""

from collections import deque
from collections.abc import Iterable

WINDOWS_SECONDS = (60.0, 3600.0)


class RateLimit:
    """Counts admitted requests. Refused ones do not count, so that a client that obeys Retry-After is admitted."""

    def __init__(self, earlier: Iterable[float] = ()) -> None:
        """``earlier``: times of requests admitted before a restart, in unix seconds, oldest first."""
        self._times = deque(earlier)

    def admit(self, now: float, per_minute: int, per_hour: int) -> float | None:
        """Admit a request at ``now`` (unix seconds) and return None, or return the seconds to wait. 0: no limit."""
        while self._times and self._times[0] <= now - WINDOWS_SECONDS[-1]:
            self._times.popleft()
        for limit, window in zip((per_minute, per_hour), WINDOWS_SECONDS, strict=True):
            if limit and len(self._times) >= limit:
                # the request that must leave the window first
                blocking = self._times[-limit]
                if blocking > now - window:
                    return blocking + window - now
        self._times.append(now)
        return None
