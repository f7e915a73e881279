"""Unexpected errors about one object of many: they stay with it and are told once, and the others go on."""

from collections.abc import Iterator
from contextlib import contextmanager

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.formatting import one_line
from smi_pipeline.services.context import ServiceContext, log


@contextmanager
def kept_apart(ctx: ServiceContext, subject: str, *, job_id: str | None = None, told: bool = True) -> Iterator[None]:
    """Keep what fails inside, for a reason that nobody has thought of, with its object. Other errors are raised.

    `told`: there may be a task of an earlier failure, which a success closes."""
    try:
        yield
        if told:
            settled(ctx, subject)
    except SmiError:
        raise
    except Exception as error:
        tell(ctx, subject, error, job_id=job_id)


def tell(ctx: ServiceContext, subject: str, error: Exception, *, job_id: str | None = None) -> None:
    """Log an unexpected error about an object, and open its manual task."""
    log.error("%s failed", subject, exc_info=error)
    words = in_words(error)
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.UNEXPECTED,
        subject=subject,
        job_id=job_id,
        message=f"Unexpected error: {subject} failed ({words}). All others went on.",
        next_step="It is tried again. If it goes on failing, report the error with its traceback in the log.",
    )


def in_words(error: Exception) -> str:
    """Return an unexpected error as text that can be stored."""
    return one_line(f"{type(error).__name__}: {error}", 200)


def settled(ctx: ServiceContext, subject: str) -> None:
    """Close the task about an object that has worked again."""
    ctx.state.manual_tasks.close(ManualTaskKind.UNEXPECTED, subject, actor=ctx.actor)
