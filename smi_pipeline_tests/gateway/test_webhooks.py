"""Webhooks: what each is answered, and that none has its effect twice."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from smi_pipeline.core.models import Queue, Status
from smi_pipeline.gateway import threads
from smi_pipeline.gateway.threads import EVENTS, QUICK
from smi_pipeline_tests.gateway.shop import Shop, signed, stripe_event, wait_for

STRIPE = "/smi-webhook/stripe"
UPSAMPLER = "/smi-webhook/upsampler/"


def paid_intent(shop: Shop) -> tuple[str, dict[str, Any]]:
    """A registered job whose Checkout was paid at the sandbox, without any webhook: (job_id, PaymentIntent)."""
    assert shop.sandbox
    data = shop.register().json()["data"]
    intent = shop.sandbox.pay(data["checkout_url"].rpartition("/")[2])
    return data["job_id"], intent


def post(shop: Shop, body: bytes, **how: Any) -> Any:
    return shop.client.post(STRIPE, content=body, headers=signed(body, **how))


def test_a_verified_payment_starts_its_job_and_kicks_the_submission(whole_shop: Shop) -> None:
    job_id, intent = paid_intent(whole_shop)
    reply = post(whole_shop, stripe_event("payment_intent.succeeded", intent))
    assert (reply.status_code, reply.json()) == (200, {"success": True, "data": {"effect": "order"}})
    assert whole_shop.job(job_id).status is Status.PENDING
    wait_for(lambda: whole_shop.dispatched == [Queue.SUBMIT])


def test_the_same_event_twenty_times_at_once_has_one_effect(whole_shop: Shop) -> None:
    job_id, intent = paid_intent(whole_shop)
    body = stripe_event("payment_intent.succeeded", intent)
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: post(whole_shop, body), range(20)))
    assert {reply.status_code for reply in replies} == {200}
    effects = sorted(reply.json()["data"]["effect"] for reply in replies)
    assert effects == ["order"] + ["repeated"] * 19
    assert [e.event for e in whole_shop.state.queries.events(job_id)].count("paid") == 1
    assert whole_shop.state.refunds.of_job(job_id) == []
    wait_for(lambda: whole_shop.dispatched == [Queue.SUBMIT])


def test_two_events_of_one_payment_have_one_effect(whole_shop: Shop) -> None:
    job_id, intent = paid_intent(whole_shop)
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "payment_status": "paid",
        "payment_intent": intent["id"],
        "metadata": intent["metadata"],
    }
    first = post(whole_shop, stripe_event("checkout.session.completed", session))
    second = post(whole_shop, stripe_event("payment_intent.succeeded", intent))
    assert [r.json()["data"]["effect"] for r in (first, second)] == ["order", "known"]
    assert whole_shop.state.refunds.of_job(job_id) == []


def test_a_forged_webhook_changes_no_row(whole_shop: Shop) -> None:
    _, intent = paid_intent(whole_shop)
    body = stripe_event("payment_intent.succeeded", intent)
    good = signed(body)["Stripe-Signature"]
    before = whole_shop.everything()
    for signature in (
        None,
        "",
        "t=1,v1=00",
        "nonsense",
        signed(body, secret="whsec_wrong")["Stripe-Signature"],
        signed(body, secret="")["Stripe-Signature"],
        signed(body, age=3600)["Stripe-Signature"],
        signed(body + b" ")["Stripe-Signature"],
        good[:-1] + ("0" if good[-1] != "0" else "1"),
    ):
        headers = {} if signature is None else {"Stripe-Signature": signature}
        reply = whole_shop.client.post(STRIPE, content=body, headers=headers)
        assert reply.status_code == 400, signature
        assert reply.json()["error"]["code"] == "bad_request"
    assert whole_shop.everything() == before
    assert whole_shop.dispatched == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": 1}', b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_signed_body_that_is_no_event_is_a_400(shop: Shop, body: bytes) -> None:
    reply = post(shop, body)
    assert reply.status_code == 400
    assert "\n" not in reply.json()["error"]["message"]


def test_what_is_authentic_but_not_ours_is_a_200_without_effect(shop: Shop) -> None:
    before = shop.everything()
    theirs = {"id": "pi_theirs", "object": "payment_intent", "metadata": {"source": "another-shop"}}
    for type_, obj in (
        ("payment_intent.succeeded", theirs),
        ("customer.created", {"id": "cus_1", "object": "customer"}),
        ("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": "pi_theirs"}),
    ):
        reply = post(shop, stripe_event(type_, obj))
        assert reply.status_code == 200
        assert reply.json()["data"]["effect"] in ("not ours", "not handled")
    assert shop.everything() == before


def test_two_megabytes_are_too_much_with_and_without_an_announced_length(shop: Shop) -> None:
    big = b"x" * 2_000_000

    def pieces():
        for start in range(0, len(big), 50_000):
            yield big[start : start + 50_000]

    for path in (STRIPE, UPSAMPLER + "a" * 64):
        for content in (big, pieces()):
            reply = shop.client.post(path, content=content)
            assert reply.status_code == 413
            assert reply.json()["error"]["code"] == "too_large"


def test_a_megabyte_is_read(shop: Shop) -> None:
    reply = shop.client.post(STRIPE, content=b"x" * 1_000_000)
    assert reply.status_code == 400  # the signature, not the size


def test_without_a_database_stripe_is_asked_to_come_again(dead_shop: Shop) -> None:
    body = stripe_event("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": "pi_1"})
    reply = post(dead_shop, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) >= 1


def test_while_stripe_itself_fails_the_event_is_to_come_again_and_then_works(whole_shop: Shop) -> None:
    job_id, intent = paid_intent(whole_shop)
    body = stripe_event("payment_intent.succeeded", intent)
    assert whole_shop.sandbox
    whole_shop.sandbox.fault("stripe", "status", code=500, times=10, match={"endpoint": "payment_intents"})
    assert post(whole_shop, body).status_code == 503
    assert whole_shop.job(job_id).status is Status.AWAITING_PAYMENT
    whole_shop.sandbox.clear_faults("stripe")
    assert post(whole_shop, body).json()["data"]["effect"] == "order"


def test_while_stripe_does_not_answer_everybody_else_is_served(make_shop) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    silent.settimeout(20)
    shop = make_shop(stripe_api_base=f"http://127.0.0.1:{silent.getsockname()[1]}")
    job_id = shop.submitted()
    intent = {"id": "pi_1", "object": "payment_intent", "metadata": {"source": "sell-my-images", "job_id": job_id}}
    number = max(EVENTS, QUICK)
    with ThreadPoolExecutor(number) as pool:
        waiting = [pool.submit(post, shop, stripe_event("payment_intent.succeeded", intent)) for _ in range(number)]
        held = [silent.accept()[0] for _ in range(EVENTS)]
        try:  # each of these within a time in which Stripe is still waited for
            asked = [shop.client.get(f"/smi/v1/job-status/{job_id}", timeout=8), shop.client.get("/health", timeout=8)]
            asked.append(shop.client.post(UPSAMPLER + shop.callback, json={"id": "x", "status": "SUCCESS"}, timeout=8))
            assert [reply.status_code for reply in asked] == [200, 200, 200]
            assert not any(each.done() for each in waiting)
        finally:
            for connection in (silent, *held):
                connection.close()
    assert {each.result().status_code for each in waiting} == {503}


def test_while_stripe_does_not_answer_so_many_events_wait_and_the_others_are_to_come_again_at_once(
    make_shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "EVENTS_WAITING", 1)
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    silent.settimeout(20)
    shop = make_shop(stripe_api_base=f"http://127.0.0.1:{silent.getsockname()[1]}")
    intent = {"id": "pi_1", "object": "payment_intent", "metadata": {"source": "sell-my-images", "job_id": "x"}}
    with ThreadPoolExecutor(EVENTS + 3) as pool:
        sent = [pool.submit(post, shop, stripe_event("payment_intent.succeeded", intent)) for _ in range(EVENTS + 3)]
        held = [silent.accept()[0] for _ in range(EVENTS)]
        try:
            wait_for(lambda: sum(each.done() for each in sent) == 2)
            turned_away = [each.result() for each in sent if each.done()]
            assert [(reply.status_code, "Retry-After" in reply.headers) for reply in turned_away] == [(503, True)] * 2
        finally:
            for connection in (silent, *held):
                connection.close()


def test_an_event_about_an_object_that_stripe_does_not_know_is_to_come_again(whole_shop: Shop) -> None:
    intent = {"id": "pi_gone", "object": "payment_intent", "metadata": {"source": "sell-my-images", "job_id": "x"}}
    assert post(whole_shop, stripe_event("payment_intent.succeeded", intent)).status_code == 503


def test_without_a_configured_secret_no_signature_is_good(make_shop) -> None:
    shop = make_shop(stripe_webhook_secret="")
    body = stripe_event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})
    reply = post(shop, body, secret="")
    assert reply.status_code == 503
    assert "STRIPE_WEBHOOK_SECRET" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"job_id": "up", "status": "completed", "result_url": "https://cdn.example/x.png", "metadata": {}},
        {"id": "up", "status": "SUCCESS", "imageUrl": "https://cdn.example/x.png", "creditCost": 2},
    ],
)
def test_a_hint_of_either_wire_makes_the_status_call_due_and_kicks(shop: Shop, body: dict[str, Any]) -> None:
    job_id = shop.submitted()
    reply = shop.client.post(UPSAMPLER + shop.callback, json=body)
    assert (reply.status_code, reply.json()["data"]) == (200, {"effect": "noted"})
    [row] = shop.sql("SELECT hinted, next_poll_at <= smi.now() AS due, result_url FROM smi.submissions")
    assert row == {"hinted": True, "due": True, "result_url": None}
    assert shop.job(job_id).status is Status.PROCESSING
    wait_for(lambda: shop.dispatched == [Queue.FULFIL])


@pytest.mark.parametrize("token", ["f" * 64, "x" * 64, "short", "f" * 65, "F" * 64, "a" * 3000])
def test_an_unknown_token_is_a_404_and_changes_nothing(shop: Shop, token: str) -> None:
    shop.submitted()
    before = shop.everything()
    reply = shop.client.post(UPSAMPLER + token, json={"id": "up", "status": "FAILED", "error": "forged"})
    assert reply.status_code == 404
    assert shop.everything() == before
    assert shop.dispatched == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff", b'"text"'])
def test_an_unreadable_hint_is_a_400_and_changes_nothing(shop: Shop, body: bytes) -> None:
    shop.submitted()
    before = shop.everything()
    reply = shop.client.post(UPSAMPLER + shop.callback, content=body)
    assert reply.status_code == 400
    assert shop.everything() == before


def test_without_a_database_upsampler_is_asked_to_come_again(dead_shop: Shop) -> None:
    reply = dead_shop.client.post(UPSAMPLER + "f" * 64, json={"id": "up", "status": "SUCCESS"})
    assert reply.status_code == 503


def test_webhooks_of_stripe_are_posted(shop: Shop) -> None:
    reply = shop.client.get(STRIPE)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_an_immediate_dispatch_that_fails_is_only_logged(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def broken(queue: Queue) -> None:
        called.append(queue)
        raise RuntimeError("no dagster")

    monkeypatch.setattr(shop.app.state.gateway.dispatch, "_on_work", broken)
    for _ in range(6):  # more than there are threads
        shop.submitted()
        assert shop.client.post(UPSAMPLER + shop.callback, json={"id": "u", "status": "SUCCESS"}).status_code == 200
    wait_for(lambda: len(called) == 6)


def test_webhooks_are_counted_by_what_they_did(whole_shop: Shop) -> None:
    _, intent = paid_intent(whole_shop)
    body = stripe_event("payment_intent.succeeded", intent)
    post(whole_shop, body)
    post(whole_shop, body)
    post(whole_shop, body, secret="wrong")
    metrics = whole_shop.client.get("/metrics").text
    assert 'smi_webhooks_total{outcome="order",source="stripe"} 1.0' in metrics
    assert 'smi_webhooks_total{outcome="repeated",source="stripe"} 1.0' in metrics
    assert 'smi_webhooks_total{outcome="refused",source="stripe"} 1.0' in metrics
    assert 'smi_webhook_seconds_count{source="stripe"} 3.0' in metrics
    assert json.dumps(intent["id"]) not in metrics


def test_a_thin_event_and_one_of_a_connected_account_are_a_200(shop: Shop) -> None:
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.payment_intent.succeeded",
        "created": "2026-05-01T12:00:00.000Z",
        "related_object": {"id": "pi_1", "type": "payment_intent"},
    }
    reply = post(shop, json.dumps(thin).encode())
    assert (reply.status_code, reply.json()["data"]["effect"]) == (200, "not handled")
    intent = {"id": "pi_1", "object": "payment_intent", "metadata": {"source": "sell-my-images", "job_id": "x"}}
    theirs = json.loads(stripe_event("payment_intent.succeeded", intent)) | {"account": "acct_theirs"}
    reply = post(shop, json.dumps(theirs).encode())
    assert (reply.status_code, reply.json()["data"]["effect"]) == (200, "not ours")


@pytest.mark.parametrize("how", ["get", "get with words", "form", "form without words"])
def test_upsamplers_webhook_may_be_a_get_or_a_form(shop: Shop, how: str) -> None:
    shop.submitted()
    path = UPSAMPLER + shop.callback
    if how.startswith("get"):
        reply = shop.client.get(path, params={"id": "x", "status": "SUCCESS"} if "words" in how else None)
    else:
        fields = {"job_id": "x", "status": "SUCCESS"} if how == "form" else {"unknown": "1"}
        reply = shop.client.post(path, data=fields)
    assert (reply.status_code, reply.json()) == (200, {"success": True, "data": {"effect": "noted"}})
    wait_for(lambda: shop.dispatched[-1:] == [Queue.FULFIL])
    assert shop.client.get(UPSAMPLER + "f" * 64).status_code == 404
