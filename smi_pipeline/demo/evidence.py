"""Fetch the evidence for the judge: ledgers, all mails, and on demand the files and their sources."""

import email
import email.policy
from collections.abc import Mapping
from typing import Any

import requests

from smi_pipeline.demo.environment import OWNER
from smi_pipeline.demo.judge import Evidence, ReceivedMail
from smi_pipeline.demo.orders import DemoState
from smi_pipeline.demo.shop import Shop

_TIMEOUT_SECONDS = 60


def collect(shop: Shop, demo: DemoState) -> Evidence:
    """Return the evidence as it is now. Raises requests.RequestException when the sandbox does not respond."""

    def fetch(url: str) -> tuple[int, bytes]:
        try:
            reply = shop.http.get(url, timeout=_TIMEOUT_SECONDS)
        except requests.RequestException:
            return 0, b""
        return reply.status_code, reply.content

    records = shop.ledger("mail")["messages"]
    mails = [
        read_mail(fetch(f"{demo.url('mail')}/messages/{number}.eml")[1], record)
        for number, record in enumerate(records, start=1)
    ]
    return Evidence(
        stripe=shop.ledger("stripe"),
        upsampler=shop.ledger("upsampler"),
        mails=mails,
        staff=frozenset({OWNER}),
        download=fetch,
        source=lambda url: fetch(url)[1],
    )


def read_mail(content: bytes, record: Mapping[str, Any]) -> ReceivedMail:
    """Return a mail from its bytes and its record in the ledger."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    body = message.get_body(("plain", "html"))
    return ReceivedMail(
        message_id=record["message_id"],
        to=tuple(record["to"]),
        subject=record["subject"],
        text=body.get_content() if body is not None else "",
        at=record["at"],
    )
