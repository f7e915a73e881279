"""The Stripe sandbox signs its webhooks and delivers them at least once, unless told otherwise."""

import json
import time
from typing import Any

import pytest
import stripe

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.sandbox.conftest import Receiver, new_session, paid, until

SECRET = "whsec_sandbox"


@pytest.fixture
def hooked(sandbox: Sandbox, receiver: Receiver) -> Sandbox:
    sandbox.configure("stripe", webhook_url=f"{receiver.url}/hook")
    return sandbox


def types(receiver: Receiver) -> list[str]:
    return [body["type"] for body in receiver.bodies("/hook")]


def test_of_two_webhook_secrets_each_has_its_signature(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    hooked.configure("stripe", webhook_secret=f"whsec_new,{SECRET}")
    try:
        paid(hooked, client, job_id="rolled")
        until(lambda: receiver.received)
    finally:
        hooked.configure("stripe", webhook_secret=SECRET)
    _, headers, body = receiver.received[0]
    for secret in ("whsec_new", SECRET):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], f"whsec_new,{SECRET}")


def test_a_payment_sends_signed_events(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    id = paid(hooked, client, job_id="signed")
    until(lambda: len(receiver.received) == 3)
    events = {}
    for _, headers, body in receiver.received:
        event = stripe.Webhook.construct_event(body, headers["Stripe-Signature"], SECRET)
        events[event.type] = event
    assert set(events) == {"charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"}
    assert events["payment_intent.succeeded"].data.object["id"] == id
    session = events["checkout.session.completed"].data.object
    assert (session["payment_intent"], session["payment_status"]) == (id, "paid")
    assert session["metadata"]["job_id"] == "signed"


def test_a_changed_body_or_another_secret_does_not_verify(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    paid(hooked, client)
    until(lambda: receiver.received)
    _, headers, body = receiver.received[0]
    for payload, secret in (
        (body.replace(b'"livemode": false', b'"livemode": true'), SECRET),
        (body + b" ", SECRET),
        (body, "x"),
    ):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(payload, headers["Stripe-Signature"], secret)


def test_a_sandbox_whose_clock_is_off_signs_with_its_own_time(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    hooked.configure("stripe", clock_offset=-600)
    paid(hooked, client)
    until(lambda: receiver.received)
    _, headers, body = receiver.received[0]
    with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], SECRET)


def test_a_sandbox_whose_clock_is_off_can_sign_with_the_machines_time(
    hooked: Sandbox, client: Any, receiver: Receiver
) -> None:
    hooked.configure("stripe", clock_offset=-600, signing_clock="machine")
    paid(hooked, client)
    until(lambda: receiver.received)
    _, headers, body = receiver.received[0]
    stripe.Webhook.construct_event(body, headers["Stripe-Signature"], SECRET)


def test_a_webhook_is_tried_again_until_it_is_taken(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    receiver.statuses["/hook"] = [500, 503, 404]
    paid(hooked, client)
    until(lambda: len(receiver.received) == 6)
    ids = [body["id"] for body in receiver.bodies("/hook")]
    assert len(set(ids)) == 3


def test_a_lost_webhook_is_still_in_the_list_of_events(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    match = {"event_type": "checkout.session.completed", "job_id": "lost"}
    hooked.fault("stripe", "lose_webhook", match=match)
    started = int(time.time())
    session = new_session(client, job_id="lost")
    hooked.pay(session.id)
    until(lambda: len(receiver.received) == 2)
    time.sleep(0.2)
    assert "checkout.session.completed" not in types(receiver)
    params = {"types": ["checkout.session.completed"], "created": {"gte": started}}
    (event, *_) = client.v1.events.list(params).data
    assert event.data.object["id"] == session.id
    assert client.v1.events.retrieve(event.id).type == "checkout.session.completed"
    hooked.control("stripe", "/_event", id=event.id, times=2)
    until(lambda: types(receiver).count("checkout.session.completed") == 2)


def test_webhooks_are_repeated_and_late(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    hooked.fault("stripe", "repeat_webhook", match={"event_type": "payment_intent.succeeded"}, n=3)
    hooked.fault("stripe", "delay_webhook", match={"event_type": "charge.succeeded"}, seconds=1)
    paid(hooked, client)
    until(lambda: len(receiver.received) == 5)
    assert types(receiver).count("payment_intent.succeeded") == 3
    assert types(receiver)[-1] == "charge.succeeded"


def test_shuffle_turns_the_order_round(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    hooked.fault("stripe", "shuffle", size=3, seconds=0.3)
    paid(hooked, client)
    until(lambda: len(receiver.received) == 3)
    assert types(receiver) == ["checkout.session.completed", "payment_intent.succeeded", "charge.succeeded"]


def test_the_webhook_of_a_refund_can_come_before_the_answer_to_the_refund(
    hooked: Sandbox, client: Any, receiver: Receiver
) -> None:
    id = paid(hooked, client)
    hooked.fault("stripe", "latency", match={"endpoint": "refunds"}, seconds=0.4, after_work=True)
    client.v1.refunds.create({"payment_intent": id})
    assert {"refund.created", "charge.refunded"} <= set(types(receiver))


def test_every_money_event_is_sent(hooked: Sandbox, client: Any, receiver: Receiver) -> None:
    hooked.pay(new_session(client).id, outcome="declined")
    client.v1.checkout.sessions.expire(new_session(client).id)
    id = paid(hooked, client)
    hooked.fault("stripe", "refund_fails", match={"payment_intent": id})
    client.v1.refunds.create({"payment_intent": id})
    dispute = hooked.control("stripe", "/_dispute", payment_intent=id)
    hooked.control("stripe", "/_dispute", dispute=dispute["id"], outcome="won")
    expected = {"payment_intent.payment_failed", "checkout.session.expired", "refund.created", "charge.refunded",
                "refund.updated", "refund.failed", "charge.dispute.created", "charge.dispute.closed"}  # fmt: skip
    until(lambda: expected <= set(types(receiver)))
    assert all(json.loads(body)["object"] == "event" for _, _, body in receiver.received)


def test_old_events_are_sent_again_when_so_many_webhooks_per_second_are_asked_for(
    hooked: Sandbox, client: Any, receiver: Receiver
) -> None:
    paid(hooked, client)
    hooked.configure("stripe", webhooks_per_second=40)
    until(lambda: len(receiver.received) >= 60)
    assert len({body["id"] for body in receiver.bodies("/hook")}) >= 3
