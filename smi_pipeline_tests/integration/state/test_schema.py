"""What may exist only once is refused by the database itself, whatever the code above it believes."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError

JOB = "0" * 32
OTHER_JOB = "1" * 32


def job(job_id: str, **columns: Any) -> dict[str, Any]:
    source = {"source_url": "https://x/a.png", "file_name": "a", "source_format": "PNG", "source_sha256": "0"}
    size = {"source_width": 1, "source_height": 1, "source_bytes": 1, "resolution": "4x", "scale": 4}
    order = {"customer_email": "a@customer.example", "price_cents": 50, "currency": "usd", "expected_credits": 1}
    return {"job_id": job_id, **source, **size, **order, **columns}


ROWS: dict[str, dict[str, Any]] = {
    "submissions": {"job_id": JOB, "round": 1, "state": "rejected"},
    "webhook_inbox": {"type": "charge.refunded", "effect": "refund"},
    "payments": {"role": "orphan", "received_cents": 50, "currency": "usd", "learned_from": "test"},
    "outcomes": {"outcome": "deliver", "actor": "test"},
    "refunds": {
        "job_id": JOB,
        "payment_intent_id": "pi_1",
        "kind": "outside",
        "n": 0,
        "currency": "usd",
        "reason_code": "test",
        "actor": "test",
    },
    "emails": {"job_id": JOB, "kind": "completion"},
    "download_tokens": {"job_id": JOB, "round": 1, "expires_at": "2030-01-01"},
    "person_tasks": {"message": "m", "next_step": "n"},
}

ALIVE = {"kind": "failure", "payment_intent_id": "pi_2"}

TWICE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "the same Checkout session on two jobs": (
        "upscale_jobs",
        job(OTHER_JOB, checkout_session_id="cs_0"),
        {},
    ),
    "the same payment on two jobs": ("upscale_jobs", job(OTHER_JOB, payment_intent_id="pi_0"), {}),
    "two open submissions of a job": ("submissions", {"state": "sending"}, {"state": "accepted"}),
    "two submissions with one callback token": ("submissions", {"token_hash": "t"}, {"token_hash": "t"}),
    "two submissions with one external id": ("submissions", {"external_id": "e"}, {"external_id": "e"}),
    "one Stripe event twice": ("webhook_inbox", {"event_id": "evt_1"}, {"event_id": "evt_1"}),
    "one payment twice": ("payments", {"payment_intent_id": "pi_1"}, {"payment_intent_id": "pi_1"}),
    "two outcomes of one round": (
        "outcomes",
        {"job_id": JOB, "round": 1},
        {"job_id": JOB, "round": 1, "outcome": "refund"},
    ),
    "two living refunds of one payment": ("refunds", {**ALIVE, "state": "succeeded"}, {**ALIVE, "state": "owed"}),
    "two refunds with one idempotency key": ("refunds", {"idempotency_key": "k"}, {"idempotency_key": "k"}),
    "one refund of Stripe's twice": ("refunds", {"stripe_refund_id": "re_1"}, {"stripe_refund_id": "re_1"}),
    "two mails of one kind and serial": ("emails", {"message_id": "<a>"}, {"message_id": "<b>"}),
    "two mails with one Message-ID": (
        "emails",
        {"message_id": "<a>"},
        {"message_id": "<a>", "serial": 2},
    ),
    "one download token twice": (
        "download_tokens",
        {"token_hash": "h", "serial": 1},
        {"token_hash": "h", "serial": 2},
    ),
    "two download tokens of one serial": (
        "download_tokens",
        {"token_hash": "g", "serial": 1},
        {"token_hash": "h", "serial": 1},
    ),
    "two open tasks on one subject": (
        "person_tasks",
        {"kind": "dispute", "subject": "pi_1"},
        {"kind": "dispute", "subject": "pi_1"},
    ),
}


@pytest.fixture(scope="module")
def connection(postgres: Any, template: str) -> Iterator[Connection]:
    """A connection whose transaction is rolled back at the end: nothing of this module is ever committed."""
    name = f"schema_{uuid.uuid4().hex[:12]}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    engine = create_engine(postgres.url(name))
    try:
        with admin.connect() as server:
            server.execute(text(f"CREATE DATABASE {name} TEMPLATE smi_template"))
        with engine.connect() as opened:
            insert(opened, "upscale_jobs", job(JOB, checkout_session_id="cs_0", payment_intent_id="pi_0"))
            yield opened
    finally:
        engine.dispose()
        with admin.connect() as server:
            server.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    columns = {**ROWS.get(table, {}), **row}
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    connection.execute(text(f"INSERT INTO smi.{table} ({names}) VALUES ({values})"), columns)


@pytest.mark.parametrize("what", TWICE)
def test_the_database_refuses(connection: Connection, what: str) -> None:
    table, first, second = TWICE[what]
    with connection.begin_nested() as savepoint:
        if second:
            insert(connection, table, first)
        with pytest.raises(IntegrityError, match="duplicate key"), connection.begin_nested():
            insert(connection, table, second or first)
        savepoint.rollback()


@pytest.mark.parametrize(
    ("table", "first", "second"),
    [
        ("submissions", {"state": "rejected"}, {"state": "sending"}),
        ("refunds", {**ALIVE, "state": "failed"}, {**ALIVE, "state": "owed"}),
        ("refunds", {"stripe_refund_id": "re_1"}, {"stripe_refund_id": "re_2"}),
        ("outcomes", {"job_id": JOB, "round": 1}, {"job_id": JOB, "round": 2}),
        ("emails", {"message_id": "<a>"}, {"message_id": "<b>", "serial": 2}),
    ],
)
def test_the_next_try_is_not_refused(
    connection: Connection, table: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    with connection.begin_nested() as savepoint:
        insert(connection, table, first)
        insert(connection, table, second)
        savepoint.rollback()
