"""What a person sees of a materialisation, and what the checks say."""

import re
from datetime import UTC, datetime, timedelta

import pandas
import pytest
from dagster import AssetKey, AssetSelection, TableSchema, define_asset_job

from smi_pipeline.reporting import assets, pages
from smi_pipeline.reporting.partitions import PARTITIONS
from smi_pipeline.state.manual_tasks import ManualTasks
from smi_pipeline.state.reports.store import REPORTS
from smi_pipeline_tests.orchestration.reporting.conftest import DAILY_TABLES, build
from smi_pipeline_tests.orchestration.reporting.history import (
    DAY,
    delivered,
    failed,
    random_orders,
    random_rest,
    write,
)

RANGE = {"dagster/asset_partition_range_start": "2025-11-10", "dagster/asset_partition_range_end": "2025-11-13"}
LAST = DAY + timedelta(days=3)


def metadata_of(run) -> dict[tuple[str, str], dict]:
    return {
        (event.asset_key.to_user_string(), event.partition): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in run.get_asset_materialization_events()
    }


def test_a_materialised_day_says_in_words_and_figures_what_came_out(database, rebuild, tmp_path):
    write(database, [*(delivered(DAY, rating=5) for _ in range(3)), failed(DAY)])
    found = metadata_of(rebuild(DAY))
    day = "2025-11-10"
    assert found["job_facts", day]["result"] == "4 paid jobs"
    assert found["job_facts", day]["dagster/partition_row_count"] == 4
    completion = found["completion_rate", day]
    assert completion["result"] == "75.0% delivered: 3 of 4 decided (95% interval 30.1–95.4%)"
    assert (completion["completion_rate_percent"], completion["delivered"], completion["refunded"]) == (75.0, 3, 1)
    assert "| upscale_failed | 1 | 25.0% |" in found["error_rate", day]["preview"]
    times = found["processing_times", day]
    assert times["result"].startswith("from payment to closing mail: median 13 s, 95% within 27 s, slowest 30 s")
    assert times["total_p50_seconds"] == 13.0
    profit = found["profit_margin", day]
    assert profit["result"] == "$0.14 net of $2.00 revenue (7.0%); 1 of 4 paid jobs at a loss"
    assert (profit["net_margin_usd"], profit["revenue_usd"], profit["margin_percent_usd"]) == (0.14, 2.0, 7.0)
    assert found["customer_satisfaction", day]["result"].startswith("5.00 of 5 stars; 3 of 3 customers answered")

    for table in DAILY_TABLES:
        schema = found[table, day]["dagster/column_schema"]
        assert isinstance(schema, TableSchema)
        assert all(column.description for column in schema.columns)
        for name in ("chart", "preview") if table in REPORTS else ():
            assert len(found[table, day][name]) < 1000, "the UI hides longer Markdown behind a click"
    assert profit["chart"].startswith("net margin, USD, by day: 0.14\n\n![")
    assert found["other_money", day]["result"] == "no payments without a job, or free retries"
    assert found["daily_pages", day]["page"].endswith("/ops/reports/day/2025-11-10/index.html")
    folder = tmp_path / "storage" / found["daily_pages", day]["folder"]
    page = (folder / "index.html").read_text()
    assert "75.0% delivered" in page and page.count("<svg") == 6
    facts = pandas.read_parquet(folder / "job_facts.parquet")
    assert (len(facts), facts["net_margin_cents"].sum(), facts["rating"].mean()) == (4, 14, 5)
    assert len((folder / "job_facts.csv").read_text().splitlines()) == 5


def test_a_page_needs_nothing_from_any_network_and_carries_no_address(database, reports):
    write(database, [*random_orders(3), *random_rest(3)])
    build(reports, DAY, LAST)
    for period, start in (("day", DAY), ("month", DAY.replace(day=1))):
        html = pages.page(reports, period, start, 900)
        assert not re.findall(r"""(?:src|href)=["'](?!#)|url\(|@import|<script""", html.replace("xmlns", ""))
        assert "@example.org" not in html


def test_an_empty_day_is_labelled_as_one(rebuild, tmp_path):
    found = metadata_of(rebuild(DAY))
    assert found["job_facts", "2025-11-10"]["result"] == "0 paid jobs"
    for table in REPORTS:
        shown = found[table, "2025-11-10"]
        assert shown["dagster/partition_row_count"] == 0
        assert shown["result"].startswith(("no ", "nothing "))
    folder = tmp_path / "storage/reports/day/2025-11-10"
    assert "no paid jobs" in (folder / "index.html").read_text()
    assert pandas.read_parquet(folder / "job_facts.parquet")["net_margin_cents"].dtype == "Int64"


def test_a_range_is_one_run_with_the_figures_of_each_of_its_days(database, rebuild, monkeypatch):
    write(database, random_orders(3))
    monkeypatch.setattr(assets, "SHOWN_PERIODS", 2)
    found = metadata_of(rebuild(tags=RANGE))
    assert {day for table, day in found if table != "daily_pages"} == {f"2025-11-{day}" for day in (10, 11, 12, 13)}
    assert found["profit_margin", "2025-11-13"]["result"] == "no payments"
    assert "chart" in found["profit_margin", "2025-11-12"] and "chart" not in found["profit_margin", "2025-11-11"]
    assert {day for (table, day), shown in found.items() if table == "daily_pages" and shown} == {
        "2025-11-12",
        "2025-11-13",
    }


def test_weeks_and_months_are_runs_of_their_own_on_the_days_that_they_hold(database, reports, rebuild, defs):
    write(database, [delivered(DAY), delivered(LAST)])
    reports.build_facts(DAY, LAST)
    week = metadata_of(rebuild("2025-11-10", period="week"))
    assert week["weekly_profit_margin", "2025-11-10"]["revenue_usd"] == 1.0
    month = metadata_of(rebuild("2025-11-01", period="month"))
    assert month["monthly_completion_rate", "2025-11-01"]["delivered"] == 2
    assert month["monthly_pages", "2025-11-01"]["folder"] == "reports/month/2025-11"
    mapping = defs.resolve_asset_graph().get_partition_mapping(
        AssetKey("monthly_profit_margin"), parent_asset_key=AssetKey("job_facts")
    )
    days = mapping.get_upstream_mapped_partitions_result_for_partitions(
        PARTITIONS["month"].subset_with_partition_keys(["2025-11-01"]), PARTITIONS["month"], PARTITIONS["day"]
    ).partitions_subset.get_partition_keys()
    assert list(days) == [f"2025-11-{day:02}" for day in range(1, 31)]


def booked(day, **changes):
    """A good order that Stripe has booked."""
    return delivered(day, bookings=[{"kind": "charge", "amount_cents": 50, "fee_cents": 31}], **changes)


# -- checks ----------------------------------------------------------------------------------------------------------


def checks_of(run) -> dict[str, tuple[bool, str | None]]:
    return {found.check_name: (found.passed, found.description) for found in run.get_asset_check_evaluations()}


@pytest.fixture
def checked(defs, instance):
    """Runs the checks, for a day or alone as from the UI."""
    job = define_asset_job("checks_alone", AssetSelection.all_asset_checks()).resolve(
        asset_graph=defs.resolve_asset_graph(), resource_defs=defs.resources
    )

    def run(**tags):
        return checks_of(job.execute_in_process(instance=instance, tags=tags or None))

    return run


NAMES = {"facts_complete", "facts_fresh", "money_adds_up", "money_is_what_stripe_booked"} | {
    "completion_floor",
    "margin_floor",
    "within_promise",
    "budget_kept",
}


def test_on_a_right_history_facts_and_money_pass_also_when_checked_alone(database, reports, checked):
    write(database, random_orders(5, days=2))
    build(reports, DAY, DAY)
    found = checked()
    assert found.keys() == NAMES
    assert found["facts_complete"] == (
        True,
        "150 facts of 150 paid jobs on 1 days: 0 missing, 0 surplus, 0 waiting to be rebuilt",
    )
    assert found["money_adds_up"] == (True, "to the cent")
    assert found["facts_fresh"][0]


def test_checks_before_the_first_build_pass_and_say_so(checked):
    assert set(checked().values()) == {(True, "compared nothing: no report has been built yet")}


def test_a_failing_check_becomes_a_persons_task_and_a_passing_one_closes_it(database, reports, checked):
    write(database, [booked(DAY) for _ in range(3)])
    build(reports, DAY, DAY)
    with database.transaction() as tx:
        tx.run("UPDATE reports.profit_margin SET refunds_cents = 1 WHERE resolution = 'all'")
    assert checked()["money_adds_up"] == (
        False,
        "2025-11-10 USD: net margin is $0.45, not $0.44; net margin of the facts is $0.45, not $0.44",
    )
    checked()
    tasks = ManualTasks(database)
    (task,) = tasks.unalerted(9)
    assert (task.kind, task.subject) == ("report_check", "money_adds_up 2025-11-10 USD")
    assert "money_adds_up of profit_margin fails for 2025-11-10 USD: net margin is $0.45" in task.message
    build(reports, DAY, DAY)
    checked()
    assert tasks.opened() == []


def test_a_missing_and_a_surplus_fact_are_found_and_a_change_on_its_way_is_neither(database, reports, checked):
    write(database, [delivered(DAY) for _ in range(3)])
    build(reports, DAY, DAY)
    write(database, [delivered(DAY)])
    assert checked()["facts_complete"][0]
    with database.transaction() as tx:
        tx.run("UPDATE reports.job_facts SET job_id = 'x' WHERE job_id = (SELECT min(job_id) FROM reports.job_facts)")
    passed, words = checked()["facts_complete"]
    assert not passed
    assert words == "3 facts of 4 paid jobs on 1 days: 1 missing, 1 surplus, 1 waiting to be rebuilt"


def test_a_payment_that_stripe_has_booked_otherwise_is_named(database, reports, checked):
    orders = [
        delivered(DAY, bookings=[{"kind": "charge", "amount_cents": 50, "fee_cents": fee}]) for fee in (31, 31, 35)
    ]
    write(database, [*orders, delivered(DAY)])
    build(reports, DAY, DAY)
    passed, words = checked()["money_is_what_stripe_booked"]
    assert (passed, words) == (False, f"2025-11-10 USD: pi_{orders[2].job_id} $0.19, Stripe $0.15")
    with database.transaction() as tx:  # the state learns the fee; until the day is rebuilt this is no difference
        tx.run("UPDATE smi.payments SET fee_cents = 35 WHERE job_id = :id", id=orders[2].job_id)
    assert checked()["money_is_what_stripe_booked"] == (True, "to the cent; 2 compared, 2 not booked yet")
    build(reports, DAY, DAY)
    assert checked()["money_is_what_stripe_booked"] == (True, "to the cent; 3 compared, 1 not booked yet")


def test_a_good_day_or_currency_closes_no_task_of_another(database, reports, checked):
    tomorrow = DAY + timedelta(days=1)
    write(database, [booked(DAY), booked(DAY, currency="eur"), booked(tomorrow)])
    build(reports, DAY, tomorrow)
    with database.transaction() as tx:
        tx.run("UPDATE reports.profit_margin SET refunds_cents = 1 WHERE resolution = 'all' AND period = 'day'")
    ManualTasks(database).open(kind="report_check", subject="money_adds_up", message="", next_step="")
    checked(**RANGE)
    names = [f"money_adds_up {each}" for each in ("2025-11-10 EUR", "2025-11-10 USD", "2025-11-11 USD")]

    def subjects() -> list[str]:
        return sorted(task.subject for task in ManualTasks(database).opened())

    assert subjects() == names, "that of earlier releases, of no day, is replaced"
    with database.transaction() as tx:
        tx.run("UPDATE reports.profit_margin SET refunds_cents = 0 WHERE currency = 'eur' OR starts_on > '2025-11-10'")
    checked()  # of the newest day alone
    assert subjects() == names[:2]
    checked(**RANGE)
    assert subjects() == names[1:2]


@pytest.mark.parametrize(
    ("bookings", "words"),
    [
        ([], "compared nothing: not all bookings of any of 1 payments were read"),
        ([("charge", 50, 31)], "compared nothing: not all bookings of any of 1 payments were read"),
        ([("charge", 50, 31), ("refund", -50, 0)], "to the cent; 1 compared, 0 not booked yet"),
        ([("charge", 50, 31), ("refund", -40, 0)], "Stripe -$0.21"),
    ],
)
def test_a_payment_is_compared_once_the_bookings_of_its_refund_are_read(
    database, reports, checked, bookings: list[tuple[str, int, int]], words: str
):
    order = failed(DAY)
    order.bookings = [{"kind": kind, "amount_cents": cents, "fee_cents": fee} for kind, cents, fee in bookings]
    write(database, [order])
    build(reports, DAY, DAY)
    passed, said = checked()["money_is_what_stripe_booked"]
    assert words in said
    assert passed == said.startswith("to the cent")


@pytest.mark.parametrize(("moves", "compared"), [(1, 0), (2, 1), (0, 1)])
def test_a_failed_refund_is_compared_when_its_money_is_back(database, reports, checked, moves: int, compared: int):
    order = delivered(DAY)
    order.refunds = [{"kind": "goodwill", "state": "failed", "amount_cents": 50, "stripe_refund_id": "re_1"}]
    returned = [{"kind": "refund", "amount_cents": cents, "fee_cents": 0, "source_id": "re_1"} for cents in (-50, 50)]
    order.bookings = [{"kind": "charge", "amount_cents": 50, "fee_cents": 31}, *returned[:moves]]
    write(database, [order])
    build(reports, DAY, DAY)
    passed, said = checked()["money_is_what_stripe_booked"]
    assert (passed, f"{compared} compared" in said) == (compared == 1, compared == 1)


def test_a_check_that_had_nothing_to_compare_says_so(database, reports, checked):
    build(reports, DAY, DAY)
    found = checked()
    for name in ("facts_complete", "money_adds_up", "money_is_what_stripe_booked"):
        assert found[name][0] and found[name][1].startswith("compared nothing: "), name
    day = datetime.now(UTC).date()
    write(database, [delivered(day)])  # which Stripe may book until tomorrow
    build(reports, day, day)
    assert checked()["money_is_what_stripe_booked"] == (True, "compared nothing: nothing is booked yet on these days")


def test_thresholds_of_the_settings_are_kept(database, reports, checked, monkeypatch):
    write(database, [delivered(DAY) for _ in range(3)])
    build(reports, DAY, DAY)
    monkeypatch.setenv("SMI_COMPLETION_FLOOR_PERCENT", "100")
    monkeypatch.setenv("SMI_MARGIN_FLOOR_PERCENT", "5")
    monkeypatch.setenv("SMI_MONTHLY_CREDIT_BUDGET", "4")
    names = ("completion_floor", "margin_floor", "within_promise", "budget_kept")
    found = checked()
    assert [found[name] for name in names] == [
        (True, "at least 100%"),
        (True, "at least 5%"),
        (True, "95% within 15 min"),
        (True, "3 of 4 credits (75%) used in November 2025"),
    ]
    monkeypatch.setenv("SMI_MARGIN_FLOOR_PERCENT", "99")
    monkeypatch.setenv("SMI_MAX_PROCESSING_SECONDS", "12")
    monkeypatch.setenv("SMI_MONTHLY_CREDIT_BUDGET", "3")
    write(database, [failed(DAY)])
    build(reports, DAY, DAY)
    found = checked()
    assert [found[name] for name in names] == [
        (False, "2025-11-10: completion rate 75.0% < 100%"),
        (False, "2025-11-10: margin USD 7.0% < 99%"),
        (False, "2025-11-10: 95% within 27 s; promised 12 s"),
        (False, "3 of 3 credits (100%) used in November 2025"),
    ]


def test_a_change_that_waits_too_long_for_its_tables_is_told(database, reports, checked, monkeypatch):
    write(database, [delivered(DAY)])
    build(reports, DAY, DAY)
    with database.transaction() as tx:
        tx.run("UPDATE smi.payments SET fee_cents = 3; UPDATE smi.clock SET shift = '90 minutes'")
    passed, words = checked()["facts_fresh"]
    assert not passed and "is 1 h 30 min old, the limit is 1 h" in words
    monkeypatch.setenv("SMI_REPORTS_FRESH_MINUTES", "120")
    assert checked()["facts_fresh"][0]
