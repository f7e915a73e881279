"""The monthly credit budget: the alert, the hold, the report check and the report tables count the same credits."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import AmbiguousError, Unavailable
from smi_pipeline.core.pricing import Prices
from smi_pipeline.services.alerts import watch_budget
from smi_pipeline.state.reports.checks import ReportChecks
from smi_pipeline.state.reports.store import Reports
from smi_pipeline_tests.integration.services.steps import Steps

BOOKED = 2
"""Credits that the test's Upsampler takes for a call."""


@pytest.fixture
def spent(shop: Steps) -> int:
    """The credits used this month: by a delivered job, and by one whose first call was never answered.

    In the middle of a day in the middle of a month: neither ends during the test.
    """
    now = shop.state.submissions.now()
    noon = (now.replace(day=15) + timedelta(days=31)).replace(day=15, hour=12, minute=0)
    shop.later(seconds=(noon - now).total_seconds())
    shop.delivered()
    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    shop.later(seconds=150)
    shop.submit_due()
    assert [call.state for call in shop.state.submissions.of_job(job_id)] == ["lost", "accepted"]
    return 2 * BOOKED + shop.job(job_id).expected_credits


def budgeted(shop: Steps, budget: int) -> None:
    policy = replace(shop.policy, monthly_credit_budget=budget, budget_hold=True)
    shop.ctx = replace(shop.ctx, policy=policy)


def test_the_alert_and_the_hold_count_what_a_call_without_an_answer_may_have_cost(shop: Steps, spent: int) -> None:
    budgeted(shop, spent + 1)
    assert watch_budget(shop.ctx) == 100 * spent // (spent + 1)
    shop.register()
    budgeted(shop, spent)
    assert watch_budget(shop.ctx) == 100
    with pytest.raises(Unavailable, match="budget"):
        shop.register()


def test_the_report_check_and_the_report_tables_agree_with_the_alert(shop: Steps, spent: int) -> None:
    today = shop.state.submissions.now().date()
    Reports(shop.database, Prices(), budget=spent).build_facts(today, today)
    with shop.database.transaction() as tx:
        reported = tx.value("SELECT sum(credits + credits_assumed) FROM reports.day_sums")
    assert ReportChecks(shop.database).credits_used(today) == reported == spent
    assert shop.state.queries.credits_this_month() == spent


def test_imported_history_of_this_month_counts_in_the_budget(shop: Steps) -> None:
    job_id = shop.delivered()
    shop.change("DELETE FROM smi.submissions")
    shop.change(f"UPDATE smi.upscale_jobs SET imported_from = 'wordpress' WHERE job_id = '{job_id}'")
    assert shop.state.queries.credits_this_month() == shop.job(job_id).expected_credits
    shop.later(days=31)
    assert shop.state.queries.credits_this_month() == 0
