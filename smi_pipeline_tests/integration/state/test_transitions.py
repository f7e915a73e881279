"""The trigger of the database allows exactly the transitions of `core.lifecycle`, in new and in upgraded databases."""

import uuid
from collections.abc import Iterator
from datetime import datetime
from itertools import permutations
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import InternalError

from smi_pipeline.core.lifecycle import TRANSITIONS
from smi_pipeline.core.pricing import Prices
from smi_pipeline.core.vocabulary import Status
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import Reports
from smi_pipeline.state.schema import alembic_config, migrate
from smi_pipeline_tests.integration.state.test_schema import insert, job

ALLOWED = {(transition.source, transition.target) for transition in TRANSITIONS}


@pytest.fixture
def fresh_url(postgres: Any) -> Iterator[str]:
    """An empty database."""
    name = f"transitions_{uuid.uuid4().hex[:12]}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as server:
            server.execute(text(f"CREATE DATABASE {name}"))
        yield postgres.url(name)
    finally:
        with admin.connect() as server:
            server.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def migrate_to(url: str, revision: str) -> None:
    engine = create_engine(url)
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def allowed_by(connection: Connection) -> set[tuple[Status, Status]]:
    """Every change of status that the database lets through."""
    allowed = set()
    for source, target in permutations(Status, 2):
        with connection.begin_nested() as savepoint:
            job_id = uuid.uuid4().hex
            insert(connection, "upscale_jobs", job(job_id, status=source.value))
            try:
                connection.execute(
                    text("UPDATE smi.upscale_jobs SET status = :to WHERE job_id = :id"),
                    {"to": target.value, "id": job_id},
                )
                allowed.add((source, target))
            except InternalError as error:
                assert f"cannot go from {source} to {target}" in str(error)
            savepoint.rollback()
    return allowed


def test_the_trigger_of_a_new_database_allows_exactly_the_transitions(state_url: str) -> None:
    engine = create_engine(state_url)
    with engine.connect() as connection:
        assert allowed_by(connection) == ALLOWED
    engine.dispose()


def test_an_installation_of_the_release_before_is_upgraded_with_its_jobs(fresh_url: str) -> None:
    migrate_to(fresh_url, "0005")
    engine = create_engine(fresh_url)
    with engine.begin() as connection:
        insert(connection, "upscale_jobs", job("a" * 32, status="processing"))
        before = allowed_by(connection)
    assert before - ALLOWED == {(Status.PROCESSING, Status.PENDING)}, "no release makes this change"
    migrate(fresh_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT status FROM smi.upscale_jobs")).scalars().all() == ["processing"]
        assert allowed_by(connection) == ALLOWED
    engine.dispose()


def test_bookings_in_another_currency_are_read_again_after_the_upgrade(fresh_url: str) -> None:
    migrate_to(fresh_url, "0012")
    engine = create_engine(fresh_url)
    at = {"eur": "2026-11-02 00:00+00", "usd": "2026-11-01 00:00+00"}
    with engine.begin() as connection:
        insert(connection, "payments", {"payment_intent_id": "pi_1"})
        for currency, created in at.items():
            connection.execute(
                text("""INSERT INTO reports.stripe_bookings (booking_id, created_at, source_id, kind, payment_intent_id,
                            amount_cents, fee_cents, currency)
                        VALUES (:c, CAST(:at AS timestamptz), 'ch_1', 'charge', 'pi_1', 50, 3, :c)"""),
                {"c": currency, "at": created},
            )
        connection.execute(text("INSERT INTO smi.cursors VALUES ('stripe_bookings', '2026-11-20 00:00+00')"))
    migrate_to(fresh_url, "head")
    with engine.begin() as connection:  # a tick of the release before ends, which read before the upgrade
        connection.execute(text("UPDATE smi.cursors SET value = '2026-11-21 00:00+00' WHERE name = 'stripe_bookings'"))
    with engine.connect() as connection:
        left = connection.execute(text("SELECT currency FROM reports.stripe_bookings")).scalars().all()
    database = Database(fresh_url)
    read_to = Reports(database, Prices()).bookings_read_to()
    database.dispose()
    assert (left, read_to) == (["usd"], datetime.fromisoformat(at["eur"]))
    engine.dispose()
