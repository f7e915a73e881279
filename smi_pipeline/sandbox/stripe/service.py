"""The stand-in of Stripe: enough of the API for the official library, Checkout's page, and a control panel for tests.

Belongs here: HTTP around the parts: keys, idempotency, routes, control endpoints. The parts are stripe_api.py,
stripe_book.py (money), stripe_checkout.py (sessions), stripe_events.py (webhooks).

Endpoints for ``match``: ``checkout/sessions``, ``payment_intents``, ``charges``, ``refunds``, ``events``,
``disputes``, ``balance_transactions``, ``balance``; for webhooks match ``event_type``, ``job_id``, ``payment_intent``.
Kinds: those of requests (standin.py), of delivery (stripe_events.py: ``lose_webhook``, ``repeat_webhook`` ``{"n": 3}``,
``delay_webhook`` ``{"seconds": 5}``, ``shuffle`` ``{"size": 3, "seconds": 1.5}``) and of money (stripe_book.py).
A ``status`` fault with ``after_work`` and an idempotency key is what the key then replays, as at Stripe.

Control, all POST with JSON, all answer the object:

- ``/_pay`` ``{"session", "amount"?, "currency"?, "outcome"?: paid|declined|async|async_failed, "seconds"?}``, or
  ``{"amount", "currency", "metadata"}`` for a payment without session;
- ``/_dispute`` ``{"payment_intent"|"charge", "amount"?, "reason"?, "inquiry"?}``, or ``{"dispute", "outcome"}``;
- ``/_refund`` ``{"payment_intent"|"charge", "amount"?, "metadata"?}``: by hand, from outside;
- ``/_event`` ``{"id", "times"?}``: sends a stored event again. ``GET /_webhooks`` lists all deliveries, and
  ``GET /_disputes`` all disputes.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox.base import REQUEST_KINDS, StandIn
from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.stripe import forms, objects
from smi_pipeline.sandbox.stripe.api import Api
from smi_pipeline.sandbox.stripe.checkout import Checkout
from smi_pipeline.sandbox.stripe.events import WEBHOOK_KINDS, Events
from smi_pipeline.sandbox.stripe.forms import Object, StripeError, find, integer
from smi_pipeline.sandbox.stripe.idempotency import Idempotency
from smi_pipeline.sandbox.stripe.money import MONEY_KINDS, Book
from smi_pipeline.sandbox.timers import Handler

_EXPIRY_CHECK_SECONDS = 0.5


class Stripe(StandIn):
    """Settings: api_key, webhook_url, webhook_secret, webhook_retry_seconds, webhook_attempts, fee_percent,
    fee_fixed_cents, dispute_fee_cents, min_session_seconds, webhooks_per_second (0; else old events are sent again
    until there are so many)."""

    name = "stripe"
    kinds: ClassVar[Mapping[str, Kind]] = {**REQUEST_KINDS, **WEBHOOK_KINDS, **MONEY_KINDS}

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        super().__init__(state, settings)
        self.events = Events(self)
        self.book = Book(self, self.events)
        self._checkout = Checkout(self, self.book)
        self._api = Api(self, self.book, self._checkout)
        self._idempotency = Idempotency(self.ledger)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/_pay", self._control(self._pay), methods=["POST"]),
            Route("/_dispute", self._control(self._dispute), methods=["POST"]),
            Route("/_refund", self._control(self._refund), methods=["POST"]),
            Route("/_event", self._control(self._event), methods=["POST"]),
            self.log_route("webhooks"),
            self.log_route("disputes"),
            Route("/c/pay/{id}", self._page, methods=["GET", "POST"]),
            Route("/v1/{rest:path}", self.guard("unknown", self._call), methods=["GET", "POST", "DELETE"]),
        ]

    def handlers(self) -> dict[str, Handler]:
        # the parts are made after the timers, so they are looked up when a timer fires
        return {
            "deliver": lambda **arguments: self.events.deliver(**arguments),
            "async_payment": lambda **arguments: self.book.settle_async(**arguments),
            "end_refund": lambda **arguments: self.book.end_refund(**arguments),
            "dispute": lambda **arguments: self.book.disputes.open_later(**arguments),
            "end_dispute": lambda **arguments: self.book.disputes.close_later(**arguments),
        }

    def read_ledger(self) -> dict[str, Any]:
        fields = ("id", "payment_intent", "amount", "status")
        refunds = [
            {
                **{field: refund[field] for field in fields},
                "idempotency_key": (self.ledger.get("refund_details", refund["id"]) or {}).get("idempotency_key"),
            }
            for refund in self.ledger.all("refunds")
        ]
        return {"intents": self.ledger.all("intents"), "refunds": refunds, "balance_cents": self.book.balance_cents()}

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        described: dict[str, Any] = {"endpoint": self._api.endpoint_of(request.url.path)}
        try:
            params = forms.decode(body.decode())
        except (StripeError, UnicodeDecodeError):
            return described
        given = params.get("metadata")
        described["job_id"] = given.get("job_id") if isinstance(given, dict) else None
        described["payment_intent"] = params.get("payment_intent")
        named = request.url.path.rpartition("/")[2]
        intent = self.ledger.get(
            "intents", str(params.get("payment_intent") or request.query_params.get("payment_intent") or named)
        )
        described["email"] = params.get("customer_email") or (intent or {}).get("receipt_email")
        return described

    def error(self, request: Request, status: int, message: str) -> Response:
        return _error(StripeError(message, status=status, type="rate_limit_error" if status == 429 else "api_error"))

    async def start(self) -> None:
        for session in self.ledger.all("sessions"):
            if session["status"] == "open":  # a restarted stand-in may listen on another port
                self.ledger.update("sessions", session["id"], url=f"{self.base_url}/c/pay/{session['id']}")
        await super().start()
        self._regular = [_every(_EXPIRY_CHECK_SECONDS, self._expire_due), _every(1.0, self.events.keep_pace)]

    async def stop(self) -> None:
        for task in self._regular:
            task.cancel()
        await super().stop()
        self.events.close()

    def _expire_due(self) -> None:
        now = self.clock()
        for session in self.ledger.all("sessions"):
            if session["status"] == "open" and session["expires_at"] <= now:
                self.book.expire(session)

    # --- the API

    async def _call(self, request: Request, body: bytes) -> Response:
        reply = self._answer(request, body)
        reply.headers["Request-Id"] = objects.new_id("req", 14)
        reply.headers["Stripe-Version"] = objects.API_VERSION
        return reply

    def _answer(self, request: Request, body: bytes) -> Response:
        try:
            self._authenticate(request)
            source = request.url.query if request.method == "GET" else body.decode()
            params = forms.decode(source)
            key = request.headers.get("idempotency-key") if request.method == "POST" else None
            path, now = request.url.path, self.clock()
            if key and (replayed := self._idempotency.replay(key, path, params, now)) is not None:
                return replayed
        except StripeError as error:
            return _error(error)
        except UnicodeDecodeError:
            return _error(StripeError("Invalid request body: it must be UTF-8"))
        with self.ledger.transaction():
            try:
                given = json.loads(json.dumps(params))
                reply: Response = JSONResponse(self._api.run(request.method, path, params, key))
                kept = True
            except StripeError as error:
                reply, kept = _error(error), error.remembered
            if key and kept:
                self._idempotency.keep(key, path, given, now, reply)
        return reply

    def failed_after_work(self, request: Request, reply: Response) -> None:
        if key := request.headers.get("idempotency-key"):
            self._idempotency.overwrite(key, reply)

    def _authenticate(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not given:
            message = "You did not provide an API key. You need to provide your API key in the Authorization header."
            raise StripeError(message, status=401)
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode(), self.settings["api_key"].encode()):
            raise StripeError(f"Invalid API Key provided: {given[:8]}{'*' * 8}", status=401)

    async def _page(self, request: Request) -> Response:
        return await self._checkout.show(request)

    # --- control

    def _control(self, action: Callable[[dict[str, Any]], Object]) -> Callable[[Request], Any]:
        async def view(request: Request) -> Response:
            try:
                body = json.loads(await request.body() or b"{}")
                return JSONResponse(action(body))
            except StripeError as error:
                return _error(error)
            except (ValueError, AttributeError) as error:
                return _error(StripeError(f"The body must be a JSON object: {error}"))

        return view

    def _pay(self, body: dict[str, Any]) -> Object:
        if "session" not in body:
            amount = integer(body.get("amount"), "amount")
            return self.book.pay_directly(
                amount=amount, currency=body.get("currency", "usd"), metadata=body.get("metadata") or {}
            )
        session = find(self.ledger, "sessions", body["session"], "checkout.session")
        return self.book.pay(
            session,
            amount=body.get("amount"),
            currency=body.get("currency"),
            outcome=body.get("outcome", "paid"),
            seconds=body.get("seconds", 2.0),
        )

    def _dispute(self, body: dict[str, Any]) -> Object:
        if "dispute" in body:
            return self.book.disputes.close(find(self.ledger, "disputes", body["dispute"], "dispute"), body["outcome"])
        return self.book.disputes.open(
            self._api.charge_of(body),
            amount=body.get("amount"),
            reason=body.get("reason", "fraudulent"),
            inquiry=bool(body.get("inquiry")),
        )

    def _refund(self, body: dict[str, Any]) -> Object:
        return self.book.refund(self._api.charge_of(body), body.get("amount"), metadata=body.get("metadata"))

    def _event(self, body: dict[str, Any]) -> Object:
        event = find(self.ledger, "events", body.get("id", ""), "event")
        self.events.resend(event, int(body.get("times", 1)))
        return event


def _error(error: StripeError) -> Response:
    return JSONResponse(error.body, status_code=error.status)


def _every(seconds: float, action: Callable[[], None]) -> "asyncio.Task[None]":
    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            action()

    return asyncio.get_running_loop().create_task(loop())
