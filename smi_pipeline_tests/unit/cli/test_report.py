"""`smi report`: the figures of built days, and what to do about those that are not."""

from datetime import UTC, datetime, timedelta

import pytest

from smi_pipeline.adapters.postgres.reports import FACTS, REPORTS, PostgresReports
from smi_pipeline.core.pricing import Prices
from smi_pipeline_tests.unit.cli.conftest import Smi
from smi_pipeline_tests.unit.services.steps import Steps

TODAY = datetime.now(UTC).date()


@pytest.fixture
def built(shop: Steps) -> Steps:
    """A delivered and a refunded job of today, its report built."""
    shop.delivered()
    shop.failed()
    shop.refund_due()
    shop.mail_due()
    reports = PostgresReports(shop.database, Prices())
    for table in (FACTS, *REPORTS):
        reports.build(table, TODAY, TODAY)
    return shop


def test_a_day_that_was_not_built_is_told_with_what_to_do(smi: Smi, database: str) -> None:
    for period in ("2026-01-05", "2026-01"):
        ran = smi("report", period)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "materialise the assets job_facts, completion_rate" in ran.err


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
    assert figures["not_delivered"] == [{"reason": "upscale_failed", "jobs": 1}]
    assert figures["days_not_built"] == figures["days_out_of_date"] == []
    shown = smi("report", TODAY).out
    for words in ("completion", "money", "seconds", "50.0%", "$1.00", "upscale_failed"):
        assert words in shown


def test_a_month_adds_its_days_up_and_names_those_that_are_missing(smi: Smi, built: Steps) -> None:
    figures = smi("report", f"{TODAY:%Y-%m}", "--json").json
    total = next(row for row in figures["completion_rate"] if row["resolution"] == "all")
    assert total["paid_jobs"] == 2
    assert len(figures["days_not_built"]) == TODAY.day - 1
    if TODAY.day > 1:
        assert "not built yet: " in smi("report", f"{TODAY:%Y-%m}").out


def test_a_day_that_has_changed_since_is_called_out_of_date(smi: Smi, built: Steps) -> None:
    built.delivered()
    assert smi("report", TODAY, "--json").json["days_out_of_date"] == [str(TODAY)]
    assert "out of date" in smi("report", TODAY).out


def test_a_built_day_without_jobs_says_so(smi: Smi, built: Steps) -> None:
    yesterday = TODAY - timedelta(days=1)
    reports = PostgresReports(built.database, Prices())
    for table in (FACTS, *REPORTS):
        reports.build(table, yesterday, yesterday)
    ran = smi("report", yesterday)
    assert (ran.code, "no paid upscale jobs" in ran.out) == (0, True)
