"""How long a download may take: a time for everything else, and more for each byte that arrives."""

import time

STALL_SECONDS = 30.0
STALL_BYTES = 300_000
"""Less than this in `STALL_SECONDS` is a transfer that stands still: no line that sells pictures is that slow."""

EARNED_PER_SECOND = 500_000
"""So many bytes earn a further second: what is slower on the whole ends soon after the first minute."""

LONGEST_SECONDS = 600.0
"""No download takes longer, whatever arrives: a gigabyte at 2 MB/s takes eight minutes."""


class TimeAllowed:
    """The time of one download, with all its redirects and connections, in seconds of `time.monotonic()`.

    `base` is there from the start; what arrives earns more, up to `longest`. While a body is received it also ends when
    less than `stall_bytes` arrive in `stall`."""

    def __init__(
        self,
        base: float,
        *,
        stall: float = STALL_SECONDS,
        longest: float = LONGEST_SECONDS,
        stall_bytes: int = STALL_BYTES,
    ) -> None:
        self._began = time.monotonic()
        self._base, self._longest = base, max(base, longest)
        self.stall, self._stall_bytes = stall, stall_bytes
        self._received = 0
        self._mark: tuple[float, int] | None = None

    def waiting(self) -> None:
        """Note that no body is being received."""
        self._mark = None

    def receiving(self) -> None:
        """Note that a body begins."""
        self._mark = time.monotonic(), self._received

    def arrived(self, count: int) -> None:
        """Note that so many bytes have arrived."""
        self._received += count
        if self._mark and self._received - self._mark[1] >= self._stall_bytes:
            self.receiving()

    def left(self) -> float:
        """Return the seconds until it must end as things are; 0 or less when it is over."""
        return min(self._whole_left(), self._stall_left())

    def why(self) -> str:
        """Return what it means that the time is over, to be said of a host."""
        if self._stall_left() < self._whole_left():
            return f"sent less than {self._stall_bytes:,} bytes in {self.stall:g} seconds"
        return "did not send everything within the time allowed"

    def _whole_left(self) -> float:
        earned = self._base + self._received / EARNED_PER_SECOND
        return self._began + min(earned, self._longest) - time.monotonic()

    def _stall_left(self) -> float:
        mark = self._mark
        return mark[0] + self.stall - time.monotonic() if mark else float("inf")
