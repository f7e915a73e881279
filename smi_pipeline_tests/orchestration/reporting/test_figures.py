"""Every figure against the oracle, on random histories and on the days where formulas break."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.pricing import Prices
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import FACTS, OTHER_MONEY, PERIODS, REPORTS, Reports
from smi_pipeline_tests.orchestration.reporting import oracle
from smi_pipeline_tests.orchestration.reporting.conftest import build
from smi_pipeline_tests.orchestration.reporting.history import (
    DAY,
    Loose,
    delivered,
    failed,
    moment,
    random_orders,
    random_rest,
    write,
)

LAST = DAY + timedelta(days=3)
KEYS = {
    "completion_rate": ("starts_on", "resolution"),
    "error_rate": ("starts_on", "reason"),
    "processing_times": ("starts_on", "resolution", "stage"),
    "profit_margin": ("starts_on", "currency", "resolution"),
    "credit_usage": ("starts_on", "resolution"),
    "customer_satisfaction": ("starts_on", "resolution"),
}


def keyed(table: str, rows: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    keys = KEYS[table]
    return {
        tuple(row[key] for key in keys): {name: value for name, value in row.items() if name not in (*keys, "period")}
        for row in rows
    }


def figures(reports: Reports, table: str, first: date = DAY, last: date = LAST) -> dict[tuple, dict[str, Any]]:
    return keyed(table, reports.rows(table, first, last))


def about(report: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
    """Seconds to the microsecond, rates to twelve places; cents and counts exactly."""
    return {
        key: {
            name: pytest.approx(value, abs=2e-6 if "seconds" in name else 1e-12) if type(value) is float else value
            for name, value in row.items()
        }
        for key, row in report.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_facts_and_reports_of_a_random_history_equal_a_slow_plain_calculation(database: Database, seed: int):
    first, days = date(2025, 10, 30), 8  # a Thursday; two weeks, two months
    budget = [None, 1, 700, 2000, 100_000][seed]
    reports = Reports(database, Prices(), budget=budget)
    orders, rest = random_orders(seed, days=days, first=first), random_rest(seed, days=days, first=first)
    write(database, [*orders, *rest])
    last = first + timedelta(days=days)
    build(reports, first, last)
    facts = [oracle.fact(order) for order in orders]
    others = [row for entry in [*orders, *rest] for row in oracle.other(entry)]
    stages = {"paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed"}
    for table, key, wanted in ((FACTS, ("day", "job_id"), facts), (OTHER_MONEY, ("day", "subject"), others)):
        rows = {tuple(row[name] for name in key): row for row in reports.rows(table, first, last)}
        assert rows.keys() == {tuple(row[name] for name in key) for row in wanted}
        for row in wanted:
            for name, value in row.items():
                right = pytest.approx(value, abs=2e-6) if name in stages and value is not None else value
                assert rows[tuple(row[k] for k in key)][name] == right, (name, row)
    today = datetime.now(UTC).date()
    history = oracle.History(facts=facts, others=others, budget=budget, today=today)
    for table in REPORTS:
        for period in PERIODS:
            shown = reports.rows(table, first.replace(day=1), last, period=period)
            assert keyed(table, shown) == about(getattr(oracle, table)(history, period)), (table, period)


def test_the_budget_of_the_month_that_is_under_way_is_forecast_from_its_days_so_far(database: Database):
    with database.transaction() as tx:  # the tenth of its month
        tx.run("UPDATE smi.clock SET shift = CAST('2025-11-10 12:00+00' AS timestamptz) - clock_timestamp()")
    orders = [delivered(date(2025, 11, day), calls=[{"state": "completed", "credits": 30}]) for day in (1, 4, 9)]
    write(database, orders)

    def forecast(budget: int) -> tuple[Any, ...]:
        reports = Reports(database, Prices(), budget=budget)
        build(reports, date(2025, 11, 1), date(2025, 11, 9))
        row = keyed("credit_usage", reports.rows("credit_usage", date(2025, 11, 1), DAY, period="month"))
        return tuple(row[date(2025, 11, 1), "all"][name] for name in ("forecast_credits", "runs_out_on"))

    assert forecast(60) == (270, date(2025, 11, 4)), "90 credits in 10 days; on the fourth there were 60"
    assert forecast(91) == (270, date(2025, 11, 11))
    assert forecast(270) == (270, date(2025, 11, 30))
    assert forecast(271) == (270, None)


def test_random_histories_hold_every_outcome(database, reports):
    write(database, random_orders(1))
    build(reports, DAY, LAST)
    outcomes = {row["outcome"] for row in reports.rows(FACTS, DAY, LAST)}
    assert outcomes == {"delivered", "refunded", "failed", "open"}


def test_a_day_without_paid_jobs_has_no_rows_and_is_built_all_the_same(database, reports):
    write(database, [delivered(DAY)])
    build(reports, DAY, LAST)
    assert [reports.rows(table, LAST, LAST) for table in REPORTS] == [[]] * len(REPORTS)
    assert reports.row_counts(FACTS, LAST, LAST) == {LAST: 0}


def test_a_day_with_one_job_has_its_own_time_as_every_percentile(database, reports):
    write(database, [delivered(DAY)])
    build(reports, DAY, LAST)
    whole = figures(reports, "processing_times")[DAY, "all", "paid_to_mailed"]
    assert {whole[f"{name}_seconds"] for name in ("mean", "p50", "p90", "p95", "p99", "max")} == {13.0}
    rate = figures(reports, "completion_rate")[DAY, "all"]
    assert (rate["completion_rate"], round(rate["rate_low"], 3), rate["rate_high"]) == (1.0, 0.207, 1.0)
    money = figures(reports, "profit_margin")[DAY, "usd", "4x"]
    assert (money["revenue_cents"], money["net_margin_cents"], money["margin_percent"]) == (50, 15, 30)


def test_a_day_on_which_all_failed_keeps_the_fees_as_its_loss(database, reports):
    write(database, [failed(DAY), failed(DAY, refund="owed"), failed(DAY, refund="pending")])
    build(reports, DAY, LAST)
    rate = figures(reports, "completion_rate")[DAY, "all"]
    assert (rate["refunded"], rate["failed"], rate["completion_rate"], rate["rate_low"]) == (1, 2, 0.0, 0.0)
    money = figures(reports, "profit_margin")[DAY, "usd", "all"]
    assert (money["revenue_cents"], money["refunds_cents"], money["stripe_fees_cents"]) == (150, 100, 93)
    assert (money["net_margin_cents"], money["jobs_at_a_loss"]) == (-43, 2)
    errors = figures(reports, "error_rate")
    assert {key[1]: row["jobs"] for key, row in errors.items()} == {"all": 3, "upscale_failed": 3}
    assert figures(reports, "customer_satisfaction") == {}


def test_two_currencies_are_never_added_up(database, reports):
    write(database, [delivered(DAY), delivered(DAY, currency="eur", price_cents=70)])
    build(reports, DAY, LAST)
    money = figures(reports, "profit_margin")
    assert {key[1:]: row["revenue_cents"] for key, row in money.items()} == {
        ("eur", "all"): 70,
        ("eur", "4x"): 70,
        ("usd", "all"): 50,
        ("usd", "4x"): 50,
    }


def test_a_payment_of_the_wrong_currency_is_counted_in_the_currency_that_was_paid(database, reports):
    order = failed(DAY, reason="wrong_amount")
    order.payments[0] |= {"currency": "gbp", "role": "mismatch", "received_cents": 44}
    order.refunds[0] |= {"currency": "gbp", "amount_cents": 44, "kind": "wrong_amount"}
    write(database, [order])
    build(reports, DAY, LAST)
    (row,) = reports.rows(FACTS, DAY, LAST)
    assert (row["currency"], row["received_cents"], row["refunded_cents"]) == ("gbp", 44, 44)


def test_a_day_of_only_refunds_and_other_peoples_money_shows_them_without_a_paid_job(database, reports):
    payment = {"payment_intent_id": "pi_lost", "received_cents": 80, "currency": "usd", "fee_cents": 32,
               "paid_at": moment(DAY, 5)}  # fmt: skip
    write(database, [Loose(payment=payment, refunds=[{"state": "succeeded", "amount_cents": 80}])])
    build(reports, DAY, LAST)
    money = figures(reports, "profit_margin")
    assert money.keys() == {(DAY, "usd", "all"), (DAY, "usd", "none")}
    whole = money[DAY, "usd", "all"]
    assert (whole["paid_jobs"], whole["revenue_cents"], whole["refunds_cents"], whole["net_margin_cents"]) == (
        0,
        80,
        80,
        -32,
    )
    assert figures(reports, "completion_rate") == {}


def test_a_second_payment_in_another_currency_is_shown_beside_the_job(database, reports):
    order = delivered(DAY)
    order.payments.append(order.payments[0] | {"payment_intent_id": "pi_two", "role": "duplicate", "currency": "eur",
                                               "paid_at": moment(DAY + timedelta(days=1), 5)})  # fmt: skip
    write(database, [order])
    build(reports, DAY, LAST)
    revenue = {key: row["revenue_cents"] for key, row in figures(reports, "profit_margin").items() if key[2] != "all"}
    assert revenue == {(DAY, "usd", "4x"): 50, (DAY + timedelta(days=1), "eur", "none"): 50}


def tables(reports: Reports) -> dict[Any, Any]:
    found: dict[Any, Any] = {table: reports.rows(table, DAY, LAST) for table in (FACTS, OTHER_MONEY)}
    for table in REPORTS:
        for period in PERIODS:
            found[table, period] = reports.rows(table, DAY.replace(day=1), LAST, period=period)
    return found


def test_building_twice_or_day_by_day_gives_the_same_tables(database: Database, reports):
    write(database, [*random_orders(7), *random_rest(7)])
    build(reports, DAY, LAST)
    once = tables(reports)
    build(reports, DAY, LAST)
    assert tables(reports) == once
    for day in (LAST, DAY + timedelta(days=1), DAY, DAY + timedelta(days=2)):
        build(reports, day, day)
    assert tables(reports) == once


def test_building_one_day_leaves_the_others_alone(database, reports):
    write(database, [delivered(DAY), delivered(LAST)])
    build(reports, DAY, LAST)
    with database.transaction() as tx:
        tx.run("UPDATE smi.payments SET fee_cents = 1")
    build(reports, LAST, LAST)
    assert {row["day"]: row["stripe_fee_cents"] for row in reports.rows("job_facts", DAY, LAST)} == {DAY: 31, LAST: 1}


def test_a_report_on_days_without_facts_is_refused_in_one_clear_line(reports):
    with pytest.raises(RefusedError, match=r"profit_margin is built from job_facts, .* not been built for 2025-11-10"):
        reports.build("profit_margin", DAY, LAST)


def test_the_configured_fee_and_credit_price_are_used_where_stripe_has_not_told(database):
    order = delivered(DAY, price_cents=1000)
    order.payments = [order.payments[0] | {"fee_cents": None, "received_cents": 1000}]
    write(database, [order])
    prices = Prices(credit_cents=Decimal("7.5"), fee_percent=Decimal(10), fee_fixed_cents=1)
    reports = Reports(database, prices)
    build(reports, DAY, LAST)
    (row,) = reports.rows(FACTS, DAY, LAST)
    assert (row["stripe_fee_cents"], row["stripe_fee_known"], row["api_cost_cents"]) == (101, False, 8)


def test_every_column_of_every_table_has_a_comment(reports):
    for table in (FACTS, OTHER_MONEY, *REPORTS, "day_sums", "builds", "changes", "stripe_bookings"):
        assert all(comment for _, _, comment, _ in reports.columns(table)), table


def test_the_worked_questions_of_the_guide_are_answered(database: Database, reports):
    write(database, [*random_orders(2), *random_rest(2)])
    build(reports, DAY, LAST)
    guide = (Path(__file__).parents[3] / "docs" / "analysts.md").read_text()
    statements = [one for block in re.findall(r"```sql\n(.*?)```", guide, re.S) for one in block.split(";\n")]
    asked = [one.replace("2026-", "2025-") for one in statements if one.strip()]
    assert len(asked) == 4
    for statement in asked:
        with database.transaction() as tx:
            assert tx.rows(statement), statement


def test_the_views_of_the_analysts_have_a_comment_on_every_column(database: Database):
    with database.transaction() as tx:
        bare = tx.rows(
            """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
               WHERE c.relnamespace = 'analytics'::regnamespace AND col_description(c.oid, a.attnum) IS NULL"""
        )
        views = tx.value("SELECT count(*) FROM pg_views WHERE schemaname = 'analytics'")
    assert (bare, views) == ([], 21)
