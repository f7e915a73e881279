"""Exports of the WordPress plugin's table, how they are imported, and what that has written."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from smi_pipeline_tests.integration.commands.conftest import Ran, Smi
from smi_pipeline_tests.integration.services.stripe import FakePayments

ROW = {
    "id": "17", "job_id": "0b6f0c8e-8a3d-4a2b-9c1d-5e6f7a8b9c0d", "image_url": "https://shop.example/a/Sun%20set.png",
    "resolution": "4x", "email": "customer@example.org", "post_id": "12", "attachment_id": "34", "image_width": "800",
    "image_height": "600", "status": "completed", "upsampler_job_id": "up_17", "stripe_payment_intent_id": "pi_17",
    "stripe_checkout_session_id": "cs_17", "payment_status": "paid", "amount_charged": "0.96", "amount_cost": "0.08",
    "credits_used": "2", "email_sent": "1", "paid_at": "2026-03-01 10:01:00", "created_at": "2026-03-01 10:00:00",
    "updated_at": "2026-03-01 10:05:00", "processing_started_at": "2026-03-01 10:01:30",
    "completed_at": "2026-03-01 10:04:00",
}  # fmt: skip
FAILED = ROW | {
    "id": "18", "job_id": "1" * 32, "status": "failed", "upsampler_job_id": "up_18", "completed_at": "",
    "stripe_payment_intent_id": "pi_18", "stripe_checkout_session_id": "cs_18",
}  # fmt: skip
REFUNDED = FAILED | {
    "id": "19", "job_id": "2" * 32, "upsampler_job_id": "NULL", "stripe_payment_intent_id": "pi_19",
    "stripe_checkout_session_id": "cs_19", "refunded_at": "2026-03-02 10:00:00", "refund_amount": "0.96",
    "refund_reason": "the service failed",
}  # fmt: skip
UNPAID = ROW | {
    "id": "20", "job_id": "3" * 32, "status": "awaiting_payment", "payment_status": "pending", "paid_at": "",
    "stripe_payment_intent_id": "", "stripe_checkout_session_id": "NULL", "amount_charged": "NULL", "email": "",
    "upsampler_job_id": "", "credits_used": "", "completed_at": "0000-00-00 00:00:00",
}  # fmt: skip


def write(folder: Path, *rows: dict[str, str], **options: Any) -> Path:
    path = folder / "wp_smi_jobs.csv"
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, names, restval="NULL", **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(smi: Smi, path: Path, *options: str) -> Ran:
    """Import without asking Stripe."""
    return smi("import-wordpress", path, "--without-stripe", *options)


def rows(url: str, query: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text(query)).all()
    engine.dispose()
    return [tuple(row) for row in found]


def run(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def paid_at_stripe(stripe: FakePayments, row: dict[str, str], **more: Any) -> dict[str, str]:
    """The row as sold through this account."""
    amount = round(float(row["amount_charged"]) * 100)
    at = datetime.fromisoformat(row["paid_at"]).replace(tzinfo=UTC)
    payment_intent = stripe.pay(row["job_id"], more.pop("amount", amount), at=at, **more)
    return row | {"stripe_payment_intent_id": payment_intent}


def everything(url: str) -> list[Any]:
    """All that an import writes."""
    tables = ("upscale_jobs", "payments", "refunds", "submissions", "outcomes", "job_events", "person_tasks")
    return [rows(url, f"SELECT * FROM smi.{table} ORDER BY 1") for table in tables]
