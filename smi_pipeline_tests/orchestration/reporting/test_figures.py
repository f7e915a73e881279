"""Every figure against the oracle, on random histories and on the days where formulas break."""

from datetime import date, timedelta
from typing import Any

import pytest

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.reports import PostgresReports
from smi_pipeline.core.errors import RefusedError
from smi_pipeline_tests.orchestration.reporting import oracle
from smi_pipeline_tests.orchestration.reporting.conftest import TABLES
from smi_pipeline_tests.orchestration.reporting.history import DAY, delivered, failed, random_orders, write

LAST = DAY + timedelta(days=3)
KEYS = {
    "completion_rate": ("day", "resolution"),
    "processing_times": ("day", "resolution", "stage"),
    "profit_margin": ("day", "currency", "resolution"),
}


def build(reports: PostgresReports, first: date = DAY, last: date = LAST) -> dict[str, list[dict[str, Any]]]:
    for table in TABLES:
        reports.build(table, first, last)
    return {table: reports.rows(table, first, last) for table in TABLES}


def keyed(table: str, rows: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    keys = KEYS[table]
    return {
        tuple(row[key] for key in keys): {name: value for name, value in row.items() if name not in keys}
        for row in rows
    }


def about(report: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
    """Seconds to the microsecond, rates to twelve places; cents and counts exactly."""
    return {
        key: {
            name: pytest.approx(value, abs=2e-6 if "seconds" in name else 1e-12) if type(value) is float else value
            for name, value in row.items()
        }
        for key, row in report.items()
    }


@pytest.mark.parametrize("seed", range(6))
def test_facts_and_reports_of_a_random_history_equal_a_slow_plain_calculation(database, reports, seed):
    orders = random_orders(seed)
    write(database, orders)
    built = build(reports)
    facts = [oracle.fact(order) for order in orders]
    assert len(built["job_facts"]) == len(facts)
    stages = {"paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed"}
    by_id = {row["job_id"]: row for row in built["job_facts"]}
    for fact in facts:
        row = by_id[fact["job_id"]]
        for name, value in fact.items():
            wanted = pytest.approx(value, abs=2e-6) if name in stages and value is not None else value
            assert row[name] == wanted, (name, fact)
    for table in KEYS:
        assert keyed(table, built[table]) == about(getattr(oracle, table)(facts)), table


def test_random_histories_hold_every_outcome(database, reports):
    write(database, random_orders(1))
    outcomes = {row["outcome"] for row in build(reports)["job_facts"]}
    assert outcomes == {"delivered", "refunded", "failed", "open"}


def test_a_day_without_paid_jobs_has_no_rows_and_is_built_all_the_same(database, reports):
    write(database, [delivered(DAY)])
    build(reports)
    assert reports.rows("completion_rate", LAST, LAST) == []
    assert reports.paid_jobs(LAST, LAST) == {LAST: 0}


def test_a_day_with_one_job_has_its_own_time_as_every_percentile(database, reports):
    write(database, [delivered(DAY)])
    built = build(reports)
    whole = keyed("processing_times", built["processing_times"])[DAY, "all", "paid_to_mailed"]
    assert {whole[f"{name}_seconds"] for name in ("mean", "p50", "p90", "p95", "p99", "max")} == {13.0}
    rate = keyed("completion_rate", built["completion_rate"])[DAY, "all"]
    assert (rate["completion_rate"], round(rate["rate_low"], 3), rate["rate_high"]) == (1.0, 0.207, 1.0)
    money = keyed("profit_margin", built["profit_margin"])[DAY, "usd", "4x"]
    assert (money["revenue_cents"], money["net_margin_cents"], money["margin_percent"]) == (50, 15, 30)


def test_a_day_on_which_all_failed_keeps_the_fees_as_its_loss(database, reports):
    write(database, [failed(DAY), failed(DAY, refund="owed"), failed(DAY, refund="pending")])
    built = build(reports)
    rate = keyed("completion_rate", built["completion_rate"])[DAY, "all"]
    assert (rate["refunded"], rate["failed"], rate["completion_rate"], rate["rate_low"]) == (1, 2, 0.0, 0.0)
    money = keyed("profit_margin", built["profit_margin"])[DAY, "usd", "all"]
    assert (money["revenue_cents"], money["refunds_cents"], money["stripe_fees_cents"]) == (150, 100, 93)
    assert (money["net_margin_cents"], money["jobs_at_a_loss"]) == (-43, 2)
    assert reports.reasons(DAY, DAY) == [{"day": DAY, "reason": "upscale_failed", "jobs": 3}]


def test_two_currencies_are_never_added_up(database, reports):
    write(database, [delivered(DAY), delivered(DAY, currency="eur", price_cents=70)])
    money = keyed("profit_margin", build(reports)["profit_margin"])
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
    (row,) = build(reports)["job_facts"]
    assert (row["currency"], row["received_cents"], row["refunded_cents"]) == ("gbp", 44, 44)


def test_building_twice_or_day_by_day_gives_the_same_tables(database: Database, reports):
    write(database, random_orders(7))
    once = build(reports)
    assert build(reports) == once
    for day in (LAST, DAY + timedelta(days=1), DAY, DAY + timedelta(days=2)):
        build(reports, day, day)
    assert {table: reports.rows(table, DAY, LAST) for table in TABLES} == once


def test_building_one_day_leaves_the_others_alone(database, reports):
    write(database, [delivered(DAY), delivered(LAST)])
    build(reports)
    with database.transaction() as tx:
        tx.run("UPDATE smi.payments SET fee_cents = 1")
    build(reports, LAST, LAST)
    assert {row["day"]: row["stripe_fee_cents"] for row in reports.rows("job_facts", DAY, LAST)} == {DAY: 31, LAST: 1}


def test_a_report_on_days_without_facts_is_refused_in_one_clear_line(reports):
    with pytest.raises(RefusedError, match=r"profit_margin is built from job_facts, .* not been built for 2026-11-10"):
        reports.build("profit_margin", DAY, LAST)


def test_the_configured_fee_and_credit_price_are_used_where_stripe_has_not_told(database):
    from decimal import Decimal

    from smi_pipeline.core.pricing import Prices

    order = delivered(DAY, price_cents=1000)
    order.payments = [order.payments[0] | {"fee_cents": None, "received_cents": 1000}]
    write(database, [order])
    prices = Prices(credit_cents=Decimal("7.5"), fee_percent=Decimal(10), fee_fixed_cents=1)
    reports = PostgresReports(database, prices)
    (row,) = build(reports)["job_facts"]
    assert (row["stripe_fee_cents"], row["stripe_fee_known"], row["api_cost_cents"]) == (101, False, 8)


def test_every_column_of_every_table_has_a_comment(reports):
    for table in (*TABLES, "builds", "changes"):
        assert all(comment for _, _, comment, _ in reports.columns(table)), table
