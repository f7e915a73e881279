"""How many calls Upsampler takes: what the settings say, lowered by its 429s and slowly raised again.

Submissions and status calls have an allowance each; a 429 of one says nothing about the other.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from smi_pipeline.core.vocabulary import CallPurpose

RAISE_EVERY = timedelta(minutes=10)
"""A lowered limit is raised this often, by a tenth of what the settings say."""

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
class Lowered:
    """The limits that 429s have taught, as they were at `lowered_at`; None: never lowered."""

    per_minute: int | None = None
    per_hour: int | None = None
    lowered_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many calls are free now. `seconds`: until the next one, None when only another event can free one."""

    free: int
    seconds: float | None = 0.0
    reason: str = ""


def limits(allowance: Allowance, lowered: Lowered, now: datetime) -> tuple[int, int]:
    """Return the calls per minute and per hour that may be made now; 0: no limit."""
    return (
        _raised(allowance.per_minute, lowered.per_minute, lowered.lowered_at, now),
        _raised(allowance.per_hour, lowered.per_hour, lowered.lowered_at, now),
    )


def _raised(setting: int, taught: int | None, since: datetime | None, now: datetime) -> int:
    if not setting or taught is None or since is None:
        return setting
    steps = max(0, (now - since) // RAISE_EVERY)
    return min(setting, taught + steps * _tenth(setting))


def after_refusal(
    allowance: Allowance, lowered: Lowered, *, granted: tuple[int, int], retry_after: float, now: datetime
) -> Lowered:
    """Return the limits after a 429. `granted`: calls within the last minute and the last hour, the refused one left
    out.

    Who has to wait for longer than a minute has met the limit of the hour. A tenth of the setting always stays: a 429
    may also come from an overload, when few calls had been made.
    """
    minute, hour = limits(allowance, lowered, now)
    if retry_after > allowance.windows[0] + 1:
        hour = min(hour, max(granted[1], _tenth(allowance.per_hour)))
    else:
        minute = min(minute, max(granted[0], _tenth(allowance.per_minute)))
    return Lowered(
        per_minute=minute if minute < allowance.per_minute else None,
        per_hour=hour if hour < allowance.per_hour else None,
        lowered_at=now,
    )


def _tenth(setting: int) -> int:
    return max(1, setting // 10)
