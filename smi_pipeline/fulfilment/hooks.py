"""The failure hook refunds at once. It is not the guarantee: the refund sensor is (design section 5)."""

import re

from dagster import HookContext, failure_hook

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.models import Status
from smi_pipeline.services import refund
from smi_pipeline.services.admin import next_step

_MAPPED_STEP = re.compile(r"\[([0-9a-f]{32})\]$")


def job_id_of(step_key: str) -> str | None:
    """The upscale job of a mapped step `name[job id]`; None for the fan-out and other steps."""
    found = _MAPPED_STEP.search(step_key)
    return found.group(1) if found else None


@failure_hook(required_resource_keys={"smi"}, name="refund_at_once")
def refund_at_once(context: HookContext) -> None:
    """Refunds the job of the failed step, if its row is committed `failed`: the hook also fires for a broken
    connection, which must not cost a customer the upscale."""
    job_id = job_id_of(context.step_key)
    if job_id is None:
        return
    ctx = context.resources.smi.ctx(f"hook of run {context.run_id}")
    job = ctx.state.queries.job(job_id)
    if job is None or job.status is not Status.FAILED:
        return
    try:
        refund.refund_and_notify(ctx, job_id)
    except SmiError as error:
        context.log.warning(f"upscale job {job_id}: the refund is owed and will be tried again: {error}")
        return
    after = ctx.state.queries.job(job_id)
    for row in ctx.state.refunds.of_job(job_id):
        context.log.info(
            f"upscale job {job_id} failed ({job.reason_text}); refund {row.stripe_refund_id or 'not made yet'} is "
            f"{row.state}, {row.amount_cents} {row.currency} cents. Next step: {next_step(after)}"
        )
