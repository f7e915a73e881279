"""One database for the tests of a package, emptied before each: several times as fast as a new one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, text

from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.conftest import TEMPLATE


@contextmanager
def shared_database(server: EmbeddedPostgres) -> Iterator[str]:
    """URL of a migrated database that is dropped at the end."""
    name = f"shared_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
        yield server.url(name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def empty(url: str) -> None:
    """Removes every row, and sets the state's clock right."""
    engine = create_engine(url)
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
