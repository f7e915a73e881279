"""Rows of the reports in words a person reads: headline, figures with their units, a table. Standard library only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
PREVIEW_ROWS = 5
"""Rows of the facts in a preview. The UI shows Markdown of up to 1,000 characters in place, longer one on a click."""


@dataclass(frozen=True)
class Description:
    """One day of one report: a sentence, numbers by name with unit, and a Markdown table."""

    headline: str
    numbers: Mapping[str, int | float]
    table: str


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


def markdown(headers: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """A Markdown table; the first `words` columns are words, the others numbers, unbroken and aligned to the right."""

    def line(cells: Sequence[object]) -> str:
        texts = (str(cell).replace("|", "\\|") for cell in cells)
        return (
            "| " + " | ".join(text if n < words else text.replace(" ", "\u00a0") for n, text in enumerate(texts)) + " |"
        )

    rule = [":--" if n < words else "--:" for n in range(len(headers))]
    return "\n".join(["| " + " | ".join(headers) + " |", line(rule), *(line(row) for row in rows)])


def facts(rows: Sequence[Row], total: int) -> Description:
    """Of one day: its least profitable rows, and how many there are in all."""
    table = markdown(
        ["Upscale job", "Outcome", "Total time", "Received", "Net margin"],
        (
            (
                f"`{row['job_id']}`",
                f"{row['outcome']}: {row['reason']}" if row["reason"] else row["outcome"],
                span(row["paid_to_mailed"]),
                money(row["received_cents"], row["currency"]),
                money(row["net_margin_cents"], row["currency"]),
            )
            for row in rows[:PREVIEW_ROWS]
        ),
        words=2,
    )
    if not total:
        return Description(EMPTY, {"paid_jobs": 0}, EMPTY)
    note = f"\n\n{PREVIEW_ROWS} of {total:,} rows, least profitable first" if total > PREVIEW_ROWS else ""
    return Description(jobs(total), {"paid_jobs": total}, table + note)


def completion(rows: Sequence[Row], reasons: Sequence[Row]) -> Description:
    """Of one day: its rows of `completion_rate`, and why jobs were not delivered."""
    day = next((row for row in rows if row["resolution"] == "all"), None)
    if day is None:
        return Description(EMPTY, {"paid_jobs": 0}, EMPTY)
    numbers: dict[str, int | float] = {
        name: day[name] for name in ("paid_jobs", "delivered", "refunded", "failed", "open_jobs")
    }
    decided = day["paid_jobs"] - day["open_jobs"]
    still_open = f"; {day['open_jobs']:,} still open" if day["open_jobs"] else ""
    if decided:
        headline = (
            f"{percent(day['completion_rate'])} delivered: {day['delivered']:,} of {decided:,} decided "
            f"(95 % interval {_interval(day)}){still_open}"
        )
        numbers["completion_rate_percent"] = round(day["completion_rate"] * 100, 1)
    else:
        headline = f"{jobs(day['paid_jobs'])}, none decided yet"
    table = markdown(
        ["Bought", "Paid", "Delivered", "Refunded", "Failed", "Open", "Completion rate", "95 % interval"],
        (
            (
                row["resolution"],
                *(f"{row[name]:,}" for name in ("paid_jobs", "delivered", "refunded", "failed", "open_jobs")),
                percent(row["completion_rate"]),
                _interval(row),
            )
            for row in rows
        ),
    )
    if reasons:
        shares = ((row["reason"], f"{row['jobs']:,}", percent(row["jobs"] / decided)) for row in reasons)
        table += "\n\n" + markdown(["Not delivered because", "Jobs", "Share of decided"], shares)
    return Description(headline, numbers, table)


def _interval(row: Row) -> str:
    if row["rate_low"] is None:
        return "–"
    return f"{percent(row['rate_low'])} to {percent(row['rate_high'])}"


def times(rows: Sequence[Row], paid: int) -> Description:
    """Of one day: its rows of `processing_times`, of `paid` jobs."""
    if not paid:
        return Description(EMPTY, {"paid_jobs": 0}, EMPTY)
    by_stage = {row["stage"]: row for row in rows if row["resolution"] == "all"}
    whole = by_stage.get("paid_to_mailed")
    numbers: dict[str, int | float] = {"paid_jobs": paid}
    if whole is None:
        headline = f"{jobs(paid)}, none closed yet"
    else:
        headline = (
            f"from payment to closing mail: median {span(whole['p50_seconds'])}, 95 % within "
            f"{span(whole['p95_seconds'])}, slowest {span(whole['max_seconds'])} ({whole['jobs']:,} of {jobs(paid)})"
        )
        for name in ("p50", "p90", "p95", "p99"):
            numbers[f"total_{name}_seconds"] = round(whole[f"{name}_seconds"], 3)
    order = list(STAGE_NAMES)
    table = markdown(
        ["Stage", "Jobs", "Median", "90 % within", "95 % within", "99 % within"],
        (
            (
                STAGE_NAMES[row["stage"]] if row["resolution"] == "all" else f"– of these {row['resolution']}",
                f"{row['jobs']:,}",
                *(span(row[f"{name}_seconds"]) for name in ("p50", "p90", "p95", "p99")),
            )
            for row in sorted(rows, key=lambda row: (order.index(row["stage"]), row["resolution"] != "all"))
            if row["resolution"] == "all" or row["stage"] == "paid_to_mailed"  # all of them would be too long
        ),
    )
    return Description(headline, numbers, table)


def profit(rows: Sequence[Row]) -> Description:
    """Of one day: its rows of `profit_margin`."""
    if not rows:
        return Description(EMPTY, {"paid_jobs": 0}, EMPTY)
    sentences = []
    numbers: dict[str, int | float] = {"paid_jobs": 0}
    for row in rows:
        if row["resolution"] != "all":
            continue
        currency = row["currency"]
        share = "" if row["margin_percent"] is None else f" ({row['margin_percent']} %)".replace("-", "−")
        loss = f"; {row['jobs_at_a_loss']:,} of {jobs(row['paid_jobs'])} at a loss" if row["jobs_at_a_loss"] else ""
        sentences.append(
            f"{money(row['net_margin_cents'], currency)} net of {money(row['revenue_cents'], currency)} "
            f"revenue{share}{loss}"
        )
        numbers["paid_jobs"] += row["paid_jobs"]
        numbers[f"revenue_{currency}"] = amount(row["revenue_cents"], currency)
        numbers[f"net_margin_{currency}"] = amount(row["net_margin_cents"], currency)
        if row["margin_percent"] is not None:
            numbers[f"margin_percent_{currency}"] = float(row["margin_percent"])
    table = markdown(
        ["Currency", "Bought", "Jobs", "Revenue", "Refunds", "Stripe", "API", "Net", "Margin", "At a loss"],
        (
            (
                row["currency"].upper(),
                row["resolution"],
                f"{row['paid_jobs']:,}",
                *(
                    money(cents, row["currency"]).rpartition(" ")[0]
                    for cents in (
                        row["revenue_cents"],
                        -row["refunds_cents"],
                        -row["stripe_fees_cents"],
                        -row["api_cost_cents"],
                        row["net_margin_cents"],
                    )
                ),
                "–" if row["margin_percent"] is None else f"{row['margin_percent']} %".replace("-", "−"),
                f"{row['jobs_at_a_loss']:,}",
            )
            for row in rows
        ),
        words=2,
    )
    return Description("; ".join(sentences), numbers, table)
