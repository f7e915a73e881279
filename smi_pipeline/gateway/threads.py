"""Threads for the synchronous services. Slow work has its own pools, so that webhooks never wait behind it."""

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import structlog

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Queue

T = TypeVar("T")
log = structlog.get_logger("smi_pipeline.gateway")

QUICK, EVENTS, ORDERS, FILES = 14, 14, 4, 16
"""Threads for short database work; for Stripe's events, which read from Stripe; for new orders, which fetch an image;
for reading files."""

EVENTS_WAITING = 100
"""How many of Stripe's events may wait for a thread. Stripe is asked to send others again: if they waited, they would
use up the server's connections, and customers would be turned away."""

DISPATCHES = 4
"""Threads for immediate dispatch: that of a payment must not wait until that of a webhook has ended."""

WATCH_SECONDS = 10.0
"""Between two looks at the other processes."""

STOP_SECONDS = 3.0

DATABASE_CONNECTIONS = 22
"""Size of the pool. With its overflow of 10 it has a connection for each of the first three groups' threads; they are
opened when needed."""


class Threads:
    """Groups of threads, each with a limit."""

    def __init__(self) -> None:
        self._quick = anyio.CapacityLimiter(QUICK)
        self._events = anyio.CapacityLimiter(EVENTS)
        self._orders = anyio.CapacityLimiter(ORDERS)
        self._files = anyio.CapacityLimiter(FILES)

    async def quick(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call that takes milliseconds."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._quick)

    async def event(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run the handling of a Stripe event: milliseconds, or half a minute while Stripe does not answer.

        Raise TransientError when too many events wait.
        """
        if self._events.statistics().tasks_waiting >= EVENTS_WAITING:
            raise TransientError("too many Stripe events are waiting", counts=False)
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._events)

    async def order(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run the registration of an order or an admin action, which may take a minute."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._orders)

    async def file(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a read from the storage."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._files)


class BackgroundWatch:
    """Calls `look` every `WATCH_SECONDS` in a thread of its own. Its errors are only logged."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread, a daemon: a mail that is being sent does not keep the process alive."""
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End it after the look under way."""
        self._stopped.set()

    def _work(self) -> None:
        while not self._stopped.wait(WATCH_SECONDS):
            try:
                self._look()
            except Exception as error:
                log.warning("the other processes cannot be watched", action="watch", error=type(error).__name__)


class BackgroundDispatch:
    """Calls `on_work` for a queue that has work, in the background.

    The reply never waits for it. Its errors are only logged: the sensors start the same work a few seconds later.
    """

    def __init__(self, on_work: Callable[[Queue], None]) -> None:
        self._on_work = on_work
        self._waiting: SimpleQueue[Queue | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __call__(self, queue: Queue) -> None:
        """Start the work of `queue` in the background."""
        self._waiting.put(queue)

    def start(self) -> None:
        """Start the threads. They are daemons, so that a slow dispatch does not keep the process alive."""
        for number in range(DISPATCHES):
            thread = threading.Thread(target=self._work, name=f"dispatch-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Give dispatches under way a moment to end."""
        for _ in self._threads:
            self._waiting.put(None)
        ends = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _work(self) -> None:
        while (queue := self._waiting.get()) is not None:
            try:
                self._on_work(queue)
            except Exception as error:
                log.warning(
                    "immediate dispatch failed; a sensor will start the work",
                    action="dispatch",
                    queue=str(queue),
                    error=type(error).__name__,
                )
