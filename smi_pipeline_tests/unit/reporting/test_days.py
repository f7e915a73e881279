"""Days and stretches of days, and which of them are worth a run."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from smi_pipeline.reporting.jobs import QUIET, ROLL_UP_STALENESS, STALENESS, due, requests
from smi_pipeline.reporting.partitions import FIRST_DAY, PARTITIONS, contiguous, earlier, last_day
from smi_pipeline.state.reports.store import OutOfDate

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def out_of_date(
    day: int = 1,
    *,
    period: str = "day",
    last_change: int = 5,
    changed: timedelta = QUIET,
    built: timedelta | None = None,
) -> OutOfDate:
    return OutOfDate(
        period=period,
        starts_on=date(2026, 11, day),
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
    keys = set(PARTITIONS["day"].get_partition_keys())
    assert {"2024-01-01", today.isoformat()} <= keys
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


def test_a_week_and_a_month_wait_for_their_days_but_not_for_ever():
    week, month = out_of_date(9, period="week", built=QUIET), out_of_date(1, period="month", built=QUIET)
    assert due([week, month]) == [week, month]
    changing = out_of_date(12, changed=timedelta(0), built=QUIET)
    assert due([changing, week, month]) == []
    assert due([changing, out_of_date(16, period="week"), month]) == [out_of_date(16, period="week")]
    old = out_of_date(1, period="month", built=ROLL_UP_STALENESS)
    assert due([changing, week, old]) == [old]


def test_one_run_is_asked_for_per_stretch():
    stretch, single, month = requests([*(out_of_date(day) for day in (1, 2, 3, 7)), out_of_date(period="month")])
    assert stretch.tags["dagster/asset_partition_range_end"] == "2026-11-03"
    assert (stretch.job_name, single.job_name, single.partition_key) == ("rebuild_days", "rebuild_days", "2026-11-07")
    assert (month.job_name, month.partition_key) == ("rebuild_months", "2026-11-01")


@given(st.dates(FIRST_DAY, date(2030, 1, 1)), st.integers(0, 40))
def test_each_period_ends_where_the_next_one_begins(day, back):
    starts = {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}
    for period, start in starts.items():
        assert earlier(last_day(start, period) + timedelta(days=1), period, 1) == start
        before = earlier(start, period, back)
        for _ in range(back):
            before = last_day(before, period) + timedelta(days=1)
        assert before == start


def test_weeks_begin_on_mondays_and_the_periods_under_way_are_partitions():
    today = datetime.now(UTC).date()
    weeks = PARTITIONS["week"].get_partition_keys()
    assert date.fromisoformat(weeks[0]) == FIRST_DAY and FIRST_DAY.weekday() == 0
    assert date.fromisoformat(weeks[-1]) == today - timedelta(days=today.weekday())
    assert PARTITIONS["month"].get_partition_keys()[-1] == today.replace(day=1).isoformat()
