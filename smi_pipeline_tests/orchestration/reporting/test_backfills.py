"""Backfills that contain the current day, week or month: they work, and say that the period is not over."""

from datetime import UTC, date, datetime, timedelta

import pytest
import time_machine
from dagster import AssetKey, DagsterUnknownPartitionError, Definitions

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.reporting.assets import BY_PERIOD
from smi_pipeline.reporting.jobs import due
from smi_pipeline.reporting.partitions import FIRST_DAY, PARTITIONS
from smi_pipeline_tests.orchestration.reporting.history import delivered, write

TODAY = datetime.now(UTC).date()
TOMORROW = TODAY + timedelta(days=1)
STARTS = {"day": TODAY, "week": TODAY - timedelta(days=TODAY.weekday()), "month": TODAY.replace(day=1)}


def test_the_current_week_and_month_depend_on_no_day_that_does_not_exist_yet(defs: Definitions):
    """Else Dagster's daemon ends the whole backfill with an error."""
    graph = defs.resolve_asset_graph()
    with time_machine.travel(datetime(2026, 11, 18, 9, tzinfo=UTC), tick=False):
        for period, start in (("week", "2026-11-16"), ("month", "2026-11-01")):
            days = PARTITIONS[period].subset_with_partition_keys([PARTITIONS[period].get_partition_keys()[-1]])
            assert list(days.get_partition_keys()) == [start]
            for asset in BY_PERIOD[period]:
                mapping = graph.get_partition_mapping(asset.key, parent_asset_key=AssetKey("job_facts"))
                found = mapping.get_upstream_mapped_partitions_result_for_partitions(
                    days, PARTITIONS[period], PARTITIONS["day"]
                )
                assert found.required_but_nonexistent_subset.is_empty, asset.key
                keys = list(found.partitions_subset.get_partition_keys())
                assert (keys[0], keys[-1]) == (start, "2026-11-18")


def metadata(run) -> dict[tuple[str, str], dict]:
    return {
        (event.asset_key.to_user_string(), event.partition): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in run.get_asset_materialization_events()
    }


@pytest.mark.parametrize("period", STARTS)
def test_the_period_that_is_not_over_is_reported_so_far_and_says_so(database, reports, rebuild, tmp_path, period):
    before = PARTITIONS[period].get_partition_keys()[-2]
    write(database, [delivered(TODAY), delivered(date.fromisoformat(before))])
    reports.build_facts(date.fromisoformat(before), TODAY)
    current = STARTS[period].isoformat()
    tags = {"dagster/asset_partition_range_start": before, "dagster/asset_partition_range_end": current}
    found = metadata(rebuild(tags=tags, period=period))
    name = {"day": "", "week": "weekly_", "month": "monthly_"}[period] + "profit_margin"
    assert found[name, current]["revenue_usd"] >= 0.5
    assert found[name, current]["result"].endswith(f" (so far: this {period} is not over)")
    assert "so far" not in found[name, before]["result"]
    assert {(start, said["complete"]) for (_, start), said in found.items()} == {(before, True), (current, False)}
    if period != "week":
        pages = "daily_pages" if period == "day" else "monthly_pages"

        def page(start: str) -> str:
            return (tmp_path / "storage" / found[pages, start]["folder"] / "index.html").read_text()

        assert f"This {period} is not over" in page(current)
        assert "not over" not in page(before)


def test_a_range_that_reaches_into_the_future_is_refused_and_nothing_is_built(reports, rebuild):
    tags = {
        "dagster/asset_partition_range_start": TODAY.isoformat(),
        "dagster/asset_partition_range_end": TOMORROW.isoformat(),
    }
    with pytest.raises(RefusedError, match=f"{TOMORROW} is in the future: choose days, weeks or months that have beg"):
        rebuild(tags=tags)
    with pytest.raises(DagsterUnknownPartitionError, match=str(TOMORROW)):
        rebuild(TOMORROW)
    assert reports.row_counts("job_facts", TODAY, TOMORROW) == {}


def test_a_day_that_was_built_before_it_was_over_is_rebuilt_afterwards_without_a_change(database, reports, rebuild):
    write(database, [delivered(TODAY)])
    assert "so far" in rebuild_result(rebuild, "completion_rate")
    assert [each for each in reports.out_of_date(FIRST_DAY, TOMORROW) if each.period == "day"] == []
    with database.transaction() as tx:
        tx.run("UPDATE smi.clock SET shift = '1 day 10 minutes'")
    (stale,) = (each for each in reports.out_of_date(FIRST_DAY, TOMORROW) if each.period == "day")
    assert stale.starts_on == TODAY and due([stale]) == [stale]
    assert "so far" not in rebuild_result(rebuild, "completion_rate")
    assert [each for each in reports.out_of_date(FIRST_DAY, TOMORROW) if each.period == "day"] == []


def rebuild_result(rebuild, table: str) -> str:
    return metadata(rebuild(TODAY))[table, TODAY.isoformat()]["result"]
