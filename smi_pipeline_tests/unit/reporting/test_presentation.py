"""Figures in words: units a person reads without thinking."""

from decimal import Decimal

import pytest

from smi_pipeline.reporting import presentation
from smi_pipeline.reporting.presentation import markdown, money, percent, span

SHOWN_IN_PLACE = 1000  # characters of Markdown that the UI shows without a click


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0.00 s"),
        (0.254, "0.25 s"),
        (0.995, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7_800, "2 h 10 min"),
    ],
)
def test_times_are_told_in_the_unit_that_fits(seconds, words):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("cents", "currency", "words"),
    [
        (1234, "usd", "12.34 USD"),
        (-5, "eur", "−0.05 EUR"),
        (0, "usd", "0.00 USD"),
        (123_456_789, "usd", "1,234,567.89 USD"),
        (500, "jpy", "500 JPY"),
    ],
)
def test_money_is_told_in_units_of_its_currency(cents, currency, words):
    assert money(cents, currency) == words


def test_a_share_without_a_base_is_a_dash():
    assert (percent(None), percent(0.958)) == ("–", "95.8 %")


def test_bars_in_a_cell_do_not_break_the_table():
    assert markdown(["a", "b"], [("x|y", 1)]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |"


def test_a_day_on_which_nothing_is_decided_yet_says_so():
    row = {"resolution": "all", "paid_jobs": 2, "delivered": 0, "refunded": 0, "failed": 0, "open_jobs": 2}
    said = presentation.completion([row | {"completion_rate": None, "rate_low": None, "rate_high": None}], [])
    assert said.headline == "2 paid jobs, none decided yet"
    assert "completion_rate_percent" not in said.numbers


def test_paid_jobs_without_a_closing_mail_say_so():
    assert presentation.times([], 1).headline == "1 paid job, none closed yet"


def test_the_preview_of_the_times_fits_in_place():
    rows = [
        {"stage": stage, "resolution": resolution, "jobs": 12_345}
        | {f"{name}_seconds": 83.2 for name in ("p50", "p90", "p95", "p99", "max")}
        for stage in presentation.STAGE_NAMES
        for resolution in ("all", "8x", "4x")
    ]
    said = presentation.times(rows, 12_345)
    assert said.table.count("\n") == 8
    assert len(said.table) < SHOWN_IN_PLACE


def test_a_loss_is_told_as_one():
    row = {
        "currency": "usd",
        "resolution": "all",
        "paid_jobs": 1,
        "revenue_cents": 50,
        "refunds_cents": 50,
        "stripe_fees_cents": 31,
        "api_cost_cents": 4,
        "net_margin_cents": -35,
        "margin_percent": Decimal("-70.0"),
        "credits": 1,
        "jobs_at_a_loss": 1,
    }
    said = presentation.profit([row])
    assert said.headline == "−0.35 USD net of 0.50 USD revenue (−70.0 %); 1 of 1 paid job at a loss"
    assert said.numbers["net_margin_usd"] == -0.35


def test_previews_of_the_facts_say_how_much_they_leave_out():
    row = {
        "job_id": "a" * 32,
        "resolution": "4x",
        "outcome": "open",
        "reason": None,
        "megapixels": Decimal("3.2"),
        "paid_to_mailed": None,
        "credits": 0,
        "credits_assumed": 1,
        "received_cents": 50,
        "net_margin_cents": 15,
        "currency": "usd",
    }
    said = presentation.facts([row] * presentation.PREVIEW_ROWS, 1200)
    assert said.headline == "1,200 paid jobs"
    assert said.table.endswith("5 of 1,200 rows, least profitable first")
    assert len(said.table) < SHOWN_IN_PLACE
