"""The state with reports on it, and the definitions of the location on that state."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import requests
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult

from smi_pipeline.core.pricing import Prices
from smi_pipeline.reporting.definitions import build_defs
from smi_pipeline.reporting.resources import ReportsResource
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import FACTS, OTHER_MONEY, PERIODS, REPORTS, Reports
from smi_pipeline_tests.orchestration.conftest import Shop

DAILY_TABLES = (FACTS, OTHER_MONEY, *REPORTS)


def build(reports: Reports, first: date, last: date, *, periods: tuple[str, ...] = PERIODS) -> None:
    """All tables of the days from `first` to `last`, and the weeks and months above them."""
    reports.build_facts(first, last)
    for period in periods:
        for table in REPORTS:
            reports.build(table, first, last, period=period)


def stripe_says(shop: Shop, path: str) -> dict[str, Any]:
    """What Stripe's API answers to the shop's key."""
    headers = {"Authorization": f"Bearer {shop.sandbox.options.stripe_key}"}
    answer = requests.get(f"{shop.sandbox.urls.stripe}/v1/{path}", headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    database = Database(state_url, pool_size=2)
    yield database
    database.dispose()


@pytest.fixture
def reports(database: Database) -> Reports:
    return Reports(database, Prices())


@pytest.fixture
def reports_db(state_url: str, tmp_path: Path) -> ReportsResource:
    return ReportsResource(database_url=state_url, storage_url=str(tmp_path / "storage"))


@pytest.fixture
def defs(reports_db: ReportsResource) -> Definitions:
    return build_defs({"reports_db": reports_db})


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def rebuild(defs: Definitions, instance: DagsterInstance) -> Callable[..., ExecuteInProcessResult]:
    """Runs `rebuild_days` (or weeks, months) for one partition, or with the given tags."""

    def run(start: object = None, *, tags: dict[str, str] | None = None, period: str = "day", only: Any = None):
        job = defs.resolve_job_def(f"rebuild_{period}s")
        key = None if start is None else str(start)
        return job.execute_in_process(
            instance=instance,
            partition_key=key,
            tags=tags,
            raise_on_error=True,
            asset_selection=only and [AssetKey(name) for name in only],
        )

    return run
