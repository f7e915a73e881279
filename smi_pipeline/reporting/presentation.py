"""Money, times and shares as a person reads them, and tables of them. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]

EMPTY = "no paid jobs"
"""Headline of a day on which nobody paid."""

STAGE_NAMES = {
    "paid_to_submitted": "paid → submitted",
    "submitted_to_ready": "submitted → result ready",
    "ready_to_delivered": "result ready → delivered",
    "delivered_to_mailed": "delivered → mail accepted",
    "paid_to_mailed": "paid → closing mail",
}

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
    title: str = ""

    def markdown(self) -> str:
        """With numbers unbroken and aligned to the right."""

        def line(cells: Sequence[str]) -> str:
            texts = (cell.replace("|", "\\|") for cell in cells)
            shown = (text if n < self.words else text.replace(" ", "\u00a0") for n, text in enumerate(texts))
            return "| " + " | ".join(shown) + " |"

        rule = [":--" if n < self.words else "--:" for n in range(len(self.headers))]
        return "\n".join([line(self.headers), line(rule), *(line(row) for row in self.rows)])


@dataclass(frozen=True)
class Description:
    """One period of one report: a sentence, numbers by name with unit, and a table."""

    headline: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    table: Table | None = None


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
