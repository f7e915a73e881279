"""Show the progress of the demo: a table with a bar on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

STAGES = {
    "ordering": "being ordered",
    "awaiting_payment": "waiting for the payment to be confirmed",
    "queued": "paid, queued",
    "preparing": "in preparation",
    "upscaling": "at Upsampler",
    "checking": "in the quality check",
    "failed": "failed, being refunded",
    "mailing": "closed, waiting for the mail",
    "completed": "delivered",
    "refunded": "refunded",
}
"""Labels of the steps of the public status API, and of two that it does not have: `ordering` and `mailing`."""

_QUIET_SECONDS = 2.0


class ProgressDisplay:
    """Shows how many jobs are in which stage; a context manager."""

    def __init__(self, console: Console, jobs: int) -> None:
        self._console = console
        self._jobs = jobs
        self._started = time.monotonic()
        self._counts: Mapping[str, int] = Counter()
        self._note = ""
        self._printed: tuple[float, str] = (0.0, "")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._print(urgent=True)

    def show(self, counts: Mapping[str, int], note: str = "") -> None:
        """Show the current counts per stage, and what the demo itself is doing."""
        self._counts, self._note = counts, note
        if not self._console.is_terminal:
            self._print()

    @property
    def _closed(self) -> int:
        return self._counts.get("completed", 0) + self._counts.get("refunded", 0)

    def _print(self, *, urgent: bool = False) -> None:
        now = time.monotonic()
        stages = ", ".join(f"{self._counts[name]} {STAGES[name]}" for name in STAGES if self._counts.get(name))
        line = "; ".join(part for part in (stages, self._note) if part)
        if line == self._printed[1] or (now - self._printed[0] < _QUIET_SECONDS and not urgent):
            return
        self._printed = (now, line)
        self._console.print(f"{now - self._started:4.0f} s  {line}", soft_wrap=True, highlight=False)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right", min_width=4)
        table.add_column()
        for name, label in STAGES.items():
            count = self._counts.get(name, 0)
            table.add_row(str(count) if count else "[dim]-[/dim]", label if count else f"[dim]{label}[/dim]")
        bar = Table.grid(padding=(0, 2))
        seconds = f"{time.monotonic() - self._started:.0f} s"
        bar.add_row(
            ProgressBar(total=self._jobs, completed=self._closed, width=40), f"{self._closed}/{self._jobs}", seconds
        )
        return Group("", table, "", bar, f"[dim]{self._note}[/dim]", "")
