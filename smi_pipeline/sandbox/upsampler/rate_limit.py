"""A rate limit of Upsampler: a maximum number of requests in rolling windows of time."""

from collections import deque
from collections.abc import Iterable, Mapping


class RateLimit:
    """Counts admitted requests. Refused ones do not count, so that a client that obeys Retry-After is admitted."""

    def __init__(self, earlier: Iterable[float] = ()) -> None:
        """``earlier``: times of requests admitted before a restart, in unix seconds, oldest first."""
        self._times = deque(earlier)

    def admit(self, now: float, limits: Mapping[float, int]) -> float | None:
        """Admit a request at ``now`` (unix seconds) and return None, or return the seconds to wait. ``limits``: the
        maximum by the seconds of its window; 0: no limit."""
        while self._times and self._times[0] <= now - max(limits):
            self._times.popleft()
        for window, limit in limits.items():
            if limit and len(self._times) >= limit:
                # the request that must leave the window first
                blocking = self._times[-limit]
                if blocking > now - window:
                    return blocking + window - now
        self._times.append(now)
        return None
