"""Reads of `smi doctor`: version, schema revision and clock of a database."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from smi_pipeline.state.database import Database
from smi_pipeline.state.schema import alembic_config


@dataclass(frozen=True, kw_only=True)
class DatabaseHealth:
    """`revision` is None before the first migration, `head` the newest one of this release; `skew` is the server's
    clock minus ours, `shift` what the state's clock was moved by."""

    server: str
    revision: str | None
    head: str
    skew: timedelta
    shift: timedelta


def check_database(database: Database) -> DatabaseHealth:
    """Return the health of the state's database. Raise TransientError when it does not answer."""
    with database.transaction() as tx:
        tables = tx.one(
            """SELECT to_regclass('smi_schema_version') IS NOT NULL AS migrated,
                      to_regclass('smi.clock') IS NOT NULL AS clock"""
        )
        server = tx.value("SELECT current_setting('server_version')")
        revision = tx.value("SELECT version_num FROM smi_schema_version") if tables["migrated"] else None
        shift = tx.value("SELECT shift FROM smi.clock") if tables["clock"] else timedelta()
        before = datetime.now(UTC)
        there = tx.value("SELECT clock_timestamp()")
        after = datetime.now(UTC)
    return DatabaseHealth(
        server=server,
        revision=revision,
        head=ScriptDirectory.from_config(alembic_config()).get_current_head() or "",
        skew=there - (before + (after - before) / 2),
        shift=shift,
    )


def server_version(url: str) -> str:
    """Return the version of the server of any database. Raise sqlalchemy errors when it cannot be reached."""
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT current_setting('server_version')")).scalar())
    finally:
        engine.dispose()
