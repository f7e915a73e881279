"""Timers that survive a restart: call a handler with these arguments at this time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from smi_pipeline.sandbox.ledger import Ledger

Handler = Callable[..., Awaitable[None]]

logger = logging.getLogger(__name__)


class Timers:
    """Calls handlers on the event loop when they are due, at least once.

    A timer is deleted after its handler has returned. One that was interrupted runs again at the next start, so
    handlers check the state before they act.
    """

    def __init__(self, ledger: Ledger, handlers: dict[str, Handler]) -> None:
        self._ledger = ledger
        self._handlers = handlers
        self._armed: dict[str, asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._started = False

    def start(self) -> None:
        """Arm all timers of the ledger. Call on the running event loop."""
        self._started = True
        for key, timer in self._ledger.items("timers"):
            self._arm(key, timer["due"])

    def at(self, due: float, action: str, **arguments: Any) -> None:
        """Call the handler ``action`` at ``due`` (unix seconds of the machine's clock; at once if in the past)."""
        key = self._ledger.append("timers", {"due": due, "action": action, "arguments": arguments})
        if self._started:
            self._arm(key, due)

    def _arm(self, key: str, due: float) -> None:
        delay = max(0.0, due - time.time())
        self._armed[key] = asyncio.get_running_loop().call_later(delay, self._fire, key)

    def _fire(self, key: str) -> None:
        self._armed.pop(key, None)
        task = asyncio.get_running_loop().create_task(self._run(key))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, key: str) -> None:
        timer = self._ledger.get("timers", key)
        if timer is None:
            return
        try:
            await self._handlers[timer["action"]](**timer["arguments"])
        except Exception:
            logger.exception("timer %s failed", timer["action"])
        self._ledger.delete("timers", key)

    async def stop(self) -> None:
        """Cancel all timers; those that have not finished stay in the ledger."""
        self._started = False
        for handle in self._armed.values():
            handle.cancel()
        self._armed.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
