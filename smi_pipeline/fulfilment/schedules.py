"""Periodic maintenance: close abandoned orders, compare with Stripe and the storage, delete what has expired."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from dagster import (
    DagsterRunStatus,
    DefaultScheduleStatus,
    OpExecutionContext,
    RunsFilter,
    ScheduleDefinition,
    in_process_executor,
    job,
    op,
)

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.runs import PRIORITY_QUEUE
from smi_pipeline.fulfilment.checks import check_operations
from smi_pipeline.fulfilment.ops import actor
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services import intake
from smi_pipeline.services.reconciliation import stored_files, stripe_payments

KEEP_RUNS = timedelta(days=30)
"""How long Dagster's history of finished runs is kept. The audit trail of upscale jobs is kept permanently."""

STEP_SECONDS = 30.0
"""How long one step works; the rest waits for the next run. All steps together stay far below a run's time limit."""

_TAGS = {"dagster-celery/queue": PRIORITY_QUEUE, "dagster-celery/run_priority": "1"}


def repeat_until(step: Callable[[], int]) -> int:
    """Repeat a bounded step while it finds something to do and there is time. Return how much it did."""
    ends = time.monotonic() + STEP_SECONDS
    done = 0
    while (n := step()) and time.monotonic() < ends:
        done += n
    return done + n


@contextmanager
def _until_the_next_run(context: OpExecutionContext) -> Iterator[None]:
    """End the step early and well when a service, the storage or the database does not answer: the next run goes on
    from where this one ended. An asset check tells of a comparison that has not been complete for hours."""
    try:
        yield
    except TransientError as error:
        context.log.warning(f"ended early, the next run goes on: {error}")
        context.add_output_metadata({"ended early": str(error)})


@op
def close_abandoned_checkouts(context: OpExecutionContext, smi: SmiResource) -> None:
    """Close orders that were not paid within a day, after expiring their Checkout sessions."""
    ctx = smi.ctx(actor(context))
    with _until_the_next_run(context):
        closed = repeat_until(lambda: intake.close_abandoned(ctx, 50))
        context.add_output_metadata({"closed": closed})


@op
def compare_payments(context: OpExecutionContext, smi: SmiResource) -> None:
    """Compare payments and refunds at Stripe and here, both ways. Differences become manual tasks."""
    with _until_the_next_run(context):
        tally = stripe_payments.compare_payments(smi.ctx(actor(context)), seconds=STEP_SECONDS)
        context.add_output_metadata({name: count for name, count in tally.items()})


@op
def compare_files(context: OpExecutionContext, smi: SmiResource) -> None:
    """Compare the storage with the rows that name its files, once an hour. Delete unreferenced files."""
    with _until_the_next_run(context):
        tally = stored_files.compare_files(smi.ctx(actor(context)), seconds=STEP_SECONDS)
        context.add_output_metadata({name: count for name, count in tally.items()})


@op
def remove_expired_files(context: OpExecutionContext, smi: SmiResource) -> None:
    """Delete sources and results whose links expired a day ago."""
    ctx = smi.ctx(actor(context))
    with _until_the_next_run(context):
        removed = repeat_until(lambda: stored_files.remove_expired_files(ctx))
        swept = stored_files.sweep_temporary_files(ctx)
        context.add_output_metadata({"jobs": removed, "left-over temporary files": swept})


@op
def prune_run_history(context: OpExecutionContext, smi: SmiResource) -> None:
    """Delete finished runs of Dagster and their events after 30 days; Dagster itself never does."""
    before: datetime = smi.ctx(actor(context)).state.submissions.now() - KEEP_RUNS
    finished = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
    runs = context.instance.get_runs(RunsFilter(statuses=finished, updated_before=before), limit=500)
    for run in runs:
        context.instance.delete_run(run.run_id)
    context.add_output_metadata({"runs": len(runs)})


@job(executor_def=in_process_executor, tags=_TAGS)
def clean_up() -> None:
    """Close abandoned orders, compare with Stripe and the storage, delete expired files and old runs."""
    close_abandoned_checkouts()
    compare_payments()
    remove_expired_files()
    compare_files()
    prune_run_history()


MAINTENANCE_JOBS = [clean_up]

SCHEDULES = [
    ScheduleDefinition(
        name="clean_up_every_ten_minutes",
        job=clean_up,
        cron_schedule="*/10 * * * *",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Maintenance, and the comparisons with Stripe and with the storage.",
    ),
    ScheduleDefinition(
        name="check_operations_every_ten_minutes",
        job=check_operations,
        cron_schedule="5-59/10 * * * *",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Asset checks: overdue jobs, and what the comparisons have found.",
    ),
]
