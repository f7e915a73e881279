"""Build new Stripe objects, with the fields that clients of the API read."""

import secrets
import string
from datetime import datetime
from typing import Any

API_VERSION = "2026-10-28.endive"
_ALPHABET = string.ascii_letters + string.digits

Object = dict[str, Any]


def new_id(prefix: str, length: int = 24) -> str:
    """Return a new id such as ``pi_3Kd…``."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(length))


def intent(*, now: int, amount: int, currency: str, metadata: dict[str, str], email: str | None) -> Object:
    """Return a PaymentIntent without payment method."""
    id = new_id("pi")
    return {
        "id": id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{id}_secret_{secrets.token_hex(12)}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": currency,
        "customer": None,
        "description": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": metadata,
        "next_action": None,
        "payment_method": None,
        "payment_method_types": ["card"],
        "receipt_email": email,
        "status": "requires_payment_method",
    }


def charge(*, now: int, intent: Object, email: str | None) -> Object:
    """Return a successful card charge for a PaymentIntent."""
    return {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": email, "name": None, "phone": None},
        "captured": True,
        "created": now,
        "currency": intent["currency"],
        "customer": None,
        "description": None,
        "dispute": None,
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "outcome": {"network_status": "approved_by_network", "risk_level": "normal", "type": "authorized"},
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": new_id("pm"),
        "payment_method_details": {"type": "card", "card": {"brand": "visa", "last4": "4242", "country": "US"}},
        "receipt_email": email,
        "receipt_url": None,
        "refunded": False,
        "status": "succeeded",
    }


def balance_transaction(
    *, now: int, type: str, amount: int, fee: int, currency: str, source: str, exchange_rate: float | None = None
) -> Object:
    """Return a balance transaction; ``amount`` and ``fee`` in cents, ``amount`` negative when money leaves. An amount
    in the currency of the source times ``exchange_rate`` is one in ``currency``."""
    details = {
        "amount": fee,
        "currency": currency,
        "type": "stripe_fee",
        "description": "Stripe processing fees",
        "application": None,
    }
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now,
        "created": now,
        "currency": currency,
        "description": None,
        "exchange_rate": exchange_rate,
        "fee": fee,
        "fee_details": [details] if fee else [],
        "net": amount - fee,
        "reporting_category": type,
        "source": source,
        "status": "available",
        "type": type,
    }


def refund(*, now: int, charge: Object, amount: int, reason: str | None, metadata: dict[str, str]) -> Object:
    """Return a succeeded refund; the caller may set it to pending or failed."""
    return {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "destination_details": {"type": "card", "card": {"type": "refund", "reference_status": "pending"}},
        "failure_balance_transaction": None,
        "failure_reason": None,
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


def dispute(*, now: int, charge: Object, amount: int, reason: str, inquiry: bool) -> Object:
    """Return an open dispute. An inquiry leaves the charge refundable."""
    return {
        "id": new_id("dp"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "evidence_details": {
            "due_by": now + 7 * 86400,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }


def session(*, now: int, base_url: str, expires_at: int, amount: int, currency: str, fields: Object) -> Object:
    """Return an open Checkout session. ``fields`` override the defaults."""
    id = new_id("cs_test", 40)
    return {
        "id": id,
        "object": "checkout.session",
        "amount_subtotal": amount,
        "amount_total": amount,
        "cancel_url": None,
        "client_reference_id": None,
        "created": now,
        "currency": currency,
        "customer": None,
        "customer_creation": "if_required",
        "customer_details": None,
        "customer_email": None,
        "expires_at": expires_at,
        "invoice": None,
        "livemode": False,
        "locale": None,
        "metadata": {},
        "mode": "payment",
        "payment_intent": None,
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "shipping_cost": None,
        "status": "open",
        "submit_type": None,
        "success_url": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted",
        "url": f"{base_url}/c/pay/{id}",
        **fields,
    }


def fraud_warning(*, now: int, charge: Object, fraud_type: str) -> Object:
    """Return an early fraud warning, which names the payment besides the charge."""
    return {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": not charge["refunded"] and not charge["disputed"],
        "charge": charge["id"],
        "created": now,
        "fraud_type": fraud_type,
        "livemode": False,
        "payment_intent": charge["payment_intent"],
    }


def thin_event(*, now: datetime, type: str, about: Object) -> Object:
    """Return an event of API v2, which names its object instead of holding it."""
    path = {"payment_intent": "payment_intents", "charge": "charges", "refund": "refunds"}[about["object"]]
    related = {"id": about["id"], "type": about["object"], "url": f"/v1/{path}/{about['id']}"}
    return {
        "id": new_id("evt_test", 40),
        "object": "v2.core.event",
        "context": None,
        "created": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "livemode": False,
        "related_object": related,
        "type": type,
    }


def webhook_endpoint(*, now: int, url: str, events: list[str]) -> Object:
    """Return an endpoint; ``events`` are the types that it gets, or ``*``."""
    return {
        "id": "we_sandbox",
        "object": "webhook_endpoint",
        "api_version": None,
        "application": None,
        "created": now,
        "description": None,
        "enabled_events": events,
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def customer_details(email: str | None) -> Object:
    """Return what a Checkout session knows of its customer after the payment."""
    return {"email": email, "name": None, "address": None, "phone": None, "tax_exempt": "none", "tax_ids": []}


def event(*, now: int, type: str, subject: Object, request_id: str | None, idempotency_key: str | None) -> Object:
    """Return an event about ``subject``, which is already a snapshot."""
    return {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": subject},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": request_id, "idempotency_key": idempotency_key},
        "type": type,
    }
