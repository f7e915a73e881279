"""What each report says of one period: a sentence, numbers, tables, a chart. Standard library only.

Rows are those of one table and one period; `trend` holds the rows of the last periods, the newest one last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from smi_pipeline.reporting import charts
from smi_pipeline.reporting.charts import DARK, GAIN, LOSS, NEUTRAL, TOTAL, Bar, Range
from smi_pipeline.reporting.presentation import (
    EMPTY,
    STAGE_NAMES,
    Description,
    Row,
    Table,
    amount,
    bare,
    jobs,
    money,
    percent,
    span,
    tick,
)

Rows = Sequence[Row]
Trend = Sequence[tuple[date, Rows]]

PROMISE_SECONDS = 900.0
_OUTCOMES = {"delivered": GAIN, "refunded": LOSS, "failed": DARK, "open_jobs": NEUTRAL}
_CENTS = ("revenue_cents", "refunds_cents", "disputes_cents", "stripe_fees_cents", "api_cost_cents", "net_margin_cents")


@dataclass(frozen=True)
class Figure:
    """How one report is shown."""

    title: str
    text: str
    describe: Callable[[Rows], Description]
    value: Callable[[Rows], float | None]  # what the small chart of the last periods shows
    draw: Callable[[Rows, Trend], str]  # SVG; empty: nothing to draw


def _whole(rows: Rows) -> Row | None:
    return next((row for row in rows if row["resolution"] == "all"), None)


def _interval(row: Row) -> str:
    return "–" if row["rate_low"] is None else f"{percent(row['rate_low'])} to {percent(row['rate_high'])}"


def _since_first(trend: Trend) -> list[tuple[date, Row | None]]:
    """The row of all resolutions of each period, from the first that has one."""
    wholes = [(day, _whole(rows)) for day, rows in trend]
    first = next((place for place, (_, whole) in enumerate(wholes) if whole), len(wholes))
    return wholes[first:]


def _labels(wholes: Sequence[tuple[date, Row | None]]) -> list[str]:
    days = [day for day, _ in wholes]
    if all(day.day == 1 for day in days) and len(days) > 1:
        return [f"{day:%b}" for day in days]
    return [
        f"{day.day} {day:%b}" if place == 0 or day.day <= 7 < days[place - 1].day else f"{day.day}"
        for place, day in enumerate(days)
    ]


# -- completion ------------------------------------------------------------------------------------------------------


def _completion(rows: Rows) -> Description:
    whole = _whole(rows)
    if whole is None:
        return Description(EMPTY)
    names = ("paid_jobs", "delivered", "refunded", "failed", "open_jobs")
    numbers: dict[str, int | float | str] = {name: whole[name] for name in names}
    decided = whole["paid_jobs"] - whole["open_jobs"]
    if decided:
        still_open = f"; {whole['open_jobs']:,} still open" if whole["open_jobs"] else ""
        headline = (
            f"{percent(whole['completion_rate'])} delivered: {whole['delivered']:,} of {decided:,} decided "
            f"(95 % interval {_interval(whole)}){still_open}"
        )
        numbers["completion_rate_percent"] = round(whole["completion_rate"] * 100, 1)
    else:
        headline = f"{jobs(whole['paid_jobs'])}, none decided yet"
    table = Table(
        ["Bought", "Paid", "Delivered", "Refunded", "Failed", "Open", "Completion", "95 % interval"],
        [
            [
                row["resolution"],
                *(f"{row[name]:,}" for name in names),
                percent(row["completion_rate"]),
                _interval(row),
            ]
            for row in rows
        ],
    )
    return Description(headline, numbers, table)


def _draw_completion(rows: Rows, trend: Trend) -> str:
    wholes = _since_first(trend)
    if not wholes:
        return ""
    above = ["" for _ in wholes]
    if wholes[-1][1] and wholes[-1][1]["completion_rate"] is not None:
        above[-1] = percent(wholes[-1][1]["completion_rate"])
    series = [
        (name.removesuffix("_jobs"), colour, [float(whole[name]) if whole else 0.0 for _, whole in wholes])
        for name, colour in _OUTCOMES.items()
    ]
    return charts.columns("Paid upscale jobs by outcome", _labels(wholes), series, above=above)


# -- errors ----------------------------------------------------------------------------------------------------------


def _errors(rows: Rows) -> Description:
    if not rows:
        return Description("no job was refunded or failed")
    whole = rows[0]
    return Description(
        f"{percent(whole['error_rate'])} not delivered: {whole['jobs']:,} of {whole['decided_jobs']:,} decided",
        {"not_delivered": whole["jobs"], "error_rate_percent": round(whole["error_rate"] * 100, 1)},
        Table(
            ["Reason", "Jobs", "Share of decided", "95 % interval"],
            [[row["reason"], f"{row['jobs']:,}", percent(row["error_rate"]), _interval(row)] for row in rows],
        ),
    )


def _draw_errors(rows: Rows, trend: Trend) -> str:
    bars = [Bar(row["reason"].replace("_", " "), row["jobs"], f"{row['jobs']:,}", LOSS) for row in rows[1:9]]
    return charts.bars("Jobs not delivered, by reason", bars) if bars else ""


# -- times -----------------------------------------------------------------------------------------------------------


def _times(rows: Rows) -> Description:
    whole = next((row for row in rows if row["stage"] == "paid_to_mailed" and row["resolution"] == "all"), None)
    if whole is None:
        return Description("no job was closed" if rows else EMPTY)
    numbers: dict[str, int | float | str] = {
        f"total_{name}_seconds": round(whole[f"{name}_seconds"], 3) for name in ("p50", "p90", "p95", "p99")
    }
    numbers["within_15_minutes_percent"] = round(whole["within_15_minutes"] * 100, 1)
    table = Table(
        ["Stage", "Jobs", "Median", "90 % in", "95 % in", "99 % in", "≤ 15 min"],
        [
            [
                STAGE_NAMES[row["stage"]] if row["resolution"] == "all" else f"– of these {row['resolution']}",
                f"{row['jobs']:,}",
                *(span(row[f"{name}_seconds"]) for name in ("p50", "p90", "p95", "p99")),
                percent(row["within_15_minutes"]),
            ]
            for row in rows
            if row["resolution"] == "all" or row["stage"] == "paid_to_mailed"  # all of them would be too long
        ],
    )
    headline = (
        f"from payment to closing mail: median {span(whole['p50_seconds'])}, 95 % within "
        f"{span(whole['p95_seconds'])}, slowest {span(whole['max_seconds'])} ({jobs(whole['jobs'])})"
    )
    return Description(headline, numbers, table)


def _draw_times(rows: Rows, trend: Trend) -> str:
    shown = [
        Range(
            STAGE_NAMES[row["stage"]],
            [
                (words, max(row[f"{name}_seconds"], 0.001))
                for name, words in (("p50", "median"), ("p90", "90 %"), ("p95", "95 %"), ("p99", "99 %"))
            ],
            f"{span(row['p50_seconds'])} · 95 %: {span(row['p95_seconds'])}",
            TOTAL if row["stage"] == "paid_to_mailed" else GAIN,
        )
        for row in rows
        if row["resolution"] == "all"
    ]
    return (
        charts.ranges("Median to 99th percentile", shown, ("promise: 15 min", PROMISE_SECONDS), tick) if shown else ""
    )


# -- money -----------------------------------------------------------------------------------------------------------


def _margin(rows: Rows) -> Description:
    if not rows:
        return Description("no payments")
    sentences, numbers = [], dict[str, int | float | str]()
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
        numbers[f"revenue_{currency}"] = amount(row["revenue_cents"], currency)
        numbers[f"net_margin_{currency}"] = amount(row["net_margin_cents"], currency)
        if row["margin_percent"] is not None:
            numbers[f"margin_percent_{currency}"] = float(row["margin_percent"])
    table = Table(
        ["Money", "Bought", "Jobs", "Revenue", "Refunds", "Disputes", "Stripe", "API", "Net", "Margin", "At a loss"],
        [
            [
                row["currency"].upper(),
                "no job" if row["resolution"] == "none" else row["resolution"],
                f"{row['paid_jobs']:,}",
                *(bare(row[n] if n in (_CENTS[0], _CENTS[-1]) else -row[n], row["currency"]) for n in _CENTS),
                "–" if row["margin_percent"] is None else f"{row['margin_percent']} %".replace("-", "−"),
                f"{row['jobs_at_a_loss']:,}",
            ]
            for row in rows
        ],
        words=2,
    )
    return Description("; ".join(sentences), numbers, table)


def _draw_margin(rows: Rows, trend: Trend) -> str:
    drawn = []
    for row in rows:
        if row["resolution"] != "all":
            continue
        currency, level, bars = row["currency"], 0, []
        names = ("revenue", "refunds", "disputes", "Stripe fees", "API cost", "net margin")
        for name, column in zip(names, _CENTS, strict=True):
            ends = name in ("revenue", "net margin")
            cents = row[column] if ends else -row[column]
            colour = TOTAL if name == "revenue" else LOSS if not ends else GAIN if cents >= 0 else DARK
            bars.append(Bar(name, float(cents), money(cents, currency), colour, 0 if ends else float(level)))
            level += cents
        drawn.append(charts.bars(f"From revenue to net margin, {currency.upper()}", bars))
    return "".join(drawn)


# -- credits ---------------------------------------------------------------------------------------------------------


def _credits(rows: Rows) -> Description:
    whole = _whole(rows)
    if whole is None:
        return Description("no credits were used")
    total = whole["credits"] + whole["credits_assumed"]
    numbers: dict[str, int | float | str] = {"credits": total, "credits_wasted": whole["credits_wasted"]}
    headline = f"{total:,} credits" + (
        f", {whole['credits_wasted']:,} of them wasted" if whole["credits_wasted"] else ""
    )
    if whole["budget_credits"] is not None:
        lasts = f"it runs out on {whole['runs_out_on']}" if whole["runs_out_on"] else "it lasts to the end of the month"
        headline += f"; {percent(whole['budget_used'])} of the budget of {whole['budget_credits']:,}: {lasts}"
        numbers["budget_used_percent"] = round(whole["budget_used"] * 100, 1)
    if whole["forecast_credits"] is not None:
        headline += f"; forecast for the month {whole['forecast_credits']:,}"
    table = Table(
        ["Bought", "Jobs", "Credits", "of these assumed", "of these wasted"],
        [
            [
                "gifts" if row["resolution"] == "none" else row["resolution"],
                f"{row['jobs']:,}",
                f"{row['credits'] + row['credits_assumed']:,}",
                f"{row['credits_assumed']:,}",
                f"{row['credits_wasted']:,}",
            ]
            for row in rows
        ],
    )
    return Description(headline, numbers, table)


def _draw_credits(rows: Rows, trend: Trend) -> str:
    wholes = _since_first(trend)
    if not wholes:
        return ""
    wasted = [float(whole["credits_wasted"]) if whole else 0.0 for _, whole in wholes]
    useful = [
        float(whole["credits"] + whole["credits_assumed"]) - bad if whole else 0.0
        for (_, whole), bad in zip(wholes, wasted, strict=True)
    ]
    newest = wholes[-1][1]
    budget = newest and newest["budget_credits"]
    return charts.columns(
        "Credits",
        _labels(wholes),
        [("used", TOTAL, useful), ("wasted", LOSS, wasted)],
        limit=(f"budget {budget:,}", float(budget)) if budget else None,
    )


# -- satisfaction ----------------------------------------------------------------------------------------------------


def _satisfaction(rows: Rows) -> Description:
    whole = _whole(rows)
    if whole is None:
        return Description("nothing was delivered")
    numbers: dict[str, int | float | str] = {"ratings": whole["ratings"]}
    if not whole["ratings"]:
        return Description(f"no ratings of {whole['delivered']:,} delivered", numbers)
    numbers |= {"mean_stars": round(whole["mean_stars"], 2), "response_percent": round(whole["response_rate"] * 100, 1)}
    table = Table(
        ["Bought", "Delivered", "Ratings", "Response", "Mean", *(f"{n}★" for n in range(5, 0, -1))],
        [
            [
                row["resolution"],
                f"{row['delivered']:,}",
                f"{row['ratings']:,}",
                percent(row["response_rate"]),
                "–" if row["mean_stars"] is None else f"{row['mean_stars']:.2f}",
                *(f"{row[f'stars_{n}']:,}" for n in range(5, 0, -1)),
            ]
            for row in rows
        ],
    )
    return Description(
        f"{whole['mean_stars']:.2f} of 5 stars; {whole['ratings']:,} of {whole['delivered']:,} customers answered "
        f"({percent(whole['response_rate'])})",
        numbers,
        table,
    )


def _draw_satisfaction(rows: Rows, trend: Trend) -> str:
    whole = _whole(rows)
    if whole is None or not whole["ratings"]:
        return ""
    colours = {5: GAIN, 4: GAIN, 3: NEUTRAL, 2: LOSS, 1: LOSS}
    bars = [
        Bar(
            "★" * n,
            whole[f"stars_{n}"],
            f"{whole[f'stars_{n}']:,} · {percent(whole[f'stars_{n}'] / whole['ratings'])}",
            colours[n],
        )
        for n in range(5, 0, -1)
    ]
    return charts.bars("Ratings by stars", bars)


def _of_all(column: str, factor: float = 1) -> Callable[[Rows], float | None]:
    def value(rows: Rows) -> float | None:
        row = next((one for one in rows if one.get("resolution", one.get("reason")) == "all"), None)
        return None if row is None or row[column] is None else float(row[column]) * factor

    return value


def _total_p95(rows: Rows) -> float | None:
    return _of_all("p95_seconds")([row for row in rows if row["stage"] == "paid_to_mailed"])


FIGURES = {
    "completion_rate": Figure(
        "Completion",
        "Share of the decided upscale jobs that were delivered, with its 95 % Wilson interval, by resolution. Open "
        "jobs do not count; once delivered, a job stays delivered.",
        _completion,
        _of_all("completion_rate", 100),
        _draw_completion,
    ),
    "error_rate": Figure(
        "Errors",
        "Why upscale jobs were not delivered: each reason's share of the decided jobs, with its 95 % Wilson interval.",
        _errors,
        _of_all("error_rate", 100),
        _draw_errors,
    ),
    "processing_times": Figure(
        "Processing times",
        "How long each stage took: median, 90th, 95th and 99th percentile and the share within 15 minutes, by "
        "resolution; from the payment to the moment the mail server took the closing mail.",
        _times,
        _total_p95,
        _draw_times,
    ),
    "profit_margin": Figure(
        "Profit margin",
        "Revenue, refunds, disputes, Stripe fees, API cost and what is left, by currency and resolution, in cents. "
        "Fees are not returned on a refund. A later refund changes the day of the payment.",
        _margin,
        _of_all("net_margin_cents"),
        _draw_margin,
    ),
    "credit_usage": Figure(
        "Credits",
        "Credits that Upsampler took, those of wasted attempts and of gifts included; of a month with its budget and a "
        "forecast of the day it runs out.",
        _credits,
        _of_all("credits"),
        _draw_credits,
    ),
    "customer_satisfaction": Figure(
        "Customer satisfaction",
        "Mean and distribution of the stars that customers gave, and the share of them that answered, by resolution.",
        _satisfaction,
        _of_all("mean_stars"),
        _draw_satisfaction,
    ),
}
