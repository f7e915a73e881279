"""How many calls Upsampler takes: what the settings say, lowered by what its 429s prove, and raised again.

A 429 always pauses, for what it asks. It proves a smaller limit if half of ours was used, or if it comes again soon
after the pause although calls were taken meanwhile. Any other may come from an overload or a burst: calls go on at no
more than twice the even pace, and a pause after which no call was taken is followed by a longer one.

Submissions and status calls have an allowance each; a 429 of one says nothing about the other.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from smi_pipeline.core.vocabulary import CallPurpose

RAISE_EVERY = (timedelta(minutes=5), timedelta(hours=1))
"""A lowered limit of the minute and of the hour is raised this often: by a tenth of what the settings say, then by
twice as much each time. A raise too far costs one 429."""

LONGEST_BACKOFF = timedelta(minutes=5)
"""Repeated pauses become no longer than this, unless Upsampler asks for more."""

TENTHS = 10
"""Parts of a minute within which calls are spread after a 429."""

SLACK_SECONDS = 1.0
"""Calls reach the API a little after they are granted: the windows are longer by this."""

RESERVE = 2
"""Status calls per minute that only one close to its deadline may use."""

PLACES = 3
"""How many places jobs may start off the order of payment, because their runs work side by side."""


class Calls(StrEnum):
    """What an allowance counts."""

    SUBMISSIONS = "submissions"
    STATUS_CALLS = "status_calls"

    @classmethod
    def of(cls, purpose: CallPurpose) -> "Calls":
        """Return which allowance a call uses."""
        return cls.SUBMISSIONS if purpose is CallPurpose.SUBMIT else cls.STATUS_CALLS

    @property
    def words(self) -> str:
        """Return the name in a sentence."""
        return self.value.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Calls of one kind that the settings allow; 0: no limit. `windows`: the seconds of what is called a minute and an
    hour here; tests take shorter ones, with less `slack`."""

    per_minute: int = 0
    per_hour: int = 0
    windows: tuple[float, float] = (60.0, 3600.0)
    slack: float = SLACK_SECONDS

    @property
    def places(self) -> int | None:
        """Return how many places jobs may start off the order of payment: `PLACES`, or the calls of three seconds if
        these are more; None without a limit, where nothing waits for a call."""
        return max(PLACES, self.per_minute // 20) if self.per_minute else None


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What 429s have taught: each limit as it was lowered last, and when, None if it was not; when the last 429 came,
    and until when it paused."""

    per_minute: int | None = None
    per_hour: int | None = None
    minute_since: datetime | None = None
    hour_since: datetime | None = None
    refused_at: datetime | None = None
    blocked_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """So many calls may be made within so many seconds; 0: no limit. `words`: the window in a sentence."""

    limit: int
    seconds: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many calls are free now. `seconds`: until the next one, None when only another event can free one."""

    free: int
    seconds: float | None = 0.0
    reason: str = ""


def limits(allowance: Allowance, taught: Taught, now: datetime) -> tuple[int, int]:
    """Return the calls per minute and per hour that may be made now; 0: no limit."""
    minute, hour = RAISE_EVERY
    return (
        _raised(allowance.per_minute, taught.per_minute, taught.minute_since, minute, now),
        _raised(allowance.per_hour, taught.per_hour, taught.hour_since, hour, now),
    )


def _raised(setting: int, lowered: int | None, since: datetime | None, every: timedelta, now: datetime) -> int:
    if not setting or lowered is None or since is None:
        return setting
    steps = min(max(0, (now - since) // every), TENTHS)  # ten tenths are all of it
    return min(setting, lowered + ((1 << steps) - 1) * _tenth(setting))


def windows(allowance: Allowance, taught: Taught, now: datetime) -> list[Window]:
    """Return what bounds the calls now. After a 429 they are spread, too: it may have come from a burst."""
    minute, hour = limits(allowance, taught, now)
    bounds = [
        Window(limit=minute, seconds=allowance.windows[0] + allowance.slack, words="a minute"),
        Window(limit=hour, seconds=allowance.windows[1] + allowance.slack, words="an hour"),
    ]
    if taught.refused_at is not None and now < taught.refused_at + RAISE_EVERY[0]:
        twice_the_pace = -(-2 * minute // TENTHS)
        bounds.append(Window(limit=twice_the_pace, seconds=allowance.windows[0] / TENTHS, words="in a few seconds"))
    return bounds


def after_refusal(
    allowance: Allowance,
    taught: Taught,
    *,
    granted: tuple[int, int],
    since_pause: int,
    retry_after: float,
    now: datetime,
) -> Taught:
    """Return what is known after a 429. `granted`: calls within the last minute and the last hour, `since_pause`: since
    the last pause ended; the refused one is left out.

    Who has to wait for longer than a minute has met the limit of the hour. A limit is at most halved at once, and a
    tenth of the setting always stays.
    """
    which = int(retry_after > allowance.windows[0] + 1)
    setting = (allowance.per_minute, allowance.per_hour)[which]
    limit = limits(allowance, taught, now)[which]
    ended = taught.blocked_until
    repeated = ended is not None and ended <= now < ended + timedelta(seconds=allowance.windows[which])
    calls_were_taken = since_pause > (allowance.places or PLACES)  # so many may be on their way and refused as well
    # That a pause of a minute ended within the hour proves nothing about the limit of the hour.
    if 2 * granted[which] >= limit or (which == 0 and repeated and calls_were_taken):
        limit = min(limit, max(granted[which], limit // 2, _tenth(setting)))
        if limit < setting:
            taught = (
                replace(taught, per_hour=limit, hour_since=now)
                if which
                else replace(taught, per_minute=limit, minute_since=now)
            )
    pause = timedelta(seconds=retry_after)
    if repeated and not calls_were_taken and ended and taught.refused_at:
        pause = max(pause, min(2 * (ended - taught.refused_at), LONGEST_BACKOFF))
    return replace(taught, refused_at=now, blocked_until=max(now + pause, ended or now))


def _tenth(setting: int) -> int:
    return max(1, setting // TENTHS)
