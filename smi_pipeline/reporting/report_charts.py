"""Draw the charts of each report as HTML figures with captions."""

from datetime import date
from html import escape

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


def _since_first(trend: Trend) -> list[tuple[date, Row | None]]:
    """Return the row of all resolutions of each period, from the first that has one."""
    wholes = [(day, whole_of(rows)) for day, rows in trend]
    first = next((place for place, (_, whole) in enumerate(wholes) if whole), len(wholes))
    return wholes[first:]


def completion(rows: Rows, trend: Trend, promise_seconds: float) -> str:
    """Draw the outcomes of paid jobs per period."""
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
    caption = "Paid upscale jobs by outcome"
    return _figure(caption, charts.columns(caption, [label(day, trend) for day, _ in wholes], series, above=above))


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
    caption = "Credits that Upsampler took"
    columns = charts.columns(
        caption,
        [label(day, trend) for day, _ in wholes],
        [("used", TOTAL, useful), ("wasted", LOSS, wasted)],
        limit=(f"budget {number(budget)}", float(budget)) if budget else None,
    )
    return _figure(caption, columns)


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
