"""The days of the reports: UTC days since the shop's first year, today included (its figures are 'so far')."""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Protocol

from dagster import DailyPartitionsDefinition, PartitionKeyRange

FIRST_DAY = date(2025, 1, 1)
"""Earlier days cannot be built. Moving it back adds days and changes no other."""

DAILY = DailyPartitionsDefinition(start_date=FIRST_DAY.isoformat(), timezone="UTC", end_offset=1)


class HasDays(Protocol):
    """What contexts of assets and of checks have in common."""

    @property
    def has_partition_key(self) -> bool: ...
    @property
    def partition_key(self) -> str: ...
    @property
    def has_partition_key_range(self) -> bool: ...
    @property
    def partition_key_range(self) -> PartitionKeyRange: ...


def days_of(context: HasDays) -> tuple[date, date] | None:
    """First and last day of a run, one and the same for a single partition; None for a run without partitions."""
    if context.has_partition_key:
        day = date.fromisoformat(context.partition_key)
        return day, day
    if context.has_partition_key_range:
        keys = context.partition_key_range
        return date.fromisoformat(keys.start), date.fromisoformat(keys.end)
    return None


def contiguous(days: Iterable[date]) -> Iterator[tuple[date, date]]:
    """Runs of neighbouring days as (first, last), oldest first."""
    first = last = None
    for day in sorted(days):
        if first is None or last is None:
            first = last = day
        elif day == last + timedelta(days=1):
            last = day
        else:
            yield first, last
            first = last = day
    if first is not None and last is not None:
        yield first, last
