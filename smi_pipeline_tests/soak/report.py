"""The report of a soak, as text and as JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smi_pipeline_tests.soak.verdict import Verdict

if TYPE_CHECKING:
    from smi_pipeline_tests.soak.runner import Soak


@dataclass(kw_only=True)
class Report:
    """The figures. Times of webhooks are in milliseconds, from sending to the response, at the sender."""

    jobs: int
    seed: int
    violations: list[str]
    outcomes: dict[str, int]
    manual_tasks: dict[str, int]
    faults: dict[str, dict[str, int]]
    webhooks: dict[str, float]
    seconds: float
    jobs_per_minute: float
    notes: list[str]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def __str__(self) -> str:
        lines = [f"\n{self.jobs} jobs, seed {self.seed}: {len(self.violations)} violations in {self.seconds:.0f} s"]
        lines += [f"  {self.jobs_per_minute:.0f} jobs per minute"]
        lines += [f"webhooks: {', '.join(f'{name} {value:g}' for name, value in self.webhooks.items())}"]
        for title, counts in (("outcomes", self.outcomes), ("manual tasks", self.manual_tasks)):
            lines += [f"{title}:", *(f"  {count:6} {name}" for name, count in counts.items())]
        for service, counts in self.faults.items():
            lines += [f"faults of {service}:", *(f"  {count:6} {name}" for name, count in counts.items())]
        lines += [f"VIOLATION {line}" for line in self.violations]
        return "\n".join(lines)


def make_report(soak: "Soak", verdict: Verdict, *, seconds: float) -> Report:
    """Return the report."""
    collector = soak.collector
    tasks = Counter(task["kind"] for task in collector.collect([]).tasks)
    return Report(
        jobs=soak.customers.paid,
        seed=soak.plan.seed,
        violations=verdict.violations,
        outcomes=dict(verdict.outcomes.most_common()),
        manual_tasks=dict(tasks.most_common()),
        faults={name: dict(counts.most_common()) for name, counts in collector.injected().items()},
        webhooks=webhook_figures({name: collector.listed(name, "webhooks") for name in ("stripe", "upsampler")}),
        seconds=round(seconds, 1),
        jobs_per_minute=round(0.95 * soak.customers.paid / (soak.most_closed_after or seconds) * 60, 1),
        notes=soak.notes,
    )


def webhook_figures(ledgers: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return percentiles of all webhooks, by sender, and of the first 200 to each event, because repeated ones are
    little work. The rate is measured between the first and the last twentieth, because a few retries come late."""
    by_sender = {name: [each for each in ledger if each["status"] != "lost"] for name, ledger in ledgers.items()}
    sent = sorted((each for ledger in by_sender.values() for each in ledger), key=lambda each: each["at"])
    if not sent:
        return {"sent": 0}
    middle = sent[len(sent) // 20 : max(1, len(sent) - len(sent) // 20)]
    lasted = middle[-1]["at"] - middle[0]["at"] or 1.0
    first = {each["id"]: each for each in reversed(sent) if each["status"] == 200}
    figures = {f"p{share}_ms": _percentile(sent, share) for share in (50, 95, 99)}
    groups = {**by_sender, "first": list(first.values())}
    figures |= {f"p99_ms_{name}": _percentile(group, 99) for name, group in groups.items() if group}
    figures |= {"max_ms": _percentile(sent, 100), "sent": len(sent), "per_second": (len(middle) - 1) / lasted}
    answers = Counter(str(each["status"]) for each in sent)
    return {name: round(value, 1) for name, value in figures.items()} | {
        f"answered_{status}": count for status, count in answers.items()
    }


def _percentile(webhooks: list[dict[str, Any]], share: int) -> float:
    """Return milliseconds from sending to the response."""
    times = sorted(each["seconds"] * 1000 for each in webhooks)
    return times[min(len(times) - 1, len(times) * share // 100)]
