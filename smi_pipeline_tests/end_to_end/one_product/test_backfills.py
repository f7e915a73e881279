"""Backfills as operators start them in Dagster's UI, made by the running daemon."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smi_pipeline.reporting.assets import BY_PERIOD
from smi_pipeline_tests.end_to_end.conftest import wait_until
from smi_pipeline_tests.end_to_end.one_product.conftest import RunningShop

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # the sandbox's mail server
]
TODAY = datetime.now(UTC).date()
LAUNCH = """mutation Launch($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query Backfill($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status error { message } runs(limit: 99) { status tags { key value } } } } }"""
NEWEST = """query Newest($key: AssetKeyInput!, $partition: String!) { assetOrError(assetKey: $key) { ... on Asset {
    assetMaterializations(limit: 1, partitions: [$partition]) { metadataEntries {
        label ... on TextMetadataEntry { text } ... on BoolMetadataEntry { boolValue } } } } } }"""


def launch(running_shop: RunningShop, chosen: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Start a backfill of all assets of these periods, each from a first to a last partition."""
    by_asset = [
        {"assetKey": {"path": list(key.path)}, "partitions": {"range": {"start": start, "end": end}}}
        for period, (start, end) in chosen.items()
        for asset in BY_PERIOD[period]
        for key in asset.keys
    ]
    return running_shop.graphql(LAUNCH, params={"partitionsByAssets": by_asset})["launchPartitionBackfill"]


def newest(running_shop: RunningShop, asset: str, partition: str) -> dict[str, Any]:
    """The metadata of the newest materialisation of a partition."""
    found = running_shop.graphql(NEWEST, key={"path": [asset]}, partition=partition)
    (last,) = found["assetOrError"]["assetMaterializations"]
    return {entry["label"]: entry.get("text", entry.get("boolValue")) for entry in last["metadataEntries"]}


def test_a_backfill_with_the_current_day_week_and_month_ends_well_and_says_that_they_are_not_over(
    running_shop: RunningShop, orders: dict[str, Any]
) -> None:
    week, month = TODAY - timedelta(days=TODAY.weekday()), TODAY.replace(day=1)
    first = min(week, month)
    started = launch(
        running_shop,
        {
            "day": (first.isoformat(), TODAY.isoformat()),
            "week": ((week - timedelta(days=7)).isoformat(), week.isoformat()),
            "month": ((month - timedelta(days=1)).replace(day=1).isoformat(), month.isoformat()),
        },
    )
    assert started["__typename"] == "LaunchBackfillSuccess", started

    def ended() -> dict[str, Any] | None:
        backfill = running_shop.graphql(BACKFILL, id=started["backfillId"])["partitionBackfillOrError"]
        return backfill if backfill["status"] not in ("REQUESTED", "FAILING") else None

    backfill = wait_until("the end of the backfill", ended, seconds=200)
    assert (backfill["status"], backfill["error"]) == ("COMPLETED_SUCCESS", None)
    assert {run["status"] for run in backfill["runs"]} == {"SUCCESS"}
    for asset, start, kind in (
        ("completion_rate", TODAY, "day"),
        ("weekly_completion_rate", week, "week"),
        ("monthly_completion_rate", month, "month"),
    ):
        said = newest(running_shop, asset, start.isoformat())
        assert said["complete"] is False and f"(so far: this {kind} is not over)" in said["result"]
    assert newest(running_shop, "weekly_completion_rate", (week - timedelta(days=7)).isoformat())["complete"] is True
