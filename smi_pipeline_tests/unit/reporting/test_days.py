"""Days and stretches of days, and which of them are worth a run."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from smi_pipeline.adapters.postgres.reports import OutOfDate
from smi_pipeline.reporting.jobs import QUIET, STALENESS, due, requests
from smi_pipeline.reporting.partitions import DAILY, contiguous

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def out_of_date(day: int = 1, *, last_change: int = 5, changed: timedelta, built: timedelta | None) -> OutOfDate:
    return OutOfDate(
        day=date(2026, 11, day),
        last_change=last_change,
        changed_at=NOW - changed,
        built_at=None if built is None else NOW - built,
        now=NOW,
    )


@given(st.sets(st.dates(date(2026, 1, 1), date(2026, 3, 1))))
def test_stretches_hold_exactly_the_given_days_and_do_not_touch(days):
    stretches = list(contiguous(days))
    covered = [first + timedelta(days=n) for first, last in stretches for n in range((last - first).days + 1)]
    assert covered == sorted(days)
    assert all(following[0] - before[1] > timedelta(days=1) for before, following in pairwise(stretches))


def test_today_is_a_partition_and_tomorrow_is_not():
    today = datetime.now(UTC).date()
    keys = set(DAILY.get_partition_keys())
    assert {"2025-01-01", today.isoformat()} <= keys
    assert (today + timedelta(days=1)).isoformat() not in keys


def test_a_day_is_due_when_quiet_or_old_or_new():
    moment = timedelta(seconds=1)
    assert due([out_of_date(changed=QUIET, built=moment)])
    assert due([out_of_date(changed=moment, built=STALENESS)])
    assert due([out_of_date(changed=moment, built=None)])
    assert not due([out_of_date(changed=moment, built=moment)])


def test_a_report_behind_fresh_facts_is_left_to_the_run_that_is_building_it():
    assert not due([out_of_date(last_change=0, changed=QUIET * 2, built=QUIET * 2)])
    assert due([out_of_date(last_change=0, changed=STALENESS, built=STALENESS)])


def test_one_run_is_asked_for_per_stretch():
    days = [out_of_date(day, changed=QUIET, built=None) for day in (1, 2, 3, 7)]
    stretch, single = requests(days)
    assert stretch.tags["dagster/asset_partition_range_end"] == "2026-11-03"
    assert single.partition_key == "2026-11-07"
