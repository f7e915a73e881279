"""One chart per report, as PNG. matplotlib and pandas are imported inside: code servers must start without them."""

from collections.abc import Sequence
from datetime import date, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

from smi_pipeline.reporting.presentation import EMPTY, STAGE_NAMES, Row, amount, money, percent, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TREND_DAYS = 14
"""Days in the chart of the completion rate, the day itself last."""

_OUTCOMES = {"delivered": "#2a9d8f", "refunded": "#e76f51", "failed": "#9b2226", "open_jobs": "#c9cdd3"}
_INK, _FAINT, _GAIN, _LOSS, _TOTAL = "#22313f", "#d9dee4", "#2a9d8f", "#e76f51", "#457b9d"
_COLOURS = 64  # of the PNG: a chart needs no more, and takes a third of the bytes
_TICKS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 86_400)


def png(figure: "Figure") -> bytes:
    """The figure as a small PNG with a palette."""
    from PIL import Image

    raw = BytesIO()
    figure.savefig(raw, format="png", dpi=110, facecolor="white")
    small = BytesIO()
    Image.open(raw).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def _figure(title: str, height: float) -> "Figure":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"font.size": 9.5, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _FAINT})
    mpl.rcParams.update({"xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False})
    figure = Figure(figsize=(8.2, height), layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    return figure


def _empty(title: str) -> "Figure":
    figure = _figure(title, 1.6)
    figure.text(0.5, 0.4, EMPTY, ha="center", va="center", fontsize=16, color="#7a8793")
    return figure


def completion(rows: Sequence[Row], day: date) -> "Figure":
    """Outcomes and completion rate of the `TREND_DAYS` up to `day`, from rows of `completion_rate` of these days."""
    import pandas as pd

    days = [day - timedelta(days=back) for back in reversed(range(TREND_DAYS))]
    whole = pd.DataFrame([dict(row) for row in rows if row["resolution"] == "all"])
    if whole.empty or day not in set(whole["day"]):
        return _empty(f"Completion · {day}")
    whole = whole.set_index("day").reindex(days)
    today = whole.loc[day]
    rate = None if pd.isna(today["completion_rate"]) else today["completion_rate"]
    figure = _figure(
        f"Completion · {day}: {percent(rate)} delivered" if rate is not None else f"Completion · {day}", 4.4
    )
    counts: Any
    upper: Any
    upper, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    places = range(len(days))

    middle = whole["completion_rate"].astype(float) * 100
    below, above = middle - whole["rate_low"].astype(float) * 100, whole["rate_high"].astype(float) * 100 - middle
    upper.errorbar(
        places, middle, yerr=[below.clip(0), above.clip(0)], fmt="o-", color=_GAIN, ecolor="#8fcfc7", capsize=3
    )
    upper.set_ylim(0, 105)
    upper.set_ylabel("delivered, % of decided\n(bars: 95 % interval)")
    upper.grid(axis="y", color=_FAINT)

    floor = whole["delivered"].fillna(0) * 0
    for name, colour in _OUTCOMES.items():
        height = whole[name].fillna(0).astype(int)
        if height.any():
            counts.bar(places, height, bottom=floor, color=colour, label=name.removesuffix("_jobs"), width=0.7)
        floor = floor + height
    counts.set_ylim(0, max(1, floor.max()) * 1.12)
    counts.set_ylabel("paid jobs")
    counts.yaxis.get_major_locator().set_params(integer=True)
    counts.set_xticks(list(places), [f"{one:%a}\n{one.day} {one:%b}" for one in days], fontsize=8.5)
    counts.grid(axis="y", color=_FAINT)
    counts.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def times(rows: Sequence[Row], day: date, *, promised_seconds: float) -> "Figure":
    """Median to 99th percentile of every stage on one day, from its rows of `processing_times`."""
    whole = {row["stage"]: row for row in rows if row["resolution"] == "all"}
    if not whole:
        return _empty(f"Processing times · {day}")
    figure = _figure(f"Processing times · {day}", 3.6)
    axes: Any = figure.subplots()
    stages = [stage for stage in STAGE_NAMES if stage in whole]
    marks = {"p50": ("o", "median", 64), "p90": ("|", "90 %", 90), "p95": ("D", "95 %", 34), "p99": (">", "99 %", 48)}
    for place, stage in enumerate(stages):
        colour = _TOTAL if stage == "paid_to_mailed" else _GAIN
        values = [max(whole[stage][f"{name}_seconds"], _TICKS[0]) for name in marks]
        axes.plot(
            [values[0], values[-1]], [place, place], color=colour, linewidth=5, alpha=0.28, solid_capstyle="round"
        )
        for value, (shape, _, size) in zip(values, marks.values(), strict=True):
            axes.scatter([value], [place], marker=shape, s=size, color=colour, zorder=3)
        words = f"median {span(whole[stage]['p50_seconds'])}, 95 % within {span(whole[stage]['p95_seconds'])}"
        axes.annotate(words, (values[0], place), (0, 8), textcoords="offset points", fontsize=8.5, color=_INK)
    smallest = min(max(whole[stage]["p50_seconds"], _TICKS[0]) for stage in stages)
    largest = max(promised_seconds, *(whole[stage]["p99_seconds"] for stage in stages))
    axes.set_xscale("log")
    axes.set_xlim(smallest / 1.6, largest * 2.2)
    ticks = [tick for tick in _TICKS if smallest / 1.6 <= tick <= largest * 2.2]
    axes.set_xticks(ticks, [_tick(tick) for tick in ticks])
    axes.minorticks_off()
    axes.axvline(promised_seconds, color=_LOSS, linestyle="--", linewidth=1)
    axes.annotate(
        f"promise: {_tick(promised_seconds)}",
        (promised_seconds, -0.75),
        (-4, 0),
        ha="right",
        textcoords="offset points",
        fontsize=8.5,
        color=_LOSS,
        annotation_clip=False,
    )
    axes.set_yticks(range(len(stages)), [f"{STAGE_NAMES[stage]}\n({whole[stage]['jobs']:,} jobs)" for stage in stages])
    axes.set_ylim(len(stages) - 0.4, -0.95)
    axes.grid(axis="x", color=_FAINT)
    axes.set_axisbelow(True)
    for shape, name, size in marks.values():
        axes.scatter([], [], marker=shape, s=size, color=_INK, label=name)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _tick(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds * 1000:g} ms"


def profit(rows: Sequence[Row], day: date) -> "Figure":
    """From revenue to net margin on one day, one panel per currency, from its rows of `profit_margin`."""
    whole = [row for row in rows if row["resolution"] == "all"]
    if not whole:
        return _empty(f"Profit margin · {day}")
    figure = _figure(f"Profit margin · {day}", 3.4 * len(whole) + 0.2)
    panels: Any = figure.subplots(len(whole), 1, squeeze=False)
    for row, axes in zip(whole, panels[:, 0], strict=True):
        _waterfall(axes, row)
    return figure


def _waterfall(axes: "Axes", row: Row) -> None:
    currency = row["currency"]
    parts = [
        ("revenue", row["revenue_cents"], _TOTAL),
        ("refunds", -row["refunds_cents"], _LOSS),
        ("Stripe fees", -row["stripe_fees_cents"], _LOSS),
        ("API cost", -row["api_cost_cents"], _LOSS),
        ("net margin", row["net_margin_cents"], _GAIN if row["net_margin_cents"] >= 0 else "#9b2226"),
    ]
    level = 0.0
    edges = [0.0]
    for place, (name, cents, colour) in enumerate(parts):
        size = amount(cents, currency)
        bottom = 0.0 if name in ("revenue", "net margin") else level
        axes.bar(place, size, bottom=bottom, color=colour, width=0.62)
        level = bottom + size
        edges.append(level)
        axes.annotate(
            money(cents, currency),
            (place, max(bottom, level, 0)),
            (0, 3),
            ha="center",
            textcoords="offset points",
            fontweight="bold" if name in ("revenue", "net margin") else "normal",
        )
        if place < len(parts) - 2:
            axes.plot([place + 0.31, place + 0.69], [level, level], color="#9aa5b1", linewidth=0.8)
    low, high = min(edges), max(edges)
    room = (high - low) * 0.12 or 1
    axes.set_ylim(low - (room if low < 0 else 0), high + room)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xticks(range(len(parts)), [name for name, _, _ in parts])
    axes.set_ylabel(currency.upper())
    axes.grid(axis="y", color=_FAINT)
    axes.set_axisbelow(True)
    share = "" if row["margin_percent"] is None else f", margin {row['margin_percent']} %".replace("-", "−")
    count = f"{row['paid_jobs']:,} paid job{'' if row['paid_jobs'] == 1 else 's'}"
    axes.set_title(f"{currency.upper()} · {count}{share}", loc="left", fontsize=10)
