"""The shop of a test. One database for all of these tests, emptied before each: several times as fast as a new one."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.adapters.postgres.embedded import EmbeddedPostgres
from smi_pipeline_tests.conftest import TEMPLATE
from smi_pipeline_tests.unit.services.steps import Steps


@pytest.fixture(scope="package")
def services_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"services_{uuid.uuid4().hex[:12]}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
        yield postgres.url(name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def empty_url(services_url: str) -> str:
    """The database with nothing in it and its clock set right."""
    engine = create_engine(services_url)
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))  # neither triggers nor foreign keys
        tables = connection.execute(
            text("SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('smi', 'reports')")
        )
        for (table,) in tables.all():
            if table != "smi.clock":
                connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("UPDATE smi.clock SET shift = '0'"))
    engine.dispose()
    return services_url


@pytest.fixture
def shop(empty_url: str) -> Iterator[Steps]:
    shop = Steps(empty_url)
    yield shop
    shop.close()
