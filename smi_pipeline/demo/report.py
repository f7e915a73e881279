"""Print and write the result: the table, the totals, the addresses, the JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from smi_pipeline.demo.judge import Finding, ReceivedMail
from smi_pipeline.demo.scenario import BY_NAME

_CAPTION = "amounts in dollars; cost: credits and Stripe's fee; seconds: from the payment to the closing mail"
_AMOUNTS = ("cost_cents", "revenue_cents", "margin_cents")
_COLOURS = {"delivered": "green", "refunded": "yellow", "both": "red", "lost": "red"}


def job_rows(findings: Sequence[Finding], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row per job, as `--json` writes it. `reasons`: why a job has no image, by job id.

    Seconds count from the payment; revenue is payment less refund, cost is credits and Stripe's fee."""
    return [
        {
            "job_id": finding.job.job_id,
            "case": finding.job.case_name,
            "outcome": finding.outcome,
            "reason": reasons.get(finding.job.job_id, ""),
            "seconds_to_submit": _since(finding.submitted_at, finding),
            "seconds_total": _since(finding.closed_at, finding),
            **{name: getattr(finding, name) for name in ("mails", "refunds", "submissions", *_AMOUNTS)},
        }
        for finding in findings
    ]


def write_json(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    violations: Sequence[str],
    seconds: float,
    addresses: Mapping[str, str],
    alerts: Sequence[str] = (),
) -> None:
    """Write the file of `--json`. `seconds`: from the start of the process to the last outcome; `alerts`: subjects of
    the mails to the team."""
    content = {
        "jobs": rows,
        "violations": violations,
        "seconds": round(seconds, 1),
        "addresses": addresses,
        "alerts": list(alerts),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def show(
    console: Console,
    rows: Sequence[Mapping[str, Any]],
    violations: Sequence[str],
    seconds: float,
    alerts: Sequence[ReceivedMail] = (),
) -> None:
    """Print the table of all jobs, the totals, what the team was told, and the verdict."""
    table = Table(title="Outcome of every paid job", box=box.SIMPLE_HEAD, padding=(0, 1), caption=_CAPTION)
    table.add_column("job", no_wrap=True)
    table.add_column("case")
    table.add_column("outcome", no_wrap=True)
    for name in ("seconds", "cost", "revenue", "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        case, colour = BY_NAME[row["case"]], _COLOURS[row["outcome"]]
        surprise = row["reason"] and row["outcome"] != case.expected
        table.add_row(
            row["job_id"][:8],
            f"{row['case']}: {case.description}" + (f"; the customer was told: {row['reason']}" if surprise else ""),
            f"[{colour}]{row['outcome']}[/{colour}]",
            "-" if row["seconds_total"] is None else f"{row['seconds_total']:.1f}",
            *(_dollars(row[name]) for name in _AMOUNTS),
        )
    totals = [sum(row[name] for row in rows) for name in _AMOUNTS]
    table.add_section()
    ended = ", ".join(f"{n} {how}" for how in _COLOURS if (n := sum(row["outcome"] == how for row in rows)))
    table.add_row("total", f"{len(rows)} jobs: {ended}", "", "", *map(_dollars, totals))
    console.print(table)
    console.print(f"The last job was closed {seconds:.1f} seconds after the start.")
    for mail in alerts:
        lines = [
            f"The team was told: {mail.subject}",
            *(f"  {line}" for line in mail.text.splitlines() if line.strip()),
        ]
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    if violations:
        console.print(f"[red]{len(violations)} violations according to the ledgers of the sandbox:[/red]")
        for violation in violations:
            console.print(f"  {violation}", soft_wrap=True, highlight=False, markup=False)
    else:
        console.print(
            "[green]According to the ledgers of the sandbox, every job was delivered or refunded exactly once, with "
            "exactly one correct mail.[/green]"
        )


def show_addresses(console: Console, addresses: Mapping[str, str], login: str) -> None:
    """Print the addresses to open."""
    width = max(map(len, addresses))
    for name, address in addresses.items():
        line = f"{name.replace('_', ' '):{width}}  {address}" + (f"  {login}" if name == "ops" else "")
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _since(at: float | None, finding: Finding) -> float | None:
    return None if at is None else round(max(0.0, at - (finding.job.paid_at or 0.0)), 2)


def _dollars(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) / 100:.2f}"
