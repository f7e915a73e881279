"""The rules for money in the Stripe sandbox: payments, refunds, the balance, and the events that follow.

Faults, matched by ``job_id`` (of the metadata) or ``payment_intent``:

- ``refund_pending`` ``{"seconds": 5, "then": "succeeded", "status": "pending"}``: the refund is pending (or what
  ``status`` says: ``requires_action``, a word that nobody knows, null), then ``succeeded``, ``failed`` or ``canceled``;
  ``then`` null: it stays so;
- ``refund_refused`` ``{"why": "error"}``: the refund is not made; the key replays the answer: a 500, or with
  ``insufficient_balance`` or ``other`` a 400;
- ``refund_fails`` ``{"seconds": 0}``: the refund fails at once; with seconds: it succeeds and fails later;
- ``dispute`` ``{"seconds": 0, "inquiry": false, "outcome": null, "outcome_seconds": 5}``: this long after the payment
  the bank disputes it, and after ``outcome_seconds`` it is ``won`` or ``lost``; null: it stays open.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.stripe import objects
from smi_pipeline.sandbox.stripe.currencies import converted, formatted, rate
from smi_pipeline.sandbox.stripe.disputes import Disputes
from smi_pipeline.sandbox.stripe.events import Events
from smi_pipeline.sandbox.stripe.forms import Object, Params, StripeError, find

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

MONEY_KINDS: Mapping[str, Kind] = {
    "refund_pending": Kind(
        defaults={"seconds": 5.0, "then": "succeeded", "status": "pending"},
        choices={"then": ("succeeded", "failed", "canceled", None)},
    ),
    "refund_refused": Kind(defaults={"why": "error"}, choices={"why": ("error", "insufficient_balance", "other")}),
    "refund_fails": Kind(defaults={"seconds": 0}),
    "dispute": Kind(
        defaults={"seconds": 0, "inquiry": False, "outcome": None, "outcome_seconds": 5.0},
        choices={"outcome": ("won", "lost", None)},
    ),
}
_GONE = ("failed", "canceled")  # refunds in these states moved no money
_REFUSALS: Mapping[str, Callable[[], StripeError]] = {
    "error": lambda: StripeError("An unknown error occurred", status=500, type="api_error", remembered=True),
    "insufficient_balance": lambda: StripeError(  # without a code, as reported of this error
        "Insufficient funds in your Stripe balance to refund this amount.", remembered=True
    ),
    "other": lambda: StripeError("This charge cannot be refunded.", remembered=True),
}


class Money:
    """Payments, refunds and the balance. Every method changes ledger and events in one transaction."""

    def __init__(self, service: "SandboxService", events: Events) -> None:
        self._service = service
        self._ledger = service.ledger
        self._events = events
        self.disputes = Disputes(service, events, self.move)

    # --- payments

    def pay(
        self,
        session: Object,
        *,
        amount: int | None = None,
        currency: str | None = None,
        outcome: str = "paid",
        seconds: float = 2.0,
        email: str | None = "customer@example.com",
    ) -> Object:
        """Pay a Checkout session as its page does; return the PaymentIntent.

        ``outcome``: ``paid``; ``declined`` (the session stays open); ``async`` or ``async_failed`` (a bank debit that
        is decided ``seconds`` later). ``amount`` (cents) and ``currency`` override those of the session. ``email`` is
        what the customer enters when the session names no address, None for nothing.
        """
        if session["status"] != "open":
            raise StripeError(f"This Checkout session is {session['status']}", code="checkout_session_not_open")
        private = self._ledger.get("session_details", session["id"]) or {}
        email = session["customer_email"] or email
        intent = objects.intent(
            now=self._now(),
            amount=amount if amount is not None else session["amount_total"],
            currency=currency or session["currency"],
            metadata=private.get("intent_metadata", {}),
            email=email,
        )
        with self._ledger.transaction():
            if outcome == "declined":
                self._decline(intent)
                return intent
            intent["status"] = "processing"
            self._ledger.put("intents", intent["id"], intent)
            self._ledger.update(
                "sessions",
                session["id"],
                status="complete",
                url=None,
                payment_intent=intent["id"],
                amount_total=intent["amount"],
                amount_subtotal=intent["amount"],
                currency=intent["currency"],
                customer_details=objects.customer_details(email),
            )
            if outcome == "paid":
                self._settle(intent)
                self._ledger.update("sessions", session["id"], payment_status="paid")
            else:
                self._service.timers.at(
                    time.time() + seconds, "async_payment", session=session["id"], paid=outcome == "async"
                )
            self._events.emit("checkout.session.completed", session)
        return intent

    def pay_directly(self, *, amount: int, currency: str, metadata: dict[str, str]) -> Object:
        """Pay without Checkout session, as in another shop on the same account; return the PaymentIntent."""
        intent = objects.intent(
            now=self._now(), amount=amount, currency=currency, metadata=metadata, email="customer@example.com"
        )
        with self._ledger.transaction():
            self._settle(intent)
        return intent

    async def settle_async(self, session: str, paid: bool) -> None:
        """Decide a bank debit. Called by a timer."""
        stored = self._ledger.get("sessions", session)
        intent = self._ledger.get("intents", stored["payment_intent"]) if stored else None
        if stored is None or intent is None or intent["status"] != "processing":
            return
        with self._ledger.transaction():
            if paid:
                self._settle(intent)
                self._ledger.update("sessions", session, payment_status="paid")
                self._events.emit("checkout.session.async_payment_succeeded", stored)
            else:
                self._decline(intent)
                self._events.emit("checkout.session.async_payment_failed", stored)

    def _decline(self, intent: Object) -> None:
        error = {
            "type": "card_error",
            "code": "card_declined",
            "decline_code": "generic_decline",
            "message": "Your card was declined.",
        }
        intent.update(status="requires_payment_method", last_payment_error=error)
        self._ledger.put("intents", intent["id"], intent)
        self._events.emit("payment_intent.payment_failed", intent)

    def _settle(self, intent: Object) -> None:
        now, currency = self._now(), intent["currency"]
        settled, amount = self.settlement(currency), intent["amount"]
        charge = objects.charge(now=now, intent=intent, email=intent["receipt_email"])
        settings = self._service.settings
        booked = converted(amount, rate(currency, settled)) if settled != currency else amount
        fee = min(booked, round(booked * settings["fee_percent"] / 100) + settings["fee_fixed_cents"])
        charge["balance_transaction"] = self.move("charge", amount, fee, charge)
        intent.update(
            status="succeeded",
            amount_received=amount,
            latest_charge=charge["id"],
            payment_method=charge["payment_method"],
        )
        self._ledger.put("charges", charge["id"], charge)
        self._ledger.put("intents", intent["id"], intent)
        self._events.emit("charge.succeeded", charge)
        self._events.emit("payment_intent.succeeded", intent)
        if fault := self._faults({"dispute"}, "payment", charge, charge).get("dispute"):
            self.disputes.open_after_payment(charge, fault)

    def expire(self, session: Object) -> None:
        """Expire an open session. Raises StripeError if it is not open."""
        if session["status"] != "open":
            message = f'Only Checkout Sessions with a status in ["open"] can be expired. It is {session["status"]}.'
            raise StripeError(message)
        with self._ledger.transaction():
            self._ledger.update("sessions", session["id"], status="expired", url=None)
            self._events.emit("checkout.session.expired", session)

    # --- refunds

    def refund(
        self,
        charge: Object,
        amount: int | None,
        *,
        reason: str | None = None,
        metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Object:
        """Refund a charge; ``amount`` in cents, None for the rest. Return the refund. Raises StripeError."""
        left = charge["amount"] - charge["amount_refunded"]
        if self.disputes.block(charge):
            message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
            raise StripeError(message, code="charge_disputed", remembered=True)
        if left == 0:
            message = f"Charge {charge['id']} has already been refunded."
            raise StripeError(message, code="charge_already_refunded", remembered=True)
        amount = left if amount is None else amount
        if amount <= 0:
            raise StripeError("Invalid positive integer", code="parameter_invalid_integer", param="amount")
        if amount > left:
            asked, rest = (formatted(cents, charge["currency"]) for cents in (amount, left))
            message = f"Refund amount ({asked}) is greater than unrefunded amount on charge ({rest})"
            raise StripeError(message, code="amount_too_large", param="amount", remembered=True)
        refund = objects.refund(now=self._now(), charge=charge, amount=amount, reason=reason, metadata=metadata or {})
        taken = self._faults({"refund_pending", "refund_fails", "refund_refused"}, "refund", charge, refund)
        if "refund_refused" in taken:
            raise _REFUSALS[taken["refund_refused"]["why"]]()
        with self._ledger.transaction():
            refund["balance_transaction"] = self.move("refund", -amount, 0, refund)
            if "refund_pending" in taken:
                refund["status"] = taken["refund_pending"]["status"]
                if refund["status"] == "requires_action":
                    refund["next_action"] = {"type": "display_details"}
            self._ledger.put("refunds", refund["id"], refund)
            self._ledger.put("refund_details", refund["id"], {"idempotency_key": idempotency_key})
            self._recount(charge)
            self._events.emit("refund.created", refund, idempotency_key=idempotency_key)
            self._events.emit("charge.refunded", charge, idempotency_key=idempotency_key)
            self._plan_end(refund, taken)
        return refund

    def _plan_end(self, refund: Object, taken: Mapping[str, Mapping[str, Any]]) -> None:
        pending, fails = taken.get("refund_pending"), taken.get("refund_fails")
        if fails and not pending and not fails["seconds"]:
            self._end_refund(refund, "failed")
        elif (fault := pending or fails) and (status := fault.get("then", "failed")):
            due = time.time() + fault["seconds"]
            self._service.timers.at(due, "end_refund", refund=refund["id"], status=status)

    async def end_refund(self, refund: str, status: str) -> None:
        """Set the final status of a refund. Called by a timer."""
        stored = self._ledger.get("refunds", refund)
        if stored is not None and stored["status"] not in (*_GONE, status):
            with self._ledger.transaction():
                self._end_refund(stored, status)

    def _end_refund(self, refund: Object, status: str) -> None:
        refund["status"] = status
        charge = find(self._ledger, "charges", refund["charge"], "charge")
        if status in _GONE:
            refund["failure_reason"] = "lost_or_stolen_card" if status == "failed" else None
            refund["failure_balance_transaction"] = self.move("refund_failure", refund["amount"], 0, refund)
        self._ledger.put("refunds", refund["id"], refund)
        self._recount(charge)
        self._events.emit("refund.updated", refund)
        if status == "failed":
            self._events.emit("refund.failed", refund)

    def _recount(self, charge: Object) -> None:
        refunded = sum(
            refund["amount"]
            for refund in self._ledger.all("refunds")
            if refund["charge"] == charge["id"] and refund["status"] not in _GONE
        )
        self._ledger.update("charges", charge["id"], amount_refunded=refunded, refunded=refunded == charge["amount"])

    # --- the balance

    def balance_cents(self) -> int:
        """Return charges net of fees, less refunds that are not failed or canceled, less lost disputes."""
        moves = self._ledger.all("balance_transactions")
        earned = sum(move["net"] for move in moves if move["type"] == "charge")
        refunded = sum(refund["amount"] for refund in self._ledger.all("refunds") if refund["status"] not in _GONE)
        lost = sum(dispute["amount"] for dispute in self._ledger.all("disputes") if dispute["status"] == "lost")
        return int(earned - refunded - lost)

    def available(self) -> dict[str, int]:
        """Return the balance by currency, in cents, as Stripe shows it: less open disputes and dispute fees as well."""
        totals: dict[str, int] = {}
        for move in self._ledger.all("balance_transactions"):
            totals[move["currency"]] = totals.get(move["currency"], 0) + move["net"]
        return totals

    def settlement(self, currency: str) -> str:
        """Return the currency in which a charge in `currency` reaches the balance."""
        return str(self._service.settings["settlement_currency"] or currency)

    def move(self, type: str, amount: int, fee: int, source: Object) -> str:
        """Record a balance transaction of an amount in the currency of its source (negative when money leaves), and of
        a fee in that of the balance; return its id."""
        currency = source["currency"]
        settled = self.settlement(currency)
        factor = rate(currency, settled) if settled != currency else None
        move = objects.balance_transaction(
            now=self._now(),
            type=type,
            amount=converted(amount, factor) if factor else amount,
            fee=fee,
            currency=settled,
            source=source["id"],
            exchange_rate=round(float(factor), 6) if factor else None,
        )
        self._ledger.put("balance_transactions", move["id"], move)
        return str(move["id"])

    def _faults(self, kinds: Collection[str], endpoint: str, charge: Object, about: Object) -> dict[str, Params]:
        context = {
            "endpoint": endpoint,
            "job_id": about["metadata"].get("job_id") or charge["metadata"].get("job_id"),
            "payment_intent": charge["payment_intent"],
            "email": charge["receipt_email"],
        }
        return self._service.faults.take(kinds, context)

    def _now(self) -> int:
        return int(self._service.clock())
