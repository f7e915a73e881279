"""Where the synchronous services run. Slow work has threads of its own, so that webhooks never wait behind it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import structlog

from smi_pipeline.core.models import Queue

T = TypeVar("T")
log = structlog.get_logger("smi_pipeline.gateway")

QUICK, ORDERS, FILES = 14, 4, 16
"""Threads for short work on the database; for new orders, which fetch an image of the shop; for reading files."""

DATABASE_CONNECTIONS = 10
"""Size of the pool; with its overflow of 10 there is a connection for each thread that may want one."""


class Threads:
    """Three groups of threads, each with its limit."""

    def __init__(self) -> None:
        self._quick = anyio.CapacityLimiter(QUICK)
        self._orders = anyio.CapacityLimiter(ORDERS)
        self._files = anyio.CapacityLimiter(FILES)

    async def quick(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a call that takes milliseconds."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._quick)

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
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="kick")

    def __call__(self, queue: Queue) -> None:
        if self._on_work is not None:
            self._pool.submit(self._run, self._on_work, queue)

    def close(self) -> None:
        """Waits for kicks under way, drops those that have not begun."""
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def _run(on_work: Callable[[Queue], None], queue: Queue) -> None:
        try:
            on_work(queue)
        except Exception as error:
            log.warning("a kick failed; the sensor does it", action="kick", queue=queue, error=type(error).__name__)
