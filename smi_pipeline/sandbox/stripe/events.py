"""Stripe's events: stored, signed, delivered at least once, and the faults of delivery.

An event is stored when it happens; only its webhook can be lost, repeated, late or out of order. It is tried
15 times, with pauses from one second, doubling up to a minute.
"""

import copy
import hashlib
import hmac
import json
import random
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.stripe import objects
from smi_pipeline.sandbox.webhooks import WEBHOOK_KINDS, Webhooks

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

DELIVERY_KINDS: Mapping[str, Kind] = {
    **WEBHOOK_KINDS,
    "shuffle": Kind(defaults={"size": 3, "seconds": 1.5}, times=None),
}
WEBHOOK_ATTEMPTS = 15
_RECENT = 500  # newest events, of which some are resent to keep the rate


def signature(payload: bytes, secrets: str, now: int) -> str:
    """Return the header ``Stripe-Signature`` (https://docs.stripe.com/webhooks#verify-manually).

    While a secret is being replaced there are two, here separated by commas, with a signature each
    (https://docs.stripe.com/webhooks#roll-endpoint-secrets)."""
    signed = f"{now}.".encode() + payload
    digests = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets.split(",")]
    return ",".join([f"t={now}", *(f"v1={digest}" for digest in digests)])


class Events:
    """The events of the Stripe sandbox, and the delivery of their webhooks."""

    def __init__(self, service: "SandboxService") -> None:
        self._service = service
        self._webhooks = Webhooks(service)
        self._shuffled = 0
        self._sent: deque[float] = deque()
        self._chance = random.Random(0)

    def emit(self, type: str, subject: dict[str, Any], *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Store an event with a snapshot of ``subject``, and schedule its webhook; return the event."""
        event = objects.event(
            now=int(self._service.clock()),
            type=type,
            subject=copy.deepcopy(subject),
            request_id=objects.new_id("req", 14) if idempotency_key else None,
            idempotency_key=idempotency_key,
        )
        self._service.ledger.put("events", event["id"], event)
        if self._service.settings["webhook_url"] and self._is_enabled(type):
            self._plan(event)
        return event

    def emit_thin(self, type: str, about: dict[str, Any]) -> dict[str, Any]:
        """Store an event of API v2, and schedule its webhook; the list of events (v1) has no such event. Return it."""
        now = datetime.fromtimestamp(self._service.clock(), UTC)
        event = objects.thin_event(now=now, type=type, about=about)
        self._service.ledger.put("thin_events", event["id"], event)
        self._webhooks.plan(_subject(event), {})
        return event

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the webhook endpoints of the account: the one that is configured."""
        url, events = (self._service.settings[f"webhook_{name}"] for name in ("url", "events"))
        return [objects.webhook_endpoint(now=0, url=url, events=events.split(","))] if url else []

    def _is_enabled(self, type: str) -> bool:
        enabled = self._service.settings["webhook_events"].split(",")
        return "*" in enabled or type in enabled

    def resend(self, event: dict[str, Any], times: int) -> None:
        """Deliver a stored event again, this many times, without faults."""
        for _ in range(times):
            self._webhooks.resend(event["id"], time.time())

    def _plan(self, event: dict[str, Any]) -> None:
        subject = event["data"]["object"]
        context = {
            "endpoint": "webhook",
            "event_type": event["type"],
            "job_id": (subject.get("metadata") or {}).get("job_id"),
            "id": subject.get("id"),
            "payment_intent": subject.get("payment_intent") or subject.get("id"),
            "email": self._email(subject),
        }
        taken = self._service.faults.take(set(DELIVERY_KINDS), context)
        later = 0.0
        if "shuffle" in taken and "lose_webhook" not in taken:
            # groups of `size` in reverse order, spread over `seconds`: the first waits longest
            size = taken["shuffle"]["size"]
            later = taken["shuffle"]["seconds"] * (size - self._shuffled % size) / size
            self._shuffled += 1
        self._webhooks.plan(_subject(event), taken, later=later)

    async def deliver(self, id: str, attempt: int) -> None:
        """Send a webhook once. Called by a timer."""
        ledger, settings = self._service.ledger, self._service.settings
        stored = ledger.get("events", id) or ledger.get("thin_events", id)
        if stored is None or not settings["webhook_url"]:
            return
        payload = json.dumps(stored, indent=2).encode()
        # Who moves the clocks of a shop and of its services leaves those of the machine, by which signatures are read.
        now = time.time() if settings["signing_clock"] == "machine" else self._service.clock()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": signature(payload, settings["webhook_secret"], int(now)),
        }
        self._sent.append(time.monotonic())
        url = settings["webhook_url"]
        await self._webhooks.send(_subject(stored), url, payload, headers, attempt=attempt, attempts=WEBHOOK_ATTEMPTS)

    def keep_pace(self) -> None:
        """Resend old events, spread over the next second, if fewer than ``webhooks_per_second`` webhooks were sent in
        the last one."""
        now = time.monotonic()
        while self._sent and self._sent[0] < now - 1:
            self._sent.popleft()
        missing = int(self._service.settings["webhooks_per_second"]) - len(self._sent)
        events = self._service.ledger.all("events") if missing > 0 else []
        for number in range(missing if events else 0):
            event = self._chance.choice(events[-_RECENT:])
            self._webhooks.resend(event["id"], time.time() + number / missing)

    def _email(self, subject: dict[str, Any]) -> str | None:
        """Return the email address of the customer whom an object is about."""
        charge = self._service.ledger.get("charges", str(subject.get("charge"))) or subject
        return charge.get("receipt_email") or charge.get("customer_email")

    def close(self) -> None:
        """Stop sending."""
        self._webhooks.close()


def _subject(event: dict[str, Any]) -> dict[str, Any]:
    return {"id": event["id"], "type": event["type"]}
