"""Fixtures shared by all levels: one real PostgreSQL for the session, a fresh migrated database per test."""

import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline_tests.distribution import pytest_xdist_make_scheduler

__all__ = ["pytest_xdist_make_scheduler"]

TEMPLATE = "smi_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--by-kind`."""
    parser.addoption("--by-kind", action="store_true", help="print how long the tests of each folder took")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the number and the summed seconds of the tests of each folder, if asked for."""
    if not config.getoption("--by-kind"):
        return
    tests: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in (report for report in reports if isinstance(report, pytest.TestReport)):
            kind = report.nodeid.split("/")[1]
            seconds[kind] += report.duration
            tests[kind] += report.when == "call"
    terminalreporter.section("seconds by kind of test")
    for kind, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{spent:7.0f} s  {tests[kind]:5} tests  {kind}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of its own for this test session, stopped and removed at its end."""
    with tempfile.TemporaryDirectory(prefix="smi-test-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        # Its files are thrown away: nothing has to survive a power cut, and CREATE DATABASE takes a fifth of the time.
        engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("ALTER SYSTEM SET full_page_writes = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    url = postgres.url(TEMPLATE)
    ensure_database(url)
    migrate(url)
    return url


@pytest.fixture
def state_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """URL of a fresh, migrated state database, dropped after the test."""
    name = f"smi_{uuid.uuid4().hex[:12]}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    try:
        yield postgres.url(name)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
