"""Immediate dispatch: new work is leased and gets its run at once.

The sensors are the guarantee; leases make it harmless that both look for the same work. A run gets one row when it is
quiet, up to a batch under load.
"""

import threading
import time
from collections.abc import Iterator

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.ports import RunsPort
from smi_pipeline.core.runs import BATCH_LIMIT
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext, log

GATHER_SECONDS = 0.01
"""How long dispatch waits for more work: payments and webhooks come in bursts."""

LIVE_LEASES = 2
"""No further run is started while this many leases of a queue are live: without it, 80 runs did the work of 15."""

PATIENCE_SECONDS = 10.0
TRIES = 3


def next_batches(ctx: ServiceContext, queue: Queue, *, max_leases: int, limit: int) -> Iterator[tuple[str, list[str]]]:
    """Lease what is due, batch by batch, while there is a free slot. Yield (lease_id, work keys).

    Submissions stop at `max_in_flight` open ones.
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


class Dispatcher:
    """Call it with a queue that has work. Calls during a dispatch lead to one more dispatch after it."""

    def __init__(self, ctx: ServiceContext, runs: RunsPort) -> None:
        self._ctx = ctx
        self._runs = runs
        self._lock = threading.Lock()
        self._working: set[Queue] = set()
        self._again: set[Queue] = set()

    def __call__(self, queue: Queue) -> None:
        """Lease what is due in a queue, and start its runs."""
        with self._lock:
            if queue in self._working:
                self._again.add(queue)
                return
            self._working.add(queue)
        try:
            while True:
                time.sleep(GATHER_SECONDS)
                self._dispatch(queue)
                with self._lock:
                    if queue not in self._again:
                        return
                    self._again.discard(queue)
        finally:
            with self._lock:
                self._working.discard(queue)
                self._again.discard(queue)

    def _dispatch(self, queue: Queue) -> None:
        if queue is Queue.FULFIL:  # the webhook does not say what the result is
            check_completions(self._ctx, limit=BATCH_LIMIT, seconds=10)
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            for lease_id, keys in next_batches(self._ctx, queue, max_leases=LIVE_LEASES, limit=BATCH_LIMIT):
                self._launch(queue, lease_id, len(keys))
            if time.monotonic() > ends or not self._ctx.state.leases.due(queue):
                return
            time.sleep(0.2)

    def _launch(self, queue: Queue, lease_id: str, size: int) -> None:
        for attempt in range(TRIES):
            try:
                self._runs.launch(queue, lease_id, size)
                return
            except SmiError as error:
                log.warning("a run for %s could not be started: %s", queue, error)
                time.sleep(0.2 * (attempt + 1))
        self._ctx.state.leases.give_back(lease_id)
