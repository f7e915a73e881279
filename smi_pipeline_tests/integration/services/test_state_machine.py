"""Any mixture of orders, crashes, frozen workers, lost answers and repeated webhooks is right at every step and ends.

The services are the real ones over a real PostgreSQL; the outside is in memory and keeps the books by which `judge`
judges. `SMI_EXAMPLES=500` makes it a deep run with other examples each time, half a second each when nothing else
runs; `-s` shows how far it is. What it finds is made shorter for at most five minutes.
"""

import os
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smi_pipeline.core.models import Queue
from smi_pipeline.services import completions, lease_renewal
from smi_pipeline_tests.integration.services.databases import empty
from smi_pipeline_tests.integration.services.machine.crew import Interruption
from smi_pipeline_tests.integration.services.machine.customers import Order, UnmatchedPayment
from smi_pipeline_tests.integration.services.machine.judge import unsettled, violations
from smi_pipeline_tests.integration.services.machine.stress import Stress
from smi_pipeline_tests.integration.services.steps import Steps

DEEP = int(os.environ.get("SMI_EXAMPLES", "0"))

fates = st.builds(
    Interruption,
    passes=st.integers(0, 14),
    what=st.sampled_from(["end", "end", "wait", "die", "fault", "fault"]),
    choice=st.integers(0, 4),
)
numbers = st.integers(0, 30)


class Inline:
    """A pool without threads: a worker of ours stays in its own."""

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "ThreadPoolExecutor", Inline)
    monkeypatch.setattr(lease_renewal, "start_renewing", lambda *_: None)  # `Stress.time` renews, or does not


class Mixture(RuleBasedStateMachine):
    """Rules are what can happen next; which of them does is hypothesis' choice."""

    url = ""
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        empty(self.url)
        self.stress = Stress(Steps(self.url))
        self.ended = False

    def an_order(self, number: int) -> Order:
        return self.stress.orders[number % len(self.stress.orders)]

    def ours(self) -> list[UnmatchedPayment]:
        return [stray for stray in self.stress.strays if not stray.foreign]

    def ordered(self) -> bool:
        return bool(self.stress.orders)

    def paid(self) -> bool:
        return any(order.payments for order in self.stress.orders)

    @initialize(paid=st.sampled_from([True, True, True, False]))
    def the_first_customer_comes(self, paid: bool) -> None:
        """Hypothesis leaves rules out of an example: without this one, half of them are about nobody."""
        order = self.stress.order()
        if paid:
            self.stress.pay(order)
            self.stress.tell_newest()

    @precondition(lambda self: len(self.stress.orders) < 4)
    @rule(more=st.sampled_from([0, 0, 0, 0, 7]), webhooks=st.sampled_from([None, 0, 1, 1, 2]), fate=fates)
    def a_customer_orders_and_pays(self, more: int, webhooks: int | None, fate: Interruption) -> None:
        self.stress.pay(self.stress.order(), more_cents=more, event=webhooks is not None)
        for n in range(webhooks or 0):
            self.stress.tell(self.stress.shop.payments.events[-1], fate if n == 0 else Interruption())

    @precondition(lambda self: len(self.stress.orders) < 4)
    @rule()
    def a_customer_orders_and_does_not_pay(self) -> None:
        self.stress.order()

    @precondition(ordered)
    @rule(number=numbers, webhook=st.booleans())
    def a_customer_pays_late_or_again(self, number: int, webhook: bool) -> None:
        order = self.an_order(number)
        if len(order.payments) < 3:
            self.stress.pay(order)
            if webhook:
                self.stress.tell_newest()

    @precondition(lambda self: len(self.stress.strays) < 3)
    @rule(
        number=numbers,
        more=st.sampled_from([0, 0, 0, 7]),
        foreign=st.sampled_from([False, False, False, True]),
        webhooks=st.sampled_from([None, 0, 1, 1, 2]),
        fate=fates,
    )
    def somebody_pays_for_an_order_we_do_not_know(
        self, number: int, more: int, foreign: bool, webhooks: int | None, fate: Interruption
    ) -> None:
        cents = self.an_order(number).price_cents + more
        self.stress.stray(cents, foreign=foreign, event=webhooks is not None)
        for n in range(webhooks or 0):
            self.stress.tell(self.stress.shop.payments.events[-1], fate if n == 0 else Interruption())

    @precondition(lambda self: self.ours())
    @rule(number=numbers, to=st.one_of(st.none(), numbers), fate=fates)
    def a_person_settles_a_stray_payment(self, number: int, to: int | None, fate: Interruption) -> None:
        strays = self.ours()
        self.stress.settle(strays[number % len(strays)], None if to is None else self.an_order(to), fate)

    @rule(fate=fates)
    def unpaid_orders_are_closed(self, fate: Interruption) -> None:
        self.stress.clean_up(fate)

    @precondition(lambda self: self.stress.shop.payments.events)
    @rule(number=numbers, fate=fates)
    def a_stripe_webhook_comes_late_or_again(self, number: int, fate: Interruption) -> None:
        events = self.stress.shop.payments.events
        self.stress.tell(events[-1 - number % len(events)], fate)

    @rule(queue=st.sampled_from([Queue.SUBMIT, Queue.FULFIL, Queue.REFUND, Queue.MAIL]), fate=fates)
    def a_run_works(self, queue: Queue, fate: Interruption) -> None:
        self.stress.work(queue, fate)

    @precondition(ordered)
    @rule()
    def every_sensor_ticks(self) -> None:
        self.stress.tick()

    @precondition(ordered)
    @rule(fate=fates)
    def a_sensor_asks_upsampler(self, fate: Interruption) -> None:
        self.stress.poll(fate)

    @precondition(lambda self: self.stress.crew.waiting)
    @rule(number=numbers, fate=fates)
    def a_worker_comes_back(self, number: int, fate: Interruption) -> None:
        self.stress.wake(number, fate)

    @precondition(lambda self: self.stress.shop.upscaler.replies)
    @rule(
        number=numbers,
        how=st.sampled_from(["good", "good", "good", "failed", "black", "no image"]),
        webhooks=st.integers(0, 2),
        fate=fates,
    )
    def upsampler_ends_an_upscale(self, number: int, how: str, webhooks: int, fate: Interruption) -> None:
        known = self.stress.undecided() or list(self.stress.shop.upscaler.replies)
        external_id = known[number % len(known)]
        if external_id in self.stress.undecided():
            self.stress.decide(external_id, how)
        for n in range(webhooks):
            self.stress.hint(external_id, fate if n == 0 else Interruption())
        if webhooks:
            self.stress.poll()

    @rule(seconds=st.sampled_from([5, 50, 50, 140, 140, 400, 1100, 4000, 90_000]), alive=st.booleans())
    def time_passes(self, seconds: int, alive: bool) -> None:
        self.stress.time(seconds, alive=alive and seconds < 180)

    @rule(seconds=st.sampled_from([300, 5000, 60_000]))
    def everything_is_down(self, seconds: int) -> None:
        self.stress.down(seconds)

    @rule(fate=fates)
    def stripe_is_reconciled(self, fate: Interruption) -> None:
        self.stress.reconcile(fate)

    @precondition(ordered)
    @rule(
        number=numbers,
        action=st.sampled_from(["retry", "refund", "cancel", "resend", "check", "hold", "release"]),
        fate=fates,
    )
    def an_admin_acts(self, number: int, action: str, fate: Interruption) -> None:
        self.stress.admin(self.an_order(number), action, fate)

    @rule(status=st.sampled_from(["succeeded", "pending", "failed"]))
    def refunds_will_be(self, status: str) -> None:
        self.stress.shop.payments.refund_status = status

    @precondition(lambda self: self.stress.shop.payments.refunds)
    @rule(
        number=numbers, status=st.sampled_from(["succeeded", "failed"]), news=st.sampled_from(["lost", "late", "told"])
    )
    def a_pending_refund_moves(self, number: int, status: str, news: str) -> None:
        made = list(self.stress.shop.payments.refunds.values())
        self.stress.refund_moves(made[number % len(made)], status, event=news != "lost")
        if news == "told":
            self.stress.tell_newest()

    @precondition(lambda self: self.stress.shop.payments.intents)
    @rule(
        number=numbers,
        cents=st.sampled_from([1, 20, 1000]),
        status=st.sampled_from(["succeeded", "succeeded", "pending"]),
        news=st.sampled_from(["lost", "late", "told"]),
    )
    def somebody_refunds_by_hand(self, number: int, cents: int, status: str, news: str) -> None:
        stripe = self.stress.shop.payments
        intent = list(stripe.intents)[number % len(stripe.intents)]
        left = stripe.intents[intent].amount_received_cents - stripe.returned_cents(intent)
        self.stress.refund_by_hand(intent, min(cents, left), status=status, event=news != "lost")
        if news == "told" and stripe.events:
            self.stress.tell_newest()

    @precondition(paid)
    @rule(number=numbers, ends=st.sampled_from([None, None, "won", "lost"]), webhook=st.booleans())
    def a_payment_is_disputed(self, number: int, ends: str | None, webhook: bool) -> None:
        order = self.an_order(number)
        if order.payments and (ends is None) != order.disputed:
            self.stress.dispute(order, ends)
            if webhook:
                self.stress.tell_newest()

    @invariant()
    def the_books_are_right(self) -> None:
        self.done["steps"] += 1
        found = violations(self.stress)
        self.ended = bool(found)
        assert not found, found

    def teardown(self) -> None:
        try:
            if not self.ended:
                self.stress.heal()
                found = [*violations(self.stress), *unsettled(self.stress)]
                assert not found, found
        finally:
            self.stress.shop.close()
        self.done["examples"] += 1
        if DEEP and self.done["examples"] % 50 == 0:
            print(dict(self.done), flush=True)


@pytest.mark.timeout(900 if not DEEP else 0)  # a loaded machine is slow, and a timeout within hypothesis misleads
def test_whatever_is_mixed_ends_right(services_url: str) -> None:
    class Here(Mixture):
        url = services_url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=DEEP or 20,
            stateful_step_count=40,
            derandomize=not DEEP,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
