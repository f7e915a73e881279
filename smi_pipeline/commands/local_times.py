"""Times of a WordPress site: written without a zone, in the site's own, and by Excel in the style of its country."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smi_pipeline.core.errors import RefusedError

ORDERS = ("dmy", "mdy", "ymd")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_LOCAL = re.compile(
    r"(\d{1,4})([./-])[ ]?(\d{1,2})\2[ ]?(\d{1,4}),?\s+(\d{1,2}):(\d\d)(?::(\d\d))?(?:\s*([AaPp])\.?[Mm]\.?)?"
)
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+\u2212-])\s*(\d{1,2})(?::?(\d\d)|(\.\d+))?", re.IGNORECASE)


def zone(name: str) -> tzinfo:
    """Return a time zone by its name, or by its distance from UTC as WordPress shows it (UTC+5:30) and
    keeps it (+5.5).

    Raises ValueError."""
    if found := _OFFSET.fullmatch(name.strip()):
        distance = timedelta(hours=int(found[2]) + float(found[4] or 0), minutes=int(found[3] or 0))
        return timezone(distance if found[1] == "+" else -distance)
    try:
        return ZoneInfo(name.strip())
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone such as Europe/Berlin or UTC+5:30") from None


def order_of(values: Iterable[str]) -> str | None:
    """Return in which order Excel has written day and month, by all times of a file; None if it has not.

    Raises RefusedError when they can be read in both orders."""
    found = [match for value in values if (match := _LOCAL.fullmatch(value)) and not _ISO.fullmatch(value)]
    slashed = [match for match in found if len(match[1]) < 3 and match[2] != "."]
    if not slashed:
        return "dmy" if found else None
    days_first = any(int(match[1]) > 12 for match in slashed)
    months_first = any(int(match[3]) > 12 for match in slashed)
    if days_first == months_first:
        raise RefusedError(
            f"it is not clear whether the day or the month comes first in times such as {slashed[0][0]}, and nothing "
            "was imported: say --dates dmy or --dates mdy"
        )
    return "dmy" if days_first else "mdy"


def parse(value: str, order: str | None) -> datetime:
    """Return a time as it is written, mostly without a zone. Raises ValueError for anything else."""
    if found := _ISO.fullmatch(value):
        year, month, day, hour, minute = map(int, found.groups()[:5])
        at = datetime(year, month, day, hour, minute, int(found[6] or 0))  # noqa: DTZ001 - its zone comes later
        return at.replace(tzinfo=datetime.fromisoformat(f"2000-01-01 00:00{found[7]}").tzinfo) if found[7] else at
    found = _LOCAL.fullmatch(value)
    if not found:
        raise ValueError(value)
    first, second, third = int(found[1]), int(found[3]), int(found[4])
    if len(found[1]) == 4 or order == "ymd":
        year, month, day = first, second, third
    elif order == "mdy" and found[2] != ".":
        year, month, day = third, first, second
    else:
        year, month, day = third, second, first
    hour = int(found[5])
    if half := found[8]:
        if not 1 <= hour <= 12:
            raise ValueError(value)
        hour = hour % 12 + (12 if half in "Pp" else 0)
    year += 2000 if year < 100 else 0
    return datetime(year, month, day, hour, int(found[6]), int(found[7] or 0))  # noqa: DTZ001


def in_utc(at: datetime, where: tzinfo, *, after: datetime | None = None) -> tuple[datetime, bool]:
    """Return a local time in UTC, and whether there is such a time in the zone.

    An hour that comes twice when summer time ends is the first one, unless that lies before `after`. A time in the hour
    that is skipped when it begins is counted on from the time before, as clocks that nobody has set do."""
    if at.tzinfo:
        return at.astimezone(UTC), True
    first, second = (at.replace(tzinfo=where, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first.astimezone(where).replace(tzinfo=None) != at:
        return first, False
    return (second if after and first < after <= second else first), True
