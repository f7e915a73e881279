"""The Stripe sandbox serves the official library as Stripe does."""

import time
from functools import partial
from typing import Any

import pytest
import requests
import stripe

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.sandbox.conftest import new_session, paid, until


def refunds_of(sandbox: Sandbox, intent: str) -> list[dict[str, Any]]:
    return [line for line in sandbox.ledger("stripe")["refunds"] if line["payment_intent"] == intent]


def refund_is(client: Any, id: str, status: str) -> bool:
    return client.v1.refunds.retrieve(id).status == status


def happened(client: Any, event_type: str, id: str) -> bool:
    return any(event.data.object["id"] == id for event in client.v1.events.list({"type": event_type}).data)


def test_a_session_is_paid_on_its_page_and_has_its_intent_only_then(sandbox: Sandbox, client: Any) -> None:
    session = new_session(client, job_id="page")
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    page = requests.get(session.url, timeout=10).text
    assert "$5.00" in page
    assert "Astronaut, 4x" in page
    reply = requests.post(session.url, data={"card": "4242 4242 4242 4242"}, allow_redirects=False, timeout=10)
    assert (reply.status_code, reply.headers["Location"]) == (303, f"https://shop.example/thanks?session={session.id}")
    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert (done.status, done.payment_status, done.url) == ("complete", "paid", None)
    assert (done.payment_intent.status, done.payment_intent.amount_received) == ("succeeded", 500)
    assert done.payment_intent.metadata["job_id"] == "page"
    again = requests.post(session.url, allow_redirects=False, timeout=10)
    assert again.status_code == 303
    assert "already paid" in requests.get(session.url, timeout=10).text
    intents = [line for line in sandbox.ledger("stripe")["intents"] if line["metadata"].get("job_id") == "page"]
    assert [line["amount_received"] for line in intents] == [500]


def test_a_session_without_an_address_asks_for_it_on_its_page(client: Any) -> None:
    session = new_session(client, email=None)
    assert session.customer_details is None
    assert 'name="email" type="email" value=""' in requests.get(session.url, timeout=10).text
    refused = requests.post(session.url, data={"card": "4242 4242 4242 4242"}, timeout=10)
    assert (refused.status_code, "Enter your email" in refused.text) == (402, True)
    form = {"card": "4242 4242 4242 4242", "email": "ben@example.org"}
    assert requests.post(session.url, data=form, allow_redirects=False, timeout=10).status_code == 303
    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent.latest_charge"]})
    assert (done.customer_email, done.customer_details.email) == (None, "ben@example.org")
    assert done.payment_intent.latest_charge.billing_details.email == "ben@example.org"


def test_a_declined_card_leaves_the_session_open(client: Any) -> None:
    session = new_session(client)
    reply = requests.post(session.url, data={"card": "4000 0000 0000 0002"}, timeout=10)
    assert (reply.status_code, "declined" in reply.text) == (402, True)
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"


def test_the_fee_is_on_the_balance_transaction_and_stays_after_a_refund(sandbox: Sandbox, client: Any) -> None:
    before = sandbox.ledger("stripe")["balance_cents"]
    id = paid(sandbox, client, cents=1000)
    intent = client.v1.payment_intents.retrieve(id, {"expand": ["latest_charge.balance_transaction"]})
    movement = intent.latest_charge.balance_transaction
    assert (movement.amount, movement.fee, movement.net) == (1000, 59, 941)
    assert sandbox.ledger("stripe")["balance_cents"] == before + 941
    client.v1.refunds.create({"payment_intent": id})
    assert sandbox.ledger("stripe")["balance_cents"] == before - 59
    assert client.v1.balance_transactions.list({"type": "refund", "limit": 1}).data[0].amount == -1000


def test_the_ledger_has_the_fixed_fields(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    client.v1.refunds.create({"payment_intent": id, "amount": 200}, {"idempotency_key": "refund:fixed:1"})
    ledger = sandbox.ledger("stripe")
    assert set(ledger) == {"intents", "refunds", "balance_cents"}
    needed = {"id", "amount", "amount_received", "currency", "status", "metadata", "latest_charge"}
    assert needed <= set(ledger["intents"][-1])
    assert ledger["refunds"][-1] == {
        "id": ledger["refunds"][-1]["id"],
        "payment_intent": id,
        "amount": 200,
        "status": "succeeded",
        "idempotency_key": "refund:fixed:1",
    }


def test_an_idempotency_key_replays_the_first_answer(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    answers = [
        client.v1.refunds.create({"payment_intent": id, "amount": 100}, {"idempotency_key": "replay"}) for _ in range(3)
    ]
    assert len({answer.id for answer in answers}) == 1
    assert [answer.last_response.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
    assert len(refunds_of(sandbox, id)) == 1


def test_an_idempotency_key_with_other_parameters_is_refused(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    client.v1.refunds.create({"payment_intent": id, "amount": 100}, {"idempotency_key": "mismatch"})
    with pytest.raises(stripe.IdempotencyError) as raised:
        client.v1.refunds.create({"payment_intent": id, "amount": 101}, {"idempotency_key": "mismatch"})
    assert raised.value.http_status == 400
    assert len(refunds_of(sandbox, id)) == 1


def test_an_idempotency_key_is_forgotten_after_a_day(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    client.v1.refunds.create({"payment_intent": id, "amount": 100}, {"idempotency_key": "old"})
    sandbox.configure("stripe", clock_offset=25 * 3600)
    client.v1.refunds.create({"payment_intent": id, "amount": 100}, {"idempotency_key": "old"})
    assert len(refunds_of(sandbox, id)) == 2


def test_over_refunding_is_refused(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    client.v1.refunds.create({"payment_intent": id, "amount": 300})
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"payment_intent": id, "amount": 201})
    assert (raised.value.code, raised.value.param) == ("amount_too_large", "amount")
    client.v1.refunds.create({"payment_intent": id})
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"payment_intent": id})
    assert raised.value.code == "charge_already_refunded"
    assert sum(refund["amount"] for refund in refunds_of(sandbox, id)) == 500
    charge = client.v1.charges.list({"payment_intent": id}).data[0]
    assert (charge.amount_refunded, charge.refunded) == (500, True)


def test_a_refund_can_be_pending_and_then_succeed_or_fail(sandbox: Sandbox, client: Any) -> None:
    for then in ("succeeded", "failed"):
        id = paid(sandbox, client, job_id=then)
        sandbox.fault("stripe", "refund_pending", match={"job_id": then}, seconds=0.2, then=then)
        refund = client.v1.refunds.create({"payment_intent": id})
        assert refund.status == "pending"
        until(partial(refund_is, client, refund.id, then))
        assert client.v1.charges.list({"payment_intent": id}).data[0].refunded is (then == "succeeded")
    # what failed can be refunded again
    assert client.v1.refunds.create({"payment_intent": id}).status == "succeeded"


def test_a_refund_can_fail_at_once_or_after_it_succeeded(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    sandbox.fault("stripe", "refund_fails", match={"payment_intent": id})
    assert client.v1.refunds.create({"payment_intent": id}).status == "failed"
    sandbox.fault("stripe", "refund_fails", match={"payment_intent": id}, seconds=0.1)
    refund = client.v1.refunds.create({"payment_intent": id})
    assert refund.status == "succeeded"
    until(lambda: client.v1.refunds.retrieve(refund.id).failure_reason)
    types = [event.type for event in client.v1.events.list({"limit": 5}).data]
    assert types[:2] == ["refund.failed", "refund.updated"]


def test_a_disputed_charge_is_not_refundable_until_the_dispute_is_won(sandbox: Sandbox, client: Any) -> None:
    before = sandbox.ledger("stripe")["balance_cents"]
    id = paid(sandbox, client, cents=1000)
    dispute = sandbox.control("stripe", "/_dispute", payment_intent=id)
    assert client.v1.disputes.list({"payment_intent": id}).data[0].status == "needs_response"
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"payment_intent": id})
    assert raised.value.code == "charge_disputed"
    sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="won")
    assert client.v1.refunds.create({"payment_intent": id}).status == "succeeded"
    lost = paid(sandbox, client, cents=1000)
    dispute = sandbox.control("stripe", "/_dispute", payment_intent=lost)
    sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="lost")
    assert client.v1.disputes.retrieve(dispute["id"]).status == "lost"
    assert sandbox.ledger("stripe")["balance_cents"] == before + 941 - 1000 + 941 - 1000


def test_an_inquiry_leaves_the_charge_refundable(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    sandbox.control("stripe", "/_dispute", payment_intent=id, inquiry=True)
    assert client.v1.refunds.create({"payment_intent": id}).status == "succeeded"


def test_a_dispute_can_follow_a_payment_by_itself(sandbox: Sandbox, client: Any) -> None:
    sandbox.fault("stripe", "dispute", match={"job_id": "fraud"}, outcome="lost", outcome_seconds=0.1)
    id = paid(sandbox, client, job_id="fraud")
    until(lambda: [each.status for each in client.v1.disputes.list({"payment_intent": id}).data] == ["lost"])


def test_a_refund_by_hand_and_a_payment_from_elsewhere(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    sandbox.control("stripe", "/_refund", payment_intent=id, amount=120)
    (refund,) = refunds_of(sandbox, id)
    assert (refund["amount"], refund["idempotency_key"]) == (120, None)
    foreign = sandbox.control("stripe", "/_pay", amount=4200, currency="eur", metadata={"source": "other"})
    assert client.v1.payment_intents.retrieve(foreign["id"]).currency == "eur"


def test_a_session_can_be_paid_with_a_wrong_amount_and_currency(sandbox: Sandbox, client: Any) -> None:
    intent = sandbox.pay(new_session(client).id, amount=123, currency="eur")
    assert (intent["amount_received"], intent["currency"]) == (123, "eur")


def test_a_bank_debit_is_decided_later(sandbox: Sandbox, client: Any) -> None:
    for outcome, status in (("async", "paid"), ("async_failed", "unpaid")):
        session = new_session(client)
        assert sandbox.pay(session.id, outcome=outcome, seconds=0.1)["status"] == "processing"
        event = {"async": "succeeded", "async_failed": "failed"}[outcome]
        until(partial(happened, client, f"checkout.session.async_payment_{event}", session.id))
        assert client.v1.checkout.sessions.retrieve(session.id).payment_status == status


def test_sessions_expire_by_request_and_by_time(sandbox: Sandbox, client: Any) -> None:
    session = new_session(client)
    assert client.v1.checkout.sessions.expire(session.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(session.id)
    with pytest.raises(ValueError, match="expired"):
        sandbox.pay(session.id)
    assert "expired" in requests.get(f"{sandbox.urls.stripe}/c/pay/{session.id}", timeout=10).text
    session = new_session(client)
    sandbox.configure("stripe", clock_offset=25 * 3600)
    until(lambda: client.v1.checkout.sessions.retrieve(session.id).status == "expired")


def test_lists_have_pages_newest_first(sandbox: Sandbox, client: Any) -> None:
    started = int(time.time())
    ids = [paid(sandbox, client, job_id=f"page-{number}") for number in range(5)]
    page = client.v1.payment_intents.list({"limit": 2})
    assert ([each.id for each in page.data], page.has_more) == ([ids[4], ids[3]], True)
    rest = client.v1.payment_intents.list({"limit": 3, "starting_after": ids[3]})
    assert [each.id for each in rest.data] == [ids[2], ids[1], ids[0]]
    recent = client.v1.payment_intents.list({"limit": 100, "created": {"gte": started}}).data
    assert [each.id for each in recent][:5] == ids[::-1]
    assert client.v1.payment_intents.list({"created": {"gt": started + 1000}}).data == []
    walked = list(client.v1.payment_intents.list({"limit": 2, "created": {"gte": started}}).auto_paging_iter())
    assert [each.id for each in walked][:5] == ids[::-1]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/v1/payment_intents/pi_none", 404, "resource_missing"), ("/v1/nonsense", 404, None),
     ("/v1/refunds?colour=red", 400, "parameter_unknown"), ("/v1/refunds?limit=0", 400, "parameter_invalid_integer"),
     ("/v1/charges?expand[]=data.nonsense", 400, None)],
)  # fmt: skip
def test_errors_have_stripes_shape(sandbox: Sandbox, path: str, status: int, code: str | None) -> None:
    sandbox.control("stripe", "/_pay", amount=100, currency="usd")  # so that there is something to list
    headers = {"Authorization": "Bearer sk_test_sandbox"}
    reply = requests.get(sandbox.urls.stripe + path, headers=headers, timeout=10)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["type"], error.get("code")) == ("invalid_request_error", code)
    assert error["message"]


def test_a_wrong_key_is_a_401(sandbox: Sandbox) -> None:
    wrong = stripe.StripeClient("sk_test_wrong", base_addresses={"api": sandbox.urls.stripe})
    with pytest.raises(stripe.AuthenticationError):
        wrong.v1.balance.retrieve()
    assert requests.get(f"{sandbox.urls.stripe}/v1/balance", timeout=10).status_code == 401


@pytest.mark.parametrize("change", [{"mode": ""}, {"mode": "setup"}, {"line_items": []}, {"success_url": ""},
                                    {"expires_at": 5}, {"nonsense": "x"}, {"api_key": "x"}])  # fmt: skip
def test_a_session_that_makes_no_sense_is_refused(client: Any, change: dict[str, Any]) -> None:
    price = {"currency": "usd", "unit_amount": 500, "product_data": {"name": "x"}}
    params: dict[str, Any] = {"mode": "payment", "success_url": "https://x.example/"}
    params |= {"line_items": [{"price_data": price, "quantity": 1}], **change}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.create(params)


def test_the_library_recovers_from_dropped_answers_without_a_second_refund(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    sandbox.fault("stripe", "accept_then_drop", match={"endpoint": "refunds"})
    refund = client.v1.refunds.create({"payment_intent": id})
    assert [line["id"] for line in refunds_of(sandbox, id)] == [refund.id]


def test_a_500_after_the_work_is_replayed_for_its_key(sandbox: Sandbox, client: Any) -> None:
    id = paid(sandbox, client)
    sandbox.fault("stripe", "status", match={"endpoint": "refunds"}, code=500, after_work=True)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            client.v1.refunds.create({"payment_intent": id}, {"idempotency_key": "five-hundred"})
    assert len(refunds_of(sandbox, id)) == 1
    assert client.v1.refunds.list({"payment_intent": id}).data[0].status == "succeeded"


@pytest.mark.parametrize("kind", ["status", "drop", "garbage", "latency"])
def test_faults_of_requests_hit_the_api(sandbox: Sandbox, kind: str) -> None:
    impatient = stripe.StripeClient("sk_test_sandbox", base_addresses={"api": sandbox.urls.stripe})
    params = {"code": 503} if kind == "status" else {"seconds": 0.2} if kind == "latency" else {}
    sandbox.fault("stripe", kind, match={"endpoint": "balance"}, **params)
    started = time.monotonic()
    if kind == "latency":
        impatient.v1.balance.retrieve()
        assert time.monotonic() - started >= 0.2
    else:
        with pytest.raises((stripe.APIError, stripe.APIConnectionError)):
            impatient.v1.balance.retrieve({}, {"max_network_retries": 0})
    assert impatient.v1.balance.retrieve().object == "balance"
