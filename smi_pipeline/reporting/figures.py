"""Describe each report of one period by a headline, numbers, tables and its trend."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from smi_pipeline.core.currencies import to_units
from smi_pipeline.formatting import duration, money, number, percent
from smi_pipeline.reporting import report_charts
from smi_pipeline.reporting.presentation import (
    CENTS,
    EMPTY,
    STAGE_NAMES,
    Description,
    Measure,
    Row,
    Rows,
    Table,
    Trend,
    jobs,
    whole_of,
)


@dataclass(frozen=True)
class Figure:
    """The presentation of one report."""

    title: str
    text: str
    describe: Callable[[Rows], Description]
    measure: Callable[[Trend], Measure]  # what the small chart of the last periods shows
    draw: Callable[[Rows, Trend, float], str]  # HTML of charts, given the promised seconds too; may be empty


def _interval(row: Row) -> str:
    return "–" if row["rate_low"] is None else f"{row['rate_low'] * 100:.1f}–{percent(row['rate_high'])}"


# -- completion ------------------------------------------------------------------------------------------------------


def _completion(rows: Rows) -> Description:
    whole = whole_of(rows)
    if whole is None:
        return Description(EMPTY)
    names = ("paid_jobs", "delivered", "refunded", "failed", "open_jobs")
    numbers: dict[str, int | float | str] = {name: whole[name] for name in names}
    decided = whole["paid_jobs"] - whole["open_jobs"]
    if decided:
        still_open = f"; {number(whole['open_jobs'])} still open" if whole["open_jobs"] else ""
        headline = (
            f"{percent(whole['completion_rate'])} delivered: {number(whole['delivered'])} of {number(decided)} decided "
            f"(95% interval {_interval(whole)}){still_open}"
        )
        numbers["completion_rate_percent"] = round(whole["completion_rate"] * 100, 1)
    else:
        headline = f"{jobs(whole['paid_jobs'])}, none decided yet"
    table = Table(
        ["Bought", "Paid", "Delivered", "Refunded", "Failed", "Open", "Completion", "95% interval"],
        [
            [
                row["resolution"],
                *(number(row[name]) for name in names),
                percent(row["completion_rate"]),
                _interval(row),
            ]
            for row in rows
        ],
    )
    preview = table.only("Bought", "Paid", "Delivered", "Completion", "95% interval")
    return Description(headline, numbers, table, preview)


# -- errors ----------------------------------------------------------------------------------------------------------


def _errors(rows: Rows) -> Description:
    if not rows:
        return Description("no job was refunded or failed")
    whole = rows[0]
    table = Table(
        ["Reason", "Jobs", "Of decided", "95% interval"],
        [[row["reason"], number(row["jobs"]), percent(row["error_rate"]), _interval(row)] for row in rows],
    )
    return Description(
        f"{percent(whole['error_rate'])} not delivered: {number(whole['jobs'])} of "
        f"{number(whole['decided_jobs'])} decided",
        {"not_delivered": whole["jobs"], "error_rate_percent": round(whole["error_rate"] * 100, 1)},
        table,
        table,
    )


# -- times -----------------------------------------------------------------------------------------------------------


def _times(rows: Rows) -> Description:
    whole = next((row for row in rows if row["stage"] == "paid_to_mailed" and row["resolution"] == "all"), None)
    if whole is None:
        return Description("no job was closed" if rows else "no job was submitted or closed")
    numbers: dict[str, int | float | str] = {
        f"total_{name}_seconds": round(whole[f"{name}_seconds"], 3) for name in ("p50", "p90", "p95", "p99")
    }
    numbers["within_15_minutes_percent"] = round(whole["within_15_minutes"] * 100, 1)
    table = Table(
        ["Stage", "Jobs", "Median", "90% in", "95% in", "99% in", "≤ 15 min"],
        [
            [
                STAGE_NAMES[row["stage"]] if row["resolution"] == "all" else f"– of these {row['resolution']}",
                number(row["jobs"]),
                *(duration(row[f"{name}_seconds"]) for name in ("p50", "p90", "p95", "p99")),
                percent(row["within_15_minutes"]),
            ]
            for row in rows
            if row["resolution"] == "all" or row["stage"] == "paid_to_mailed"  # all of them would be too long
        ],
    )
    headline = (
        f"from payment to closing mail: median {duration(whole['p50_seconds'])}, 95% within "
        f"{duration(whole['p95_seconds'])}, slowest {duration(whole['max_seconds'])} ({jobs(whole['jobs'])})"
    )
    return Description(headline, numbers, table, table.only("Stage", "Jobs", "Median", "95% in", "≤ 15 min"))


# -- money -----------------------------------------------------------------------------------------------------------


def _margin(rows: Rows) -> Description:
    if not rows:
        return Description("no payments")
    sentences, numbers = [], dict[str, int | float | str]()
    for row in rows:
        if row["resolution"] != "all":
            continue
        currency = row["currency"]
        share = "" if row["margin_percent"] is None else f" ({row['margin_percent']}%)"
        loss = (
            f"; {number(row['jobs_at_a_loss'])} of {jobs(row['paid_jobs'])} at a loss" if row["jobs_at_a_loss"] else ""
        )
        loose = "" if row["paid_jobs"] else "; no paid jobs: payments without one, or free retries"
        sentences.append(
            f"{money(row['net_margin_cents'], currency)} net of {money(row['revenue_cents'], currency)} "
            f"revenue{share}{loss}{loose}"
        )
        numbers[f"revenue_{currency}"] = float(to_units(row["revenue_cents"], currency))
        numbers[f"net_margin_{currency}"] = float(to_units(row["net_margin_cents"], currency))
        if row["margin_percent"] is not None:
            numbers[f"margin_percent_{currency}"] = float(row["margin_percent"])
    table = Table(
        ["Currency", "Bought", "Jobs", "Revenue", "Refunds", "Disputes", "Stripe", "API", "Net", "Margin", "At a loss"],
        [
            [
                row["currency"].upper(),
                "no job" if row["resolution"] == "none" else row["resolution"],
                number(row["paid_jobs"]),
                *(
                    money(row[n] if n in (CENTS[0], CENTS[-1]) else -row[n], row["currency"], symbol=False)
                    for n in CENTS
                ),
                "–" if row["margin_percent"] is None else f"{row['margin_percent']}%",
                number(row["jobs_at_a_loss"]),
            ]
            for row in rows
        ],
        words=2,
    )
    return Description("; ".join(sentences), numbers, table, _narrow(table))


def _narrow(table: Table) -> Table:
    """Return figures as rows, with one column per resolution, or per currency where there are several."""
    wholes = [row for row in table.rows if row[1] == "all"]
    if len(wholes) > 1:
        return Table(table.headers, wholes).turned(words=2)
    turned = Table(table.headers[1:], [row[1:] for row in table.rows]).turned()
    return Table([wholes[0][0], *turned.headers[1:]], turned.rows)


# -- credits ---------------------------------------------------------------------------------------------------------


def _credits(rows: Rows) -> Description:
    whole = whole_of(rows)
    if whole is None:
        return Description("no credits were used")
    total = whole["credits"] + whole["credits_assumed"]
    numbers: dict[str, int | float | str] = {"credits": total, "credits_wasted": whole["credits_wasted"]}
    headline = f"{number(total)} credit{'' if total == 1 else 's'}" + (
        f", {number(whole['credits_wasted'])} of them wasted" if whole["credits_wasted"] else ""
    )
    if whole["budget_credits"] is not None:
        runs_out = "ran out" if whole["budget_used"] >= 1 else "runs out"
        lasts = f"it {runs_out} on {whole['runs_out_on']}" if whole["runs_out_on"] else "it lasts to the month's end"
        headline += f"; {percent(whole['budget_used'])} of the budget of {number(whole['budget_credits'])}: {lasts}"
        numbers["budget_used_percent"] = round(whole["budget_used"] * 100, 1)
    if whole["forecast_credits"] not in (None, total):  # the same on the last day and after it
        headline += f"; forecast for the month {number(whole['forecast_credits'])}"
    table = Table(
        ["Bought", "Jobs", "Credits", "Assumed", "Wasted"],
        [
            [
                "free retries" if row["resolution"] == "none" else row["resolution"],
                number(row["jobs"]),
                number(row["credits"] + row["credits_assumed"]),
                number(row["credits_assumed"]),
                number(row["credits_wasted"]),
            ]
            for row in rows
        ],
    )
    return Description(headline, numbers, table, table)


# -- satisfaction ----------------------------------------------------------------------------------------------------


def _satisfaction(rows: Rows) -> Description:
    whole = whole_of(rows)
    if whole is None:
        return Description("nothing was delivered")
    numbers: dict[str, int | float | str] = {"ratings": whole["ratings"]}
    if not whole["ratings"]:
        return Description(f"no ratings of {number(whole['delivered'])} delivered", numbers)
    numbers |= {f"stars_{n}": whole[f"stars_{n}"] for n in range(5, 0, -1)}
    numbers |= {"mean_stars": round(whole["mean_stars"], 2), "response_percent": round(whole["response_rate"] * 100, 1)}
    table = Table(
        ["Bought", "Delivered", "Ratings", "Response", "Mean", *(f"{n}★" for n in range(5, 0, -1))],
        [
            [
                row["resolution"],
                number(row["delivered"]),
                number(row["ratings"]),
                percent(row["response_rate"]),
                "–" if row["mean_stars"] is None else f"{row['mean_stars']:.2f}",
                *(f"{row[f'stars_{n}']:,}" for n in range(5, 0, -1)),
            ]
            for row in rows
        ],
    )
    return Description(
        f"{whole['mean_stars']:.2f} of 5 stars; {number(whole['ratings'])} of {number(whole['delivered'])} "
        f"customers answered ({percent(whole['response_rate'])})",
        numbers,
        table,
        table.only("Bought", "Delivered", "Ratings", "Response", "Mean"),
    )


def _all(column: str, words: str, factor: float = 1) -> Callable[[Trend], Measure]:
    def value(rows: Rows) -> float | None:
        row = next((one for one in rows if one.get("resolution", one.get("reason")) == "all"), None)
        return None if row is None or row[column] is None else float(row[column]) * factor

    return lambda trend: Measure(words, [value(rows) for _, rows in trend])


def _total_p95(trend: Trend) -> Measure:
    totals = [(day, [row for row in rows if row["stage"] == "paid_to_mailed"]) for day, rows in trend]
    return _all("p95_seconds", "95% closed within, seconds")(totals)


def _margins(trend: Trend) -> Measure:
    """Return the net margin in the currency of most paid jobs; currencies are never added up."""
    paid: Counter[str] = Counter()
    for _, rows in trend:
        paid.update({row["currency"]: row["paid_jobs"] for row in rows if row["resolution"] == "all"})
    if not paid:
        return Measure("net margin", [None] * len(trend))
    currency = max(paid, key=lambda one: (paid[one], one))
    of_currency = [(day, [row for row in rows if row["currency"] == currency]) for day, rows in trend]
    return _all("net_margin_cents", f"net margin, {currency.upper()}", float(to_units(1, currency)))(of_currency)


FIGURES = {
    "completion_rate": Figure(
        "Completion",
        "Share of the decided upscale jobs that were delivered, with its 95% Wilson interval, by resolution. Open "
        "jobs do not count; once delivered, a job stays delivered.",
        _completion,
        _all("completion_rate", "delivered, %", 100),
        report_charts.completion,
    ),
    "error_rate": Figure(
        "Errors",
        "Why upscale jobs were not delivered: each reason's share of the decided jobs, with its 95% Wilson interval.",
        _errors,
        _all("error_rate", "not delivered, %", 100),
        report_charts.errors,
    ),
    "processing_times": Figure(
        "Processing times",
        "How long each stage took: median, 90th, 95th and 99th percentile and the share within 15 minutes, by "
        "resolution; measured until the mail server accepted the closing mail.",
        _times,
        _total_p95,
        report_charts.times,
    ),
    "profit_margin": Figure(
        "Profit margin",
        "Revenue, refunds, disputes, Stripe fees, API cost and what is left, by currency and resolution, in cents. "
        "Fees are not returned on a refund. A later refund changes the figures of the day of payment.",
        _margin,
        _margins,
        report_charts.margin,
    ),
    "credit_usage": Figure(
        "Credits",
        "Credits that Upsampler charged, including wasted attempts and free retries; for a month with its budget and a "
        "forecast of the day it runs out.",
        _credits,
        _all("credits", "credits"),
        report_charts.credits,
    ),
    "customer_satisfaction": Figure(
        "Customer satisfaction",
        "Mean and distribution of customers' star ratings, and the response rate, by resolution.",
        _satisfaction,
        _all("mean_stars", "mean stars"),
        report_charts.satisfaction,
    ),
}
