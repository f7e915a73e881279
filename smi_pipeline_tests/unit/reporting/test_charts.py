"""Charts are drawn for every kind of day, small enough for an event log, and say what they show."""

from datetime import date, timedelta
from decimal import Decimal
from io import BytesIO

import pytest
from PIL import Image

from smi_pipeline.reporting import charts

DAY = date(2026, 11, 10)


def texts(figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(found)


def completion_row(day: date, delivered: int, refunded: int = 0, open_jobs: int = 0) -> dict:
    decided = delivered + refunded
    return {
        "day": day,
        "resolution": "all",
        "paid_jobs": decided + open_jobs,
        "delivered": delivered,
        "refunded": refunded,
        "failed": 0,
        "open_jobs": open_jobs,
        "completion_rate": delivered / decided if decided else None,
        "rate_low": 0.5 * delivered / decided if decided else None,
        "rate_high": 1.0 if decided else None,
    }


def times_row(stage: str, seconds: float) -> dict:
    spread = {"p50": 1, "p90": 2, "p95": 3, "p99": 5}
    return {"stage": stage, "resolution": "all", "jobs": 3} | {
        f"{name}_seconds": seconds * factor for name, factor in spread.items()
    }


def profit_row(currency: str, revenue: int, refunds: int, fees: int, cost: int) -> dict:
    net = revenue - refunds - fees - cost
    return {
        "currency": currency,
        "resolution": "all",
        "paid_jobs": 3,
        "revenue_cents": revenue,
        "refunds_cents": refunds,
        "stripe_fees_cents": fees,
        "api_cost_cents": cost,
        "net_margin_cents": net,
        "margin_percent": Decimal(net * 100) / revenue if revenue else None,
    }


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(lambda: charts.completion([], DAY), id="completion"),
        pytest.param(lambda: charts.completion([completion_row(DAY - timedelta(days=1), 3)], DAY), id="day before"),
        pytest.param(lambda: charts.times([], DAY, promised_seconds=900), id="times"),
        pytest.param(lambda: charts.profit([], DAY), id="profit"),
    ],
)
def test_a_day_without_paid_jobs_is_drawn_as_one(figure):
    drawn = figure()
    assert "no paid jobs" in texts(drawn)
    assert "2026-11-10" in texts(drawn)
    assert charts.png(drawn).startswith(b"\x89PNG")


def test_the_completion_chart_shows_two_weeks_ending_with_the_day():
    rows = [completion_row(DAY - timedelta(days=n), 20 - n, n % 3, n == 0) for n in range(14)]
    drawn = charts.completion(rows, DAY)
    words = texts(drawn)
    assert "2026-11-10: 100.0 % delivered" in words
    assert "10 Nov" in words and "28 Oct" in words
    assert {"delivered", "refunded", "open"} <= set(words.split("\n"))


def test_a_day_with_open_jobs_alone_can_be_drawn():
    assert charts.png(charts.completion([completion_row(DAY, 0, 0, 4)], DAY))


def test_times_are_drawn_in_units_and_with_the_promise():
    rows = [times_row("paid_to_submitted", 0.05), times_row("paid_to_mailed", 200)]
    words = texts(charts.times(rows, DAY, promised_seconds=900))
    assert "promise: 15 min" in words
    assert "median 3 min 20 s, 95 % within 10 min 00 s" in words
    assert "10 s" in words and "100 ms" in words


def test_a_time_of_zero_fits_on_the_scale():
    assert charts.png(charts.times([times_row("paid_to_submitted", 0)], DAY, promised_seconds=900))


def test_each_currency_has_its_panel_and_a_loss_is_below_zero():
    rows = [profit_row("usd", 5000, 100, 300, 500), profit_row("eur", 50, 50, 31, 4)]
    drawn = charts.profit(rows, DAY)
    assert len(drawn.axes) == 2
    assert "−0.35 EUR" in texts(drawn) and "41.00 USD" in texts(drawn)
    assert drawn.axes[1].get_ylim()[0] < 0


def test_pictures_are_small_and_have_few_colours():
    rows = [completion_row(DAY - timedelta(days=n), 20 - n, n % 3) for n in range(14)]
    png = charts.png(charts.completion(rows, DAY))
    assert len(png) < 40_000
    assert Image.open(BytesIO(png)).mode == "P"
