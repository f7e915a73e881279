"""Sensors that alert operators: of open manual tasks, overdue jobs, the used budget and failed runs."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    DagsterEventType,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorEvaluationContext,
    SkipReason,
    run_failure_sensor,
    sensor,
)

from smi_pipeline.core.runs import DAEMON
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.formatting import one_line
from smi_pipeline.fulfilment import jobs
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.alerts import raise_alarms, send_alerts, send_resolved, watch_budget
from smi_pipeline.services.one_object import kept_apart


@sensor(
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    jobs=[jobs.submit_upscales],
    description="Sends alerts about open manual tasks, the used budget and overdue jobs; tells customers of a delay.",
)
def alerts(context: SensorEvaluationContext, smi: SmiResource) -> Iterator[SkipReason]:
    """Open the tasks that are called for and send those that were not sent yet. The gateway watches that this runs."""
    from smi_pipeline.settings import Settings
    from smi_pipeline.wiring import alert_post

    settings = Settings()
    ctx = smi.ctx("alerts sensor")
    overdue = raise_alarms(ctx)
    told = 0
    with kept_apart(ctx, "the check of the budget"):
        watch_budget(ctx)
    with kept_apart(ctx, "the renewal of links whose mail is late"):
        ctx.state.deliveries.renew_links(ctx.policy.download_ttl)
    with kept_apart(ctx, "the queueing of mails about delays"):
        told = ctx.state.waiting.queue_delay_mails(ctx.policy)
    sent = send_alerts(ctx, settings.smi_admin_email, alert_post(settings))
    resolved = send_resolved(ctx, settings.smi_admin_email, alert_post(settings))
    ctx.state.process_heartbeats.record(DAEMON)
    yield SkipReason(
        f"{overdue} overdue job(s); alerts sent for {sent} task(s), {resolved} resolved; {told} customer(s) told of a "
        "delay"
    )


@run_failure_sensor(
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    monitor_all_code_locations=True,
    description="Opens a manual task for a run that failed for a reason that is told nowhere else.",
)
def incidents(context: RunFailureSensorContext, smi: SmiResource) -> None:
    """Open a manual task for a failed run, unless each of its failed steps raised `Failure`: ops do so for what is told
    by other means, like an order that ends with a refund, a mail with a task of its own, or an operator's wrong input.
    """
    run = context.dagster_run
    steps = [
        (step.step_key or "", step.step_failure_data)
        for entry in context.instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE)
        if (step := entry.dagster_event) is not None
    ]
    unexpected = [(key, data.error) for key, data in steps if data.user_failure_data is None]
    if steps and not unexpected:
        return
    words = context.failure_event.message or "no message"
    if unexpected:
        key, error = unexpected[0]
        words = f"step {key}: {_root_cause(error)}"
    smi.ctx("incidents sensor").state.manual_tasks.open(
        kind=ManualTaskKind.RUN_FAILED,
        subject=run.job_name,
        message=f"Run {run.run_id} of {run.job_name} failed: {one_line(words, 200)}",
        next_step="Open the run in the Dagster UI and see the error. Its upscale jobs are retried automatically.",
    )


def _root_cause(error: Any) -> str:
    """Return in words the error that Dagster's own ones were raised from. Its class is not public in Dagster."""
    if error is None:
        return "no error is known"
    while error.cause is not None:
        error = error.cause
    return f"{error.cls_name}: {error.message.split(f'{error.cls_name}: ', 1)[-1]}"


ALERTS = [alerts, incidents]
