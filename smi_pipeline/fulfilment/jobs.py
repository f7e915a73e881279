"""The Dagster jobs that sensors start."""

from dagster import in_process_executor, job

from smi_pipeline.core.runs import FULFILMENT_QUEUE, PRIORITY_QUEUE
from smi_pipeline.fulfilment import ops
from smi_pipeline.fulfilment.hooks import refund_at_once


def _tags(queue: str, priority: int = 5) -> dict[str, str]:
    return {"dagster-celery/queue": queue, "dagster-celery/run_priority": str(priority)}


@job(
    executor_def=in_process_executor,
    hooks={refund_at_once},
    tags=_tags(FULFILMENT_QUEUE),
    description="Paid upscale jobs: checked, their source kept, submitted to Upsampler.",
)
def submit_upscales() -> None:
    ops.paid_jobs_leased().map(lambda job_id: ops.submit_to_upsampler(ops.prepare(job_id).ready))


@job(
    executor_def=in_process_executor,
    hooks={refund_at_once},
    tags=_tags(FULFILMENT_QUEUE),
    description="Upscale jobs whose result is known: checked and delivered, or failed and refunded.",
)
def fulfil_upscales() -> None:
    ops.results_leased().map(lambda job_id: ops.deliver(ops.verify_result(job_id).ready))


@job(
    executor_def=in_process_executor,
    tags=_tags(PRIORITY_QUEUE),
    description="Refunds that are owed, and those that Stripe calls pending.",
)
def refund_upscales() -> None:
    ops.refunds_leased().map(ops.refund_payment)


@job(
    executor_def=in_process_executor,
    tags=_tags(PRIORITY_QUEUE),
    description="Mails that are owed: their first try failed, or its answer was lost.",
)
def send_mails() -> None:
    ops.mails_leased().map(ops.send_mail)


JOBS = [submit_upscales, fulfil_upscales, refund_upscales, send_mails]
