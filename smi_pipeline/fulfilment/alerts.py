"""W25: open tasks, overdue jobs and failed runs reach a person."""

from dagster import (
    DagsterEventType,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorEvaluationContext,
    SkipReason,
    run_failure_sensor,
    sensor,
)

from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.fulfilment import jobs
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.alerts import raise_alarms, send_alerts, watch_budget


@sensor(
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    jobs=[jobs.submit_upscales],
    description="Tells a person of open tasks and of paid jobs past their last deadline.",
)
def alerts(context: SensorEvaluationContext, smi: SmiResource):
    from smi_pipeline.settings import Settings
    from smi_pipeline.wiring import alert_post

    settings = Settings()
    ctx = smi.ctx("alerts sensor")
    overdue = raise_alarms(ctx)
    watch_budget(ctx)
    told = send_alerts(ctx, settings.smi_admin_email, alert_post(settings))
    yield SkipReason(f"{overdue} overdue job(s); {told} task(s) told")


@run_failure_sensor(
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    monitor_all_code_locations=True,
    description="A run that failed for another reason than its upscale jobs is an incident, and a person's task.",
)
def incidents(context: RunFailureSensorContext, smi: SmiResource):
    if _business_only(context):
        return
    run = context.dagster_run
    error = context.failure_event.message or "no message"
    smi.ctx("incidents sensor").state.manual_tasks.open(
        kind=ManualTaskKind.RUN_FAILED,
        subject=run.job_name,
        job_id=None,
        message=f"Run {run.run_id} of {run.job_name} failed: {error.splitlines()[0][:200]}",
        next_step="Open the run in the Dagster UI. Leased upscale jobs are taken up again by themselves.",
    )


def _business_only(context: RunFailureSensorContext) -> bool:
    """Whether every failed step ended an upscale job with a reason: that is business, not an incident."""
    failures = context.instance.all_logs(context.dagster_run.run_id, of_type=DagsterEventType.STEP_FAILURE)
    return bool(failures) and all(
        entry.dagster_event is not None
        and (data := entry.dagster_event.step_failure_data).user_failure_data is not None
        and "job_id" in data.user_failure_data.metadata
        for entry in failures
    )


ALERTS = [alerts, incidents]
