"""The days, weeks and months of the reports, in UTC; including the current, incomplete one."""

import warnings
from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetDep,
    AssetExecutionContext,
    BetaWarning,
    DailyPartitionsDefinition,
    MonthlyPartitionsDefinition,
    TimeWindowPartitionMapping,
    TimeWindowPartitionsDefinition,
    WeeklyPartitionsDefinition,
)

from smi_pipeline.core.errors import RefusedError

FIRST_DAY = date(2024, 1, 1)
"""A Monday and the first of a month. Earlier days cannot be built; moving it back adds days and changes no other."""

_START = FIRST_DAY.isoformat()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", BetaWarning)  # nothing else lets the current week and month be backfilled
    _EXISTING_DAYS = TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
PARTITIONS: dict[str, TimeWindowPartitionsDefinition] = {
    "day": DailyPartitionsDefinition(start_date=_START, timezone="UTC", end_offset=1),
    "week": WeeklyPartitionsDefinition(start_date=_START, timezone="UTC", end_offset=1, day_offset=1),
    "month": MonthlyPartitionsDefinition(start_date=_START, timezone="UTC", end_offset=1),
}


def on(tables: Iterable[str]) -> list[AssetDep]:
    """Return dependencies on the same periods, or on the days of a week or month that exist: of the current one some
    lie in the future, and Dagster would refuse a backfill that needs them."""
    return [AssetDep(table, partition_mapping=_EXISTING_DAYS) for table in tables]


def last_day(starts_on: date, period: str) -> date:
    """Return the last day of the day, week or month that begins on `starts_on`."""
    if period == "month":
        return starts_on.replace(day=monthrange(starts_on.year, starts_on.month)[1])
    return starts_on + timedelta(days=6 if period == "week" else 0)


def earlier(starts_on: date, period: str, back: int) -> date:
    """Return the first day of the period `back` periods before the one that begins on `starts_on`."""
    if period == "month":
        months = starts_on.year * 12 + starts_on.month - 1 - back
        return date(months // 12, months % 12 + 1, 1)
    return starts_on - timedelta(days=back * (7 if period == "week" else 1))


def starts_of(context: AssetExecutionContext | AssetCheckExecutionContext) -> tuple[date, date] | None:
    """Return the first days of the first and the last period of a run, None for a run without partitions.

    Raises RefusedError for a range that ends in the future. Dagster checks single partitions, but not ranges."""
    if not context.has_partition_key and not context.has_partition_key_range:
        return None
    keys = context.partition_key_range  # of one partition, too
    first, last = date.fromisoformat(keys.start), date.fromisoformat(keys.end)
    if last > (today := datetime.now(UTC).date()):
        raise RefusedError(f"{last} is in the future: choose days, weeks or months that have begun by {today}")
    return first, last


def contiguous(starts: Iterable[date], period: str = "day") -> Iterator[tuple[date, date]]:
    """Yield ranges of adjacent periods as the first days of their (first, last) period, oldest first."""
    stretch: list[date] = []
    for start in sorted(starts):
        if stretch and earlier(start, period, 1) != stretch[-1]:
            yield stretch[0], stretch[-1]
            stretch = []
        stretch.append(start)
    if stretch:
        yield stretch[0], stretch[-1]
