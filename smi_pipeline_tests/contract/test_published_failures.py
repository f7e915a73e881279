"""What other shops have published of money that went wrong, each against a real Stripe sandbox over HTTP and a real
PostgreSQL. Judged by the sandbox's ledger and our rows."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import stripe

from smi_pipeline.adapters.stripe.payments import StripePayments
from smi_pipeline.core.errors import AmbiguousError
from smi_pipeline.core.models import CheckoutRequest, Queue, Stage, StripeEvent, StripeRefund, UpscaleReply
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services import intake, refund
from smi_pipeline_tests.integration.services.steps import Steps

KEY, SECRET = "sk_test_sandbox", "whsec_sandbox"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Sandbox(folder, only=("stripe",), stripe_key=KEY, stripe_webhook_secret=SECRET) as running:
        yield running


class RealStripe(StripePayments):
    """The adapter, with a moment between Stripe's answer to a refund and whoever asked for it."""

    answered: Callable[[StripeRefund], None] = staticmethod(lambda facts: None)

    def create_refund(
        self, *, payment_intent_id: str, amount_cents: int, idempotency_key: str, metadata: Mapping[str, str]
    ) -> StripeRefund:
        facts = super().create_refund(
            payment_intent_id=payment_intent_id,
            amount_cents=amount_cents,
            idempotency_key=idempotency_key,
            metadata=metadata,
        )
        self.answered(facts)
        return facts


class Shop(Steps):
    """The services with Stripe over HTTP."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        super().__init__(url)
        self.sandbox = sandbox
        self.stripe = RealStripe(KEY, SECRET, sandbox.urls.stripe, timeout=5)
        self.ctx = replace(self.ctx, payments=self.stripe)

    def events(self, *types: str, about: str) -> list[StripeEvent]:  # type: ignore[override]
        """Stripe's events of one PaymentIntent, oldest first."""
        since = self.state.submissions.now() - timedelta(hours=1)
        found = [e for e in self.stripe.events_since(since, types) if about in str(e.object)]
        return found[::-1]

    def hears(self, *types: str, about: str) -> list[str]:
        """The webhooks of these events arrive."""
        events = self.events(*types, about=about)
        assert events, types
        return [intake.handle_stripe_event(self.ctx, event, source="stripe webhook") for event in events]

    def checkout(self) -> tuple[str, str]:
        """A customer orders and pays: (job id, PaymentIntent)."""
        job_id = self.register().job_id
        session = self.sql("SELECT checkout_session_id AS id FROM smi.upscale_jobs WHERE job_id = :id", id=job_id)
        intent = self.sandbox.pay(session[0]["id"])["id"]
        self.hears("payment_intent.succeeded", about=intent)
        return job_id, intent

    def owed(self) -> tuple[str, str]:
        """A job that failed, whose refund is owed: (job id, PaymentIntent)."""
        job_id, intent = self.checkout()
        self.submit_due()
        self.upscaler.fail(self.external_id(job_id))
        self.poll()
        self.fulfil_due()
        return job_id, intent

    def ledger(self, intent: str) -> list[dict[str, Any]]:
        """The sandbox's refunds of a payment."""
        return [r for r in self.sandbox.ledger("stripe")["refunds"] if r["payment_intent"] == intent]

    def rows(self, intent: str) -> list[tuple[str, str, str]]:
        """Our refunds of a payment."""
        rows = self.sql(
            "SELECT kind, state, stripe_refund_id FROM smi.refunds WHERE payment_intent_id = :pi", pi=intent
        )
        return [(row["kind"], row["state"], row["stripe_refund_id"]) for row in rows]


@pytest.fixture
def shop(state_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    made = Shop(state_url, sandbox)
    yield made
    made.close()
    sandbox.clear_faults("stripe")


def once(shop: Shop, job_id: str, intent: str) -> None:
    """One refund at Stripe, one row of ours that names it, one mail."""
    (made,) = shop.ledger(intent)
    assert shop.rows(intent) == [("failure", "succeeded", made["id"])]
    assert made["amount"] == shop.job(job_id).price_cents
    shop.refund_due()
    shop.mail_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"]


def test_woocommerce_838_the_refund_webhook_comes_before_the_refund_call_is_answered(shop: Shop) -> None:
    job_id, intent = shop.owed()
    heard: list[str] = []
    shop.stripe.answered = lambda facts: heard.extend(  # type: ignore[method-assign]
        shop.hears("charge.refunded", "refund.created", "refund.updated", about=intent)
    )
    shop.refund_due()
    assert heard
    once(shop, job_id, intent)


def test_woocommerce_2724_the_webhook_comes_and_the_answer_never_does(shop: Shop) -> None:
    job_id, intent = shop.owed()

    def lost(facts: StripeRefund) -> None:
        shop.hears("charge.refunded", about=intent)
        raise AmbiguousError("the answer was lost")

    shop.stripe.answered = lost  # type: ignore[method-assign]
    shop.refund_due()
    shop.later(minutes=5)
    shop.refund_due()
    once(shop, job_id, intent)


@pytest.mark.parametrize("fault", ["accept_then_drop", "garbage", "500 after work"])
def test_saleor_2446_a_refund_whose_answer_was_lost_is_handled_again(shop: Shop, fault: str) -> None:
    job_id, intent = shop.owed()
    where = {"endpoint": "refunds", "method": "POST"}
    if fault == "500 after work":
        shop.sandbox.fault("stripe", "status", code=500, after_work=True, match=where)
    else:
        shop.sandbox.fault("stripe", fault, match=where)
    shop.refund_due()
    shop.later(minutes=5)
    shop.refund_due()
    once(shop, job_id, intent)


def test_saleor_2446_the_same_refund_is_handled_by_two_workers(shop: Shop) -> None:
    job_id, intent = shop.owed()
    lease_id, (key,) = shop.begin(Queue.REFUND) or ("", [""])
    others: list[object] = []

    def meanwhile(facts: StripeRefund) -> None:
        shop.stripe.answered = lambda _: None  # type: ignore[method-assign]
        shop.later(seconds=60)  # the first one's lease has run out
        others.extend(shop.refund_due())

    shop.stripe.answered = meanwhile  # type: ignore[method-assign]
    refund.process(shop.ctx, key, lease_id)
    assert len(others) == 1
    once(shop, job_id, intent)


def test_gumroad_6193_one_refund_that_is_told_many_times_at_once_is_recorded_once(shop: Shop) -> None:
    job_id, intent = shop.checkout()
    shop.sandbox.control("stripe", "/_refund", payment_intent=intent, amount=shop.job(job_id).price_cents)
    events = shop.events("charge.refunded", "refund.created", about=intent)
    assert len(events) >= 2
    with ThreadPoolExecutor(4) as pool:  # all look before any of them commits
        told = [
            pool.submit(intake.handle_stripe_event, shop.ctx, event, source="stripe webhook")
            for _ in range(4)
            for event in events
        ]
        assert [one.exception() for one in told] == [None] * len(told)
    (made,) = shop.ledger(intent)
    assert shop.rows(intent) == [("outside", "succeeded", made["id"])]
    shop.mail_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"]


def test_pretix_343_the_refund_of_one_of_two_payments_cancels_no_order(shop: Shop) -> None:
    job_id, first = shop.checkout()
    again = shop.stripe.create_checkout(
        CheckoutRequest(
            job_id=job_id,
            resolution="4x",
            amount_cents=shop.job(job_id).price_cents,
            currency="usd",
            customer_email="customer@example.org",
            description="the same order, paid in another tab",
            success_url="https://shop.example/ok",
            cancel_url="https://shop.example/no",
            expires_at=shop.state.submissions.now() + timedelta(hours=1),
            idempotency_key=f"again:{job_id}",
        )
    )
    second = shop.sandbox.pay(again.session_id)["id"]
    assert shop.hears("payment_intent.succeeded", about=second) == ["duplicate"]
    shop.refund_due()
    shop.hears("charge.refunded", about=second)
    assert shop.job(job_id).status == "pending"
    shop.submit_due()
    external_id = shop.external_id(job_id)
    shop.upscaler.replies[external_id] = UpscaleReply(
        external_id=external_id, stage=Stage.COMPLETED, result_url="https://cdn.example/result.png", credits=2
    )
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"
    assert shop.ledger(first) == []
    assert [made["amount"] for made in shop.ledger(second)] == [shop.job(job_id).price_cents]
