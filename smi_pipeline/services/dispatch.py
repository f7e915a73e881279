"""Immediate dispatch: new work is leased and gets its run at once.

The sensors are the guarantee; leases make it harmless that both look for the same work. A run gets one row when it is
quiet, up to a batch under load. Jobs that wait for a call of the allowance or for a result of another one are waited
for, a little: when a pause ends, work goes on at once.
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
"""How long dispatch looks again while rows are due and none can be leased."""

LONGEST_PAUSE_SECONDS = 70.0
"""Dispatch waits as long for the next call of the allowance: a minute's window, and a little."""

LOOK_SECONDS = 0.2
TRIES = 3


def next_batches(
    ctx: ServiceContext, queue: Queue, *, max_leases: int, limit: int, patience: float = 0.0
) -> Iterator[tuple[str, list[str]]]:
    """Lease what is due, batch by batch, while there is a free slot. Yield (lease_id, work keys).

    No more jobs are leased for submission than may start now; the first one is waited for, for up to `patience`
    seconds.
    """
    ends = time.monotonic() + patience
    for number in range(max_leases):
        leased = ctx.state.leases.lease(queue, limit, max_leases=max_leases, policy=ctx.policy)
        while leased is None and number == 0 and queue is Queue.SUBMIT:
            pause = _seconds_to_look(ctx, until=ends)
            if pause is None:
                return
            time.sleep(pause)
            leased = ctx.state.leases.lease(queue, limit, max_leases=max_leases, policy=ctx.policy)
        if leased is None:
            return
        yield leased


def _seconds_to_look(ctx: ServiceContext, *, until: float) -> float | None:
    """Return after how many seconds a job may start; None if that is not before `until`, if none is due, or if they
    wait for something else."""
    room = ctx.state.leases.room_to_start(ctx.policy)
    if room.free > 0 or not ctx.state.leases.due(Queue.SUBMIT):
        return None
    pause = LOOK_SECONDS if room.seconds is None else room.seconds + 0.01
    return pause if time.monotonic() + pause <= until else None


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
            self._start_next_submissions()
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._launch_due(queue) and queue is Queue.SUBMIT:
                ends = time.monotonic() + PATIENCE_SECONDS  # there may be many more
            if not self._ctx.state.leases.due(queue):
                return
            pause = self._pause(queue)
            if pause > LOOK_SECONDS:  # it is known when a job may start
                ends = time.monotonic() + pause + PATIENCE_SECONDS
            if pause > LONGEST_PAUSE_SECONDS or time.monotonic() > ends:
                return
            time.sleep(min(pause, 1.0))

    def _launch_due(self, queue: Queue) -> bool:
        """Lease what is due and start its runs. Return whether a run was started."""
        started = False
        for lease_id, keys in next_batches(self._ctx, queue, max_leases=LIVE_LEASES, limit=BATCH_LIMIT):
            started |= self._launch(queue, lease_id, len(keys))
        return started

    def _start_next_submissions(self) -> None:
        """Use the places that became free at Upsampler, unless another thread does."""
        with self._lock:
            if Queue.SUBMIT in self._working:
                return
        if self._ctx.state.leases.due(Queue.SUBMIT):
            self._launch_due(Queue.SUBMIT)

    def _pause(self, queue: Queue) -> float:
        """Return the seconds until it is worth to look again."""
        if queue is not Queue.SUBMIT:
            return LOOK_SECONDS
        return max(LOOK_SECONDS, self._ctx.state.leases.room_to_start(self._ctx.policy).seconds or 0.0)

    def _launch(self, queue: Queue, lease_id: str, size: int) -> bool:
        for attempt in range(TRIES):
            try:
                self._runs.launch(queue, lease_id, size)
                return True
            except SmiError as error:
                log.warning("a run for %s could not be started: %s", queue, error)
                time.sleep(0.2 * (attempt + 1))
        self._ctx.state.leases.give_back(lease_id)
        return False
