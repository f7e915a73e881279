"""Failpoints: named points of the money path at which a test can make a process die, hang or fail.

A point lies before and after every external call and every commit of `CALLS`. They are off, and cost nothing, unless
`SMI_FAILPOINTS` names a folder: then `wiring` puts `FailpointProxy` around the ports, and a process that passes a point
claims the file of that name in the folder, if there is one. Each file is claimed once, by one process.

    FOLDER/armed/payments.create_refund.after                    the first process that passes
    FOLDER/armed/payments.create_refund.after@worker-priority     that process of the stack only (SMI_PROCESS)

The file holds the action: `kill` (SIGKILL to itself), `raise` (FailpointError), `hang` (until the file is removed
from FOLDER/hit, where the claim has moved it, with the process id at the end of its name). If there is a folder
FOLDER/passed, each process records there which points it passes.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("smi_pipeline")

PROCESS_VARIABLE = "SMI_PROCESS"
"""Set by the stack: the name of the child that a process belongs to."""

COMMITS = (
    "jobs.register",
    "jobs.checkout_created",
    "jobs.abandon",
    "payments.record_payment",
    "payments.note_dispute",
    "webhook_inbox.note",
    "reconciliation.set_cursor",
    "leases.lease",
    "leases.lease_one",
    "leases.start",
    "leases.reschedule",
    "submissions.prepared",
    "submissions.begin",
    "submissions.accepted",
    "submissions.mark_rejected",
    "submissions.mark_lost",
    "submissions.mark_for_poll",
    "submissions.claim_due_polls",
    "submissions.poll_answered",
    "submissions.poll_failed",
    "deliveries.verified",
    "deliveries.deliver",
    "deliveries.fail",
    "refunds.intend",
    "refunds.settle",
    "refunds.settle_by_facts",
    "emails.hand_over",
    "emails.accepted",
    "emails.refused",
    "limiter.acquire",
)
"""Methods of the state that write. Their point `before` lies just before COMMIT is sent, not before the first row. A
test compares them with all committing methods."""

EXTERNAL = (
    "payments.create_checkout",
    "payments.expire_checkout",
    "payments.payment",
    "payments.events_since",
    "payments.refunds_of",
    "payments.create_refund",
    "payments.refund",
    "upscaler.submit",
    "upscaler.status",
    "fetcher.fetch",
    "storage.put",
    "mailer.send",
    "runs.launch",
)

CALLS = COMMITS + EXTERNAL
POINTS = tuple(f"{call}.{moment}" for call in CALLS for moment in ("before", "after"))
"""Every failpoint there is."""


class FailpointError(Exception):
    """Raised by the action `raise`: an error that no code expects."""


class Failpoints:
    """The points of one process, controlled by a folder."""

    def __init__(self, folder: Path, process: str) -> None:
        self._armed, self._hit, self._passed = folder / "armed", folder / "hit", folder / "passed"
        self._process = process
        self._call = threading.local()
        log.warning("failpoints are on: %s decides where %s dies", folder, process or "this process")

    def reach(self, point: str) -> None:
        """Do what the folder asks for at this point, if anything. Raise FailpointError if asked to."""
        with contextlib.suppress(FileNotFoundError):
            (self._passed / f"{point}@{self._process}").touch()
        for name in (f"{point}@{self._process}", point):
            claimed = self._hit / f"{point}@{self._process}.{os.getpid()}"
            try:
                (self._armed / name).rename(claimed)
            except FileNotFoundError:
                continue
            self._act(claimed)

    def committing(self) -> None:
        """Reach the point before the commit of the method that this thread is in; the database calls this."""
        call = getattr(self._call, "name", None)
        if call:
            self.reach(f"{call}.before")

    @contextmanager
    def writing(self, call: str) -> Iterator[None]:
        """Note that this thread is in the committing method `call`."""
        self._call.name = call
        try:
            yield
        finally:
            self._call.name = None

    def _act(self, claimed: Path) -> None:
        action = claimed.read_text().strip()
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "raise":
            raise FailpointError(f"asked for by {claimed.name}")
        elif action == "hang":
            while claimed.exists():
                time.sleep(0.02)
        else:
            raise ValueError(f"{claimed.name} asks for {action!r}; it may be kill, raise or hang")


class FailpointProxy:
    """A proxy of a port that triggers the failpoints around each call."""

    def __init__(self, port: Any, name: str, failpoints: Failpoints) -> None:
        self._port, self._name, self._failpoints = port, name, failpoints

    def __getattr__(self, name: str) -> Any:
        found, call = getattr(self._port, name), f"{self._name}.{name}"
        if call in COMMITS:
            return self._committing(found, call)
        return self._calling(found, call) if call in EXTERNAL else found

    def _committing(self, method: Callable[..., Any], call: str) -> Callable[..., Any]:
        def proxied(*args: Any, **kwargs: Any) -> Any:
            with self._failpoints.writing(call):
                answer = method(*args, **kwargs)
            self._failpoints.reach(f"{call}.after")
            return answer

        return proxied

    def _calling(self, method: Callable[..., Any], call: str) -> Callable[..., Any]:
        def proxied(*args: Any, **kwargs: Any) -> Any:
            self._failpoints.reach(f"{call}.before")
            answer = method(*args, **kwargs)
            if isinstance(answer, AbstractContextManager):
                return entered(answer)
            self._failpoints.reach(f"{call}.after")
            return answer

        @contextmanager
        def entered(manager: AbstractContextManager[Any]) -> Iterator[Any]:
            with manager as value:
                self._failpoints.reach(f"{call}.after")
                yield value

        return proxied


class FailpointState:
    """The state, each part in a proxy."""

    def __init__(self, state: Any, failpoints: Failpoints) -> None:
        self._state, self._failpoints = state, failpoints

    def __getattr__(self, name: str) -> Any:
        return FailpointProxy(getattr(self._state, name), name, self._failpoints)
