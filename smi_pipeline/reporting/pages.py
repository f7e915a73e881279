"""Write the files of a day or month: a printable page, and the tables as CSV and Parquet.

They are stored below `reports/` by period, as `reports/day/2026-11-20/`. A page is self-contained. pandas is imported
only when files are written.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Protocol

from smi_pipeline.formatting import day, duration, money
from smi_pipeline.reporting.figures import FIGURES
from smi_pipeline.reporting.partitions import earlier, last_day
from smi_pipeline.reporting.presentation import EMPTY, Rows, Table, Trend
from smi_pipeline.state.reports.store import FACTS, OTHER_MONEY, REPORTS, Reports

TREND = 14
"""Number of periods in a chart of several, the current one last."""
WORST_JOBS = 10


class Files(Protocol):
    """The part of the storage that pages need."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store a file."""


def folder(period: str, starts_on: date) -> str:
    """Return the folder of a period's files."""
    name = starts_on.isoformat()
    return f"reports/{period}/{name[:7] if period == 'month' else name}"


def trend(rows: Rows, period: str, starts_on: date) -> Trend:
    """Return the rows of the last `TREND` periods, oldest first."""
    found: dict[date, list[Any]] = {}
    for row in rows:
        found.setdefault(row["starts_on"], []).append(row)
    starts = [earlier(starts_on, period, back) for back in reversed(range(TREND))]
    return [(start, found.get(start, [])) for start in starts]


def write(reports: Reports, files: Files, period: str, starts_on: date, promise_seconds: float) -> dict[str, str]:
    """Write the page and the tables of one period; return a description of each by its storage key."""
    last = last_day(starts_on, period)
    tables: dict[str, Rows] = {table: reports.rows(table, starts_on, starts_on, period=period) for table in REPORTS}
    if period == "day":  # longer periods have them in their days; a month of facts would exhaust the memory
        tables |= {table: reports.rows(table, starts_on, last, limit=10_000_000) for table in (FACTS, OTHER_MONEY)}
    written = {}
    for name, rows in tables.items():
        for ending, content in _exports(reports, name, rows).items():
            key = f"{folder(period, starts_on)}/{name}.{ending}"
            files.put_bytes(key, content)
            written[key] = f"{name} as {ending.upper()}"
    key = f"{folder(period, starts_on)}/index.html"
    files.put_bytes(
        key, page(reports, period, starts_on, promise_seconds, sorted(f"{name}.csv" for name in tables)).encode()
    )
    return {key: "page"} | written


def _exports(reports: Reports, table: str, rows: Rows) -> dict[str, bytes]:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[name for name, *_ in reports.columns(table)])
    for name, kind, _, _ in reports.columns(table):  # the right types also for empty tables
        if target := next((to for start, to in _TYPES.items() if kind.startswith(start)), None):
            frame[name] = frame[name].astype(target)
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    return {"csv": frame.to_csv(index=False).encode(), "parquet": parquet.getvalue()}


_TYPES = {"integer": "Int64", "bigint": "Int64", "double": "float64", "numeric": "float64", "boolean": "boolean",
          "text": "string"}  # fmt: skip


def page(reports: Reports, period: str, starts_on: date, promise_seconds: float, downloads: Sequence[str] = ()) -> str:
    """Return the page of one period as self-contained HTML."""
    first = earlier(starts_on, period, TREND - 1)
    sections = []
    for name, figure in FIGURES.items():
        past = trend(reports.rows(name, first, starts_on, period=period), period, starts_on)
        rows = past[-1][1]
        sections.append((figure.title, figure.describe(rows), figure.draw(rows, past, promise_seconds)))
    last = last_day(starts_on, period)
    losses = [row for row in reports.least_profitable(starts_on, last, WORST_JOBS) if row["net_margin_cents"] < 0]
    return _template()(
        title=day(starts_on, "MMMM y") if period == "month" else day(starts_on),
        period=period,
        complete=last < reports.today(),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        sections=sections,
        empty=EMPTY if not any(said.table for _, said, _ in sections) else "",
        losses=_losses(losses) if losses else None,
        downloads=downloads,
    )


def _losses(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        ["Upscale job", "Outcome", "Time", "Currency", "Received", "Returned", "Fees", "API", "Net"],
        [
            [
                row["job_id"],
                f"{row['outcome']}: {row['reason']}".replace("_", " ") if row["reason"] else row["outcome"],
                duration(row["paid_to_mailed"]),
                row["currency"].upper(),
                *(
                    money(cents, row["currency"], symbol=False)
                    for cents in (
                        row["received_cents"],
                        -row["refunded_cents"] - row["disputed_cents"],
                        -row["stripe_fee_cents"] - row["dispute_fee_cents"],
                        -row["api_cost_cents"],
                        row["net_margin_cents"],
                    )
                ),
            ]
            for row in rows
        ],
        words=2,
    )


@cache
def _template() -> Callable[..., str]:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("smi_pipeline.reporting", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return pages.get_template("page.html").render
