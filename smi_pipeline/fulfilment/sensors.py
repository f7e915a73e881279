"""Sensors: each tick is bounded in rows and seconds, leases what is due and asks for one run per lease.

The lease is the queue; the run is only the hand that works on it. A run that never starts costs its lease time,
no more. A failed read ends the tick with an error and is never taken for "nothing to do".
"""

from collections.abc import Iterator

from dagster import DefaultSensorStatus, RunRequest, SensorEvaluationContext, SkipReason, sensor

from smi_pipeline.core.models import Queue
from smi_pipeline.core.runs import BATCH_LIMIT, run_config
from smi_pipeline.fulfilment import jobs
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events

MAX_LEASES = {Queue.SUBMIT: 4, Queue.FULFIL: 4, Queue.REFUND: 2, Queue.MAIL: 2}
"""Live leases per queue: about two runs per warm worker, so that a backlog makes no pile of runs."""


def _requests(ctx: ServiceContext, queue: Queue) -> Iterator[RunRequest | SkipReason]:
    started = 0
    for lease_id, keys in next_batches(ctx, queue, max_leases=MAX_LEASES[queue], limit=BATCH_LIMIT):
        started += 1
        yield RunRequest(run_key=lease_id, run_config=run_config(queue, lease_id), tags={"smi/leased": str(len(keys))})
    if not started:
        yield SkipReason(f"nothing is due to {queue}, or all slots are taken")


RUNNING = DefaultSensorStatus.RUNNING

TICK_SECONDS = 4
"""Seconds. The daemon looks every 5 s, and counts from the start of the last tick, a little after that look: with 5
here it skips every other look, and ticks every 10 s."""


@sensor(
    job=jobs.submit_upscales,
    description="W3: paid upscale jobs start by themselves.",
    minimum_interval_seconds=TICK_SECONDS,
    default_status=RUNNING,
)
def paid_jobs(context: SensorEvaluationContext, smi: SmiResource):
    yield from _requests(smi.ctx("paid_jobs sensor"), Queue.SUBMIT)


@sensor(
    job=jobs.fulfil_upscales,
    description="W8: asks Upsampler for what is due (hinted by webhooks first), owns the deadlines, starts fulfilment.",
    minimum_interval_seconds=TICK_SECONDS,
    default_status=RUNNING,
)
def upsampler_completions(context: SensorEvaluationContext, smi: SmiResource):
    ctx = smi.ctx("upsampler_completions sensor")
    tally = check_completions(ctx)
    context.log.info(f"status calls: {dict(tally)}")
    yield from _requests(ctx, Queue.FULFIL)


@sensor(
    job=jobs.refund_upscales,
    description="W15: the guarantee that every owed refund is made.",
    minimum_interval_seconds=TICK_SECONDS,
    default_status=RUNNING,
)
def refunds_owed(context: SensorEvaluationContext, smi: SmiResource):
    yield from _requests(smi.ctx("refunds_owed sensor"), Queue.REFUND)


@sensor(
    job=jobs.send_mails,
    description="The guarantee that every owed mail is sent.",
    minimum_interval_seconds=TICK_SECONDS,
    default_status=RUNNING,
)
def mails_owed(context: SensorEvaluationContext, smi: SmiResource):
    yield from _requests(smi.ctx("mails_owed sensor"), Queue.MAIL)


@sensor(
    minimum_interval_seconds=15,
    default_status=RUNNING,
    jobs=[jobs.submit_upscales],
    description="W2: Stripe events whose webhook never came.",
)
def stripe_reconciliation(context: SensorEvaluationContext, smi: SmiResource):
    tally = reconcile_events(smi.ctx("stripe_reconciliation sensor"))
    yield SkipReason(f"events that had not come by webhook: {dict(tally)}" if tally else "every event was known")


SENSORS = [paid_jobs, upsampler_completions, refunds_owed, mails_owed, stripe_reconciliation]
