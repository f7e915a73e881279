"""Webhooks in a storm: each of an order's life a hundred times, shuffled, sixteen at once, has one effect; forged ones
have none. SMI_FULL=1 (`make storm`) forges ten times as many; -s shows how long the answers took."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from smi_pipeline.core import reasons
from smi_pipeline.core.lifecycle import callback_token
from smi_pipeline.core.models import Queue, Status
from smi_pipeline.services import completions, fulfil, refund, submit
from smi_pipeline_tests.gateway.shop import SECRET_KEY, Shop, signed, stripe_event, wait_for

TIMES, AT_ONCE = 100, 16
FORGED = 10_000 if os.environ.get("SMI_FULL") else 1_000
STRIPE, UPSAMPLER = "/smi-webhook/stripe", "/smi-webhook/upsampler/"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway's own log would hide the figures."""
    with capture_logs():
        yield


Request = tuple[str, bytes, dict[str, str]]


def storm(shop: Shop, requests: list[Request], *, times: int = TIMES, seed: int = 1) -> Counter[int]:
    """Sends each request so many times, shuffled, sixteen at once. Returns how often each status was answered."""
    sent = requests * times
    random.Random(seed).shuffle(sent)

    def post(request: Request) -> tuple[int, float]:
        path, body, headers = request
        started = perf_counter()
        reply = shop.client.post(path, content=body, headers=headers)
        return reply.status_code, perf_counter() - started

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(post, sent))
    taken = sorted(seconds * 1000 for _, seconds in answers)
    p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    print(f"{len(answers)} webhooks, {AT_ONCE} at once: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return Counter(status for status, _ in answers)


def event(type_: str, obj: dict[str, Any]) -> Request:
    body = stripe_event(type_, obj)
    return STRIPE, body, signed(body)


def bought(shop: Shop) -> tuple[str, dict[str, Any], list[Request]]:
    """An order paid at the Stripe stand-in: its number, PaymentIntent, and the events that tell of the payment."""
    assert shop.sandbox
    data = shop.register().json()["data"]
    session = data["checkout_url"].rpartition("/")[2]
    intent = shop.sandbox.pay(session)
    checkout = {
        "id": session,
        "object": "checkout.session",
        "payment_status": "paid",
        "payment_intent": intent["id"],
        "metadata": intent["metadata"],
    }
    told = [
        event("payment_intent.succeeded", intent),
        event("checkout.session.completed", checkout),
        event("checkout.session.async_payment_succeeded", checkout),
        event("payment_intent.payment_failed", intent),  # an earlier try, told late
        event("checkout.session.expired", checkout | {"payment_status": "unpaid"}),
    ]
    return data["job_id"], intent, told


def refunds(shop: Shop, intent: dict[str, Any]) -> list[dict[str, Any]]:
    """The refunds of a payment in the stand-in's ledger."""
    assert shop.sandbox
    return [row for row in shop.sandbox.ledger("stripe")["refunds"] if row["payment_intent"] == intent["id"]]


def rows(shop: Shop) -> dict[str, Any]:
    """Every row; of refunds all but when they are looked at again, which each look at Stripe puts off."""
    told = shop.sql("SELECT to_jsonb(r) - 'next_attempt_at' AS row FROM smi.refunds r ORDER BY refund_row")
    return {**shop.everything(), "refunds": told}


def test_each_stripe_event_of_an_orders_life_has_one_effect(whole_shop: Shop) -> None:
    shop = whole_shop
    job_id, intent, of_payment = bought(shop)
    assert storm(shop, of_payment) == {200: TIMES * len(of_payment)}
    assert shop.job(job_id).status is Status.PENDING
    assert [e.event for e in shop.state.queries.events(job_id)].count("paid") == 1
    assert len(shop.state.dashboard.payments(job_id)) == 1
    assert refunds(shop, intent) == []
    assert shop.kicks.count(Queue.SUBMIT) == 1

    shop.state.jobs.cancel(job_id, reason=reasons.TIMED_OUT, message="too late", actor="test")
    assert [report.state for report in refund.refund_now(shop.ctx, job_id)] == ["done"]
    [made] = refunds(shop, intent)
    charge = {"id": intent["latest_charge"], "object": "charge", "payment_intent": intent["id"]}
    refunded = {"id": made["id"], "object": "refund", "payment_intent": intent["id"], "status": made["status"]}
    of_refund = [
        event("charge.refunded", charge),
        *(event(type_, refunded) for type_ in ("refund.created", "refund.updated", "refund.failed")),
    ]
    assert storm(shop, of_refund) == {200: TIMES * len(of_refund)}
    assert refunds(shop, intent) == [made]
    [ours] = shop.state.refunds.of_job(job_id)
    assert (ours.stripe_refund_id, ours.state) == (made["id"], "succeeded")
    assert shop.job(job_id).status is Status.REFUNDED

    before = rows(shop)
    assert storm(shop, of_payment + of_refund, times=10) == {200: 10 * len(of_payment + of_refund)}
    assert rows(shop) == before


def test_each_dispute_event_has_one_effect(whole_shop: Shop) -> None:
    shop = whole_shop
    assert shop.sandbox
    _, intent, of_payment = bought(shop)
    assert storm(shop, of_payment[:1], times=1) == {200: 1}
    dispute = shop.sandbox.control("stripe", "/_dispute", payment_intent=intent["id"])
    closed = event("charge.dispute.closed", dispute | {"status": "lost"})
    of_dispute = [event("charge.dispute.created", dispute), closed]
    assert storm(shop, of_dispute) == {200: TIMES * len(of_dispute)}
    inbox = shop.sql("SELECT type, count(*) AS n FROM smi.webhook_inbox GROUP BY type ORDER BY type")
    assert [(row["type"], row["n"]) for row in inbox if "dispute" in row["type"]] == [
        ("charge.dispute.closed", 1),
        ("charge.dispute.created", 1),
    ]
    assert len([task for task in shop.state.manual_tasks.opened() if "dispute" in task.kind]) <= 1
    assert refunds(shop, intent) == []


def test_each_upsampler_webhook_has_one_effect(whole_shop: Shop) -> None:
    shop = whole_shop
    assert shop.sandbox
    job_id, _, of_payment = bought(shop)
    assert storm(shop, of_payment[:1], times=1) == {200: 1}
    lease = shop.state.leases.lease_one(Queue.SUBMIT, job_id) or ""
    assert submit.prepare(shop.ctx, job_id, lease).state == "done"
    assert submit.submit(shop.ctx, job_id, lease).state == "done"
    [row] = shop.state.submissions.of_job(job_id)
    path = UPSAMPLER + callback_token(SECRET_KEY, row.submission_id)
    external_id = row.external_id or ""
    wait_for(lambda: row_of(shop, external_id)["status"] == "completed")
    told = [
        {"job_id": external_id, "status": "processing"},
        {"job_id": external_id, "status": "completed", "result_url": "https://forged.example/x.png"},
        {"job_id": external_id, "status": "failed", "error": "forged"},
    ]
    hints: list[Request] = [(path, json.dumps(body).encode(), {}) for body in told]
    assert storm(shop, hints) == {200: TIMES * len(hints)}
    assert shop.job(job_id).status is Status.PROCESSING
    assert [s.state for s in shop.state.submissions.of_job(job_id)] == ["accepted"]

    assert completions.check_completions(shop.ctx)["ready"] == 1
    lease = shop.state.leases.lease_one(Queue.FULFIL, job_id) or ""
    assert fulfil.verify_result(shop.ctx, job_id, lease).state == "done"
    assert fulfil.deliver(shop.ctx, job_id, lease).state == "done"
    before = shop.everything()
    assert storm(shop, hints, times=20) == {200: 20 * len(hints)}
    assert shop.everything() == before
    assert completions.check_completions(shop.ctx)["ready"] == 0
    calls = [call for call in shop.sandbox.ledger("upsampler")["requests"] if external_id in json.dumps(call)]
    assert len(shop.state.submissions.of_job(job_id)) == 1
    assert [call["method"] for call in calls] == ["GET"], "one status call, after three hundred hints"


def row_of(shop: Shop, external_id: str) -> dict[str, Any]:
    """A submission in the stand-in's ledger."""
    assert shop.sandbox
    [found] = [s for s in shop.sandbox.ledger("upsampler")["submissions"] if s["id"] == external_id]
    return found


def test_forged_webhooks_change_no_row(whole_shop: Shop) -> None:
    shop = whole_shop
    _, intent, of_payment = bought(shop)
    shop.submitted()
    stripe_body = of_payment[0][1]
    good = of_payment[0][2]["Stripe-Signature"]
    hint = json.dumps({"id": "up", "status": "SUCCESS", "imageUrl": "https://evil.example/x.png"}).encode()
    tampered = stripe_body.replace(b'"amount"', b'"Amount"')
    assert tampered != stripe_body
    other_key = "another-secret-key-of-somebody-with-32-characters"
    forgeries: list[Request] = [
        (STRIPE, stripe_body, {}),
        (STRIPE, stripe_body, {"Stripe-Signature": good.rpartition("v1=")[0] + "v1=" + "0" * 64}),
        (STRIPE, stripe_body, signed(stripe_body, age=3600)),
        (STRIPE, stripe_body, signed(stripe_body, secret="whsec_of_another_endpoint")),
        (STRIPE, stripe_body, signed(stripe_body, secret="")),
        (STRIPE, tampered, {"Stripe-Signature": good}),
        (STRIPE, stripe_body, {"Stripe-Signature": good.replace("v1=", "v0=")}),
        (UPSAMPLER + "0" * 64, hint, {}),
        (UPSAMPLER + callback_token(other_key, shop.submission_id), hint, {}),
        (UPSAMPLER + callback_token(SECRET_KEY, shop.submission_id + 1000), hint, {}),
        (UPSAMPLER + shop.callback[:-1], hint, {}),
        (UPSAMPLER + shop.callback.upper(), hint, {}),
        (UPSAMPLER + shop.callback + "%00", hint, {}),
    ]
    before, kicks = shop.everything(), list(shop.kicks)
    answers = storm(shop, forgeries, times=FORGED // len(forgeries) + 1)
    assert set(answers) == {400, 404}
    assert sum(answers.values()) >= FORGED
    assert shop.everything() == before
    assert shop.kicks == kicks
    assert refunds(shop, intent) == []
