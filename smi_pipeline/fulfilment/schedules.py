"""What has to be done from time to time: closing, comparing, removing, pruning (W24, section 6 rule 8)."""

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

from smi_pipeline.fulfilment.jobs import ERRANDS_QUEUE
from smi_pipeline.fulfilment.ops import actor
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services import intake, reconcile

KEEP_RUNS = timedelta(days=30)
"""How long Dagster's history of finished runs is kept. The audit trail of upscale jobs is kept for ever."""

_TAGS = {"dagster-celery/queue": ERRANDS_QUEUE, "dagster-celery/run_priority": "1"}


@op(description="Closes orders that nobody paid within a day, their Checkout sessions first.")
def close_abandoned_checkouts(context: OpExecutionContext, smi: SmiResource) -> None:
    closed = intake.close_abandoned(smi.world(actor(context)))
    context.add_output_metadata({"closed": closed})


@op(description="Compares Stripe's payments of the last day with ours.")
def compare_payments(context: OpExecutionContext, smi: SmiResource) -> None:
    tally = reconcile.reconcile_payments(smi.world(actor(context)))
    context.add_output_metadata({name: count for name, count in tally.items()})


@op(description="Removes sources and results whose links expired a day ago.")
def remove_expired_files(context: OpExecutionContext, smi: SmiResource) -> None:
    world = smi.world(actor(context))
    removed, swept = reconcile.remove_expired_files(world), reconcile.sweep_temporary_files(world)
    context.add_output_metadata({"jobs": removed, "left-over temporary files": swept})


@op(description="Deletes finished runs of Dagster, with their events, after 30 days: Dagster itself never does.")
def prune_run_history(context: OpExecutionContext, smi: SmiResource) -> None:
    before: datetime = smi.world(actor(context)).state.submissions.now() - KEEP_RUNS
    finished = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
    runs = context.instance.get_runs(RunsFilter(statuses=finished, updated_before=before), limit=500)
    for run in runs:
        context.instance.delete_run(run.run_id)
    context.add_output_metadata({"runs": len(runs)})


@job(executor_def=in_process_executor, tags=_TAGS, description="Closes, compares and removes what has run its time.")
def clean_up() -> None:
    close_abandoned_checkouts()
    compare_payments()
    remove_expired_files()
    prune_run_history()


MAINTENANCE_JOBS = [clean_up]

SCHEDULES = [
    ScheduleDefinition(
        name="clean_up_every_ten_minutes",
        job=clean_up,
        cron_schedule="*/10 * * * *",
        default_status=DefaultScheduleStatus.RUNNING,
        description="W24, and the comparison of payments of section 6 rule 8.",
    )
]
