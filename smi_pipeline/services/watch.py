"""Watch the parts of the service that cannot tell of their own end: the Dagster daemon, whose sensor sends all other
alerts, and the workers of each queue. The gateway does it, by its own clock: neither a moved clock nor a computer that
slept makes a part look silent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.runs import DAEMON, FULFILMENT_QUEUE, PRIORITY_QUEUE, REPORTS_QUEUE, silence, workers_of
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.services.alerts import Post, send_alerts, send_resolved
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.state.manual_tasks import RECOVERED

SILENCE_SECONDS = 120.0
"""A part that has not shown for so long that it works is told. Each does so every 15 or 30 seconds."""

STANDSTILL_SECONDS = 60.0
"""A gateway that has not looked for so long stood still itself, probably with all the others."""

_EFFECTS = {
    DAEMON: "Deadlines are not enforced, refunds and mails may wait, and no other alert is sent.",
    workers_of(FULFILMENT_QUEUE): "Paid orders are neither submitted nor delivered.",
    workers_of(PRIORITY_QUEUE): "Refunds, mails and admin actions are not carried out.",
    workers_of(REPORTS_QUEUE): "Reports are not rebuilt.",
}
_LOOK_AT_DAEMON = (
    "See whether the processes daemon and code-fulfilment run (logs/daemon.log, logs/code-fulfilment.log), and in "
    "Dagster under Automation whether the sensor alerts is on and its ticks succeed."
)
_LOOK_AT_WORKERS = "See whether the process workers runs and reaches its broker (logs/workers.log)."


@dataclass(frozen=True)
class _Pulse:
    """The newest heartbeat of a part, and when it was first seen, by the clock of this process."""

    at: datetime | None
    seen: float


class Watch:
    """Call `look` every few seconds. Alerts go to `to` by mail and to `post`, as those of the sensor.

    A part that was never there is not missed, except for the daemon. `clock` returns seconds that only go forward.
    """

    def __init__(
        self, ctx: ServiceContext, to: str | None, post: Post | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ctx, self._to, self._post, self._clock = ctx, to, post, clock
        self._pulses, self._looked = {DAEMON: _Pulse(None, clock())}, clock()
        self._unsent = True  # an earlier process may have left something

    @property
    def silent(self) -> list[str]:
        """The parts that are silent now, as far as is known."""
        ends = self._clock() - SILENCE_SECONDS
        return sorted(part for part, pulse in self._pulses.items() if pulse.seen <= ends)

    def look(self) -> None:
        """Open a task for each part that has become silent, close those of parts that are heard again, and tell both.

        A failed read is not taken for silence. Raises TransientError when the database does not answer."""
        before, self._looked = self._looked, self._clock()
        if self._looked - before > STANDSTILL_SECONDS:
            self._wait_anew()
        try:
            beats = self._ctx.state.process_heartbeats.all()
        except SmiError:  # nor could the others reach it
            self._wait_anew()
            raise
        pulses = dict(self._pulses)  # `silent` is read by other threads
        for part in {DAEMON, *beats}:
            at = beats.get(part)
            if part not in pulses or pulses[part].at != at:
                pulses[part] = _Pulse(at, self._clock())
        self._pulses = pulses
        self._unsent |= self._note(beats)
        if self._unsent:
            self._tell()
        self._looked = self._clock()  # a mail may take longer than a standstill

    def _wait_anew(self) -> None:
        self._pulses = {part: _Pulse(pulse.at, self._clock()) for part, pulse in self._pulses.items()}

    def _note(self, beats: dict[str, datetime]) -> bool:
        """Open and close the tasks. Return whether this process did: of several gateways only one then tells it."""
        tasks, kind = self._ctx.state.manual_tasks, ManualTaskKind.PROCESS_SILENT
        standing = {task.subject: task for task in tasks.opened() if task.kind == kind}
        changed = False
        for part in self.silent:
            if part not in standing:
                log.error("%s", silence(part))
                changed |= tasks.open(kind=kind, subject=part, message=_message(part), next_step=_next_step(part))
        for part, task in standing.items():
            if part in beats and beats[part] > task.opened_at:
                changed |= tasks.close(kind, part, actor=RECOVERED)
        return changed

    def _tell(self) -> None:
        for send in (send_alerts, send_resolved):
            send(self._ctx, self._to, self._post, by_gateway=True)
        tasks = self._ctx.state.manual_tasks
        self._unsent = bool(tasks.unalerted(1, by_gateway=True) or tasks.ended_by_themselves(1, by_gateway=True))


def _message(part: str) -> str:
    return (
        f"{silence(part)}: nothing was heard for {SILENCE_SECONDS / 60:.0f} minutes. {_EFFECTS.get(part, '')}".strip()
    )


def _next_step(part: str) -> str:
    return _LOOK_AT_DAEMON if part == DAEMON else _LOOK_AT_WORKERS
