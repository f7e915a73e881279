"""Call Stripe: Checkout, payments, refunds, events and webhooks, read into our own models.

Nothing here decides to refund. Idempotency keys come from the caller, who has committed them before the call: after a
crash the same call is repeated with the same key.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import stripe

from smi_pipeline.adapters.stripe.errors import translated
from smi_pipeline.core.errors import PermanentError, RefusedError
from smi_pipeline.core.models import (
    BalanceTransaction,
    CheckoutRequest,
    CheckoutSession,
    StripeDispute,
    StripeEvent,
    StripePayment,
    StripeRefund,
)

SOURCE = "sell-my-images"
"""Metadata `source` of everything this shop creates; objects of other sources belong to other shops."""

MAX_EVENT_TYPES = 20  # per call of the events list, docs.stripe.com/api/events/list
_PAGE = 100
_FIRST_PAUSE_SECONDS = 0.05
_CONNECTIONS = 20  # kept open: one for each of the gateway's threads that may ask at once


class StripePayments:
    """Implement `core.ports.PaymentsPort`. Safe to share between threads; build it after a fork, not before.

    `api_base` None means Stripe itself. `timeout` in seconds bounds connecting (at most 5) and waiting for each
    answer; a call is tried three times, so it may last three times as long. `webhook_secret` may hold several,
    separated by commas: of two endpoints, or while one is being replaced. `clock_tolerance` in seconds is how far the
    time of a signed webhook may lie in the past or in the future. The environment's proxies and .netrc are not used
    and redirects are not followed. Raises ValueError for an unusable base URL, key or tolerance.
    """

    def __init__(
        self,
        api_key: str,
        webhook_secret: str,
        api_base: str | None = None,
        timeout: float = 20,
        clock_tolerance: int = 300,
    ) -> None:
        api_key = api_key.strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the Stripe API key contains characters that no key has")
        base = urlsplit(api_base or stripe.DEFAULT_API_BASE)
        if base.scheme not in ("http", "https") or not base.hostname:
            raise ValueError("the Stripe API base is not an http(s) URL")
        if clock_tolerance < 1:  # the library takes 0 as "any age"
            raise ValueError("the tolerance for the age of webhooks must be at least 1 second")
        # Telemetry writes a file into the home folder; below WARNING the library logs requests with e-mail addresses.
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self._api_base = api_base.rstrip("/") if api_base else None
        self._webhook_secrets = [secret.strip() for secret in webhook_secret.split(",") if secret.strip()]
        self._clock_tolerance = clock_tolerance
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": self._api_base} if self._api_base else None,
            max_network_retries=2,
            http_client=_Client(timeout=(min(5, timeout), timeout), session=_Session()),
        )

    def __repr__(self) -> str:
        return f"StripePayments({self._api_base or stripe.DEFAULT_API_BASE!r})"

    # -- Checkout ------------------------------------------------------------------------------------------------

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Open a Checkout session for one upscale. A second try needs the same parameters, `expires_at` included, or
        Stripe refuses its key."""
        metadata = {"job_id": request.job_id, "resolution": request.resolution, "source": SOURCE}
        options: Any = {"payment_method_types": list(request.payment_methods)} if request.payment_methods else {}
        if request.customer_email:  # else Checkout asks for it
            options["customer_email"] = request.customer_email
        with translated():
            session = self._client.v1.checkout.sessions.create(
                options
                | {
                    "mode": "payment",
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": request.currency,
                                "unit_amount": request.amount_cents,
                                "product_data": {"name": request.description},
                            },
                        }
                    ],
                    "metadata": metadata,
                    "payment_intent_data": {"metadata": metadata, "description": request.description},
                    "success_url": request.success_url,
                    "cancel_url": request.cancel_url,
                    "expires_at": int(request.expires_at.timestamp()),
                },
                {"idempotency_key": request.idempotency_key},
            )
            return _checkout(session.to_dict())

    def checkout(self, session_id: str) -> CheckoutSession:
        """Return the session as it is now. Raises NotFound."""
        with translated():
            return _checkout(self._client.v1.checkout.sessions.retrieve(session_id).to_dict())

    def checkout_of(self, payment_intent_id: str) -> CheckoutSession | None:
        """Return the session in which a payment was made, None for one that was made elsewhere."""
        with translated():
            sessions = self._client.v1.checkout.sessions.list({"payment_intent": payment_intent_id, "limit": 1})
            return next((_checkout(session.to_dict()) for session in _all_pages(sessions)), None)

    def expire_checkout(self, session_id: str) -> None:
        """Close an open session; leave any other as it is. Raises NotFound."""
        try:
            with translated():
                self._client.v1.checkout.sessions.expire(session_id)
        except PermanentError:
            if self.checkout(session_id).status == "open":
                raise

    # -- payments ------------------------------------------------------------------------------------------------

    def payment(self, payment_intent_id: str) -> StripePayment:
        """Return the PaymentIntent as it is now, with its charge, fee, refunds and disputes. Raises NotFound."""
        with translated():
            intent = self._client.v1.payment_intents.retrieve(
                payment_intent_id, {"expand": ["latest_charge.balance_transaction"]}
            )
            return self._payment(intent.to_dict())

    def payments_since(self, since: datetime, until: datetime | None = None) -> Iterator[StripePayment]:
        """Yield the PaymentIntents of this shop created from `since` to before `until`, to the second, newest first."""
        with translated():
            intents = self._client.v1.payment_intents.list(
                {
                    "created": _created(since, until),
                    "limit": _PAGE,
                    "expand": ["data.latest_charge.balance_transaction"],
                }
            )
            for intent in _all_pages(intents):
                data = intent.to_dict()
                if (data.get("metadata") or {}).get("source") == SOURCE:
                    yield self._payment(data)

    def _payment(self, intent: Mapping[str, Any]) -> StripePayment:
        charge = intent.get("latest_charge")
        charge = charge if isinstance(charge, Mapping) else {}
        transaction = charge.get("balance_transaction")
        charged = {"currency": intent.get("currency"), **charge}
        booked = _in_currency_of(charged, transaction) if isinstance(transaction, Mapping) else None
        disputed = bool(charge.get("disputed"))
        return StripePayment(
            payment_intent_id=intent["id"],
            status=_word(intent.get("status")),
            amount_received_cents=intent.get("amount_received") or 0,
            currency=_word(intent.get("currency")),
            metadata=dict(intent.get("metadata") or {}),
            charge_id=charge.get("id"),
            refunded_cents=charge.get("amount_refunded") or 0,
            disputed=disputed,
            refundable=not disputed or self._refundable(intent["id"]),
            fee_cents=booked[1] if booked else None,
            created_at=_moment(intent["created"]) if intent.get("created") else None,
            charged_at=_moment(charge["created"]) if charge.get("created") else None,
        )

    def _refundable(self, payment_intent_id: str) -> bool:
        return all(leaves_refundable(dispute) for dispute in self._disputes(payment_intent_id))

    def disputes_of(self, payment_intent_id: str) -> list[StripeDispute]:
        """Return all disputes of a payment, the oldest first."""
        with translated():
            found = [
                StripeDispute(
                    status=_word(dispute.get("status")),
                    created_at=_moment(dispute["created"]) if dispute.get("created") else None,
                )
                for dispute in self._disputes(payment_intent_id)
            ]
        return found[::-1]  # Stripe lists the newest first

    def _disputes(self, payment_intent_id: str) -> Iterator[dict[str, Any]]:
        disputes = self._client.v1.disputes.list({"payment_intent": payment_intent_id, "limit": _PAGE})
        return (dispute.to_dict() for dispute in _all_pages(disputes))

    # -- refunds -------------------------------------------------------------------------------------------------

    def create_refund(
        self, *, payment_intent_id: str, amount_cents: int, idempotency_key: str, metadata: Mapping[str, str]
    ) -> StripeRefund:
        """Request a refund. For 24 hours the same key with the same parameters returns the first refund again, and
        with others raises PermanentError('stripe_refused'). Raises PermanentError('charge_already_refunded') and
        PermanentError('charge_disputed') by name."""
        with translated():
            refund = self._client.v1.refunds.create(
                {"payment_intent": payment_intent_id, "amount": amount_cents, "metadata": dict(metadata)},
                {"idempotency_key": idempotency_key},
            )
            return _refund(refund.to_dict())

    def refund(self, refund_id: str) -> StripeRefund:
        """Return the refund as it is now. Raises NotFound."""
        with translated():
            return _refund(self._client.v1.refunds.retrieve(refund_id).to_dict())

    def refunds_of(self, payment_intent_id: str) -> list[StripeRefund]:
        """Return all refunds of a PaymentIntent, newest first, failed and canceled ones included."""
        with translated():
            refunds = self._client.v1.refunds.list({"payment_intent": payment_intent_id, "limit": _PAGE})
            return [_refund(refund.to_dict()) for refund in _all_pages(refunds)]

    # -- the account ---------------------------------------------------------------------------------------------

    def default_currency(self) -> str:
        """Return the default currency of the account. Raises AccountError for a key that may not read it."""
        with translated():
            return _word(self._client.v1.accounts.retrieve_current().to_dict().get("default_currency"))

    def webhook_events(self, url: str) -> frozenset[str] | None:
        """Return the types of events that the enabled webhook endpoints at `url` get (`*`: all), None without such an
        endpoint. Raises AccountError for a key that may not read them."""
        with translated():
            endpoints = [
                each.to_dict() for each in _all_pages(self._client.v1.webhook_endpoints.list({"limit": _PAGE}))
            ]
        ours = [
            each for each in endpoints if str(each.get("url")).rstrip("/") == url and each.get("status") == "enabled"
        ]
        return frozenset(event for each in ours for event in each.get("enabled_events") or ()) if ours else None

    # -- balance -------------------------------------------------------------------------------------------------

    def bookings(self, since: datetime, until: datetime) -> Iterator[BalanceTransaction]:
        """Yield the balance transactions of payments, refunds and disputes from `since` to the second of `until`,
        newest first, those of other shops on the account included."""
        with translated():
            transactions = self._client.v1.balance_transactions.list(
                {"created": _created(since, until + timedelta(seconds=1)), "limit": _PAGE, "expand": ["data.source"]}
            )
            for transaction in _all_pages(transactions):
                booking = _booking(transaction.to_dict())
                if booking:
                    yield booking

    # -- events --------------------------------------------------------------------------------------------------

    def events_since(
        self, since: datetime, types: tuple[str, ...], until: datetime | None = None
    ) -> Iterator[StripeEvent]:
        """Yield the events of the `types` (1 to 20) created from `since` to before `until`, to the second, newest
        first. Stripe keeps them 30 days. Raises ValueError for more types than one call accepts."""
        if not 1 <= len(types) <= MAX_EVENT_TYPES:
            raise ValueError(f"Stripe lists 1 to {MAX_EVENT_TYPES} types of events at once, not {len(types)}")
        return self._events(since, types, until)

    def _events(self, since: datetime, types: tuple[str, ...], until: datetime | None) -> Iterator[StripeEvent]:
        with translated():
            events = self._client.v1.events.list(
                {"created": _created(since, until), "types": list(types), "limit": _PAGE}
            )
            for event in _all_pages(events):
                yield _event(event.to_dict())

    def _is_signed(self, body: bytes, signature: str, secret: str) -> bool:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, self._clock_tolerance)
        except (stripe.SignatureVerificationError, ValueError, TypeError):  # the last two: bytes that are not text
            return False
        # The library accepts any time in the future: such a webhook could be sent again until then.
        times = [part.removeprefix("t=") for part in signature.split(",") if part.startswith("t=")]
        return all(int(moment) <= time.time() + self._clock_tolerance for moment in times)

    def parse_webhook(self, body: bytes, signature: str) -> StripeEvent:
        """Verify the Stripe-Signature header and its time, then return the event; that of a thin event (v2) is without
        an object. Raises RefusedError (400)."""
        if not any(self._is_signed(body, signature, secret) for secret in self._webhook_secrets):
            raise RefusedError("The webhook's signature is not valid.")
        try:
            return _event(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError):
            raise RefusedError("The webhook's body is not a Stripe event.") from None


class _Client(stripe.RequestsClient):
    """Repeat a failed call almost at once the first time, where the library waits half a second: most often only a
    connection was closed, and the sender of a webhook waits for the answer."""

    def _sleep_time_seconds(self, num_retries: int) -> float:
        return _FIRST_PAUSE_SECONDS if num_retries == 1 else super()._sleep_time_seconds(num_retries - 1)


class _Session(requests.Session):
    """Use no proxy, no .netrc in place of the key, no cookies, and follow no redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("https://", "http://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _created(since: datetime, until: datetime | None) -> Any:
    bounds = {"gte": int(since.timestamp())}
    return bounds if until is None else bounds | {"lt": int(until.timestamp())}


def _all_pages(listing: stripe.ListObject[Any]) -> Iterator[Any]:
    """Return every object of a list. Raises AttributeError for one without data, which the library takes as empty."""
    if listing.data is None:
        raise AttributeError("data")
    return iter(listing.auto_paging_iter())


def leaves_refundable(dispute: Mapping[str, Any]) -> bool:
    """Return whether a dispute leaves its charge refundable.

    Won and withdrawn ones do; a lost one has already paid the customer back. For all others `is_charge_refundable`
    decides (docs.stripe.com/api/disputes/object), and without it only inquiries (warning_*) do."""
    status = str(dispute.get("status"))
    if status in ("won", "warning_closed"):
        return True
    if status == "lost":
        return False
    said = dispute.get("is_charge_refundable")
    return said if isinstance(said, bool) else status.startswith("warning_")


def _checkout(session: Mapping[str, Any]) -> CheckoutSession:
    details = session.get("customer_details") or {}
    return CheckoutSession(
        session_id=session["id"],
        url=session.get("url"),
        status=_word(session.get("status")),
        payment_status=_word(session.get("payment_status")),
        payment_intent_id=_id(session.get("payment_intent")),
        metadata=dict(session.get("metadata") or {}),
        customer_email=_word(details.get("email")) or _word(session.get("customer_email")),
    )


def _refund(refund: Mapping[str, Any]) -> StripeRefund:
    return StripeRefund(
        refund_id=refund["id"],
        payment_intent_id=_id(refund.get("payment_intent")) or "",
        amount_cents=int(refund["amount"]),
        currency=_word(refund.get("currency")),
        status=_word(refund.get("status")),
        metadata=dict(refund.get("metadata") or {}),
        failure_reason=refund.get("failure_reason"),
        pending_reason=refund.get("pending_reason"),
        created_at=_moment(refund["created"]) if refund.get("created") else None,
    )


def _booking(transaction: Mapping[str, Any]) -> BalanceTransaction | None:
    source = transaction.get("source")
    source = source if isinstance(source, Mapping) else {}
    payment_intent = _id(source.get("payment_intent"))
    if source.get("object") not in ("charge", "refund", "dispute") or not payment_intent:
        return None
    booked = _in_currency_of(source, transaction)
    amount, fee = booked or (transaction["amount"], transaction["fee"])
    return BalanceTransaction(
        booking_id=transaction["id"],
        created_at=_moment(transaction["created"]),
        source_id=source["id"],
        kind=source["object"],
        payment_intent_id=payment_intent,
        amount_cents=amount,
        fee_cents=fee,
        currency=source["currency"] if booked else transaction["currency"],
    )


def _in_currency_of(source: Mapping[str, Any], transaction: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return amount and fee of a balance transaction in the currency of its charge, refund or dispute; None when they
    are not known there.

    One that is settled in another currency is converted at its own rate: that of its two amounts, which Stripe rounds
    to its `exchange_rate` (docs.stripe.com/api/balance_transactions/object). The fee is rounded half up."""
    amount, fee = transaction.get("amount"), transaction.get("fee")
    if transaction.get("currency") == source.get("currency"):
        return (amount or 0, fee) if fee is not None else None
    whole = source.get("amount_captured") or source.get("amount")
    if not (whole and amount) or fee is None:
        return None
    converted = (Decimal(fee) * whole / abs(amount)).to_integral_value(ROUND_HALF_UP)
    return (whole if amount > 0 else -whole), int(converted)


def _event(event: Mapping[str, Any]) -> StripeEvent:
    event_id, kind, account = event["id"], event["type"], event.get("account")
    thin = event.get("object") == "v2.core.event"
    subject = {} if thin else event["data"]["object"]
    if not (isinstance(event_id, str) and isinstance(kind, str) and isinstance(subject, Mapping)):
        raise TypeError("not a Stripe event")
    created = datetime.fromisoformat(event["created"]) if thin else _moment(event["created"])
    return StripeEvent(
        event_id=event_id,
        type=kind,
        created_at=created,
        object=subject,
        account=account if isinstance(account, str) else None,
    )


def _word(value: Any) -> str:
    """Return a word of Stripe, empty if there is none: new words and nulls come without notice."""
    return value if isinstance(value, str) else ""


def _id(value: Any) -> str | None:
    """Return an id, also from the expanded object in its place."""
    return value.get("id") if isinstance(value, Mapping) else value


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
