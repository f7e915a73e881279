"""A Stripe in memory."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from smi_pipeline.core.errors import NotFound, PermanentError
from smi_pipeline.core.models import (
    CheckoutRequest,
    CheckoutSession,
    StripeDispute,
    StripeEvent,
    StripePayment,
    StripeRefund,
)
from smi_pipeline_tests.integration.services.outside import Outside


class FakePayments(Outside):
    """A Stripe that refuses over-refunds and replays idempotency keys, errors included (`refusals` are the next ones of
    refunds). `refund_status` is what a new refund says."""

    def __init__(self) -> None:
        super().__init__()
        self.intents: dict[str, StripePayment] = {}
        self.refunds: dict[str, StripeRefund] = {}
        self.by_key: dict[str, tuple[str, int]] = {}
        self.keys: list[str] = []
        self.sessions: dict[str, CheckoutSession] = {}
        self.disputes: dict[str, list[StripeDispute]] = {}
        self.events: list[StripeEvent] = []
        self.refund_status = "succeeded"
        self.refusals: deque[Exception] = deque()
        self.kept: dict[str, Exception] = {}

    def pay(self, job_id: str, amount_cents: int, *, currency: str = "usd", at: datetime | None = None) -> str:
        """A customer pays; returns the PaymentIntent."""
        payment_intent = f"pi_{len(self.intents) + 1}_{job_id[:6]}"
        self.intents[payment_intent] = StripePayment(
            payment_intent_id=payment_intent,
            status="succeeded",
            amount_received_cents=amount_cents,
            currency=currency,
            metadata={"job_id": job_id, "source": "sell-my-images"},
            charge_id=f"ch_{payment_intent}",
            fee_cents=32,
            created_at=at,
        )
        return payment_intent

    def dispute(self, payment_intent: str, *, refundable: bool, status: str = "needs_response") -> None:
        """The bank is asked for the money back, or has decided."""
        self.disputes[payment_intent] = [StripeDispute(status=status)]
        self.intents[payment_intent] = replace(self.intents[payment_intent], disputed=True, refundable=refundable)

    def refund_by_hand(self, payment_intent: str, amount_cents: int, status: str = "succeeded") -> StripeRefund:
        """Somebody refunds in the dashboard."""
        facts = StripeRefund(
            refund_id=f"re_hand{len(self.refunds) + 1}",
            payment_intent_id=payment_intent,
            amount_cents=amount_cents,
            currency=self.intents[payment_intent].currency,
            status=status,
        )
        self.refunds[facts.refund_id] = facts
        return facts

    def set_refund(self, refund_id: str, status: str, failure_reason: str | None = None) -> StripeRefund:
        """A refund moves on at Stripe."""
        self.refunds[refund_id] = replace(self.refunds[refund_id], status=status, failure_reason=failure_reason)
        return self.refunds[refund_id]

    def returned_cents(self, payment_intent: str) -> int:
        """Money given back or on its way, by the ledger."""
        gone = ("failed", "canceled")
        return sum(r.amount_cents for r in self.refunds_in(payment_intent) if r.status not in gone)

    def refunds_in(self, payment_intent: str) -> list[StripeRefund]:
        """The ledger's refunds of one payment."""
        return [refund for refund in self.refunds.values() if refund.payment_intent_id == payment_intent]

    def _as_it_is(self, intent: StripePayment) -> StripePayment:
        """With what its refunds have taken from it."""
        return replace(intent, refunded_cents=max(intent.refunded_cents, self.returned_cents(intent.payment_intent_id)))

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        self.called("payments.create_checkout")
        session = CheckoutSession(
            session_id=f"cs_{request.job_id[:8]}",
            url=f"https://pay.example/{request.job_id}",
            status="open",
            payment_status="unpaid",
            payment_intent_id=None,
            metadata={"job_id": request.job_id, "source": "sell-my-images"},
        )
        self.sessions[session.session_id] = session
        return session

    def checkout(self, session_id: str) -> CheckoutSession:
        self.called("payments.checkout")
        if session_id not in self.sessions:
            raise NotFound(session_id)
        return self.sessions[session_id]

    def checkout_of(self, payment_intent_id: str) -> CheckoutSession | None:
        self.called("payments.checkout_of")
        return next((s for s in self.sessions.values() if s.payment_intent_id == payment_intent_id), None)

    def expire_checkout(self, session_id: str) -> None:
        self.called("payments.expire_checkout")
        if session_id not in self.sessions:
            raise NotFound(session_id)
        if self.sessions[session_id].status == "open":
            self.sessions[session_id] = replace(self.sessions[session_id], status="expired")

    def payment(self, payment_intent_id: str) -> StripePayment:
        self.called("payments.payment")
        if payment_intent_id not in self.intents:
            raise NotFound(payment_intent_id)
        return self._as_it_is(self.intents[payment_intent_id])

    def payments_since(self, since: datetime, until: datetime | None = None) -> Iterator[StripePayment]:
        self.called("payments.payments_since")
        for intent in list(self.intents.values()):
            if intent.metadata.get("source") != "sell-my-images":
                continue
            made = intent.created_at
            if made is None or (made.timestamp() >= int(since.timestamp()) and (until is None or made < until)):
                yield self._as_it_is(intent)

    def events_since(
        self, since: datetime, types: tuple[str, ...], until: datetime | None = None
    ) -> Iterator[StripeEvent]:
        self.called("payments.events_since")
        for event in reversed(self.events):
            if event.created_at >= since and (until is None or event.created_at < until):
                yield event

    def create_refund(
        self, *, payment_intent_id: str, amount_cents: int, idempotency_key: str, metadata: Mapping[str, str]
    ) -> StripeRefund:
        self.called("payments.create_refund")
        self.keys.append(idempotency_key)
        if self.refusals and idempotency_key not in self.kept:
            self.kept[idempotency_key] = self.refusals.popleft()
        if idempotency_key in self.kept:
            raise self.kept[idempotency_key]
        if idempotency_key in self.by_key:
            refund_id, amount = self.by_key[idempotency_key]
            assert amount == amount_cents, "an idempotency key was used again with other parameters"
            return self.refunds[refund_id]
        intent = self.intents[payment_intent_id]
        if not intent.refundable:
            raise PermanentError("charge_disputed", "the charge is disputed")
        if self.returned_cents(payment_intent_id) + amount_cents > intent.amount_received_cents:
            raise PermanentError("charge_already_refunded", "more than was paid")
        facts = StripeRefund(
            refund_id=f"re_{len(self.refunds) + 1}",
            payment_intent_id=payment_intent_id,
            amount_cents=amount_cents,
            currency=intent.currency,
            status=self.refund_status,
            metadata=dict(metadata),
            failure_reason="lost_or_stolen_card" if self.refund_status == "failed" else None,
        )
        self.refunds[facts.refund_id] = facts
        self.by_key[idempotency_key] = (facts.refund_id, amount_cents)
        self.done()
        return facts

    def refund(self, refund_id: str) -> StripeRefund:
        self.called("payments.refund")
        return self.refunds[refund_id]

    def refunds_of(self, payment_intent_id: str) -> list[StripeRefund]:
        self.called("payments.refunds_of")
        return self.refunds_in(payment_intent_id)

    def disputes_of(self, payment_intent_id: str) -> list[StripeDispute]:
        self.called("payments.disputes_of")
        return self.disputes.get(payment_intent_id, [])

    def parse_webhook(self, body: bytes, signature: str) -> StripeEvent:
        raise AssertionError("services are given events that were read already")
