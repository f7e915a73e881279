"""Draw the charts of each report as HTML figures with captions."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import dropwhile
from operator import itemgetter
from typing import Any

from smi_pipeline.formatting import duration, money, number, percent
from smi_pipeline.reporting import charts
from smi_pipeline.reporting.charts import DARK, GAIN, LOSS, NEUTRAL, TOTAL, Bar, Range
from smi_pipeline.reporting.presentation import (
    CENTS,
    STAGE_NAMES,
    Row,
    Rows,
    Trend,
    label,
    tick,
    whole_of,
)

_OUTCOMES = {"delivered": GAIN, "refunded": LOSS, "failed": DARK, "open_jobs": NEUTRAL}


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>" if svg else ""


def _columns(caption: str, trend: Trend, series: Sequence[tuple[str, str, Callable[[Row], float]]], **more: Any) -> str:
    """Draw a column per period, from the first that has a row of all resolutions; `series`: name, colour, value."""
    wholes = list(dropwhile(lambda one: one[1] is None, ((day, whole_of(rows)) for day, rows in trend)))
    values = [(name, colour, [float(of(row)) if row else 0.0 for _, row in wholes]) for name, colour, of in series]
    labels = [label(day, trend) for day, _ in wholes]
    return _figure(caption, charts.columns(caption, labels, values, **more)) if wholes else ""


def completion(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the outcomes of paid jobs per period."""
    whole = whole_of(rows)
    rate = whole["completion_rate"] if whole else None
    series = [(name.removesuffix("_jobs"), colour, itemgetter(name)) for name, colour in _OUTCOMES.items()]
    return _columns("Paid upscale jobs by outcome", trend, series, newest="" if rate is None else percent(rate))


def errors(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the number of jobs per failure reason."""
    bars = [Bar(row["reason"].replace("_", " "), row["jobs"], number(row["jobs"]), LOSS) for row in rows[1:9]]
    caption = "Upscale jobs not delivered, by reason"
    return _figure(caption, charts.bars(caption, bars)) if bars else ""


def times(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the percentiles of each stage and the promised time."""
    shown = [
        Range(
            STAGE_NAMES[row["stage"]],
            [
                (words, max(row[f"{name}_seconds"], 0.001))
                for name, words in (("p50", "median"), ("p90", "90%"), ("p95", "95%"), ("p99", "99%"))
            ],
            f"{duration(row['p50_seconds'])} · 95%: {duration(row['p95_seconds'])}",
            TOTAL if row["stage"] == "paid_to_mailed" else GAIN,
        )
        for row in rows
        if row["resolution"] == "all"
    ]
    if not shown:
        return ""
    caption = "Median of each stage · 95% within · dots up to 99%"
    return _figure(
        caption, charts.ranges(caption, shown, (f"promise: {duration(promise_seconds)}", promise_seconds), tick)
    )


def margin(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the steps from revenue to net margin, one figure per currency."""
    figures = []
    for row in rows:
        if row["resolution"] != "all":
            continue
        currency, level, bars = row["currency"], 0, []
        names = ("revenue", "refunds", "disputes", "Stripe fees", "API cost", "net margin")
        for name, column in zip(names, CENTS, strict=True):
            ends = name in ("revenue", "net margin")
            cents = row[column] if ends else -row[column]
            colour = TOTAL if name == "revenue" else LOSS if not ends else GAIN if cents >= 0 else DARK
            bars.append(Bar(name, float(cents), money(cents, currency), colour, 0 if ends else float(level)))
            level += cents
        caption = f"From revenue to net margin, {currency.upper()}"
        figures.append(_figure(caption, charts.bars(caption, bars)))
    return "".join(figures)


def credits(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw used and wasted credits per period, with the budget."""
    whole = whole_of(rows)
    budget = whole and whole["budget_credits"]
    return _columns(
        "Credits that Upsampler took",
        trend,
        [
            ("used", TOTAL, lambda row: row["credits"] + row["credits_assumed"] - row["credits_wasted"]),
            ("wasted", LOSS, itemgetter("credits_wasted")),
        ],
        limit=(f"budget {number(budget)}", float(budget)) if budget else None,
    )


def satisfaction(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the number of ratings per star."""
    whole = whole_of(rows)
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
    return _figure("Ratings by stars", charts.bars("Ratings by stars", bars))
