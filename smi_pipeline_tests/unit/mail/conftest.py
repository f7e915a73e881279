"""A mailer and the facts of an order, for the mail tests."""

import email
import email.policy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest

from smi_pipeline.adapters.mail.smtp import SmtpMailer
from smi_pipeline.core.models import RenderedMail

AT = datetime(2026, 11, 20, 14, 5, tzinfo=UTC)
MESSAGE_ID = "<3f2a9c7b.completion.1@shop.example.com>"
CUSTOMER = "customer@example.org"
OWNER = "owner@example.com"


@pytest.fixture
def completion() -> dict[str, Any]:
    return {
        "job_id": "3f2a9c7be1d04f6c8a5b2e90d1c4f7a8",
        "customer_name": "Anna",
        "resolution": "4x",
        "width": 2048,
        "height": 1536,
        "file_bytes": 4_213_000,
        "format": "JPEG",
        "file_name": "sunset_4x.jpg",
        "download_url": "https://shop.example.com/smi/v1/download/" + "a1" * 32,
        "status_url": "https://shop.example.com/smi/jobs/3f2a?view=abc&x=1",
        "expires_at": AT + timedelta(hours=24),
        "price_cents": 120,
        "currency": "eur",
        "rating_urls": {stars: f"https://shop.example.com/smi/feedback/{stars}?t=xyz" for stars in range(1, 6)},
    }


@pytest.fixture
def refund() -> dict[str, Any]:
    return {
        "job_id": "3f2a9c7be1d04f6c8a5b2e90d1c4f7a8",
        "customer_name": None,
        "amount_cents": 120,
        "currency": "eur",
        "reason": "The upscaled image did not pass our quality check.",
        "refund_state": "pending",
        "status_url": "https://shop.example.com/smi/jobs/3f2a?view=abc",
    }


@pytest.fixture
def delay() -> dict[str, Any]:
    return {
        "job_id": "3f2a9c7be1d04f6c8a5b2e90d1c4f7a8",
        "customer_name": "Anna",
        "resolution": "4x",
        "file_name": "sunset",
        "price_cents": 120,
        "currency": "eur",
        "status_url": "https://shop.example.com/smi/v1/jobs/3f2a?view=abc",
        "end_waiting_url": "https://shop.example.com/smi/v1/end-waiting/3f2a9c7be1d04f6c8a5b2e90d1c4f7a8?key="
        + "a1" * 16,
    }


@pytest.fixture
def alert() -> dict[str, Any]:
    return {
        "subject": "3 orders are past their deadline",
        "lines": ["Order 3f2a was paid at 12:00 UTC.", "Next step: retry or refund it."],
        "links": {"Open the orders": "https://shop.example.com/ops", "Dagster UI": "http://127.0.0.1:3000/"},
    }


@pytest.fixture
def make_mailer() -> Callable[..., SmtpMailer]:
    def make(host: str = "127.0.0.1", port: int = 9, **changes: Any) -> SmtpMailer:
        settings: dict[str, Any] = {
            "user": None,
            "password": None,
            "starttls": False,
            "sender": "shop@example.com",
            "support_email": "help@example.com",
            "owner_copy": OWNER,
            "timeout_seconds": 3,
        }
        return SmtpMailer(host, port, **(settings | changes))

    return make


@pytest.fixture
def render(make_mailer: Callable[..., SmtpMailer]) -> Callable[..., RenderedMail]:
    def run(
        kind: str, context: dict[str, Any], *, to: str = CUSTOMER, message_id: str = MESSAGE_ID, **settings: Any
    ) -> RenderedMail:
        return make_mailer(**settings).render(kind, to=to, message_id=message_id, context=context, at=AT)

    return run


def parsed(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def body(content: bytes, subtype: str) -> str:
    part = parsed(content).get_body((subtype,))
    assert part is not None
    return str(part.get_content())
