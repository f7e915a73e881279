"""A build that takes long: it keeps its lock, and leaves the limits of every other transaction as they were."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from smi_pipeline.core.pricing import Prices
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import Reports
from smi_pipeline_tests.orchestration.reporting.history import DAY, delivered, write

IDLE_SECONDS = 0.3
BUILDS: dict[str, Callable[[Reports], Any]] = {
    "the facts": lambda reports: reports.build_facts(DAY, DAY),
    "a report": lambda reports: reports.build("profit_margin", DAY, DAY),
}

# The transaction that holds the lock of all builds, and does nothing itself meanwhile
_HOLDER_IS_IDLE = """SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND a.state = 'idle in transaction'
      AND clock_timestamp() - a.state_change > CAST(:longer AS interval)"""
_LIMITS = """SELECT name, setting::int AS value FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'statement_timeout')"""


@pytest.mark.parametrize("table", BUILDS)
def test_a_build_that_takes_longer_than_a_transaction_may_be_idle_keeps_its_lock(state_url: str, table: str) -> None:
    database, other = Database(state_url, idle_seconds=IDLE_SECONDS), Database(state_url)
    reports = Reports(database, Prices())
    write(other, [delivered(DAY)])
    with database.transaction() as tx:
        limits = tx.rows(_LIMITS)
    reports.build_facts(DAY, DAY)
    try:
        with ThreadPoolExecutor(1) as threads:
            with other.transaction() as slow:  # what the build has to wait for
                slow.run("LOCK TABLE reports.builds IN ACCESS EXCLUSIVE MODE")
                build = threads.submit(BUILDS[table], reports)
                _wait_for_idle_lock(other, build)
            build.result(timeout=60)
        with ExitStack() as connections:  # of the pool, those of the build among them
            for _ in range(4):
                assert connections.enter_context(database.transaction()).rows(_LIMITS) == limits
    finally:
        database.dispose()
        other.dispose()


def _wait_for_idle_lock(database: Database, build: Future[Any]) -> None:
    ends = time.monotonic() + 60
    longer = f"{IDLE_SECONDS * 3} seconds"
    while time.monotonic() < ends and not build.done():
        with database.transaction() as tx:
            if tx.value(_HOLDER_IS_IDLE, longer=longer):
                return
        time.sleep(0.05)
    raise AssertionError(f"the build held its lock for less than {longer}")
