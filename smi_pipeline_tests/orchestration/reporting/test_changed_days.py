"""Which days are rebuilt by themselves: those whose facts changed, once, and again when a rebuild failed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    SkipReason,
    build_sensor_context,
)

from smi_pipeline.core.models import BalanceTransaction, StripeRefund
from smi_pipeline.reporting import jobs
from smi_pipeline.reporting.jobs import changed_report_days
from smi_pipeline.reporting.partitions import FIRST_DAY
from smi_pipeline.state import State
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import REPORTS, Reports
from smi_pipeline_tests.orchestration.reporting.conftest import DAILY_TABLES, build
from smi_pipeline_tests.orchestration.reporting.history import (
    DAY,
    Loose,
    Order,
    delivered,
    failed,
    insert,
    moment,
    write,
)

DAYS = [DAY + timedelta(days=n) for n in range(5)]
FOREVER = date(2027, 12, 31)


@pytest.fixture
def orders(database: Database, reports: Reports) -> list[Order]:
    """One refunded and one delivered order on each of five days, all built."""
    orders = [order for day in DAYS for order in (delivered(day, rating=3), failed(day, refund="pending"))]
    write(database, orders)
    build(reports, DAYS[0], DAYS[-1])
    return orders


@pytest.fixture
def state(database: Database) -> State:
    return State(database, secret_keys=("s" * 32,), mail_domain="shop.example")


def stale(reports: Reports) -> list[date]:
    return [day.starts_on for day in reports.out_of_date(FIRST_DAY, FOREVER) if day.period == "day"]


def change(database: Database, sql: str, order: Order) -> None:
    with database.transaction() as tx:
        assert tx.run(sql, id=order.job_id) == 1


def test_new_paid_jobs_make_their_days_out_of_date_and_building_them_settles_it(database, reports):
    write(database, [delivered(DAYS[0]), delivered(DAYS[3])])
    assert stale(reports) == [DAYS[0], DAYS[3]]
    for day in (DAYS[0], DAYS[3]):
        build(reports, day, day, periods=("day",))
    assert stale(reports) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id",
        "UPDATE smi.payments SET dispute = 'lost' WHERE job_id = :id",
        "UPDATE smi.submissions SET credits = 9 WHERE job_id = :id",
        "UPDATE smi.feedback SET score = 1 WHERE job_id = :id",
        "UPDATE smi.emails SET accepted_at = smi.now() WHERE job_id = :id",
        "UPDATE smi.upscale_jobs SET completed_at = smi.now() WHERE job_id = :id",
        "UPDATE smi.upscale_jobs SET status = 'pending', round = 2 WHERE job_id = :id",
    ],
)
def test_every_change_of_what_the_facts_show_makes_its_day_out_of_date_and_no_other(database, reports, orders, sql):
    change(database, sql, orders[4])
    assert stale(reports) == [DAYS[2]]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE smi.upscale_jobs SET lease_id = 'x', lease_until = smi.now(), attempts = 3 WHERE job_id = :id",
        "UPDATE smi.upscale_jobs SET files_removed_at = smi.now() WHERE job_id = :id",
        "UPDATE smi.submissions SET polls = 7, next_poll_at = smi.now(), hinted = true WHERE job_id = :id",
        "UPDATE smi.emails SET attempts = 2, last_error = '451' WHERE job_id = :id",
    ],
)
def test_what_the_facts_do_not_show_rebuilds_nothing(database, reports, orders, sql):
    change(database, sql, orders[4])
    assert stale(reports) == []


def test_money_of_nobody_and_gifts_make_their_own_days_out_of_date(database, reports, orders):
    payment = {"payment_intent_id": "pi_x", "received_cents": 80, "currency": "usd", "paid_at": moment(DAYS[1], 9)}
    gift = Order(paid_at=None, calls=[{"state": "failed", "credits": 1, "created_at": moment(DAYS[3], 9)}])
    write(database, [Loose(payment=payment), gift])
    assert stale(reports) == [DAYS[1], DAYS[3]]
    build(reports, DAYS[0], DAYS[4], periods=("day",))
    with database.transaction() as tx:  # a person gives the payment to an order of another day
        job = {"id": orders[0].job_id}
        tx.run("UPDATE smi.payments SET job_id = :id, role = 'duplicate' WHERE payment_intent_id = 'pi_x'", **job)
    assert stale(reports) == [DAYS[0], DAYS[1]]


@pytest.mark.parametrize(
    ("kind", "fee", "changes"),
    [("charge", 31, False), ("charge", 33, True), ("refund", 0, False), ("dispute", 0, True)],
)
def test_a_booking_that_only_confirms_what_is_known_rebuilds_nothing(database, reports, orders, kind, fee, changes):
    booking = BalanceTransaction(
        booking_id="txn_1",
        created_at=moment(DAYS[4], 0),
        source_id="x",
        kind=kind,
        payment_intent_id=orders[4].payment_intent_id,
        amount_cents=-50,
        fee_cents=fee,
        currency="usd",
    )
    assert reports.note_bookings([booking], since=None, read_to=moment(DAYS[4], 0)) == 1
    assert reports.note_bookings([booking], since=moment(DAYS[4], 0), read_to=moment(DAYS[4], 5)) == 0
    assert stale(reports) == ([DAYS[2]] if changes else [])
    assert reports.bookings_read_to() == moment(DAYS[4], 5)


def test_a_job_that_is_not_paid_belongs_to_no_day(database, reports, orders):
    order = delivered(DAYS[1], status="pending")
    write(database, [order])
    with database.transaction() as tx:
        tx.run("DELETE FROM reports.changes")
        tx.run("UPDATE smi.upscale_jobs SET paid_at = NULL WHERE job_id = :id", id=order.job_id)
    assert stale(reports) == [DAYS[1]]  # the day it has left
    reports.build_facts(DAYS[1], DAYS[1])
    change(database, "UPDATE smi.upscale_jobs SET price_cents = 51 WHERE job_id = :id", order)
    assert [row["job_id"] for row in reports.rows("job_facts", DAYS[1], DAYS[1])].count(order.job_id) == 0


def test_a_rating_a_goodwill_refund_and_a_failed_refund_reach_their_day_through_the_state(
    database, reports, orders, state
):
    state.deliveries.rate(orders[0].job_id, 5, None)
    with database.transaction() as tx:
        insert(
            tx,
            "refunds",
            job_id=orders[4].job_id,
            payment_intent_id=orders[4].payment_intent_id,
            kind="goodwill",
            n=1,
            state="owed",
            currency="usd",
            reason_code="goodwill",
            actor="test",
            idempotency_key="k",
        )
        pending = tx.value("SELECT refund_row FROM smi.refunds WHERE job_id = :id", id=orders[9].job_id)
    given = StripeRefund(
        refund_id="re_1",
        payment_intent_id=orders[4].payment_intent_id,
        amount_cents=50,
        currency="usd",
        status="succeeded",
        metadata={"idempotency_key": "k"},
    )
    state.refunds.settle_by_facts(given, event=("evt_1", "refund.updated"), actor="test")
    lost = replace(given, refund_id="re_2", payment_intent_id=orders[9].payment_intent_id, status="failed")
    state.refunds.settle(pending, lost, actor="test")
    assert stale(reports) == [DAYS[0], DAYS[2], DAYS[4]]


def test_a_change_that_commits_while_its_day_is_built_stays_in_the_log(database, reports, orders):
    with database.transaction() as late:
        late.run("UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", id=orders[0].job_id)
        reports.build_facts(DAYS[0], DAYS[0])
        assert all(row["stripe_fee_cents"] == 31 for row in reports.rows("job_facts", DAYS[0], DAYS[0]))
    assert stale(reports) == [DAYS[0]]


def test_a_report_behind_its_facts_is_out_of_date_too(reports, orders):
    reports.build_facts(DAYS[1], DAYS[2])
    reports.build(REPORTS[0], DAYS[1], DAYS[2])
    assert stale(reports) == [DAYS[1], DAYS[2]]
    for table in REPORTS[1:]:
        reports.build(table, DAYS[1], DAYS[1])
    assert stale(reports) == [DAYS[2]]


# -- the sensor ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tick(defs: Definitions, instance: DagsterInstance) -> Callable[[], list[RunRequest] | SkipReason]:
    def evaluate():
        context = build_sensor_context(
            instance=instance,
            resources={"reports_db": defs.resources["reports_db"]} if defs.resources else None,
        )
        return changed_report_days(context)

    return evaluate


def later(database: Database, by: timedelta) -> None:
    with database.transaction() as tx:
        tx.run("UPDATE smi.clock SET shift = shift + :by", by=by)


def test_the_sensor_asks_for_exactly_the_changed_days_one_run_per_stretch(database, reports, orders, tick):
    for place in (0, 4, 6):
        change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[place])
    assert "3 days, weeks or months are waiting" in tick().skip_message
    later(database, timedelta(seconds=11))
    single, stretch = tick()
    assert (single.partition_key, single.tags) == ("2025-11-10", {})
    assert stretch.partition_key is None
    assert stretch.tags == {
        "dagster/asset_partition_range_start": "2025-11-12",
        "dagster/asset_partition_range_end": "2025-11-13",
    }


def test_changing_one_job_of_a_past_day_rebuilds_that_day_and_the_week_and_month_above_it_and_nothing_else(
    database, reports, orders, tick, rebuild, instance, defs
):
    """By the records of the runs: what was materialised, and for which partitions."""
    change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[4])
    later(database, timedelta(seconds=11))
    for _ in range(5):
        asked = tick()
        if isinstance(asked, SkipReason):
            break
        for request in asked:
            period = request.job_name.removeprefix("rebuild_").removesuffix("s")
            assert rebuild(request.partition_key, period=period, tags=dict(request.tags)).success
    assert "up to date" in asked.skip_message
    assets = [key for key in defs.resolve_asset_graph().materializable_asset_keys]
    built = Counter(
        (key.to_user_string(), record.partition_key)
        for key in assets
        for record in instance.fetch_materializations(key, limit=100).records
    )
    assert built == Counter(
        [(table, "2025-11-12") for table in (*DAILY_TABLES, "daily_pages")]
        + [(f"weekly_{table}", "2025-11-10") for table in REPORTS]
        + [(f"monthly_{table}", "2025-11-01") for table in (*REPORTS, "pages")]
    )
    assert len(instance.get_runs()) == 3
    fees = {row["starts_on"]: row["stripe_fees_cents"] for row in reports.rows("profit_margin", DAYS[0], DAYS[4])}
    assert fees == dict.fromkeys(DAYS, 62) | {DAYS[2]: 75}


def test_the_same_change_has_the_same_run_key_and_a_new_one_another(database, orders, tick):
    change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[0])
    later(database, timedelta(seconds=11))
    (first,), (again,) = tick(), tick()
    assert first.run_key == again.run_key
    change(database, "UPDATE smi.payments SET fee_cents = 45 WHERE job_id = :id", orders[0])
    later(database, timedelta(seconds=11))
    (other,) = tick()
    assert other.run_key != first.run_key
    later(database, jobs.TRY_AGAIN)
    (retried,) = tick()
    assert retried.run_key not in (first.run_key, other.run_key)


def test_a_day_that_was_never_built_is_asked_for_at_once(database, tick):
    write(database, [delivered(DAYS[0])])
    assert [request.partition_key for request in tick()] == ["2025-11-10"]


def test_while_orders_keep_coming_a_day_is_rebuilt_every_five_minutes(database, orders, tick):
    change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[0])
    later(database, timedelta(seconds=301))
    change(database, "UPDATE smi.payments SET fee_cents = 45 WHERE job_id = :id", orders[0])
    assert [request.partition_key for request in tick()] == ["2025-11-10"]


def test_no_second_run_is_asked_for_while_one_is_under_way(database, orders, tick, instance, defs):
    change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[0])
    later(database, timedelta(seconds=11))
    instance.create_run_for_job(job_def=defs.resolve_job_def("rebuild_days"), status=DagsterRunStatus.STARTED, tags={})
    assert "still running" in tick().skip_message


def test_days_outside_the_partitions_are_left_alone(database, tick):
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    write(database, [delivered(FIRST_DAY - timedelta(days=1)), delivered(tomorrow + timedelta(days=1))])
    assert "up to date" in tick().skip_message


def test_a_rebuild_that_fails_leaves_its_changes_in_the_log(
    database, orders, reports, tick, monkeypatch, defs, instance
):
    change(database, "UPDATE smi.payments SET fee_cents = 44 WHERE job_id = :id", orders[0])
    with database.transaction() as tx:
        tx.run("ALTER TABLE reports.job_facts ADD CONSTRAINT impossible CHECK (stripe_fee_cents <> 44)")
    run = defs.resolve_job_def("rebuild_days").execute_in_process(
        instance=instance, partition_key="2025-11-10", raise_on_error=False
    )
    assert not run.success
    assert stale(reports) == [DAYS[0]]
    assert len(reports.rows("job_facts", DAYS[0], DAYS[0])) == 2
