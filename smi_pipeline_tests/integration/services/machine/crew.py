"""Workers that stop, die or meet a fault at any call outside and any commit, one after the other in one thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from greenlet import getcurrent, greenlet

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    PermanentError,
    RateLimited,
    SmiError,
    TransientError,
)
from smi_pipeline.state.database import Database, Transaction

COMMITTING = "committing"
"""The moment right before COMMIT: rows are locked, so a worker can die here, but not wait."""

_NO_ANSWER = AmbiguousError("no answer")
FAULTS: dict[str, tuple[Exception, ...]] = {
    "upscaler.submit": (
        TransientError("503", counts=False),
        RateLimited("429", retry_after=20),
        AccountError("401 wrong key"),
        PermanentError("rejected_by_api", "422: no image"),
        _NO_ANSWER,
    ),
    "upscaler.submit answered": (_NO_ANSWER,),
    "upscaler.status": (TransientError("500"), RateLimited("429", retry_after=20), AccountError("402 no credits")),
    "payments.payment": (_NO_ANSWER, RateLimited("429", retry_after=5)),
    "payments.payments_since": (_NO_ANSWER,),
    "payments.events_since": (_NO_ANSWER,),
    "payments.expire_checkout": (_NO_ANSWER,),
    "payments.checkout": (_NO_ANSWER,),
    "payments.refunds_of": (_NO_ANSWER,),
    "payments.refund": (_NO_ANSWER,),
    "payments.create_refund": (
        _NO_ANSWER,
        RateLimited("429", retry_after=5),
        PermanentError("stripe_refused", "the account is closed"),
    ),
    "payments.create_refund answered": (_NO_ANSWER,),
    "mailer.send": (
        TransientError("451 later"),
        TransientError("no connection", counts=False),
        PermanentError("mail_refused", "550 no such user"),
    ),
    "mailer.send answered": (_NO_ANSWER,),
    "fetcher.fetch source": (TransientError("connection refused"), PermanentError("source_unreachable", "404")),
    "fetcher.fetch result": (TransientError("connection refused"), PermanentError("result_unreachable", "404")),
    "storage.put": (TransientError("disk full"),),
}
"""What can go wrong at a call, before it had an effect or (`answered`) after."""


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What happens to a worker after it has passed so many moments: it ends its work, waits, dies, or the next call
    that can fail does (in the way `choice` says)."""

    passes: int = 0
    what: str = "end"  # end | wait | die | fault
    choice: int = 0


@dataclass
class Worker:
    """One process at work. It may wait within a call outside, or right after a commit."""

    name: str
    fate: Interruption
    hands: greenlet
    lease_id: str | None = None
    waited: float = 0.0  # seconds that passed while it waited
    passed: list[str] = field(default_factory=list)


class Crew:
    """The workers of one shop. Code that no worker runs passes every moment."""

    def __init__(self) -> None:
        self.waiting: list[Worker] = []
        self._working: Worker | None = None

    @property
    def worker(self) -> Worker | None:
        """Whoever works now."""
        return self._working

    def start(self, name: str, work: Callable[[], object], fate: Interruption) -> None:
        """A new worker begins."""
        self._go(Worker(name=name, fate=fate, hands=greenlet(lambda: self._run(work))))

    def wake(self, worker: Worker, fate: Interruption) -> None:
        """A worker that waited goes on."""
        self.waiting.remove(worker)
        worker.fate = fate
        self._go(worker)

    def moment(self, name: str) -> None:
        """The present worker passes this moment, waits at it, dies at it, or meets a fault."""
        worker = self._working
        if worker is None or getcurrent() is not worker.hands:
            return
        worker.passed.append(name)
        fate = worker.fate
        if fate.what == "end" or len(worker.passed) <= fate.passes:
            return
        if fate.what == "die":
            raise Crash(name)
        if fate.what == "wait" and name != COMMITTING:
            self.waiting.append(worker)
            worker.hands.parent.switch()
        elif fate.what == "fault" and name in FAULTS:
            worker.fate = Interruption()
            raise FAULTS[name][fate.choice % len(FAULTS[name])]

    def watch(self, database: Database) -> None:
        """Commits of this database are moments from now on."""
        plain = database.transaction

        @contextmanager
        def transaction() -> Iterator[Transaction]:
            with plain() as tx:
                yield tx
                self.moment(COMMITTING)
            self.moment("committed")

        database.transaction = transaction  # type: ignore[method-assign]

    def _run(self, work: Callable[[], object]) -> None:
        with suppress(Crash, SmiError):  # a refused command, an answer 503 to a webhook: the caller's business
            work()

    def _go(self, worker: Worker) -> None:
        worker.passed.clear()
        self._working = worker
        try:
            worker.hands.switch()
        finally:
            self._working = None
