"""`smi report`: the figures of built days, and what to do about those that are not."""

from datetime import UTC, date, datetime, timedelta

import pytest

from smi_pipeline.core.pricing import Prices
from smi_pipeline.state.reports.store import REPORTS, Reports
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.services.steps import Steps

TODAY = datetime.now(UTC).date()


@pytest.fixture
def built(shop: Steps) -> Steps:
    """A delivered and a refunded job of today, its report built."""
    shop.delivered()
    shop.failed()
    shop.refund_due()
    shop.mail_due()
    build(shop, TODAY)
    return shop


def build(shop: Steps, day: date) -> None:
    reports = Reports(shop.database, Prices(), budget=100)
    reports.build_facts(day, day)
    for period in ("day", "month"):
        for table in REPORTS:
            reports.build(table, day, day, period=period)


def test_a_day_that_was_not_built_is_told_with_what_to_do(smi: Smi, database: str) -> None:
    for period, job in (("2026-01-05", "rebuild_days"), ("2026-01", "rebuild_months")):
        ran = smi("report", period)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert f"no report of {period} has been built yet" in ran.err and job in ran.err


def test_the_figures_of_a_day(smi: Smi, built: Steps) -> None:
    figures = smi("report", TODAY, "--json").json
    total = next(row for row in figures["completion_rate"] if row["resolution"] == "all")
    assert (total["paid_jobs"], total["delivered"], total["refunded"]) == (2, 1, 1)
    assert total["completion_rate"] == 0.5
    money = next(row for row in figures["profit_margin"] if row["resolution"] == "all")
    assert money["revenue_cents"] == 100
    assert money["refunds_cents"] == 50
    revenue, rest = money["revenue_cents"], money["refunds_cents"] + money["stripe_fees_cents"]
    assert money["net_margin_cents"] == revenue - rest - money["api_cost_cents"]
    assert {row["stage"] for row in figures["processing_times"]} >= {"paid_to_submitted", "paid_to_mailed"}
    assert {row["reason"]: row["jobs"] for row in figures["error_rate"]} == {"all": 1, "upscale_failed": 1}
    assert figures["out_of_date"] is False
    shown = smi("report", TODAY).out
    for words in ("50.0% delivered: 1 of 2", "$1.00 revenue", "median", "upscale_failed", "Customer satisfaction"):
        assert words in shown


def test_a_month_shows_its_budget(smi: Smi, built: Steps) -> None:
    figures = smi("report", f"{TODAY:%Y-%m}", "--json").json
    total = next(row for row in figures["credit_usage"] if row["resolution"] == "all")
    assert (total["jobs"], total["budget_credits"]) == (2, 100)
    assert total["budget_used"] == (total["credits"] + total["credits_assumed"]) / 100
    assert "of the budget of 100" in smi("report", f"{TODAY:%Y-%m}").out


def test_a_day_and_a_month_that_have_changed_since_are_called_out_of_date(smi: Smi, built: Steps) -> None:
    built.delivered()
    for period in (TODAY, f"{TODAY:%Y-%m}"):
        assert smi("report", period, "--json").json["out_of_date"] is True
        assert "out of date" in smi("report", period).out


def test_a_built_day_without_jobs_says_so(smi: Smi, built: Steps) -> None:
    yesterday = TODAY - timedelta(days=1)
    build(built, yesterday)
    ran = smi("report", yesterday)
    assert "so far" not in ran.out
    assert smi("report", yesterday, "--json").json["complete"] is True
    assert (ran.code, "Completion: no paid jobs" in ran.out) == (0, True)


def test_a_day_and_a_month_that_are_not_over_say_so(smi: Smi, built: Steps) -> None:
    for kind, period in (("day", TODAY), ("month", f"{TODAY:%Y-%m}")):
        assert smi("report", period, "--json").json["complete"] is False
        assert f"(so far: this {kind} is not over)" in smi("report", period).out.splitlines()[0]
