"""How much work one run gets: one row when it is quiet, up to a batch under load (design section 5)."""

from collections.abc import Iterator

from smi_pipeline.core.models import Queue
from smi_pipeline.services.context import ServiceContext


def next_batches(ctx: ServiceContext, queue: Queue, *, max_leases: int, limit: int) -> Iterator[tuple[str, list[str]]]:
    """Leases what is due, batch by batch, while there is a free slot: (lease_id, work keys).

    Submissions stop at `max_in_flight` open ones: what Upsampler has not finished is waited for first.
    """
    for _ in range(max_leases):
        room = limit
        if queue is Queue.SUBMIT:
            room = min(limit, ctx.policy.max_in_flight - ctx.state.submissions.in_flight())
            if room <= 0:
                return
        leased = ctx.state.leases.lease(queue, room, max_leases=max_leases)
        if leased is None:
            return
        yield leased
