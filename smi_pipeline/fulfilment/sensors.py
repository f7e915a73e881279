"""Sensors that lease the rows that are due and request one run per lease. Each tick is bounded in rows and seconds.

The leased rows are the queue, a run only works on them: if a run never starts, its rows are due again when the lease
ends. A failed read ends the tick with an error and is never taken for "nothing is due".
"""

from collections.abc import Iterator
from functools import partial

from dagster import DefaultSensorStatus, RunRequest, SensorEvaluationContext, SkipReason, sensor

from smi_pipeline.core.faults import MAIL, RESULTS, STATUS, STRIPE, SUBMISSIONS, headline, is_source
from smi_pipeline.core.models import Queue
from smi_pipeline.core.runs import BATCH_LIMIT, run_config
from smi_pipeline.fulfilment import jobs
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events

MAX_LEASES = {Queue.SUBMIT: 4, Queue.FULFIL: 4, Queue.REFUND: 2, Queue.MAIL: 2}
"""Live leases per queue, called slots in messages: about two runs per warm worker, so that a backlog does not turn
into a pile of runs."""

_ROWS = {Queue.SUBMIT: "paid jobs", Queue.FULFIL: "results", Queue.REFUND: "refunds", Queue.MAIL: "mails"}


Tick = Iterator[RunRequest | SkipReason]


def _requests(ctx: ServiceContext, queue: Queue) -> Tick:
    started = 0
    for lease_id, keys in next_batches(
        ctx, queue, max_leases=MAX_LEASES[queue], limit=BATCH_LIMIT, patience=PATIENCE_SECONDS
    ):
        started += 1
        yield RunRequest(run_key=lease_id, run_config=run_config(queue, lease_id), tags={"smi/leased": str(len(keys))})
    if not started:
        yield SkipReason(_why_none(ctx, queue))


def _why_none(ctx: ServiceContext, queue: Queue) -> str:
    rows, due = _ROWS[queue], ctx.state.leases.due(queue)
    if not due:
        return f"no {rows} are due"
    return f"{_obstacle(ctx, queue)}; {due} {rows} are due"


def _obstacle(ctx: ServiceContext, queue: Queue) -> str:
    """Return what the due rows of a queue wait for."""
    waits_for = [
        headline(breaker.name)
        for breaker in ctx.state.breakers.all()
        if breaker.is_open and (breaker.name in _BREAKERS[queue] or (queue is Queue.SUBMIT and is_source(breaker.name)))
    ]
    if queue is Queue.SUBMIT:
        room = ctx.state.leases.room_to_start(ctx.policy)
        if room.free <= 0:
            waits_for.append(room.reason)
    return "; ".join(waits_for) or f"all {MAX_LEASES[queue]} slots are busy"


_BREAKERS = {
    Queue.SUBMIT: (SUBMISSIONS, STATUS, RESULTS),
    Queue.FULFIL: (RESULTS,),
    Queue.REFUND: (STRIPE,),
    Queue.MAIL: (MAIL,),
}
"""The circuit breakers that rows of a queue wait for, beside those of the hosts of source images."""


PATIENCE_SECONDS = 3.5
"""How long a tick waits for the next call of the allowance, so that work goes on when a pause ends, not at the tick
after it."""

TICK_SECONDS = 4
"""Least seconds between ticks. The daemon checks every 5 s and measures from the start of the last tick, which is a
little after its check: with 5 s here it would skip every other check and tick every 10 s."""

_queue_sensor = partial(sensor, minimum_interval_seconds=TICK_SECONDS, default_status=DefaultSensorStatus.RUNNING)


@_queue_sensor(job=jobs.submit_upscales, description="Starts paid upscale jobs.")
def paid_jobs(context: SensorEvaluationContext, smi: SmiResource) -> Tick:
    """Request runs for the paid jobs that are due."""
    yield from _requests(smi.ctx("paid_jobs sensor"), Queue.SUBMIT)


@_queue_sensor(
    job=jobs.fulfil_upscales,
    description="Polls Upsampler (jobs named by a webhook first), enforces deadlines and starts fulfilment.",
)
def upsampler_completions(context: SensorEvaluationContext, smi: SmiResource) -> Tick:
    """Poll Upsampler, end what is past its deadline, and request runs for the known results."""
    ctx = smi.ctx("upsampler_completions sensor")
    tally = check_completions(ctx)
    context.log.info(f"polled Upsampler: {dict(tally)}")
    yield from _requests(ctx, Queue.FULFIL)


@_queue_sensor(
    job=jobs.refund_upscales,
    description="Makes every refund that is due, also those that an earlier attempt did not complete.",
)
def refunds_owed(context: SensorEvaluationContext, smi: SmiResource) -> Tick:
    """Request runs for the refunds that are due."""
    yield from _requests(smi.ctx("refunds_owed sensor"), Queue.REFUND)


@_queue_sensor(
    job=jobs.send_mails,
    description="Sends every mail that is due, also those that an earlier attempt did not complete.",
)
def mails_owed(context: SensorEvaluationContext, smi: SmiResource) -> Tick:
    """Request runs for the mails that are due."""
    yield from _requests(smi.ctx("mails_owed sensor"), Queue.MAIL)


@sensor(
    minimum_interval_seconds=15,
    default_status=DefaultSensorStatus.RUNNING,
    jobs=[jobs.submit_upscales],
    description="Reads Stripe events whose webhook never arrived.",
)
def stripe_reconciliation(context: SensorEvaluationContext, smi: SmiResource) -> Iterator[SkipReason]:
    """Apply the Stripe events that no webhook brought."""
    tally = reconcile_events(smi.ctx("stripe_reconciliation sensor"))
    yield SkipReason(f"applied events that no webhook brought: {dict(tally)}" if tally else "no new Stripe events")


SENSORS = [paid_jobs, upsampler_completions, refunds_owed, mails_owed, stripe_reconciliation]
