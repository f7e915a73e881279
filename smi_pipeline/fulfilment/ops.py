"""The steps of the fulfilment jobs: thin, because what they do is in `services`, and every state is in the database.

A mapped step has two outputs. `ready` leads on; `later` says that the row was rescheduled (or taken by others) and
that nothing is wrong. Only what ends a job for good fails its step.
"""

from collections.abc import Callable, Iterator

from dagster import (
    Config,
    DynamicOut,
    DynamicOutput,
    Failure,
    MetadataValue,
    OpExecutionContext,
    Out,
    Output,
    op,
)

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.runs import BATCH_LIMIT
from smi_pipeline.core.vocabulary import Queue, StepState
from smi_pipeline.fulfilment.resources import Batch, SmiResource
from smi_pipeline.services import fulfil, notify, refund, submit
from smi_pipeline.services.admin import next_step
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.steps import StepResult

_OUTPUTS = {
    "ready": Out(str, is_required=False, description="goes on to the next step"),
    "later": Out(str, is_required=False, description="rescheduled, or another run has it; nothing is wrong"),
}


class LeaseConfig(Config):
    """Which leased rows this run works on. Empty: it leases what is due itself (a run started by hand)."""

    lease_id: str = ""


def actor(context: OpExecutionContext) -> str:
    """How the audit trail names this run."""
    return f"run {context.run_id}"


def mapping_key(work_key: str) -> str:
    """A work key as Dagster wants mapping keys: letters, digits and underscores."""
    return work_key.replace("/", "_")


def _leased(
    context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch, queue: Queue
) -> Iterator[DynamicOutput]:
    leases = smi.ctx(actor(context)).state.leases
    lease_id = config.lease_id
    if not lease_id:
        lease_id, _ = leases.lease(queue, BATCH_LIMIT) or ("", [])
    keys = leases.start(queue, lease_id) if lease_id else []
    if keys:
        batch.hold(lease_id, keys, step_seconds=60)
    else:
        context.log.info(f"nothing to {queue}: the rows of this lease were taken on by others, or nothing is due")
    for key in keys:
        yield DynamicOutput(key, mapping_key=mapping_key(key))


@op(out=DynamicOut(str), description="The paid upscale jobs that this run has leased.")
def paid_jobs_leased(
    context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch
) -> Iterator[DynamicOutput]:
    yield from _leased(context, config, smi, batch, Queue.SUBMIT)


@op(out=DynamicOut(str), description="The upscale jobs with a known result that this run has leased.")
def results_leased(
    context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch
) -> Iterator[DynamicOutput]:
    yield from _leased(context, config, smi, batch, Queue.FULFIL)


@op(out=DynamicOut(str), description="The refunds that this run has leased.")
def refunds_leased(
    context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch
) -> Iterator[DynamicOutput]:
    yield from _leased(context, config, smi, batch, Queue.REFUND)


@op(out=DynamicOut(str), description="The mails that this run has leased.")
def mails_leased(
    context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch
) -> Iterator[DynamicOutput]:
    yield from _leased(context, config, smi, batch, Queue.MAIL)


def _ended_well(report: StepResult, work_key: str) -> Iterator[Output]:
    metadata = {"what": report.message, **{k: v for k, v in report.details.items() if v is not None}}
    if report.retry_seconds is not None:
        metadata["again in seconds"] = report.retry_seconds
    yield Output(work_key, "ready" if report.state is StepState.DONE else "later", metadata=metadata)


def _upscale_failed(ctx: ServiceContext, job_id: str, error: PermanentError) -> Failure:
    job = ctx.state.queries.job(job_id)
    return Failure(
        description=f"Upscale job {job_id} failed: {error}",
        metadata={
            "job_id": job_id,
            "reason": error.reason,
            "reason in words": str(error),
            "customer is told": reasons.FOR_CUSTOMER.get(error.reason, ""),
            "next step": next_step(job) if job else "Look into the audit trail.",
            "audit trail": MetadataValue.url(f"{ctx.policy.public_url}/ops/jobs/{job_id}"),
        },
        allow_retries=False,
    )


def _step_on_job(
    context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str, seconds: float, service: Callable
) -> StepResult:
    ctx = smi.ctx(actor(context))
    try:
        return service(ctx, job_id, batch.step(seconds))
    except PermanentError as error:
        raise _upscale_failed(ctx, job_id, error) from error


@op(out=_OUTPUTS, description="W4: payment and source are checked, the source is kept, progress starts.")
def prepare(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output]:
    yield from _ended_well(_step_on_job(context, smi, batch, job_id, 120, submit.prepare), job_id)


@op(out=_OUTPUTS, description="W5, W6: the one call to Upsampler, its intent committed before.")
def submit_to_upsampler(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output]:
    yield from _ended_well(_step_on_job(context, smi, batch, job_id, 60, submit.submit), job_id)


@op(out=_OUTPUTS, description="W11, W12: the result is downloaded, checked against its source and stored.")
def verify_result(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output]:
    try:
        report = _step_on_job(context, smi, batch, job_id, 180, fulfil.verify_result)
    except Failure:
        batch.ended(context, job_id, "failed")
        raise
    if report.state is not StepState.DONE:
        batch.ended(context, job_id, "later")
    yield from _ended_well(report, job_id)


@op(out=_OUTPUTS, description="W12, W14: the outcome is decided, the link is made, the mail goes out.")
def deliver(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output]:
    report = _step_on_job(context, smi, batch, job_id, 90, fulfil.deliver)
    ctx = smi.ctx(actor(context))
    if report.state is StepState.DONE:
        for mail in notify.send_owed(ctx, job_id):
            context.log.info(f"upscale job {job_id}: {mail.message}")
        job = ctx.state.queries.job(job_id)
        spent = sum(call.credits or 0 for call in ctx.state.submissions.of_job(job_id))
        batch.ended(context, job_id, "delivered", bytes=(job.result_bytes or 0) if job else 0, credits=spent)
    else:
        batch.ended(context, job_id, "later")
    yield from _ended_well(report, job_id)


@op(out=_OUTPUTS, description="Calls Stripe for one owed refund, or asks how a pending one stands; then the mail.")
def refund_payment(context: OpExecutionContext, smi: SmiResource, batch: Batch, work_key: str) -> Iterator[Output]:
    ctx = smi.ctx(actor(context))
    try:
        report, mails = refund.process_and_notify(ctx, work_key, batch.step(refund.REFUND_SECONDS))
    except PermanentError as error:
        raise Failure(
            description=f"Refund {work_key} failed and is a person's task now: {error}",
            metadata={"reason": error.reason, "next step": "See the open tasks on the ops page."},
            allow_retries=False,
        ) from error
    for mail in mails:
        context.log.info(f"refund {work_key}: {mail.message}")
    yield from _ended_well(report, work_key)


@op(out=_OUTPUTS, description="Sends one owed mail.")
def send_mail(context: OpExecutionContext, smi: SmiResource, batch: Batch, work_key: str) -> Iterator[Output]:
    try:
        report = notify.send(smi.ctx(actor(context)), work_key, batch.step(notify.SEND_SECONDS))
    except PermanentError as error:
        raise Failure(
            description=f"The mail {work_key} could not be sent: {error}",
            metadata={"reason": str(error), "next step": f"smi jobs resend {work_key.split('/')[0]}"},
            allow_retries=False,
        ) from error
    yield from _ended_well(report, work_key)
