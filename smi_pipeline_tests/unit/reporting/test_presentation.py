"""Figures in words: units a person reads without thinking."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from smi_pipeline.reporting.figures import FIGURES
from smi_pipeline.reporting.presentation import STAGE_NAMES, Table

SHOWN_IN_PLACE = 1000  # characters of Markdown that the UI shows without a click


def test_bars_in_a_cell_do_not_break_the_table():
    assert Table(["a", "b"], [["x|y", "1"]]).markdown() == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |"


def test_a_day_on_which_nothing_is_decided_yet_says_so():
    row = {"resolution": "all", "paid_jobs": 2, "delivered": 0, "refunded": 0, "failed": 0, "open_jobs": 2}
    said = FIGURES["completion_rate"].describe([row | {"completion_rate": None, "rate_low": None, "rate_high": None}])
    assert said.headline == "2 paid jobs, none decided yet"
    assert "completion_rate_percent" not in said.numbers


def test_every_report_of_a_period_without_anything_says_so_and_draws_nothing():
    trend: list[tuple[date, list[Any]]] = [(date(2026, 11, day), []) for day in range(1, 15)]
    for name, figure in FIGURES.items():
        said = figure.describe([])
        assert said.headline and said.table is None, name
        assert (figure.draw([], trend, 900), figure.measure(trend).since_first()) == ("", []), name


def test_the_preview_of_the_times_fits_in_place():
    rows = [
        {"stage": stage, "resolution": resolution, "jobs": 12_345, "within_15_minutes": 0.98}
        | {f"{name}_seconds": 83.2 for name in ("p50", "p90", "p95", "p99", "max")}
        for stage in STAGE_NAMES
        for resolution in ("all", "8x", "4x")
    ]
    preview = FIGURES["processing_times"].describe(rows).preview
    assert preview is not None and len(preview.rows) == 7
    assert len(preview.markdown()) < SHOWN_IN_PLACE


def margin(revenue: int, refunds: int, currency: str = "usd") -> dict[str, object]:
    net = revenue - refunds - 31 - 4
    return {
        "currency": currency,
        "resolution": "all",
        "paid_jobs": 1,
        "revenue_cents": revenue,
        "refunds_cents": refunds,
        "disputes_cents": 0,
        "stripe_fees_cents": 31,
        "api_cost_cents": 4,
        "net_margin_cents": net,
        "margin_percent": Decimal(net * 100) / revenue,
        "jobs_at_a_loss": int(net < 0),
    }


def test_a_loss_is_told_as_one():
    said = FIGURES["profit_margin"].describe([margin(50, 50)])
    assert said.headline == "-$0.35 net of $0.50 revenue (-70%); 1 of 1 paid job at a loss"
    assert said.numbers["net_margin_usd"] == -0.35


def test_each_currency_has_its_own_words_and_its_own_chart():
    rows = [margin(70, 0, "eur"), margin(50, 0)]
    assert "€0.70 revenue" in FIGURES["profit_margin"].describe(rows).headline
    assert FIGURES["profit_margin"].draw(rows, [], 900).count("<svg") == 2


def test_the_preview_of_money_has_a_column_per_resolution_or_per_currency_and_stays_narrow():
    of_dollars = FIGURES["profit_margin"].describe([margin(50, 0), margin(50, 0) | {"resolution": "4x"}]).preview
    assert of_dollars and of_dollars.headers == ["USD", "all", "4x"]
    assert of_dollars.rows[1] == ["Revenue", "0.50", "0.50"]
    of_both = FIGURES["profit_margin"].describe([margin(70, 0, "eur"), margin(50, 0)]).preview
    assert of_both and of_both.headers == ["", "EUR", "USD"]
    assert of_both.rows[1] == ["Revenue", "0.70", "0.50"]


def test_the_margins_of_the_last_days_are_those_of_one_currency_and_say_which():
    days: list[tuple[date, list[Any]]] = [
        (date(2026, 11, 18), []),
        (date(2026, 11, 19), [margin(50, 0) | {"paid_jobs": 3}]),
        (date(2026, 11, 20), [margin(70, 0, "eur"), margin(50, 50)]),
    ]
    measure = FIGURES["profit_margin"].measure(days)
    assert measure.words == "net margin, USD"
    assert measure.since_first() == pytest.approx([0.15, -0.35])


def test_money_without_a_paid_job_says_so():
    row = margin(80, 80) | {"paid_jobs": 0, "jobs_at_a_loss": 0}
    headline = FIGURES["profit_margin"].describe([row]).headline
    assert headline.endswith("; no paid jobs: payments without one, or free retries")


def test_a_month_says_when_its_budget_runs_out():
    row = {
        "resolution": "all",
        "jobs": 2,
        "credits": 90,
        "credits_assumed": 0,
        "credits_wasted": 3,
        "budget_credits": 100,
        "budget_used": 0.9,
        "forecast_credits": 270,
        "runs_out_on": date(2026, 11, 12),
    }
    assert FIGURES["credit_usage"].describe([row]).headline == (
        "90 credits, 3 of them wasted; 90.0% of the budget of 100: it runs out on 2026-11-12; "
        "forecast for the month 270"
    )
    lasting = FIGURES["credit_usage"].describe([row | {"runs_out_on": None}])
    assert "it lasts to the month's end" in lasting.headline
    over = FIGURES["credit_usage"].describe([row | {"budget_used": 1.2, "forecast_credits": 90}])
    assert over.headline.endswith("120.0% of the budget of 100: it ran out on 2026-11-12")


@pytest.mark.parametrize(
    ("seconds", "words"), [(900, "promise: 15 min"), (2_700, "promise: 45 min"), (60, "promise: 1 min")]
)
def test_the_chart_of_times_draws_the_configured_promise(seconds: float, words: str) -> None:
    row = {"stage": "paid_to_mailed", "resolution": "all", "jobs": 3}
    rows = [row | {f"{name}_seconds": 20.0 for name in ("p50", "p90", "p95", "p99")}]
    assert words in FIGURES["processing_times"].draw(rows, [], seconds)
