"""Keeps a lease alive while its worker lives and its step takes no longer than it may (design section 4)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic

from smi_pipeline.core.errors import TransientError
from smi_pipeline.services.context import ServiceContext

RENEW_SECONDS = 10.0


def start_renewing(ctx: ServiceContext, lease_id: str, ended: Event, step_ends: Callable[[], float]) -> None:
    """Starts to renew a lease until `ended`. From `step_ends` (monotonic) on it is not: the step hangs, so the lease
    runs out and somebody else takes the rows."""

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            if monotonic() <= step_ends():
                with suppress(TransientError):  # the next try comes before the lease ends
                    ctx.state.leases.renew(lease_id)

    Thread(target=renew, name="lease", daemon=True).start()


@contextmanager
def kept(ctx: ServiceContext, lease_id: str, *, seconds: float) -> Iterator[None]:
    """The lease is kept alive within, for at most so many seconds."""
    ended, until = Event(), monotonic() + seconds
    start_renewing(ctx, lease_id, ended, lambda: until)
    try:
        yield
    finally:
        ended.set()
