"""Where the synchronous services run. Slow work has threads of its own, so that webhooks never wait behind it."""

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
"""Threads for short work on the database; for Stripe's events, which read from Stripe; for new orders, which fetch an
image of the shop; for reading files."""

EVENTS_WAITING = 100
"""So many more of Stripe's events wait for a thread. Any others are to come again: waiting, they would take up all the
requests that the server holds at once, and customers would be turned away."""

KICKS = 4
"""Threads for kicks: a payment must not wait until the kick of a webhook has ended."""

FAREWELL_SECONDS = 3.0

DATABASE_CONNECTIONS = 22
"""Size of the pool; with its overflow of 10 there is a connection for each thread of the first three that may want
one. They are opened when they are needed."""


class Threads:
    """Groups of threads, each with its limit."""

    def __init__(self) -> None:
        self._quick = anyio.CapacityLimiter(QUICK)
        self._events = anyio.CapacityLimiter(EVENTS)
        self._orders = anyio.CapacityLimiter(ORDERS)
        self._files = anyio.CapacityLimiter(FILES)

    async def quick(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a call that takes milliseconds."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._quick)

    async def event(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs what an event of Stripe means: milliseconds, or half a minute while Stripe does not answer. Raises
        TransientError when too many wait for that."""
        if self._events.statistics().tasks_waiting >= EVENTS_WAITING:
            raise TransientError("too many events of Stripe wait for Stripe's answers", counts=False)
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._events)

    async def order(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs the registration of an order, which may take a minute."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._orders)

    async def file(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a read from the storage."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._files)


class Kick:
    """Tells `on_work` that a queue has work, in the background: the reply never waits for it, and its errors are only
    logged, because the sensors find the work all the same (design section 5)."""

    def __init__(self, on_work: Callable[[Queue], None] | None) -> None:
        self._on_work = on_work
        self._waiting: SimpleQueue[Queue | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __call__(self, queue: Queue) -> None:
        if self._on_work is not None:
            self._waiting.put(queue)

    def start(self) -> None:
        """Starts the threads, after a fork if there is one. Daemons: a slow kick must not keep the process alive."""
        if self._on_work is not None:
            for number in range(KICKS):
                thread = threading.Thread(target=self._work, name=f"kick-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """Gives kicks under way a moment to end."""
        for _ in self._threads:
            self._waiting.put(None)
        ends = time.monotonic() + FAREWELL_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _work(self) -> None:
        while (queue := self._waiting.get()) is not None:
            try:
                if self._on_work is not None:
                    self._on_work(queue)
            except Exception as error:
                log.warning(
                    "a kick failed; the sensor does it", action="kick", queue=str(queue), error=type(error).__name__
                )
