"""What calls of Stripe that are no refunds tell about its circuit breaker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smi_pipeline.core.errors import LocalError, RateLimited, TransientError
from smi_pipeline.core.faults import STRIPE, Failure, Scope
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.steps import failure_of


@contextmanager
def counted(ctx: ServiceContext) -> Iterator[None]:
    """Count whether Stripe answers what is read inside. However often it does not, that counts once in a row."""
    try:
        yield
    except (RateLimited, LocalError):
        raise
    except TransientError as error:
        # A key that may not read something may still take payments and refund: only what needs it opens at once.
        ctx.state.breakers.note(replace(failure_of(error, STRIPE, "reconciliation"), scope=Scope.UNKNOWN))
        raise
    note_success(ctx)


def note_success(ctx: ServiceContext, *, of_refund: int | None = None) -> None:
    """Count a success for Stripe's circuit breaker if no refund can: one that waits tells more, as a key may be allowed
    to read and not to refund. The refund `of_refund` has read, too: another one that waits may probe in its place."""
    if not ctx.state.refunds.tell_soon(besides=of_refund):
        ctx.state.breakers.note_success(STRIPE, ctx.policy)
    elif of_refund is not None:
        ctx.state.breakers.note(Failure(breaker=STRIPE, work_key=str(of_refund), message="", scope=Scope.ORDER))
