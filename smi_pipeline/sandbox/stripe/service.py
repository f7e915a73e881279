"""The HTTP side of the Stripe sandbox: API keys, idempotency, routes, and control endpoints for tests.

Endpoints for ``match``: ``checkout/sessions``, ``payment_intents``, ``charges``, ``refunds``, ``events``,
``disputes``, ``balance_transactions``, ``balance``; for webhooks match ``event_type``, ``job_id``, ``payment_intent``.
Kinds: the request faults of base.py, those of delivery (events.py: ``lose_webhook``, ``repeat_webhook`` ``{"n": 3}``,
``delay_webhook`` ``{"seconds": 5}``, ``shuffle`` ``{"size": 3, "seconds": 1.5}``) and of money (money.py).
An idempotency key replays the error of a ``status`` fault with ``after_work``, as at Stripe.

Control endpoints, all POST with JSON, which return the object:

- ``/_pay`` ``{"session", "amount"?, "currency"?, "outcome"?: paid|declined|async|async_failed, "seconds"?, "email"?}``
  (``email``: what the customer enters where the session names none; null for nothing), or
  ``{"amount", "currency", "metadata"}`` for a payment without session;
- ``/_dispute`` ``{"payment_intent"|"charge", "amount"?, "reason"?, "inquiry"?, "prevented"?}``, then
  ``{"dispute", "outcome"}`` (``won``, ``lost``), and after a lost one ``{"dispute", "appeal"}`` (its status, such as
  ``appeal_under_review``);
- ``/_warn`` ``{"payment_intent"|"charge", "fraud_type"?}``: an early fraud warning;
- ``/_thin`` ``{"payment_intent", "type"?}``: a thin event (v2) about a payment;
- ``/_refund`` ``{"payment_intent"|"charge", "amount"?, "metadata"?}``: a refund made in Stripe's dashboard;
- ``/_event`` ``{"id", "times"?}``: resends a stored event. ``GET /_webhooks`` lists all deliveries, and
  ``GET /_disputes`` all disputes.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox.base import REQUEST_KINDS, SandboxService, one_of
from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.stripe import forms, objects
from smi_pipeline.sandbox.stripe.api import Api
from smi_pipeline.sandbox.stripe.checkout import Checkout
from smi_pipeline.sandbox.stripe.events import DELIVERY_KINDS, Events
from smi_pipeline.sandbox.stripe.forms import Object, StripeError, find, integer
from smi_pipeline.sandbox.stripe.idempotency import Idempotency
from smi_pipeline.sandbox.stripe.money import MONEY_KINDS, Money
from smi_pipeline.sandbox.timers import Handler

_EXPIRY_CHECK_SECONDS = 0.5


class Stripe(SandboxService):
    """Settings: api_key and webhook_secret (several by commas: all are good), webhook_url, webhook_events (``*``, or
    types by commas), signing_clock (``own``, with clock_offset, or ``machine``), webhook_retry_seconds, fee_percent,
    fee_fixed_cents, dispute_fee_cents, settlement_currency, default_currency, webhooks_per_second (old events are
    resent up to this rate; 0: never)."""

    name = "stripe"
    kinds: ClassVar[Mapping[str, Kind]] = {**REQUEST_KINDS, **DELIVERY_KINDS, **MONEY_KINDS}

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        super().__init__(state, settings)
        self.events = Events(self)
        self.money = Money(self, self.events)
        self._checkout = Checkout(self, self.money)
        self._api = Api(self, self.money, self._checkout, self.events.endpoints)
        self._idempotency = Idempotency(self.ledger)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the API, of Checkout's page and of the control endpoints."""
        return [
            Route("/_pay", self._control(self._pay), methods=["POST"]),
            Route("/_dispute", self._control(self._dispute), methods=["POST"]),
            Route("/_warn", self._control(self._warn), methods=["POST"]),
            Route("/_thin", self._control(self._thin), methods=["POST"]),
            Route("/_refund", self._control(self._refund), methods=["POST"]),
            Route("/_event", self._control(self._event), methods=["POST"]),
            self.log_route("webhooks"),
            self.log_route("disputes"),
            Route("/c/pay/{id}", self._page, methods=["GET", "POST"]),
            Route("/v1/{rest:path}", self.guard("unknown", self._call), methods=["GET", "POST", "DELETE"]),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Return the timers' handlers; lambdas, because the parts are built after the timers."""
        return {
            "deliver": lambda **arguments: self.events.deliver(**arguments),
            "async_payment": lambda **arguments: self.money.settle_async(**arguments),
            "end_refund": lambda **arguments: self.money.end_refund(**arguments),
            "dispute": lambda **arguments: self.money.disputes.open_later(**arguments),
            "end_dispute": lambda **arguments: self.money.disputes.close_later(**arguments),
        }

    def read_ledger(self) -> dict[str, Any]:
        """Return PaymentIntents, refunds with their idempotency keys, and the balance."""
        fields = ("id", "payment_intent", "amount", "status")
        refunds = [
            {
                **{field: refund[field] for field in fields},
                "idempotency_key": (self.ledger.get("refund_details", refund["id"]) or {}).get("idempotency_key"),
            }
            for refund in self.ledger.all("refunds")
        ]
        return {"intents": self.ledger.all("intents"), "refunds": refunds, "balance_cents": self.money.balance_cents()}

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return endpoint, job, payment and customer of a request."""
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
        """Return Stripe's error object."""
        return _error(StripeError(message, status=status, type="rate_limit_error" if status == 429 else "api_error"))

    async def start(self) -> None:
        """Resume timers, and start to expire sessions and to keep the rate of webhooks."""
        for session in self.ledger.all("sessions"):
            if session["status"] == "open":  # the port may have changed
                self.ledger.update("sessions", session["id"], url=f"{self.base_url}/c/pay/{session['id']}")
        await super().start()
        self._regular = [_every(_EXPIRY_CHECK_SECONDS, self._expire_due), _every(1.0, self.events.keep_pace)]

    async def stop(self) -> None:
        """Stop timers and webhooks."""
        for task in self._regular:
            task.cancel()
        await super().stop()
        self.events.close()

    def _expire_due(self) -> None:
        now = self.clock()
        for session in self.ledger.all("sessions"):
            if session["status"] == "open" and session["expires_at"] <= now:
                self.money.expire(session)

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
                reply: Response = JSONResponse(self._api.run(request.method, path, params, key))
                kept = True
            except StripeError as error:
                reply, kept = _error(error), error.remembered
            if key and kept:
                self._idempotency.keep(key, path, params, now, reply)
        return reply

    def failed_after_work(self, request: Request, reply: Response) -> None:
        """Let the idempotency key replay the error."""
        if key := request.headers.get("idempotency-key"):
            self._idempotency.overwrite(key, reply)

    def _authenticate(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not given:
            message = "You did not provide an API key. You need to provide your API key in the Authorization header."
            raise StripeError(message, status=401)
        if scheme.lower() != "bearer" or not one_of(given, self.settings["api_key"]):
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
            return self.money.pay_directly(
                amount=amount, currency=body.get("currency", "usd"), metadata=body.get("metadata") or {}
            )
        session = find(self.ledger, "sessions", body["session"], "checkout.session")
        return self.money.pay(session, **_given(body, "amount", "currency", "outcome", "seconds", "email"))

    def _dispute(self, body: dict[str, Any]) -> Object:
        if "appeal" in body:
            disputed = find(self.ledger, "disputes", body["dispute"], "dispute")
            return self.money.disputes.appeal(disputed, body["appeal"])
        if "dispute" in body:
            return self.money.disputes.close(find(self.ledger, "disputes", body["dispute"], "dispute"), body["outcome"])
        return self.money.disputes.open(
            self._api.charge_of(body), **_given(body, "amount", "reason", "inquiry", "prevented")
        )

    def _warn(self, body: dict[str, Any]) -> Object:
        return self.money.disputes.warn(self._api.charge_of(body), **_given(body, "fraud_type"))

    def _thin(self, body: dict[str, Any]) -> Object:
        about = find(self.ledger, "intents", body.get("payment_intent", ""), "payment_intent")
        return self.events.emit_thin(body.get("type", "v1.payment_intent.succeeded"), about)

    def _refund(self, body: dict[str, Any]) -> Object:
        return self.money.refund(self._api.charge_of(body), body.get("amount"), metadata=body.get("metadata"))

    def _event(self, body: dict[str, Any]) -> Object:
        event = find(self.ledger, "events", body.get("id", ""), "event")
        self.events.resend(event, int(body.get("times", 1)))
        return event


def _error(error: StripeError) -> Response:
    return JSONResponse(error.body, status_code=error.status)


def _given(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def _every(seconds: float, action: Callable[[], None]) -> "asyncio.Task[None]":
    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            action()

    return asyncio.get_running_loop().create_task(loop())
