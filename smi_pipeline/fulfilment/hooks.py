"""The failure hook, which refunds a failed job at once. If it cannot, the sensor `refunds_owed` does it later."""

import re

from dagster import HookContext, failure_hook

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.models import Status
from smi_pipeline.formatting import money
from smi_pipeline.services import refund
from smi_pipeline.services.admin import next_step

_MAPPED_STEP = re.compile(r"\[([0-9a-f]{32})\]$")


def job_id_of(step_key: str) -> str | None:
    """Return the upscale job of a mapped step `name[job id]`; None for other steps."""
    found = _MAPPED_STEP.search(step_key)
    return found.group(1) if found else None


@failure_hook(required_resource_keys={"smi"}, name="refund_at_once")
def refund_at_once(context: HookContext) -> None:
    """Refund the job of the failed step if its row is committed as `failed`.

    The hook also fires for, say, a broken connection: that must not end a job that can still be delivered.
    """
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
        context.log.warning(f"upscale job {job_id}: the refund failed and will be tried again: {error}")
        return
    after = ctx.state.queries.job(job_id)
    for row in ctx.state.refunds.of_job(job_id):
        amount = f" of {money(row.amount_cents, row.currency)}" if row.amount_cents else ""
        context.log.info(
            f"upscale job {job_id} failed ({job.reason_text}); refund {row.stripe_refund_id or 'not made yet'}{amount} "
            f"is {row.state}. Next step: {next_step(after)}"
        )
