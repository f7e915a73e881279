"""Rebuild the reports automatically: sensors of changed days and Stripe's bookings, and a schedule for yesterday."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any

from dagster import (
    AssetMaterialization,
    AssetSelection,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    schedule,
    sensor,
)

from smi_pipeline.core.runs import REPORTS_QUEUE
from smi_pipeline.reporting.assets import BOOKINGS, BY_PERIOD, column_schema
from smi_pipeline.reporting.partitions import FIRST_DAY, PARTITIONS, contiguous, last_day
from smi_pipeline.reporting.resources import ReportsResource
from smi_pipeline.state.reports.store import PERIODS, OutOfDate

MAX_RUNTIME_SECONDS = 1800
"""A run of years that waits for another build takes longer than the 300 s of fulfilment runs."""

QUIET = timedelta(seconds=10)
"""A day is rebuilt when nothing has changed for this long ..."""
STALENESS = timedelta(minutes=5)
"""... or, while orders keep coming in, when its tables are this old."""
ROLL_UP_STALENESS = timedelta(hours=1)
"""Weeks and months are rebuilt when all of their days are up to date, or when they are this old."""
TRY_AGAIN = timedelta(minutes=10)
"""A day that is still out of date because its run failed is requested again after this time."""

_JOB_NAMES = {period: f"rebuild_{period}s" for period in PERIODS}
_TAGS = {
    "dagster-celery/queue": REPORTS_QUEUE,
    "dagster-celery/run_priority": "1",
    "dagster/max_runtime": str(MAX_RUNTIME_SECONDS),
}
JOBS = [
    define_asset_job(
        _JOB_NAMES[period],
        selection=AssetSelection.assets(*BY_PERIOD[period]),
        description=f"{'Facts and reports' if period == 'day' else 'Reports'} of the chosen {period}s, with their "
        f"checks. Building a {period} twice changes nothing.",
        tags=_TAGS,
    )
    for period in PERIODS
]

_UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
]


def due(periods: Iterable[OutOfDate]) -> list[OutOfDate]:
    """Return the periods out of date that are to be rebuilt now."""
    periods = list(periods)
    days = [one for one in periods if one.period == "day"]
    chosen = []
    for one in periods:
        age = None if one.built_at is None else one.now - one.built_at
        if one.period == "day":
            quiet = one.last_change > 0 and one.now - one.changed_at >= QUIET
            if quiet or age is None or age >= STALENESS:
                chosen.append(one)
        else:
            end = last_day(one.starts_on, one.period)
            settled = not any(one.starts_on <= day.starts_on <= end for day in days)
            if settled or (age is not None and age >= ROLL_UP_STALENESS):
                chosen.append(one)
    return chosen


def requests(periods: Iterable[OutOfDate]) -> Iterator[RunRequest]:
    """Yield one run per range of adjacent periods. Its key changes with every change and every `TRY_AGAIN`."""
    periods = list(periods)
    for period in PERIODS:
        by_start = {one.starts_on: one for one in periods if one.period == period}
        for first, last in contiguous(by_start, period):
            of_stretch = [one for start, one in by_start.items() if first <= start <= last]
            newest = max(of_stretch, key=lambda one: (one.last_change, one.changed_at))
            tries = (newest.now - newest.changed_at) // TRY_AGAIN
            key = f"{period}:{first}:{last}:{newest.last_change}:{newest.changed_at.timestamp()}:{tries}"
            if first == last:
                yield RunRequest(run_key=key, partition_key=first.isoformat(), job_name=_JOB_NAMES[period])
            else:
                stretch = {"start": first, "end": last}
                tags = {f"dagster/asset_partition_range_{end}": day.isoformat() for end, day in stretch.items()}
                yield RunRequest(run_key=key, tags=tags, job_name=_JOB_NAMES[period])


@sensor(
    jobs=JOBS,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Rebuilds exactly the days whose upscale jobs, payments, refunds, bookings, credits, mails or ratings "
    "changed, and then the weeks and months above them.",
)
def changed_report_days(context: SensorEvaluationContext, reports_db: ReportsResource) -> SkipReason | list[RunRequest]:
    """Request runs for what is out of date. There is no cursor: a build removes its changes from the log or fails."""
    for job in JOBS:
        if context.instance.get_runs_count(RunsFilter(job_name=job.name, statuses=_UNFINISHED)):
            return SkipReason("the last rebuild is still running")
    newest = PARTITIONS["day"].get_last_partition_key()
    if newest is None:
        return SkipReason(f"the first day, {FIRST_DAY}, is in the future")
    stale = reports_db.reports().out_of_date(FIRST_DAY, date.fromisoformat(newest))
    chosen = due(stale)
    if not chosen:
        waiting = f"{len(stale)} days, weeks or months are waiting" if stale else "all reports are up to date"
        return SkipReason(waiting)
    return list(requests(chosen))


OVERLAP = timedelta(hours=1)
"""Bookings that Stripe lists late, up to this time, are still found."""
WINDOW = timedelta(days=1)
TICK_SECONDS = 20.0
"""A tick stops reading after this time; Dagster stops a sensor after 60 s."""


@sensor(
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    jobs=JOBS,
    description="Reads Stripe's new balance transactions: fees, refunds and disputes.",
)
def stripe_bookings(context: SensorEvaluationContext, reports_db: ReportsResource) -> SkipReason | SensorResult:
    """Read on, a day at a time, from where the last tick ended."""
    reports = reports_db.reports()
    began, fresh = monotonic(), 0
    read_to = reports.bookings_read_to()
    if read_to is None:
        return SkipReason("there are no payments yet")
    now = datetime.now(UTC)
    while monotonic() - began < TICK_SECONDS:
        until = min(read_to + WINDOW, now)
        bookings = list(reports_db.bookings(read_to - OVERLAP, until))
        fresh += reports.note_bookings(bookings, since=read_to, read_to=until)
        read_to = until
        if until == now:
            break
    if not fresh:
        return SkipReason(f"no new bookings at Stripe up to {read_to:%Y-%m-%d %H:%M} UTC")
    metadata: dict[str, Any] = {
        "new bookings": fresh,
        "read to": f"{read_to:%Y-%m-%d %H:%M} UTC",
        "dagster/column_schema": column_schema(reports, BOOKINGS.key.to_user_string()),
    }
    event = AssetMaterialization(BOOKINGS.key, metadata=metadata)
    return SensorResult(asset_events=[event], skip_reason=f"{fresh} new bookings")


@schedule(
    job=JOBS[0],
    cron_schedule="15 0 * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Builds the reports of yesterday at 00:15 UTC, even without payments.",
)
def close_yesterday(context: ScheduleEvaluationContext) -> RunRequest:
    """Request a run for the day before."""
    yesterday = context.scheduled_execution_time.date() - timedelta(days=1)
    return RunRequest(partition_key=yesterday.isoformat())
