"""The Dagster jobs of the fulfilment, started by sensors and by immediate dispatch."""

from dagster import in_process_executor, job

from smi_pipeline.core.runs import FULFILMENT_QUEUE, PRIORITY_QUEUE
from smi_pipeline.fulfilment import ops
from smi_pipeline.fulfilment.hooks import refund_at_once

MAX_RUNTIME_SECONDS = 1200
"""A run that downloads may meet a slow host: its longest download, and the rest of its batch."""


def _tags(queue: str) -> dict[str, str]:
    return {"dagster-celery/queue": queue, "dagster-celery/run_priority": "5"}


_DOWNLOADING = {**_tags(FULFILMENT_QUEUE), "dagster/max_runtime": str(MAX_RUNTIME_SECONDS)}


@job(executor_def=in_process_executor, hooks={refund_at_once}, tags=_DOWNLOADING)
def submit_upscales() -> None:
    """Check paid upscale jobs, store their source image and submit them to Upsampler."""
    ops.paid_jobs_leased().map(lambda job_id: ops.submit_to_upsampler(ops.prepare(job_id).ready))


@job(executor_def=in_process_executor, hooks={refund_at_once}, tags=_DOWNLOADING)
def fulfil_upscales() -> None:
    """Check and deliver the results of upscale jobs, or fail and refund them."""
    ops.results_leased().map(lambda job_id: ops.deliver(ops.verify_result(job_id).ready))


@job(executor_def=in_process_executor, tags=_tags(PRIORITY_QUEUE))
def refund_upscales() -> None:
    """Make the refunds that are due and follow those that are pending at Stripe."""
    ops.refunds_leased().map(ops.refund_payment)


@job(executor_def=in_process_executor, tags=_tags(PRIORITY_QUEUE))
def send_mails() -> None:
    """Send the mails whose first attempt failed or was not confirmed."""
    ops.mails_leased().map(ops.send_mail)


JOBS = [submit_upscales, fulfil_upscales, refund_upscales, send_mails]
