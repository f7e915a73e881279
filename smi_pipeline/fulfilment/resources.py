"""Resources of ops and sensors: the service context, built once per process, and the lease of a run."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from dagster import AssetMaterialization, ConfigurableResource, InitResourceContext, OpExecutionContext
from pydantic import PrivateAttr

from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.lease_renewal import start_renewing

_contexts: dict[int, ServiceContext] = {}
_building = threading.Lock()


class SmiResource(ConfigurableResource["SmiResource"]):
    """The configured services, built on first use."""

    def ctx(self, actor: str) -> ServiceContext:
        """Return this process's service context, acting as `actor` in the audit trail."""
        with _building:
            ctx = _contexts.get(os.getpid())
            if ctx is None:
                from smi_pipeline.settings import Settings
                from smi_pipeline.wiring import build_context

                ctx = _contexts[os.getpid()] = build_context(Settings(), actor=actor)
        return ctx.acting_as(actor)


class Batch(ConfigurableResource["Batch"]):
    """The leased rows of one run: renews their lease while a step works, and counts how they ended."""

    smi: SmiResource

    _lease_id: str | None = PrivateAttr(default=None)
    _step_ends: float = PrivateAttr(default=0.0)
    _stopped: threading.Event = PrivateAttr(default_factory=threading.Event)
    _open: set[str] = PrivateAttr(default_factory=set)
    _ended: Counter[str] = PrivateAttr(default_factory=Counter)
    _sums: Counter[str] = PrivateAttr(default_factory=Counter)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator["Batch"]:
        """Reset what an earlier run in this process left, and end the renewing thread with the run."""
        self._lease_id, self._stopped, self._open = None, threading.Event(), set()
        self._ended, self._sums = Counter(), Counter()
        try:
            yield self
        finally:
            self._stopped.set()

    def hold(self, lease_id: str, work_keys: list[str], step_seconds: float) -> None:
        """Start to renew the lease, until a step takes longer than its timeout."""
        self._lease_id = lease_id
        self._open.update(work_keys)
        self._step_ends = monotonic() + step_seconds
        start_renewing(self.smi.ctx("lease"), lease_id, self._stopped, lambda: self._step_ends)

    def step(self, seconds: float) -> str:
        """Note that a step begins and may take `seconds`. Return the lease it works under."""
        self._step_ends = monotonic() + seconds
        return self._lease_id or ""

    def ended(self, context: OpExecutionContext, work_key: str, how: str, **amounts: int) -> None:
        """Count how one row ended; after the last one record the batch as a materialisation of `deliveries`."""
        if work_key not in self._open:
            return
        self._open.discard(work_key)
        self._ended[how] += 1
        self._sums.update(amounts)
        if not self._open:
            context.log_event(
                AssetMaterialization(
                    asset_key="deliveries",
                    description="One batch of upscale jobs with known results",
                    metadata={
                        "jobs": sum(self._ended.values()),
                        "delivered": self._ended["delivered"],
                        "failed": self._ended["failed"],
                        "rescheduled": self._ended["later"],
                        "bytes": self._sums["bytes"],
                        "credits": self._sums["credits"],
                    },
                )
            )


def forget_contexts() -> None:
    """Drop this process's service context, so that its next use reads the environment again (tests)."""
    with _building:
        _contexts.clear()
