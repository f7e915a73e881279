"""The steps of the fulfilment jobs. They are thin: the work is in `services`, all state is in the database.

A mapped step has two outputs. `ready` leads to the next step; `later` says that the row was rescheduled or belongs to
another run, and that nothing is wrong. A step fails only when its upscale job ends without a delivery.
"""

from collections.abc import Callable, Iterator

from dagster import (
    Config,
    DynamicOut,
    DynamicOutput,
    Failure,
    MetadataValue,
    OpDefinition,
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
    "ready": Out(str, is_required=False, description="to the next step"),
    "later": Out(str, is_required=False, description="rescheduled, or another run has it; nothing is wrong"),
}


Service = Callable[[ServiceContext, str, str], StepResult]
_DOWNLOADING: tuple[Service, ...] = (submit.prepare, fulfil.verify_result)


class LeaseConfig(Config):
    """The lease whose rows this run works on. Empty (a run started by hand): it leases what is due itself."""

    lease_id: str = ""


def actor(context: OpExecutionContext) -> str:
    """Return how the audit trail names this run."""
    return f"run {context.run_id}"


def mapping_key(work_key: str) -> str:
    """Return a work key as a valid mapping key of Dagster: letters, digits and underscores."""
    return work_key.replace("/", "_")


def _lease_op(name: str, queue: Queue, rows: str) -> OpDefinition:
    @op(name=name, out=DynamicOut(str), description=f"Yield the {rows} that this run has leased.")
    def leased(
        context: OpExecutionContext, config: LeaseConfig, smi: SmiResource, batch: Batch
    ) -> Iterator[DynamicOutput[str]]:
        ctx = smi.ctx(actor(context))
        leases, lease_id = ctx.state.leases, config.lease_id
        if not lease_id:
            lease_id, _ = leases.lease(queue, BATCH_LIMIT, policy=ctx.policy) or ("", [])
        keys = leases.start(queue, lease_id) if lease_id else []
        if keys:
            batch.hold(lease_id, keys, step_seconds=60)
        else:
            context.log.info(f"no {rows} to work on: none are due, or another run has claimed those of this lease")
        for key in keys:
            yield DynamicOutput(key, mapping_key=mapping_key(key))

    return leased


paid_jobs_leased = _lease_op("paid_jobs_leased", Queue.SUBMIT, "paid upscale jobs")
results_leased = _lease_op("results_leased", Queue.FULFIL, "upscale jobs with a known result")
refunds_leased = _lease_op("refunds_leased", Queue.REFUND, "refunds")
mails_leased = _lease_op("mails_leased", Queue.MAIL, "mails")


def _ended_well(report: StepResult, work_key: str) -> Iterator[Output[str]]:
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
            "next step": next_step(job) if job else "See the audit trail.",
            "audit trail": MetadataValue.url(f"{ctx.policy.public_url}/ops/jobs/{job_id}"),
        },
        allow_retries=False,
    )


def _step_on_job(
    context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str, seconds: float, service: Service
) -> StepResult:
    """Do one step on a job, which may take `seconds` and, if it downloads, the longest download."""
    ctx = smi.ctx(actor(context))
    if service in _DOWNLOADING:
        seconds += ctx.policy.longest_download.total_seconds()
    try:
        return service(ctx, job_id, batch.step(seconds))
    except PermanentError as error:
        raise _upscale_failed(ctx, job_id, error) from error


@op(out=_OUTPUTS)
def prepare(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output[str]]:
    """Check the payment and the source image, and store the source."""
    yield from _ended_well(_step_on_job(context, smi, batch, job_id, 60, submit.prepare), job_id)


@op(out=_OUTPUTS)
def submit_to_upsampler(
    context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str
) -> Iterator[Output[str]]:
    """Submit the source to Upsampler. The intent is committed before the call."""
    yield from _ended_well(_step_on_job(context, smi, batch, job_id, 60, submit.submit), job_id)


@op(out=_OUTPUTS)
def verify_result(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output[str]]:
    """Download the result, check it against its source and store it."""
    try:
        report = _step_on_job(context, smi, batch, job_id, 180, fulfil.verify_result)
    except Failure:
        batch.ended(context, job_id, "failed")
        raise
    if report.state is not StepState.DONE:
        batch.ended(context, job_id, "later")
    yield from _ended_well(report, job_id)


@op(out=_OUTPUTS)
def deliver(context: OpExecutionContext, smi: SmiResource, batch: Batch, job_id: str) -> Iterator[Output[str]]:
    """Complete the job, make the download link and send the mail."""
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


@op(out=_OUTPUTS)
def refund_payment(context: OpExecutionContext, smi: SmiResource, batch: Batch, work_key: str) -> Iterator[Output[str]]:
    """Make one refund at Stripe, or ask for the state of a pending one, and send the mail."""
    ctx = smi.ctx(actor(context))
    try:
        report, mails = refund.process_and_notify(ctx, work_key, batch.step(refund.REFUND_SECONDS))
    except PermanentError as error:
        raise Failure(
            description=f"Refund {work_key} failed and is now a manual task: {error}",
            metadata={"reason": error.reason, "next step": "Open `smi tasks list` or the ops page."},
            allow_retries=False,
        ) from error
    for mail in mails:
        context.log.info(f"refund {work_key}: {mail.message}")
    yield from _ended_well(report, work_key)


@op(out=_OUTPUTS)
def send_mail(context: OpExecutionContext, smi: SmiResource, batch: Batch, work_key: str) -> Iterator[Output[str]]:
    """Send one mail."""
    try:
        report = notify.send(smi.ctx(actor(context)), work_key, batch.step(notify.SEND_SECONDS))
    except PermanentError as error:
        raise Failure(
            description=f"The mail {work_key} could not be sent: {error}",
            metadata={"reason": str(error), "next step": f"smi jobs resend {work_key.split('/')[0]}"},
            allow_retries=False,
        ) from error
    yield from _ended_well(report, work_key)
