"""Tables, headlines and labels that the reports' assets and pages share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from smi_pipeline.formatting import day, number

Row = Mapping[str, Any]
Rows = Sequence[Row]
"""Rows of one table and one period."""
Trend = Sequence[tuple[date, Rows]]
"""The rows of the last periods by first day, the newest one last."""

EMPTY = "no paid jobs"
"""Headline of a period without payments."""

STAGE_NAMES = {
    "paid_to_submitted": "paid → submitted",
    "submitted_to_ready": "submitted → result ready",
    "ready_to_delivered": "result ready → delivered",
    "delivered_to_mailed": "delivered → mail accepted",
    "paid_to_mailed": "paid → closing mail",
}

CENTS = ("revenue_cents", "refunds_cents", "disputes_cents", "stripe_fees_cents", "api_cost_cents", "net_margin_cents")
"""Columns of the profit margin, in the order of their sum."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first `words` columns are left-aligned, the others are numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def markdown(self) -> str:
        """Return the table as Markdown, numbers unbroken and right-aligned."""

        def line(cells: Sequence[str]) -> str:
            texts = (cell.replace("|", "\\|") for cell in cells)
            shown = (text if n < self.words else text.replace(" ", "\u00a0") for n, text in enumerate(texts))
            return "| " + " | ".join(shown) + " |"

        rule = [":--" if n < self.words else "--:" for n in range(len(self.headers))]
        return "\n".join([line(self.headers), line(rule), *(line(row) for row in self.rows)])

    def only(self, *headers: str) -> "Table":
        """Return the table with these columns only."""
        places = [self.headers.index(header) for header in headers]
        rows = [[row[place] for place in places] for row in self.rows]
        return Table(headers, rows, sum(place < self.words for place in places))

    def turned(self, words: int = 1) -> "Table":
        """Return the table with rows as columns; its first column becomes the headers."""
        rows = [[header, *(row[n] for row in self.rows)] for n, header in enumerate(self.headers) if n >= words]
        return Table(["", *(row[0] for row in self.rows)], rows)


@dataclass(frozen=True)
class Description:
    """One period of one report: a headline, numbers by name, a table, and a preview that fits 450 pixels, the width in
    Dagster's UI on a screen of 1280."""

    headline: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    table: Table | None = None
    preview: Table | None = None


@dataclass(frozen=True)
class Measure:
    """One number per period, None where there is none; `words` name it and its unit."""

    words: str
    values: Sequence[float | None]

    def since_first(self) -> Sequence[float | None]:
        """Return the values from the first period that has one."""
        found = [place for place, value in enumerate(self.values) if value is not None]
        return self.values[found[0] :] if found else []


def whole_of(rows: Rows) -> Row | None:
    """Return the row of all resolutions."""
    return next((row for row in rows if row["resolution"] == "all"), None)


def label(starts_on: date, trend: Trend) -> str:
    """Return the label of a period in a chart: '20 Nov', or 'Nov' in a trend of months."""
    monthly = len(trend) > 1 and all(start.day == 1 for start, _ in trend)
    return day(starts_on, "MMM" if monthly else "d MMM")


def so_far(period: str, *, complete: bool) -> str:
    """Return what a headline needs after it while its period is not over; empty afterwards."""
    return "" if complete else f" (so far: this {period} is not over)"


def jobs(count: int) -> str:
    """Return '1 paid job', '2 paid jobs'."""
    return f"{number(count)} paid job{'' if count == 1 else 's'}"


def tick(seconds: float) -> str:
    """Return seconds for an axis: '250 ms', '10 s', '15 min'."""
    for unit, name in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1000:.3g} ms"
