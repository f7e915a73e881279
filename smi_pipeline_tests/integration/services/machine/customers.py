"""Customers, Stripe, and whoever uses its dashboard: orders, payments, refunds by hand, disputes, and what we hear."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from smi_pipeline.core.errors import Conflict
from smi_pipeline.core.models import StripeEvent, StripeRefund
from smi_pipeline.services import admin, intake
from smi_pipeline_tests.integration.services.machine.crew import Crew, Interruption
from smi_pipeline_tests.integration.services.steps import Steps

END = Interruption()


@dataclass
class Order:
    """One order and what was done to it by hand: a judge must know of it."""

    job_id: str
    price_cents: int
    payments: list[str] = field(default_factory=list)
    gifts: int = 0
    goodwill: bool = False
    by_hand: bool = False
    disputed: bool = False
    resends: int = 0
    seen_back: bool = False  # we looked, all its money was back, and nothing had been delivered


@dataclass
class UnmatchedPayment:
    """A payment of no order that we know, or of another shop, and what a person said of it."""

    intent: str
    foreign: bool
    adopter: Order | None = None
    to_return: bool = False
    answered: bool = True  # the last command was


class Customers:
    """What the world does to the shop, and the shop's entry points."""

    def __init__(self, shop: Steps) -> None:
        self.shop, self.ctx, self.crew = shop, shop.ctx, Crew()
        self.orders: list[Order] = []
        self.strays: list[UnmatchedPayment] = []
        self._told: dict[str, str] = {}  # refunds whose state was made an event, or whose news got lost

    # --- customers

    def order(self) -> Order:
        """A customer orders."""
        registered = self.shop.register()
        self.orders.append(Order(registered.job_id, registered.price_cents))
        return self.orders[-1]

    def pay(self, order: Order, *, more_cents: int = 0, event: bool = True) -> None:
        """The customer pays; Stripe has an event of it (or has lost it), which nobody has told us yet."""
        stripe = self.shop.payments
        intent = stripe.pay(order.job_id, order.price_cents + more_cents, at=self._now())
        order.payments.append(intent)
        for session in stripe.sessions.values():
            if session.metadata["job_id"] == order.job_id and session.status == "open":
                paid = replace(session, status="complete", payment_status="paid", payment_intent_id=intent)
                stripe.sessions[session.session_id] = paid
        if event:
            self._paid("payment_intent.succeeded", {"object": "payment_intent", "id": intent}, order.job_id)

    def stray(self, cents: int, *, foreign: bool = False, event: bool = True) -> UnmatchedPayment:
        """Somebody pays for an order that we do not know, or buys of another shop on the same account."""
        number, stripe = len(self.strays) + 1, self.shop.payments
        job_id = f"{number:x}".rjust(32, "f")
        intent = stripe.pay(job_id, cents, at=self._now())
        if foreign:
            facts = stripe.intents[intent]
            stripe.intents[intent] = replace(facts, metadata={"job_id": job_id, "source": "another shop"})
        self.strays.append(UnmatchedPayment(intent, foreign))
        if event:
            body = {"object": "checkout.session", "id": f"cs_stray{number}", "payment_intent": intent}
            body["payment_status"] = "paid"
            self._paid("checkout.session.completed", body, job_id, "another shop" if foreign else "sell-my-images")
        return self.strays[-1]

    def dispute(self, order: Order, ends: str | None) -> None:
        """The customer disputes the payment (`ends` None), or the bank decides: won, lost."""
        order.disputed = True
        self.shop.payments.dispute(order.payments[0], refundable=ends == "won")
        body = {"object": "dispute", "id": f"dp_{order.job_id}", "payment_intent": order.payments[0]}
        type_ = "charge.dispute.closed" if ends else "charge.dispute.created"
        self._event(type_, {**body, "status": ends or "needs_response"})

    # --- the entry points

    def tell(self, event: StripeEvent, fate: Interruption = END) -> None:
        """The webhook of a Stripe event arrives: for the first time, or again."""
        self._start("webhook", lambda: intake.handle_stripe_event(self.ctx, event, source="stripe webhook"), fate)

    def tell_newest(self) -> None:
        """The webhook of the newest event arrives, and nothing is wrong with it."""
        self.tell(self.shop.payments.events[-1])

    # --- who uses Stripe's dashboard, and ours

    def refund_by_hand(self, intent: str, cents: int, *, status: str = "succeeded", event: bool = True) -> None:
        """Somebody refunds in Stripe's dashboard, as far as Stripe lets them; its news may get lost."""
        stripe = self.shop.payments
        rest = stripe.intents[intent].amount_received_cents - stripe.returned_cents(intent)
        if not 0 < cents <= rest:
            return
        for order in self.orders:
            order.by_hand |= intent in order.payments
        made = stripe.refund_by_hand(intent, cents, status)
        if not event:
            self._told[made.refund_id] = made.status
        self._news()

    def refund_moves(self, made: StripeRefund, status: str, *, event: bool = True) -> None:
        """A pending refund succeeds or fails at Stripe; its news may get lost."""
        if made.status == "pending":
            self.shop.payments.set_refund(made.refund_id, status, "expired_card" if status == "failed" else None)
            if not event:
                self._told[made.refund_id] = status
            self._news()

    def settle(self, stray: UnmatchedPayment, order: Order | None, fate: Interruption = END) -> None:
        """A person says what becomes of a stray payment: it is for this order, or (None) it goes back."""
        if order is not None:
            stray.adopter = stray.adopter or order
            if stray.intent not in stray.adopter.payments:
                stray.adopter.payments.append(stray.intent)
        stray.to_return |= order is None
        stray.answered = False

        def say() -> None:
            try:
                if order is not None and stray.adopter is not None:
                    admin.assign_payment(self.ctx, stray.intent, stray.adopter.job_id)
                else:
                    admin.refund_payment(self.ctx, stray.intent)
            except Conflict:  # it was settled: by us before our answer got lost, or by somebody else
                pass
            stray.answered = True

        self._start("person", say, fate)

    def kept(self, order: Order) -> int:
        """What the shop has of this order's money, in cents, by Stripe's books."""
        stripe = self.shop.payments
        return sum(stripe.intents[p].amount_received_cents - stripe.returned_cents(p) for p in order.payments)

    # --- Stripe's events

    def _paid(self, type_: str, body: dict, job_id: str, source: str = "sell-my-images") -> None:
        self._event(type_, body | {"metadata": {"source": source, "job_id": job_id}})

    def _event(self, type_: str, body: dict) -> None:
        events = self.shop.payments.events
        events.append(StripeEvent(event_id=f"evt_{len(events)}", type=type_, created_at=self._now(), object=body))

    def _news(self) -> None:
        """Stripe makes an event of each refund that is new or has moved."""
        for made in list(self.shop.payments.refunds.values()):
            before = self._told.get(made.refund_id)
            if before == made.status:
                continue
            self._told[made.refund_id] = made.status
            body = {"object": "refund", "id": made.refund_id, "payment_intent": made.payment_intent_id}
            type_ = "refund.created" if before is None else "refund.updated"
            self._event("refund.failed" if made.status == "failed" else type_, {**body, "status": made.status})
            if made.status == "succeeded":
                self._event("charge.refunded", {"object": "charge", "payment_intent": made.payment_intent_id})

    # --- workers

    def _start(self, name: str, work: Callable[[], object], fate: Interruption) -> None:
        self.crew.start(name, work, fate)
        self._news()

    def _now(self):
        return self.ctx.state.submissions.now()
