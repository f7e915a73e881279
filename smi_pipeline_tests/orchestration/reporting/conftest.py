"""The state with reports on it, and the definitions of the location on that state."""

from collections.abc import Callable, Iterator

import pytest
from dagster import DagsterInstance, Definitions, ExecuteInProcessResult

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.reports import FACTS, REPORTS, PostgresReports
from smi_pipeline.core.pricing import Prices
from smi_pipeline.reporting.definitions import build_defs
from smi_pipeline.reporting.resources import ReportsResource

TABLES = (FACTS, *REPORTS)


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    database = Database(state_url, pool_size=2)
    yield database
    database.dispose()


@pytest.fixture
def reports(database: Database) -> PostgresReports:
    return PostgresReports(database, Prices())


@pytest.fixture
def reports_db(state_url: str) -> ReportsResource:
    return ReportsResource(database_url=state_url)


@pytest.fixture
def defs(reports_db: ReportsResource) -> Definitions:
    return build_defs({"reports_db": reports_db})


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def rebuild(defs: Definitions, instance: DagsterInstance) -> Callable[..., ExecuteInProcessResult]:
    """Runs `rebuild_reports` for one day, or with the given tags."""
    job = defs.resolve_job_def("rebuild_reports")

    def run(day: object = None, *, tags: dict[str, str] | None = None) -> ExecuteInProcessResult:
        key = None if day is None else str(day)
        return job.execute_in_process(instance=instance, partition_key=key, tags=tags, raise_on_error=True)

    return run
