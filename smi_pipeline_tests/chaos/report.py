"""The matrix as a person reads it and as a file."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from smi_pipeline.failpoints import POINTS
from smi_pipeline_tests.chaos.cases import ITSELF, VICTIMS, Kill
from smi_pipeline_tests.chaos.recipes import GATEWAY, PRIORITY, SENSORS, WORKER
from smi_pipeline_tests.chaos.waves import Result

RECOVERY_BAR_SECONDS = 60.0
PROCESSES = (WORKER, PRIORITY, GATEWAY, SENSORS)


@dataclass(kw_only=True)
class Report:
    """Everything that was found out. `recovered` in seconds of the real clock."""

    seed: int
    seconds: float = 0.0
    hit: list[Kill] = field(default_factory=list)
    missed: list[Kill] = field(default_factory=list)
    suspects: list[Kill] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    recovered: list[float] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    deaths: int = 0

    def add(self, result: Result, name: str) -> None:
        """Takes in one wave or other part."""
        self.hit += result.hit
        self.missed += result.missed
        if result.violations:
            self.suspects += result.wave.kills
        self.violations += [f"{name}: {what}" for what in result.violations]
        paid = [guest for guest in result.guests if guest.paid_at is not None]
        self.outcomes["orders"] += len(paid)
        self.outcomes["submitted a second time"] += result.resubmitted
        self.parts.append(
            {
                "name": name,
                "kills": [kill.name for kill in result.hit],
                "not hit": [kill.name for kill in result.missed],
                "orders": len(paid),
                "longest seconds of an order, moved clock": round(
                    max((g.ended_at - g.paid_by_clock for g in paid if g.ended_at), default=0.0), 1
                ),
                "violations": result.violations,
                "seconds": round(result.seconds, 1),
                "clock moved by": round(result.shifted, 1),
            }
        )

    def line(self, result: Result, name: str) -> str:
        """One part in one line, its violations below it."""
        text = (
            f"{name}: {len(result.hit)} of {len(result.wave.kills)} kills, {len(result.guests)} orders, "
            f"{len(result.violations)} violations, {result.seconds:.0f} s, clock moved by {result.shifted:.0f} s"
        )
        if result.missed:
            text += f"\n             not hit: {', '.join(kill.name for kill in result.missed)}"
        for what in result.violations:
            text += f"\n             VIOLATION {what}"
        return text

    @property
    def slow(self) -> bool:
        """Whether dead workers' jobs were too late."""
        return bool(self.recovered) and percentile(self.recovered, 99) > RECOVERY_BAR_SECONDS

    @property
    def bad(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.violations or self.missed or self.slow)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: p99 of fewer than 100 values is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def recovery_line(report: Report) -> str:
    """The figures of dead workers' jobs."""
    if not report.recovered:
        return "recovery of a dead worker's jobs: not measured"
    p50, p99 = percentile(report.recovered, 50), percentile(report.recovered, 99)
    return (
        f"recovery of a dead worker's jobs, real clock: n {len(report.recovered)}, p50 {p50:.1f} s, p99 {p99:.1f} s, "
        f"max {max(report.recovered):.1f} s (at most {RECOVERY_BAR_SECONDS:.0f} s)"
    )


def columns() -> list[str]:
    """Headings: who dies at the point, then who dies while another waits there."""
    return [*(f"{process} itself" for process in PROCESSES), *VICTIMS]


def rows(report: Report) -> list[tuple[str, list[str]]]:
    """Per point and column: how often it was hit; `!` when orders of that wave are at fault, `-n` for not hit."""
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    counts = Counter((kill.point, _column(kill)) for kill in report.hit)
    missed = Counter((kill.point, _column(kill)) for kill in report.missed)
    suspect = {(kill.point, _column(kill)) for kill in report.suspects}
    for key in counts | missed:
        text = str(counts[key]) + (f" -{missed[key]}" if missed[key] else "") + (" !" if key in suspect else "")
        cells[key[0]][key[1]].append(text)
    return [(point, ["".join(cells[point][name]) for name in columns()]) for point in POINTS if point in cells]


def _column(kill: Kill) -> str:
    return f"{kill.process} itself" if kill.victim == ITSELF else kill.victim


def summary(report: Report) -> list[str]:
    """The figures, one per line."""
    return [
        f"seed {report.seed}, {report.seconds / 60:.1f} minutes, {len(report.hit)} kills, {len(rows(report))} points, "
        f"{report.deaths} deaths by another's hand, {report.outcomes['orders']} paid orders",
        f"violations: {len(report.violations)}; points not hit: {len(report.missed)}; "
        f"submitted a second time because the first answer was lost: {report.outcomes['submitted a second time']}; "
        f"mails sent anew by a person because two answers were lost: {report.outcomes['mail sent anew by a person']}",
        recovery_line(report),
    ]


def show(report: Report) -> None:
    """On the screen."""
    console = Console(width=150)
    table = Table(title="Kills per failpoint and victim", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("failpoint", no_wrap=True)
    for name in columns():
        table.add_column(name, justify="right")
    for point, texts in rows(report):
        table.add_row(point, *texts)
    console.print(table)
    for line in [*summary(report), *report.violations, *(f"not hit: {kill.name}" for kill in report.missed)]:
        console.print(line, highlight=False, soft_wrap=True)


def write_markdown(report: Report, path: Path) -> None:
    """The matrix as a table of Markdown."""
    lines = [f"- {line}" for line in summary(report)] + [""]
    lines += ["| failpoint | " + " | ".join(columns()) + " |", "|---|" + "---:|" * len(columns())]
    lines += [f"| {point} | " + " | ".join(texts) + " |" for point, texts in rows(report)]
    lines += ["", *(f"- violation: {what}" for what in report.violations)]
    lines += [f"- not hit: {kill.name}" for kill in report.missed]
    path.write_text("\n".join(lines).rstrip() + "\n")


def write_json(report: Report, path: Path) -> None:
    """Everything."""
    content = {
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "summary": summary(report),
        "orders": report.outcomes,
        "recovered": [round(value, 2) for value in report.recovered],
        "violations": report.violations,
        "not hit": [kill.name for kill in report.missed],
        "matrix": {point: dict(zip(columns(), texts, strict=True)) for point, texts in rows(report)},
        "parts": report.parts,
        "passed": report.passed,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
