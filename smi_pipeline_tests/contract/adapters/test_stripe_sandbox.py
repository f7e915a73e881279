"""The Stripe adapter against the sandbox: the whole port, with the money the sandbox's ledger says was moved."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
import stripe

from smi_pipeline.adapters.stripe.payments import StripePayments
from smi_pipeline.core.currencies import minimum_charge
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    AnsweredError,
    NotFound,
    PermanentError,
    RefusedError,
    SmiError,
)
from smi_pipeline.core.models import CheckoutRequest, CheckoutSession, StripePayment
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.adapters.conftest import ScriptedServer

KEY, SECRET = "sk_test_sandbox", "whsec_sandbox"
numbers = count(1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Sandbox(folder, only=("stripe",), stripe_key=KEY, stripe_webhook_secret=SECRET) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    yield running
    running.clear_faults("stripe")
    running.configure("stripe", webhook_url="", settlement_currency="")


@pytest.fixture
def payments(sandbox: Sandbox) -> StripePayments:
    return StripePayments(KEY, SECRET, sandbox.urls.stripe, timeout=2)


def opened(payments: StripePayments, **changes: Any) -> CheckoutSession:
    number = next(numbers)
    values: dict[str, Any] = {
        "job_id": f"job-{number}",
        "resolution": "4x",
        "amount_cents": 500,
        "currency": "usd",
        "customer_email": "ann@example.com",
        "description": "Sunset, 4x",
        "success_url": "https://shop.example/ok",
        "cancel_url": "https://shop.example/no",
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
        "idempotency_key": f"checkout:{number}",
    }
    return payments.create_checkout(CheckoutRequest(**{**values, **changes}))


def paid(payments: StripePayments, sandbox: Sandbox) -> StripePayment:
    session = opened(payments)
    return payments.payment(sandbox.pay(session.session_id)["id"])


def refunds_in_ledger(sandbox: Sandbox, payment: StripePayment) -> list[dict[str, Any]]:
    return [r for r in sandbox.ledger("stripe")["refunds"] if r["payment_intent"] == payment.payment_intent_id]


def balance_of(sandbox: Sandbox, payment: StripePayment) -> list[dict[str, Any]]:
    """The balance transactions of a charge, as Stripe shows them."""
    client = stripe.StripeClient(KEY, base_addresses={"api": sandbox.urls.stripe})
    found = client.v1.balance_transactions.list({"source": payment.charge_id or ""})
    return [each.to_dict() for each in found.data]


def until(ready: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_session_is_opened_paid_and_read_with_its_payment(payments: StripePayments, sandbox: Sandbox) -> None:
    session = opened(payments, job_id="job-x", amount_cents=400)
    assert (session.status, session.payment_status, session.payment_intent_id) == ("open", "unpaid", None)
    assert session.url and session.url.startswith(sandbox.urls.stripe)
    sandbox.pay(session.session_id)
    after = payments.checkout(session.session_id)
    assert (after.status, after.payment_status) == ("complete", "paid")
    assert after.metadata == {"job_id": "job-x", "resolution": "4x", "source": "sell-my-images"}

    facts = payments.payment(after.payment_intent_id or "")
    assert (facts.status, facts.amount_received_cents, facts.currency) == ("succeeded", 400, "usd")
    assert facts.metadata == after.metadata
    assert (facts.fee_cents, facts.refunded_cents, facts.disputed, facts.refundable) == (42, 0, False, True)
    assert facts.charge_id is not None
    assert facts.created_at is not None and abs(datetime.now(UTC) - facts.created_at) < timedelta(seconds=60)


@pytest.mark.parametrize("entered", ["ben@example.org", None])
def test_the_address_that_a_customer_enters_at_checkout_is_read(
    payments: StripePayments, sandbox: Sandbox, entered: str | None
) -> None:
    session = opened(payments, customer_email="")
    assert session.customer_email == ""
    payment_intent = sandbox.pay(session.session_id, email=entered)["id"]
    found = payments.checkout_of(payment_intent)
    assert found and (found.session_id, found.customer_email) == (session.session_id, entered or "")
    named = opened(payments)
    assert named.customer_email == "ann@example.com"
    assert payments.checkout_of("pi_of_nobody") is None


def test_opening_a_session_again_with_the_same_key_is_the_same_session(payments: StripePayments) -> None:
    same = {
        "idempotency_key": "checkout:same",
        "job_id": "job-same",
        "expires_at": datetime.now(UTC) + timedelta(hours=2),
    }
    assert opened(payments, **same).session_id == opened(payments, **same).session_id
    with pytest.raises(PermanentError) as raised:
        opened(payments, **{**same, "amount_cents": 600})
    assert raised.value.reason == "stripe_refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_cents": 49},
        {"expires_at": datetime.now(UTC) + timedelta(minutes=1)},
        {"expires_at": datetime.now(UTC) + timedelta(hours=25)},
    ],
    ids=["too little", "too soon", "too late"],
)
def test_a_session_that_stripe_would_refuse_is_a_permanent_error(
    payments: StripePayments, changes: dict[str, Any]
) -> None:
    with pytest.raises(PermanentError) as raised:
        opened(payments, **changes)
    assert raised.value.reason == ("amount_too_small" if "amount_cents" in changes else "stripe_refused")


@pytest.mark.parametrize(
    ("amount", "currency", "settled", "reason"),
    [
        (50, "usd", "", None),
        (50, "usd", "eur", "amount_too_small"),
        (62, "usd", "eur", None),
        (49, "jpy", "", "amount_too_small"),
        (50, "jpy", "", None),
        (50, "jpy", "usd", "amount_too_small"),
        (399, "hkd", "", "amount_too_small"),
        (5121, "kwd", "", "stripe_refused"),
        (5130, "kwd", "", None),
        (1250, "isk", "", "stripe_refused"),
        (500, "xau", "", "stripe_refused"),
    ],
)
def test_what_is_too_little_is_judged_in_the_currency_of_the_balance(
    payments: StripePayments, sandbox: Sandbox, amount: int, currency: str, settled: str, reason: str | None
) -> None:
    sandbox.configure("stripe", settlement_currency=settled)
    if reason is None:
        assert opened(payments, amount_cents=amount, currency=currency).status == "open"
        return
    with pytest.raises(PermanentError) as raised:
        opened(payments, amount_cents=amount, currency=currency)
    assert raised.value.reason == reason


def test_every_smallest_charge_of_ours_is_taken_and_nothing_less(payments: StripePayments, sandbox: Sandbox) -> None:
    for currency in ("usd", "eur", "gbp", "jpy", "sek", "hkd", "mxn", "czk", "pln"):
        least = minimum_charge(currency)
        assert opened(payments, amount_cents=least, currency=currency).status == "open"
        with pytest.raises(PermanentError, match="at least"):
            opened(payments, amount_cents=least - 1, currency=currency)


def test_an_open_session_is_expired_and_others_are_left_alone(payments: StripePayments, sandbox: Sandbox) -> None:
    session, done = opened(payments), opened(payments)
    payments.expire_checkout(session.session_id)
    payments.expire_checkout(session.session_id)
    assert payments.checkout(session.session_id).status == "expired"
    sandbox.pay(done.session_id)
    payments.expire_checkout(done.session_id)
    assert payments.checkout(done.session_id).status == "complete"


def test_what_stripe_does_not_know_is_not_found(payments: StripePayments) -> None:
    calls: list[Callable[[], object]] = [
        lambda: payments.checkout("cs_test_none"),
        lambda: payments.expire_checkout("cs_test_none"),
        lambda: payments.payment("pi_none"),
        lambda: payments.refund("re_none"),
        lambda: payments.create_refund(
            payment_intent_id="pi_none", amount_cents=1, idempotency_key="none", metadata={}
        ),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_refund_is_made_once_per_key_and_replayed_after(payments: StripePayments, sandbox: Sandbox) -> None:
    payment = paid(payments, sandbox)
    call: dict[str, Any] = {
        "payment_intent_id": payment.payment_intent_id,
        "amount_cents": 500,
        "idempotency_key": f"refund:{payment.payment_intent_id}:1",
        "metadata": {"job_id": payment.metadata["job_id"]},
    }
    first, second = payments.create_refund(**call), payments.create_refund(**call)
    assert first == second
    assert (first.status, first.amount_cents, first.metadata) == ("succeeded", 500, call["metadata"])
    with pytest.raises(PermanentError) as raised:
        payments.create_refund(**{**call, "amount_cents": 400})
    assert raised.value.reason == "stripe_refused"
    assert [r["idempotency_key"] for r in refunds_in_ledger(sandbox, payment)] == [call["idempotency_key"]]
    assert payments.payment(payment.payment_intent_id).refunded_cents == 500
    assert payments.refund(first.refund_id) == first
    assert payments.refunds_of(payment.payment_intent_id) == [first]


def test_more_than_was_paid_is_never_refunded(payments: StripePayments, sandbox: Sandbox) -> None:
    payment = paid(payments, sandbox)

    def give_back(cents: int, key: str) -> None:
        payments.create_refund(
            payment_intent_id=payment.payment_intent_id,
            amount_cents=cents,
            idempotency_key=f"{payment.payment_intent_id}:{key}",
            metadata={},
        )

    give_back(200, "a")
    with pytest.raises(PermanentError) as too_much:
        give_back(301, "b")
    give_back(300, "c")
    with pytest.raises(PermanentError) as again:
        give_back(1, "d")
    assert (too_much.value.reason, again.value.reason) == ("amount_too_large", "charge_already_refunded")
    assert sum(r["amount"] for r in refunds_in_ledger(sandbox, payment)) == 500


@pytest.mark.parametrize("fault", ["accept_then_drop", "cut_transfer", "garbage"])
def test_a_refund_whose_answer_was_lost_is_made_once(payments: StripePayments, sandbox: Sandbox, fault: str) -> None:
    payment = paid(payments, sandbox)
    sandbox.fault("stripe", fault, match={"endpoint": "refunds", "method": "POST"})
    call: dict[str, Any] = {
        "payment_intent_id": payment.payment_intent_id,
        "amount_cents": 500,
        "idempotency_key": f"refund:{payment.payment_intent_id}:1",
        "metadata": {},
    }
    try:
        payments.create_refund(**call)
    except AmbiguousError:  # broken JSON is not tried again by the library
        assert payments.create_refund(**call).status == "succeeded"
    assert len(refunds_in_ledger(sandbox, payment)) == 1


def test_a_500_that_stripe_remembers_stays_ambiguous_and_the_refund_is_found_by_listing(
    payments: StripePayments, sandbox: Sandbox
) -> None:
    payment = paid(payments, sandbox)
    sandbox.fault("stripe", "status", code=500, after_work=True, match={"endpoint": "refunds", "method": "POST"})
    for _ in range(2):
        with pytest.raises(AmbiguousError):
            payments.create_refund(
                payment_intent_id=payment.payment_intent_id,
                amount_cents=500,
                idempotency_key=f"refund:{payment.payment_intent_id}:1",
                metadata={"job_id": "j"},
            )
    assert [(r.status, r.metadata) for r in payments.refunds_of(payment.payment_intent_id)] == [
        ("succeeded", {"job_id": "j"})
    ]


def test_a_500_without_effect_is_repeated_for_the_key_and_another_key_refunds(
    payments: StripePayments, sandbox: Sandbox
) -> None:
    payment = paid(payments, sandbox)
    sandbox.fault("stripe", "refund_refused", match={"payment_intent": payment.payment_intent_id})
    call: dict[str, Any] = {"payment_intent_id": payment.payment_intent_id, "amount_cents": 500, "metadata": {}}
    for _ in range(2):
        with pytest.raises(AnsweredError):
            payments.create_refund(idempotency_key=f"refund:{payment.payment_intent_id}:1", **call)
    assert payments.refunds_of(payment.payment_intent_id) == []
    assert payments.create_refund(idempotency_key=f"refund:{payment.payment_intent_id}:2", **call).alive


def test_a_balance_that_is_too_small_is_named(payments: StripePayments, sandbox: Sandbox) -> None:
    payment = paid(payments, sandbox)
    match = {"payment_intent": payment.payment_intent_id}
    sandbox.fault("stripe", "refund_refused", why="insufficient_balance", match=match)
    with pytest.raises(PermanentError) as refused:
        payments.create_refund(
            payment_intent_id=payment.payment_intent_id, amount_cents=500, idempotency_key="refund:b:1", metadata={}
        )
    assert refused.value.reason == "insufficient_balance"


@pytest.mark.parametrize("status", ["requires_action", "on_hold", None])
def test_a_refund_in_any_state_is_read(payments: StripePayments, sandbox: Sandbox, status: str | None) -> None:
    payment = paid(payments, sandbox)
    match = {"payment_intent": payment.payment_intent_id}
    sandbox.fault("stripe", "refund_pending", status=status, then=None, match=match)
    made = payments.create_refund(
        payment_intent_id=payment.payment_intent_id, amount_cents=500, idempotency_key=f"refund:{status}", metadata={}
    )
    assert made.status == (status or "")
    assert made.alive, "nothing is returned twice"
    assert payments.refunds_of(payment.payment_intent_id) == [made]


def test_pending_and_failed_refunds_are_told_apart(payments: StripePayments, sandbox: Sandbox) -> None:
    for fault, params, status in (
        ("refund_pending", {"then": None}, "pending"),
        ("refund_fails", {}, "failed"),
    ):
        payment = paid(payments, sandbox)
        sandbox.fault("stripe", fault, match={"payment_intent": payment.payment_intent_id}, **params)
        refund = payments.create_refund(
            payment_intent_id=payment.payment_intent_id,
            amount_cents=500,
            idempotency_key=f"refund:{payment.payment_intent_id}:1",
            metadata={},
        )
        assert refund.status == status
        assert payments.payment(payment.payment_intent_id).refunded_cents == (500 if status == "pending" else 0)


def test_a_refund_made_outside_is_seen(payments: StripePayments, sandbox: Sandbox) -> None:
    payment = paid(payments, sandbox)
    sandbox.control("stripe", "/_refund", payment_intent=payment.payment_intent_id, amount=120)
    assert payments.payment(payment.payment_intent_id).refunded_cents == 120
    assert [r.amount_cents for r in payments.refunds_of(payment.payment_intent_id)] == [120]


@pytest.mark.parametrize(("outcome", "refundable"), [("won", True), ("lost", False)])
def test_a_chargeback_blocks_the_refund_until_it_is_won(
    payments: StripePayments, sandbox: Sandbox, outcome: str, refundable: bool
) -> None:
    payment = paid(payments, sandbox)
    dispute = sandbox.control("stripe", "/_dispute", payment_intent=payment.payment_intent_id)
    facts = payments.payment(payment.payment_intent_id)
    assert (facts.disputed, facts.refundable) == (True, False)
    with pytest.raises(PermanentError) as raised:
        payments.create_refund(
            payment_intent_id=payment.payment_intent_id,
            amount_cents=500,
            idempotency_key=f"refund:{payment.payment_intent_id}:1",
            metadata={},
        )
    assert raised.value.reason == "charge_disputed"
    sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome=outcome)
    facts = payments.payment(payment.payment_intent_id)
    assert (facts.disputed, facts.refundable) == (True, refundable)


def test_an_inquiry_leaves_the_payment_refundable(payments: StripePayments, sandbox: Sandbox) -> None:
    payment = paid(payments, sandbox)
    sandbox.control("stripe", "/_dispute", payment_intent=payment.payment_intent_id, inquiry=True)
    facts = payments.payment(payment.payment_intent_id)
    assert (facts.disputed, facts.refundable) == (True, True)


def test_payments_of_this_shop_are_listed_newest_first_and_others_left_out(
    payments: StripePayments, sandbox: Sandbox
) -> None:
    ours = {"source": "sell-my-images", "job_id": "direct"}
    made = [
        sandbox.control("stripe", "/_pay", amount=100 + n, currency="usd", metadata=ours if n % 2 else {})["id"]
        for n in range(240)
    ]
    found = list(payments.payments_since(datetime.now(UTC) - timedelta(minutes=10)))
    direct = [facts for facts in found if facts.metadata["job_id"] == "direct"]
    assert [facts.payment_intent_id for facts in direct] == made[1::2][::-1]
    assert {facts.metadata["source"] for facts in found} == {"sell-my-images"}
    assert all(facts.fee_cents for facts in direct)
    assert list(payments.payments_since(datetime.now(UTC) + timedelta(minutes=5))) == []


def test_events_are_listed_newest_first_and_only_of_the_types_asked_for(
    payments: StripePayments, sandbox: Sandbox
) -> None:
    payment = paid(payments, sandbox)
    types = ("payment_intent.succeeded", "checkout.session.completed")
    events = list(payments.events_since(datetime.now(UTC) - timedelta(minutes=10), types))
    assert {event.type for event in events} == set(types)
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    assert any(event.object["id"] == payment.payment_intent_id for event in events[:2])
    assert events[0].object["metadata"]["job_id"] == payment.metadata["job_id"]
    assert len({event.event_id for event in events}) == len(events)


def test_webhooks_of_the_sandbox_are_verified_and_a_changed_one_is_refused(
    payments: StripePayments, sandbox: Sandbox, server: ScriptedServer
) -> None:
    server.says(200)
    sandbox.configure("stripe", webhook_url=f"{server.url}/smi-webhook/stripe")
    payment = paid(payments, sandbox)
    wanted = (b'"payment_intent.succeeded"', b'"checkout.session.completed"')  # they come in either order
    until(lambda: all(any(type_ in request.body for request in server.requests) for type_ in wanted))
    seen = {}
    for request in server.requests:
        event = payments.parse_webhook(request.body, request.headers["Stripe-Signature"])
        seen[event.type] = event.object
        with pytest.raises(RefusedError):
            payments.parse_webhook(request.body.replace(b"usd", b"eur"), request.headers["Stripe-Signature"])
        with pytest.raises(RefusedError):
            StripePayments(KEY, "whsec_other").parse_webhook(request.body, request.headers["Stripe-Signature"])
    assert seen["payment_intent.succeeded"]["id"] == payment.payment_intent_id
    assert seen["checkout.session.completed"]["payment_intent"] == payment.payment_intent_id


def test_a_wrong_key_is_a_matter_of_the_account_and_not_repeated_in_words(sandbox: Sandbox) -> None:
    with pytest.raises(AccountError) as raised:
        StripePayments("sk_test_wrong_key_0123", SECRET, sandbox.urls.stripe).payment("pi_1")
    assert "0123" not in str(raised.value)


@pytest.mark.parametrize("times", [1, 2])
def test_up_to_two_failed_tries_are_repeated_by_the_library(
    payments: StripePayments, sandbox: Sandbox, times: int
) -> None:
    payment = paid(payments, sandbox)
    sandbox.fault("stripe", "status", code=503, times=times, match={"endpoint": "payment_intents"})
    assert payments.payment(payment.payment_intent_id) == payment


def test_a_read_that_failed_once_is_tried_again_at_once(
    payments: StripePayments, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender of a webhook waits for it."""
    payment = paid(payments, sandbox)
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 20.0)  # seconds that the library would wait
    sandbox.fault("stripe", "drop", match={"endpoint": "payment_intents"})
    began = time.monotonic()
    assert payments.payment(payment.payment_intent_id) == payment
    assert time.monotonic() - began < 10


def test_more_failed_tries_are_ambiguous(payments: StripePayments, sandbox: Sandbox) -> None:
    sandbox.fault("stripe", "status", code=503, times=3, match={"endpoint": "payment_intents"})
    with pytest.raises(SmiError) as raised:
        payments.payment("pi_1")
    assert type(raised.value) is AnsweredError


@pytest.mark.parametrize(
    ("currency", "amount", "settled", "booked", "fee"),
    [
        ("eur", 1000, "usd", 1234, 66 / 1.234),  # 2.9% of $12.34 and 30 cents
        ("usd", 500, "jpy", 746, 52 / 1.492),  # 2.9% of 746 yen and 30 yen
        ("jpy", 1000, "usd", 670, 49 / 0.67),
        ("kwd", 5000, "usd", 1625, 77 / 0.325),
    ],
)
def test_a_fee_in_the_currency_of_the_balance_is_converted_at_its_own_rate(
    payments: StripePayments, sandbox: Sandbox, currency: str, amount: int, settled: str, booked: int, fee: float
) -> None:
    sandbox.configure("stripe", settlement_currency=settled)
    began = datetime.now(UTC)
    session = opened(payments, amount_cents=amount, currency=currency)
    facts = payments.payment(sandbox.pay(session.session_id)["id"])
    (move,) = balance_of(sandbox, facts)
    assert (move["amount"], move["currency"]) == (booked, settled)
    assert move["exchange_rate"] == pytest.approx(booked / amount, rel=0.002)
    assert (facts.amount_received_cents, facts.currency, facts.fee_cents) == (amount, currency, round(fee))
    payments.create_refund(
        payment_intent_id=facts.payment_intent_id,
        amount_cents=amount,
        idempotency_key=f"{session.session_id}",
        metadata={},
    )
    sandbox.control("stripe", "/_dispute", payment_intent=facts.payment_intent_id)
    found = {
        b.kind: (b.amount_cents, b.fee_cents, b.currency)
        for b in payments.bookings(began, datetime.now(UTC))
        if b.payment_intent_id == facts.payment_intent_id
    }
    assert found["charge"] == (amount, round(fee), currency)
    assert found["refund"] == (-amount, 0, currency)
    assert found["dispute"] == (-amount, round(1500 * amount / booked), currency)


# -- the balance -----------------------------------------------------------------------------------------------------


def test_bookings_tell_what_each_payment_left_on_the_balance(payments: StripePayments, sandbox: Sandbox) -> None:
    began = datetime.now(UTC)
    good, back, fought = (paid(payments, sandbox) for _ in range(3))
    payments.create_refund(
        payment_intent_id=back.payment_intent_id, amount_cents=200, idempotency_key="booked", metadata={}
    )
    sandbox.control("stripe", "/_dispute", payment_intent=fought.payment_intent_id)
    found = list(payments.bookings(began, datetime.now(UTC)))
    ours = {fact.payment_intent_id: fact for fact in (good, back, fought)}
    booked = {
        (b.payment_intent_id, b.kind): (b.amount_cents, b.fee_cents) for b in found if b.payment_intent_id in ours
    }
    assert booked == {
        **{(pi, "charge"): (500, fact.fee_cents) for pi, fact in ours.items()},
        (back.payment_intent_id, "refund"): (-200, 0),
        (fought.payment_intent_id, "dispute"): (-500, 1500),
    }
    assert list(payments.bookings(began - timedelta(days=2), began - timedelta(days=1))) == []
