"""What rebuilds the reports by itself: the sensor of changed days, and the closing of each day."""

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta

from dagster import (
    AssetSelection,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SkipReason,
    define_asset_job,
    schedule,
    sensor,
)

from smi_pipeline.adapters.postgres.reports import OutOfDate
from smi_pipeline.reporting.assets import ASSETS
from smi_pipeline.reporting.partitions import DAILY, FIRST_DAY, contiguous
from smi_pipeline.reporting.resources import ReportsResource

REPORTS_QUEUE = "reports"
MAX_RUNTIME_SECONDS = 1800
"""Years in one run, and its wait for another build, may take longer than the 300 s that fulfilment gets."""

QUIET = timedelta(seconds=10)
"""A day is rebuilt when it has been quiet for so long..."""
STALENESS = timedelta(minutes=5)
"""... or, while orders keep coming in, when its tables are so old. Each build writes charts to Dagster's event log."""
TRY_AGAIN = timedelta(minutes=10)
"""A day that is still out of date, because its run failed, is asked for again after so long."""

rebuild_reports = define_asset_job(
    "rebuild_reports",
    selection=AssetSelection.assets(*ASSETS),
    description="Facts and reports of the chosen days, with their checks. Building a day twice changes nothing.",
    tags={
        "dagster-celery/queue": REPORTS_QUEUE,
        "dagster-celery/run_priority": "1",
        "dagster/max_runtime": str(MAX_RUNTIME_SECONDS),
    },
)

_UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
]


def due(days: Iterable[OutOfDate]) -> list[OutOfDate]:
    """Which days out of date are worth a run now."""
    chosen = []
    for day in days:
        old = day.built_at is None or day.now - day.built_at >= STALENESS
        quiet = day.last_change > 0 and day.now - day.changed_at >= QUIET
        if old or quiet:
            chosen.append(day)
    return chosen


def requests(days: Iterable[OutOfDate]) -> Iterator[RunRequest]:
    """One run per stretch of neighbouring days. The key changes with every change, and every `TRY_AGAIN`."""
    by_day = {day.day: day for day in days}
    for first, last in contiguous(by_day):
        inside = [day for day in by_day.values() if first <= day.day <= last]
        newest = max(day.last_change for day in inside)
        turn = int(inside[0].now.timestamp() // TRY_AGAIN.total_seconds())
        key = f"{first}/{last}/{newest}/{turn}"
        if first == last:
            yield RunRequest(run_key=key, partition_key=first.isoformat())
        else:
            stretch = {"start": first, "end": last}
            tags = {f"dagster/asset_partition_range_{end}": day.isoformat() for end, day in stretch.items()}
            yield RunRequest(run_key=key, tags=tags)


@sensor(
    job=rebuild_reports,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Rebuilds exactly the days whose upscale jobs, payments, refunds, credits, mails or ratings changed.",
)
def changed_report_days(context: SensorEvaluationContext, reports_db: ReportsResource):
    """Asks for the days out of date. Keeps no cursor: a build takes its changes out of the log, or fails and leaves
    them there."""
    running = context.instance.get_runs_count(RunsFilter(job_name=rebuild_reports.name, statuses=_UNFINISHED))
    if running:
        return SkipReason("the last rebuild is still running")
    newest = DAILY.get_last_partition_key()
    if newest is None:
        return SkipReason(f"the first day, {FIRST_DAY}, is still to come")
    stale = reports_db.reports().out_of_date(FIRST_DAY, date.fromisoformat(newest))
    chosen = due(stale)
    if not chosen:
        waiting = f"{len(stale)} days are still changing" if stale else "all reports are up to date"
        return SkipReason(waiting)
    return list(requests(chosen))


@schedule(
    job=rebuild_reports,
    cron_schedule="15 0 * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Closes yesterday at 00:15 UTC, also when nobody paid and so nothing changed.",
)
def close_yesterday(context: ScheduleEvaluationContext):
    """One run a day, for the day before."""
    return RunRequest(partition_key=yesterday(context.scheduled_execution_time).isoformat())


def yesterday(now: datetime) -> date:
    """The UTC day before."""
    return now.date() - timedelta(days=1)
