"""Reader of a long external list in time windows, oldest first: as much as fits into memory and into a tick."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")
_SECOND = timedelta(seconds=1)


class TimeWindowReader(Generic[T]):
    """Iterate over the windows of [since, until), each (start, end, at most `most` objects), in whole seconds.

    `read(start, end)` lists what was created from `start` on and before `end`. A window that holds more is read again
    in halves; only a single second is taken whole. Nothing is listed after `ends` on `time.monotonic()`. `at`: up to
    where everything was handed out and worked on; `width`: length of the next window. The next reader may begin with
    both.
    """

    def __init__(
        self,
        read: Callable[[datetime, datetime], Iterator[T]],
        since: datetime,
        until: datetime,
        *,
        ends: float,
        most: int = 500,
        width: timedelta | None = None,
    ) -> None:
        self._read, self._most, self._ends = read, most, ends
        self.at = since.replace(microsecond=0)
        self.until = until.replace(microsecond=0) + _SECOND
        self.width = max(_SECOND, width or self.until - self.at)

    @property
    def finished(self) -> bool:
        """Whether everything was handed out and worked on."""
        return self.at >= self.until

    def shorten(self) -> None:
        """Halve the next window: the last one took too long."""
        self.width = self._half(min(self.width, self.until - self.at))

    def __iter__(self) -> Iterator[tuple[datetime, datetime, list[T]]]:
        while not self.finished and time.monotonic() < self._ends:
            end = min(self.at + self.width, self.until)
            found = self._window(end)
            if found is None:
                self.width = self._half(end - self.at)
                continue
            yield self.at, end, found
            self.at = end
            if len(found) < self._most // 3:
                self.width = min(self.width * 2, timedelta(days=366))

    @staticmethod
    def _half(width: timedelta) -> timedelta:
        return max(_SECOND, timedelta(seconds=width // _SECOND // 2))

    def _window(self, end: datetime) -> list[T] | None:
        """Return all of [at, end), or None when it is too much."""
        found: list[T] = []
        for item in self._read(self.at, end):
            found.append(item)
            too_many = len(found) > self._most and end - self.at > _SECOND
            if too_many or time.monotonic() > self._ends:
                return None
        return found
