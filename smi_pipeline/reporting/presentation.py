"""Money, times and shares as a person reads them, and tables of them. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]
"""Of one table and one period."""
Trend = Sequence[tuple[date, Rows]]
"""The rows of the last periods by first day, the newest one last."""

EMPTY = "no paid jobs"
"""Headline of a day on which nobody paid."""

STAGE_NAMES = {
    "paid_to_submitted": "paid → submitted",
    "submitted_to_ready": "submitted → result ready",
    "ready_to_delivered": "result ready → delivered",
    "delivered_to_mailed": "delivered → mail accepted",
    "paid_to_mailed": "paid → closing mail",
}

CENTS = ("revenue_cents", "refunds_cents", "disputes_cents", "stripe_fees_cents", "api_cost_cents", "net_margin_cents")
"""Columns of the profit margin, in the order of their sum."""

# Currencies whose smallest unit is the unit itself (https://docs.stripe.com/currencies#zero-decimal)
_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"}
)


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `words` columns are words, the others numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def markdown(self) -> str:
        """With numbers unbroken and aligned to the right."""

        def line(cells: Sequence[str]) -> str:
            texts = (cell.replace("|", "\\|") for cell in cells)
            shown = (text if n < self.words else text.replace(" ", "\u00a0") for n, text in enumerate(texts))
            return "| " + " | ".join(shown) + " |"

        rule = [":--" if n < self.words else "--:" for n in range(len(self.headers))]
        return "\n".join([line(self.headers), line(rule), *(line(row) for row in self.rows)])

    def only(self, *headers: str) -> "Table":
        """With these columns, where there is no room for all."""
        places = [self.headers.index(header) for header in headers]
        rows = [[row[place] for place in places] for row in self.rows]
        return Table(headers, rows, sum(place < self.words for place in places))

    def turned(self, words: int = 1) -> "Table":
        """Rows as columns. Of the columns of words the first becomes the headers."""
        rows = [[header, *(row[n] for row in self.rows)] for n, header in enumerate(self.headers) if n >= words]
        return Table(["", *(row[0] for row in self.rows)], rows)


@dataclass(frozen=True)
class Description:
    """One period of one report: a sentence, numbers by name with unit, a table, and the same for 450 pixels, which is
    what the UI has on a screen of 1280."""

    headline: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    table: Table | None = None
    preview: Table | None = None


@dataclass(frozen=True)
class Measure:
    """One number of each of the last periods, None where there is none; `words` name it and its unit."""

    words: str
    values: Sequence[float | None]

    def since_first(self) -> Sequence[float | None]:
        """From the first period that has a value."""
        found = [place for place, value in enumerate(self.values) if value is not None]
        return self.values[found[0] :] if found else []


def whole_of(rows: Rows) -> Row | None:
    """The row that sums up all resolutions."""
    return next((row for row in rows if row["resolution"] == "all"), None)


def label(starts_on: date, trend: Trend) -> str:
    """A period of a trend below its column: '20 Nov', 'Nov' of months."""
    monthly = len(trend) > 1 and all(start.day == 1 for start, _ in trend)
    return f"{starts_on:%b}" if monthly else f"{starts_on.day} {starts_on:%b}"


def number(value: float) -> str:
    """Three digits, or all before the point: '0.07', '44.1', '12,345'."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def amount(cents: int, currency: str) -> float:
    """Cents as units of the currency, for display only."""
    return float(cents) if currency in _ZERO_DECIMAL else int(cents) / 100


def money(cents: int, currency: str) -> str:
    """1234 usd → '12.34 USD'."""
    digits = 0 if currency in _ZERO_DECIMAL else 2
    return f"{amount(cents, currency):,.{digits}f} {currency.upper()}".replace("-", "−")


def span(seconds: float | None) -> str:
    """Seconds in the unit a person would use: '0.25 s', '4.2 s', '3 min 05 s', '2 h 10 min'."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def percent(fraction: float | None) -> str:
    """0.958 → '95.8 %'."""
    return "–" if fraction is None else f"{fraction * 100:.1f} %"


def jobs(count: int) -> str:
    """'1 paid job', '2 paid jobs'."""
    return f"{count:,} paid job{'' if count == 1 else 's'}"


def tick(seconds: float) -> str:
    """Seconds on an axis: '250 ms', '10 s', '15 min'."""
    for unit, name in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1000:.3g} ms"


def bare(cents: int, currency: str) -> str:
    """1234 usd → '12.34', where the currency stands elsewhere."""
    return money(cents, currency).rpartition(" ")[0]
