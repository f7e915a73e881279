"""The sensor that reads Stripe's bookings, against the Stripe sandbox."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest
from dagster import DagsterInstance, SensorResult, SkipReason, TableSchema, build_sensor_context

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import BalanceTransaction
from smi_pipeline.reporting import jobs
from smi_pipeline.reporting.jobs import changed_report_days, stripe_bookings
from smi_pipeline.reporting.resources import ReportsResource
from smi_pipeline.state.database import Database
from smi_pipeline.state.reconciliation import write_cursor
from smi_pipeline.state.reports.checks import ReportChecks
from smi_pipeline.state.reports.store import BOOKINGS_CURSOR, Reports
from smi_pipeline_tests.orchestration.conftest import Shop
from smi_pipeline_tests.orchestration.reporting.conftest import build, stripe_says


@pytest.fixture
def tick(instance: DagsterInstance, reports_db: ReportsResource) -> Callable[..., Any]:
    def evaluate(of: Any = stripe_bookings) -> Any:
        return of(build_sensor_context(instance=instance, resources={"reports_db": reports_db}))

    return evaluate


def kept(database: Database) -> set[tuple[str, int, int]]:
    with database.transaction() as tx:
        rows = tx.rows("SELECT booking_id, amount_cents, fee_cents FROM reports.stripe_bookings")
    return {(row["booking_id"], row["amount_cents"], row["fee_cents"]) for row in rows}


def booked(shop: Shop) -> set[tuple[str, int, int]]:
    """By Stripe's own list."""
    found = stripe_says(shop, "balance_transactions?limit=100")["data"]
    return {(one["id"], one["amount"], one["fee"]) for one in found}


def told(result: Any) -> dict[str, Any]:
    assert isinstance(result, SensorResult)
    (event,) = result.asset_events
    assert event.asset_key.to_user_string() == "stripe_bookings"
    return {name: value.value for name, value in event.metadata.items()}


def test_before_the_first_payment_nothing_is_asked(environment, sandbox, tick):
    assert tick().skip_message == "there are no payments yet"
    assert sandbox.faults("stripe")["injected"] == {}


def test_each_tick_keeps_what_stripe_has_newly_booked_and_tells_it_once(shop, database, tick):
    paid = [shop.order(), shop.order()]
    first = told(tick())
    assert first["new bookings"] == 2
    assert isinstance(first["dagster/column_schema"], TableSchema)
    assert len(booked(shop)) == 2
    assert kept(database) == booked(shop)
    again = tick()
    assert isinstance(again, SkipReason) and "no new bookings" in (again.skip_message or "")
    shop.sandbox.control("stripe", "/_refund", payment_intent=shop.job(paid[0]).payment_intent_id)
    assert told(tick())["new bookings"] == 1
    assert kept(database) == booked(shop)
    assert isinstance(tick(), SkipReason)


def test_a_dispute_that_is_booked_has_the_day_of_its_payment_rebuilt(
    shop, database, reports: Reports, tick, monkeypatch
):
    job_id = shop.order()
    tick()
    day = shop.job(job_id).paid_at.date()
    build(reports, day, day)
    assert "up to date" in tick(changed_report_days).skip_message
    shop.sandbox.control("stripe", "/_dispute", payment_intent=shop.job(job_id).payment_intent_id)
    assert told(tick())["new bookings"] == 1
    monkeypatch.setattr(jobs, "QUIET", timedelta(0))
    assert [request.partition_key for request in tick(changed_report_days)] == [day.isoformat()]


def test_a_balance_in_another_currency_leaves_the_reports_in_that_of_the_payments(shop, database, reports, tick):
    shop.sandbox.configure("stripe", settlement_currency="gbp", fee_fixed_cents=20)
    try:
        disputed = shop.job(shop.order())
        shop.sandbox.control("stripe", "/_dispute", payment_intent=disputed.payment_intent_id)
        tick()
    finally:
        shop.sandbox.configure("stripe", settlement_currency="", fee_fixed_cents=30)
    day = disputed.paid_at.date()
    build(reports, day, day)
    (margin,) = [row for row in reports.rows("profit_margin", day, day) if row["resolution"] == "all"]
    moves = stripe_says(shop, "balance_transactions?limit=100")["data"]
    assert [move["currency"] for move in moves] == ["gbp", "gbp"]
    fees = sum(round(move["fee"] * disputed.price_cents / abs(move["amount"])) for move in moves)
    assert (margin["currency"], margin["revenue_cents"]) == ("usd", disputed.price_cents)
    assert (margin["stripe_fees_cents"], margin["disputes_cents"]) == (fees, disputed.price_cents)
    assert ReportChecks(database).stripe_differences(day, day) == []


def test_while_stripe_is_away_the_tick_fails_in_clear_words_and_the_next_one_misses_nothing(shop, database, tick):
    shop.order()
    shop.sandbox.fault("stripe", "status", match={"endpoint": "balance_transactions"}, code=503, times=None)
    with pytest.raises(TransientError, match="Stripe"):
        tick()
    assert kept(database) == set()
    shop.order()
    shop.sandbox.clear_faults("stripe")
    assert told(tick())["new bookings"] == 2
    assert kept(database) == booked(shop)


def test_after_a_long_rest_a_tick_reads_day_by_day_for_as_long_as_it_may_and_the_next_reads_on(
    shop, database, reports: Reports, tick, monkeypatch
):
    shop.order()
    with database.transaction() as tx:
        write_cursor(tx, BOOKINGS_CURSOR, str(datetime.now(UTC) - timedelta(hours=60)))
    clock = count()
    monkeypatch.setattr(jobs, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jobs, "TICK_SECONDS", 2)  # of that clock: one look
    read_to = [reports.bookings_read_to()]
    for _ in range(3):
        found = tick()
        read_to.append(reports.bookings_read_to())
    hours = [(after - before) / timedelta(hours=1) for before, after in pairwise(read_to) if before and after]
    assert hours == [24, 24, pytest.approx(12, abs=0.5)]
    assert told(found)["new bookings"] == 1
    assert kept(database) == booked(shop)


def test_a_tick_moves_no_bookmark_that_was_moved_back_while_it_read(shop, database, reports, tick, monkeypatch):
    shop.order()
    back = datetime.now(UTC) - timedelta(hours=30)
    read = ReportsResource.bookings

    def moved_back_meanwhile(self, since, until):
        monkeypatch.setattr(ReportsResource, "bookings", read)
        with database.transaction() as tx:
            write_cursor(tx, BOOKINGS_CURSOR, str(back))
        return list(read(self, since, until))

    monkeypatch.setattr(ReportsResource, "bookings", moved_back_meanwhile)
    tick()
    assert reports.bookings_read_to() == back
    tick()
    assert kept(database) == booked(shop)


def test_a_booking_that_the_release_before_has_read_is_replaced(database, reports):
    at = datetime.now(UTC)
    booking = BalanceTransaction(
        booking_id="txn_1",
        created_at=at,
        source_id="ch_1",
        kind="charge",
        payment_intent_id="pi_1",
        amount_cents=50,
        fee_cents=3,
        currency="eur",
    )
    reports.note_bookings([booking], since=None, read_to=at)
    read_anew = replace(booking, amount_cents=58, fee_cents=4, currency="usd")
    assert reports.note_bookings([read_anew], since=at, read_to=at) == 1
    assert reports.note_bookings([read_anew], since=at, read_to=at) == 0
    assert kept(database) == {("txn_1", 58, 4)}
