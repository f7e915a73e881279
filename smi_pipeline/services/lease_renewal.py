"""Renewal of a lease while its worker lives and its step stays within its time limit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic

from smi_pipeline.core.errors import TransientError
from smi_pipeline.services.context import ServiceContext

RENEW_SECONDS = 10.0


def start_renewing(ctx: ServiceContext, lease_id: str, ended: Event, step_ends: Callable[[], float]) -> None:
    """Renew a lease in a thread until `ended`. After `step_ends` (monotonic) the step is taken to hang: the lease
    expires, and another worker takes the rows."""

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            if monotonic() <= step_ends():
                with suppress(TransientError):  # the next attempt comes before the lease expires
                    ctx.state.leases.renew(lease_id)

    Thread(target=renew, name="lease", daemon=True).start()


@contextmanager
def renewed(ctx: ServiceContext, lease_id: str, *, seconds: float) -> Iterator[None]:
    """Renew the lease within the block, for at most `seconds`."""
    ended, until = Event(), monotonic() + seconds
    start_renewing(ctx, lease_id, ended, lambda: until)
    try:
        yield
    finally:
        ended.set()
