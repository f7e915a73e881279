"""What a person sees of a materialisation, and what the checks say."""

import base64
import struct
from datetime import timedelta

import pytest
from dagster import TableSchema

from smi_pipeline.reporting import assets, charts
from smi_pipeline_tests.orchestration.reporting.conftest import TABLES
from smi_pipeline_tests.orchestration.reporting.history import DAY, delivered, failed, insert, random_orders, write

RANGE = {"dagster/asset_partition_range_start": "2026-11-10", "dagster/asset_partition_range_end": "2026-11-13"}


def build(reports) -> None:
    for table in TABLES:
        reports.build(table, DAY, DAY + timedelta(days=3))


def metadata_of(run) -> dict[tuple[str, str], dict]:
    return {
        (event.asset_key.to_user_string(), event.partition): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in run.get_asset_materialization_events()
    }


def picture(markdown: str) -> tuple[int, int]:
    """Width and height of the PNG in a Markdown image."""
    png = base64.b64decode(markdown.partition("base64,")[2].rstrip(")"))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_a_materialised_day_says_in_words_and_figures_what_came_out(database, rebuild):
    write(database, [*(delivered(DAY, rating=5) for _ in range(3)), failed(DAY)])
    found = metadata_of(rebuild(DAY))
    day = "2026-11-10"
    assert found["job_facts", day]["result"] == "4 paid jobs"
    assert found["job_facts", day]["dagster/partition_row_count"] == 4
    completion = found["completion_rate", day]
    assert completion["result"] == "75.0 % delivered: 3 of 4 decided (95 % interval 30.1 % to 95.4 %)"
    assert (completion["completion_rate_percent"], completion["delivered"], completion["refunded"]) == (75.0, 3, 1)
    assert "| upscale_failed | 1 | 25.0\u00a0% |" in completion["preview"]
    times = found["processing_times", day]
    assert times["result"].startswith("from payment to closing mail: median 13 s, 95 % within 27 s, slowest 30 s")
    assert times["total_p50_seconds"] == 13.0
    profit = found["profit_margin", day]
    assert profit["result"] == "0.14 USD net of 2.00 USD revenue (7.0 %); 1 of 4 paid jobs at a loss"
    assert (profit["net_margin_usd"], profit["revenue_usd"], profit["margin_percent_usd"]) == (0.14, 2.0, 7.0)


def test_every_report_carries_its_chart_and_every_table_its_columns(database, rebuild):
    write(database, random_orders(3))
    found = metadata_of(rebuild(DAY))
    for table in TABLES:
        schema = found[table, "2026-11-10"]["dagster/column_schema"]
        assert isinstance(schema, TableSchema)
        assert all(column.description for column in schema.columns)
        if table != "job_facts":
            chart = found[table, "2026-11-10"]["chart"]
            width, height = picture(chart)
            assert width > 600 and height > 300
            assert len(chart) < 60_000, "each chart is kept in Dagster's event log"


def test_an_empty_day_is_labelled_as_one(rebuild):
    found = metadata_of(rebuild(DAY))
    for table in TABLES:
        shown = found[table, "2026-11-10"]
        assert (shown["result"], shown["dagster/partition_row_count"]) == ("no paid jobs", 0)
        assert table == "job_facts" or picture(shown["chart"])


def test_a_range_is_one_run_with_the_figures_of_each_of_its_days(database, rebuild, monkeypatch):
    write(database, random_orders(3))
    monkeypatch.setattr(assets, "ILLUSTRATED_DAYS", 4)
    monkeypatch.setattr(charts, "png", lambda figure: b"")  # drawing is tested elsewhere
    found = metadata_of(rebuild(tags=RANGE))
    assert {day for _, day in found} == {f"2026-11-{day}" for day in (10, 11, 12, 13)}
    results = {found["profit_margin", f"2026-11-{day}"]["result"] for day in (10, 11, 12)}
    assert len(results) == 3
    assert found["profit_margin", "2026-11-13"]["result"] == "no paid jobs"


def test_a_long_range_draws_its_newest_days_alone(database, rebuild, monkeypatch):
    monkeypatch.setattr(assets, "ILLUSTRATED_DAYS", 1)
    write(database, [delivered(DAY + timedelta(days=n)) for n in range(9)])
    found = metadata_of(rebuild(tags=RANGE | {"dagster/asset_partition_range_end": "2026-11-18"}))
    drawn = {day for (table, day), shown in found.items() if table == "completion_rate" and "chart" in shown}
    assert drawn == {"2026-11-18"}
    assert found["completion_rate", "2026-11-10"]["paid_jobs"] == 1


# -- checks ----------------------------------------------------------------------------------------------------------


def checks_of(run) -> dict[str, tuple[bool, str | None]]:
    return {found.check_name: (found.passed, found.description) for found in run.get_asset_check_evaluations()}


@pytest.fixture
def checked(defs, instance):
    """Runs the checks alone, as from the UI."""
    from dagster import AssetSelection, define_asset_job

    from smi_pipeline.reporting.assets import ASSETS
    from smi_pipeline.reporting.checks import CHECKS

    job = define_asset_job("checks_alone", AssetSelection.checks(*CHECKS)).resolve(
        asset_graph=defs.resolve_asset_graph(), resource_defs=defs.resources
    )
    assert ASSETS

    def run():
        return checks_of(job.execute_in_process(instance=instance))

    return run


def test_on_a_right_history_facts_and_money_pass_also_when_checked_alone(database, reports, checked):
    write(database, random_orders(5))
    build(reports)
    found = checked()
    assert found["facts_complete"] == (
        True,
        "150 facts of 150 paid jobs on 4 days: 0 missing, 0 surplus, 0 waiting to be rebuilt",
    )
    assert found["money_adds_up"] == (True, "to the cent")


def test_a_missing_and_a_surplus_fact_are_found_and_a_change_on_its_way_is_neither(database, reports, checked):
    write(database, [delivered(DAY) for _ in range(3)])
    build(reports)
    write(database, [delivered(DAY)])
    assert checked()["facts_complete"][0]
    with database.transaction() as tx:
        tx.run("UPDATE reports.job_facts SET job_id = 'x' WHERE job_id = (SELECT min(job_id) FROM reports.job_facts)")
    passed, words = checked()["facts_complete"]
    assert not passed
    assert words == "3 facts of 4 paid jobs on 4 days: 1 missing, 1 surplus, 1 waiting to be rebuilt"


def test_money_that_appears_or_vanishes_is_found(database, reports, checked):
    write(database, [delivered(DAY) for _ in range(3)])
    build(reports)
    assert checked()["money_adds_up"][0]
    with database.transaction() as tx:
        tx.run("UPDATE reports.profit_margin SET refunds_cents = 1 WHERE resolution = 'all'")
    assert checked()["money_adds_up"] == (
        False,
        "net margin is 0.45 USD, not 0.44 USD; net margin of all jobs is 0.45 USD, not 0.44 USD",
    )


def test_a_payment_that_the_facts_do_not_know_is_found(database, reports, checked):
    order = delivered(DAY)
    write(database, [order])
    build(reports)
    with database.transaction() as tx:
        insert(
            tx,
            "payments",
            job_id=order.job_id,
            payment_intent_id="pi_x",
            role="duplicate",
            received_cents=50,
            currency="usd",
            learned_from="test",
        )
    assert checked()["money_adds_up"][0], "it is in the log of changes: the next rebuild takes it in"
    with database.transaction() as tx:
        tx.run("DELETE FROM reports.changes")
    assert checked()["money_adds_up"] == (False, "1 paid job whose payments sum up to something else")


def test_an_overdue_paid_job_raises_the_alarm_with_its_id(database, rebuild, instance):
    stuck = delivered(DAY, status="pending", outcomes=[])
    write(database, [stuck])
    with database.transaction() as tx:
        tx.run("UPDATE smi.clock SET shift = '30 days'")
    run = rebuild(DAY)
    (alarm,) = [one for one in run.get_asset_check_evaluations() if one.check_name == "no_overdue_paid_job"]
    assert not alarm.passed
    assert stuck.job_id in alarm.metadata["jobs"].value


def test_a_day_below_the_floors_of_the_settings_is_named(database, reports, checked, monkeypatch):
    write(database, [delivered(DAY) for _ in range(3)])
    build(reports)
    with database.transaction() as tx:  # the newest built day is the one that is judged
        tx.run("DELETE FROM reports.builds WHERE day > :day", day=DAY)
    monkeypatch.setenv("SMI_COMPLETION_FLOOR_PERCENT", "100")
    monkeypatch.setenv("SMI_MARGIN_FLOOR_PERCENT", "5")
    assert checked()["floors_kept"][0]
    monkeypatch.setenv("SMI_MARGIN_FLOOR_PERCENT", "99")
    passed, words = checked()["floors_kept"]
    assert not passed
    assert words is not None and words.startswith(f"{DAY}: margin USD ") and words.endswith("% < 99 %")
