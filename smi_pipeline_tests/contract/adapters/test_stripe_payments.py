"""The Stripe adapter against literal requests, objects and errors, over real HTTP."""

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
import stripe

from smi_pipeline.adapters.stripe.payments import StripePayments, leaves_refundable
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    AnsweredError,
    NotFound,
    PermanentError,
    RateLimited,
    RefusedError,
    SmiError,
    UnreadableError,
)
from smi_pipeline.core.models import CheckoutRequest, CheckoutSession, StripeDispute, StripePayment, StripeRefund
from smi_pipeline_tests.contract.adapters.conftest import ScriptedServer

KEY = "sk_test_0123456789abcdef"
SECRET = "whsec_0123456789abcdef"
EXPIRES = datetime(2026, 5, 1, 12, tzinfo=UTC)

INTENT: dict[str, Any] = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 192,
    "amount_received": 192,
    "currency": "usd",
    "status": "succeeded",
    "created": 1767225600,
    "metadata": {"job_id": "5f0c", "resolution": "4x", "source": "sell-my-images"},
    "receipt_email": None,
    "latest_charge": {
        "id": "ch_1",
        "object": "charge",
        "amount_refunded": 50,
        "disputed": False,
        "billing_details": {"email": "ann@example.com"},
        "balance_transaction": {"id": "txn_1", "object": "balance_transaction", "fee": 36, "currency": "usd"},
    },
}
REFUND: dict[str, Any] = {
    "id": "re_1",
    "object": "refund",
    "amount": 142,
    "currency": "usd",
    "payment_intent": "pi_1",
    "status": "pending",
    "metadata": {"job_id": "5f0c"},
}
SESSION: dict[str, Any] = {
    "id": "cs_1",
    "object": "checkout.session",
    "url": "https://checkout.stripe.com/c/pay/cs_1",
    "status": "open",
    "payment_status": "unpaid",
    "payment_intent": None,
    "metadata": {"job_id": "5f0c"},
}
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1767225600,
    "data": {"object": {"id": "pi_1", "object": "payment_intent"}},
}


@pytest.fixture(autouse=True)
def no_pauses_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)


def client_of(server: ScriptedServer | str, **more: Any) -> StripePayments:
    return StripePayments(KEY, SECRET, server if isinstance(server, str) else server.url, **{"timeout": 2, **more})


def listed(*objects: dict[str, Any], more: bool = False, url: str = "/v1/things") -> dict[str, Any]:
    return {"object": "list", "url": url, "has_more": more, "data": list(objects)}


def refusal(code: str | None = None, message: str = "No.", kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, **({"code": code} if code else {})}}


def open_checkout(client: StripePayments) -> CheckoutSession:
    return client.create_checkout(
        CheckoutRequest(
            job_id="5f0c",
            resolution="4x",
            amount_cents=192,
            currency="usd",
            customer_email="ann@example.com",
            description="Sunset, 4x",
            success_url="https://shop.example/ok?s={CHECKOUT_SESSION_ID}",
            cancel_url="https://shop.example/no",
            expires_at=EXPIRES,
            idempotency_key="checkout:5f0c:1",
        )
    )


def signed(body: bytes, secret: str = SECRET, at: float | None = None) -> str:
    return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(at or time.time()))


# -- Checkout


def test_a_checkout_session_is_opened_with_metadata_on_session_and_intent(server: ScriptedServer) -> None:
    server.says(200, SESSION)
    assert open_checkout(client_of(server)) == CheckoutSession(
        session_id="cs_1",
        url="https://checkout.stripe.com/c/pay/cs_1",
        status="open",
        payment_status="unpaid",
        payment_intent_id=None,
        metadata={"job_id": "5f0c"},
    )
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/checkout/sessions")
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["Idempotency-Key"] == "checkout:5f0c:1"
    assert dict(parse_qsl(sent.body.decode())) == {
        "payment_method_types[0]": "card",
        "mode": "payment",
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "192",
        "line_items[0][price_data][product_data][name]": "Sunset, 4x",
        "customer_email": "ann@example.com",
        "metadata[job_id]": "5f0c",
        "metadata[resolution]": "4x",
        "metadata[source]": "sell-my-images",
        "payment_intent_data[metadata][job_id]": "5f0c",
        "payment_intent_data[metadata][resolution]": "4x",
        "payment_intent_data[metadata][source]": "sell-my-images",
        "payment_intent_data[description]": "Sunset, 4x",
        "success_url": "https://shop.example/ok?s={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example/no",
        "expires_at": str(int(EXPIRES.timestamp())),
    }


def test_a_paid_session_names_its_payment_also_when_it_is_expanded(server: ScriptedServer) -> None:
    server.says(200, {**SESSION, "status": "complete", "payment_status": "paid", "payment_intent": "pi_1"})
    server.says(200, {**SESSION, "payment_intent": INTENT})
    client = client_of(server)
    assert [client.checkout("cs_1").payment_intent_id for _ in range(2)] == ["pi_1", "pi_1"]


def test_expiring_a_session_that_is_not_open_leaves_it_as_it_is(server: ScriptedServer) -> None:
    server.says(400, refusal(message="Only open sessions can be expired")).says(200, {**SESSION, "status": "complete"})
    client_of(server).expire_checkout("cs_1")
    assert [(r.method, r.path) for r in server.requests] == [
        ("POST", "/v1/checkout/sessions/cs_1/expire"),
        ("GET", "/v1/checkout/sessions/cs_1"),
    ]


def test_a_session_that_stays_open_although_it_should_expire_is_an_error(server: ScriptedServer) -> None:
    server.says(400, refusal()).says(200, SESSION)
    with pytest.raises(PermanentError):
        client_of(server).expire_checkout("cs_1")


# -- payments


def test_a_payment_is_read_with_its_fee_and_its_refunds(server: ScriptedServer) -> None:
    server.says(200, INTENT)
    assert client_of(server).payment("pi_1") == StripePayment(
        payment_intent_id="pi_1",
        status="succeeded",
        amount_received_cents=192,
        currency="usd",
        metadata={"job_id": "5f0c", "resolution": "4x", "source": "sell-my-images"},
        charge_id="ch_1",
        refunded_cents=50,
        disputed=False,
        refundable=True,
        fee_cents=36,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    asked = unquote(server.requests[0].path)
    assert asked == "/v1/payment_intents/pi_1?expand[0]=latest_charge.balance_transaction"


def test_a_payment_without_charge_has_no_fee_and_nothing_received(server: ScriptedServer) -> None:
    server.says(200, {**INTENT, "latest_charge": None, "amount_received": 0, "status": "requires_payment_method"})
    facts = client_of(server).payment("pi_1")
    assert (facts.charge_id, facts.fee_cents, facts.amount_received_cents, facts.refunded_cents) == (None, None, 0, 0)


@pytest.mark.parametrize(
    "transaction", [None, "txn_1", {"id": "txn_1", "object": "balance_transaction", "fee": 33, "currency": "eur"}]
)
def test_a_fee_that_is_not_there_yet_or_without_the_amount_that_it_is_of_is_unknown(
    server: ScriptedServer, transaction: object
) -> None:
    server.says(200, {**INTENT, "latest_charge": {**INTENT["latest_charge"], "balance_transaction": transaction}})
    assert client_of(server).payment("pi_1").fee_cents is None


@pytest.mark.parametrize(
    ("status", "said", "refundable"),
    [
        ("needs_response", False, False),
        ("under_review", False, False),
        ("needs_response", None, False),
        ("appeal_under_review", None, False),
        ("warning_needs_response", True, True),
        ("warning_under_review", None, True),
        ("warning_needs_response", False, False),
        ("warning_closed", None, True),
        ("won", False, True),
        ("lost", True, False),
        ("prevented", None, False),
        ("a new word", None, False),
    ],
)
def test_which_disputes_keep_a_charge_from_being_refunded(status: str, said: bool | None, refundable: bool) -> None:
    assert leaves_refundable({"status": status, "is_charge_refundable": said}) is refundable


def test_disputes_are_listed_with_the_oldest_first(server: ScriptedServer) -> None:
    dispute = {"object": "dispute", "id": "dp_1", "created": 1767225600, "status": "lost"}
    server.says(200, listed({"object": "dispute", "id": "dp_2", "status": "needs_response"}, dispute))
    assert client_of(server).disputes_of("pi_1") == [
        StripeDispute(status="lost", created_at=datetime(2026, 1, 1, tzinfo=UTC)),
        StripeDispute(status="needs_response"),
    ]
    assert server.requests[0].path == "/v1/disputes?payment_intent=pi_1&limit=100"


def test_a_payment_is_refundable_only_if_every_dispute_of_it_allows(server: ScriptedServer) -> None:
    dispute = {"object": "dispute", "status": "needs_response", "is_charge_refundable": False, "id": "dp_1"}
    server.says(200, {**INTENT, "latest_charge": {**INTENT["latest_charge"], "disputed": True}})
    server.says(200, listed({**dispute, "status": "won", "id": "dp_2"}, dispute))
    facts = client_of(server).payment("pi_1")
    assert (facts.disputed, facts.refundable) == (True, False)
    assert server.requests[1].path == "/v1/disputes?payment_intent=pi_1&limit=100"


def test_payments_are_listed_page_by_page_and_those_of_other_shops_left_out(server: ScriptedServer) -> None:
    server.says(200, listed(INTENT, {**INTENT, "id": "pi_2", "metadata": {}}, more=True, url="/v1/payment_intents"))
    server.says(200, listed({**INTENT, "id": "pi_3"}, url="/v1/payment_intents"))
    since = datetime(2026, 1, 1, tzinfo=UTC)
    found = [facts.payment_intent_id for facts in client_of(server).payments_since(since)]
    assert found == ["pi_1", "pi_3"]
    asked = dict(parse_qsl(server.requests[1].path.partition("?")[2]))
    assert asked == {
        "created[gte]": "1767225600",
        "limit": "100",
        "expand[0]": "data.latest_charge.balance_transaction",
        "starting_after": "pi_2",
    }


def test_a_list_that_breaks_off_is_an_error_and_not_a_shorter_list(server: ScriptedServer) -> None:
    server.says(200, listed(INTENT, more=True)).says(500, refusal())
    with pytest.raises(AmbiguousError):
        list(client_of(server).payments_since(EXPIRES))


def test_a_list_without_data_is_an_error_and_not_an_empty_list(server: ScriptedServer) -> None:
    server.says(200, {"object": "list", "url": "/v1/refunds", "has_more": False})
    with pytest.raises(AmbiguousError):
        client_of(server).refunds_of("pi_1")


# -- refunds


def test_a_refund_is_asked_for_with_the_callers_key_and_exact_amount(server: ScriptedServer) -> None:
    server.says(200, REFUND)
    facts = client_of(server).create_refund(
        payment_intent_id="pi_1", amount_cents=142, idempotency_key="refund:5f0c:1", metadata={"job_id": "5f0c"}
    )
    assert facts == StripeRefund(
        refund_id="re_1",
        payment_intent_id="pi_1",
        amount_cents=142,
        currency="usd",
        status="pending",
        metadata={"job_id": "5f0c"},
    )
    sent = server.requests[0]
    assert sent.headers["Idempotency-Key"] == "refund:5f0c:1"
    assert dict(parse_qsl(sent.body.decode())) == {
        "payment_intent": "pi_1",
        "amount": "142",
        "metadata[job_id]": "5f0c",
    }


def test_a_refund_has_the_time_at_which_it_was_made(server: ScriptedServer) -> None:
    server.says(200, {**REFUND, "created": 1767225600})
    assert client_of(server).refund("re_1").created_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_every_try_of_a_refund_carries_the_same_key(server: ScriptedServer) -> None:
    server.says(drop=True).says(500, refusal()).says(200, REFUND)
    client_of(server).create_refund(payment_intent_id="pi_1", amount_cents=1, idempotency_key="k", metadata={})
    assert [r.headers["Idempotency-Key"] for r in server.requests] == ["k", "k", "k"]
    assert len({r.body for r in server.requests}) == 1


def test_refunds_of_a_payment_are_all_pages_with_failed_ones(server: ScriptedServer) -> None:
    failed = {**REFUND, "id": "re_2", "status": "failed", "failure_reason": "lost_or_stolen_card"}
    server.says(200, listed(REFUND, more=True, url="/v1/refunds")).says(200, listed(failed, url="/v1/refunds"))
    found = client_of(server).refunds_of("pi_1")
    assert [(each.refund_id, each.status, each.failure_reason) for each in found] == [
        ("re_1", "pending", None),
        ("re_2", "failed", "lost_or_stolen_card"),
    ]


# -- events and webhooks


def test_events_are_listed_by_type_and_time(server: ScriptedServer) -> None:
    server.says(200, listed(EVENT, url="/v1/events"))
    events = list(client_of(server).events_since(datetime(2026, 1, 1, tzinfo=UTC), ("refund.failed", "refund.updated")))
    assert [(each.event_id, each.type, dict(each.object)) for each in events] == [
        ("evt_1", "payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})
    ]
    assert dict(parse_qsl(server.requests[0].path.partition("?")[2])) == {
        "created[gte]": "1767225600",
        "types[0]": "refund.failed",
        "types[1]": "refund.updated",
        "limit": "100",
    }


def test_a_slice_of_time_is_asked_for_by_both_its_ends(server: ScriptedServer) -> None:
    server.says(200, listed(url="/v1/events")).says(200, listed(url="/v1/payment_intents"))
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    assert list(client_of(server).events_since(since, ("refund.failed",), until)) == []
    assert list(client_of(server).payments_since(since, until)) == []
    for request in server.requests:
        asked = dict(parse_qsl(request.path.partition("?")[2]))
        assert (asked["created[gte]"], asked["created[lt]"]) == ("1767225600", "1767312000")


@pytest.mark.parametrize("types", [(), tuple(f"type.{n}" for n in range(21))])
def test_more_types_of_events_than_stripe_lists_are_refused_at_once(types: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        client_of("http://127.0.0.1:9").events_since(EXPIRES, types)


def test_a_signed_webhook_is_read() -> None:
    body = json.dumps(EVENT, indent=2).encode()
    event = client_of("http://127.0.0.1:9").parse_webhook(body, signed(body))
    assert (event.event_id, event.type, event.created_at) == (
        "evt_1",
        "payment_intent.succeeded",
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert event.object == {"id": "pi_1", "object": "payment_intent"}


BODY = json.dumps(EVENT).encode()


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY, ""),
        (BODY, "nonsense"),
        (BODY, "t=1,v1=ä"),
        (BODY, f"t={int(time.time())},v1=ünïcode"),
        (BODY, signed(BODY, "whsec_other")),
        (BODY, signed(BODY, at=time.time() - 400)),
        (BODY + b" ", signed(BODY)),
        (b"\xff\xfe", signed(b"")),
        (b"{", signed(b"{")),
        (b"[]", signed(b"[]")),
        (b"{}", signed(b"{}")),
        (b'{"id": "evt_1", "type": "x", "created": 1, "data": {"object": 3}}', None),
        (b'{"id": "evt_1", "type": "x", "created": 1e300, "data": {"object": {}}}', None),
        (b"[" * 100_000, None),
    ],
    ids=[
        "no header",
        "broken header",
        "old and not ASCII",
        "not ASCII",
        "other secret",
        "too old",
        "body changed",
        "not UTF-8",
        "broken JSON",
        "list",
        "empty object",
        "no object inside",
        "senseless time",
        "nested",
    ],
)
def test_a_webhook_that_is_not_stripes_is_refused_in_one_line(body: bytes, signature: str | None) -> None:
    with pytest.raises(RefusedError) as refused:
        client_of("http://127.0.0.1:9").parse_webhook(body, signed(body) if signature is None else signature)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)


def test_without_a_webhook_secret_nothing_is_accepted() -> None:
    payments = StripePayments(KEY, "", "http://127.0.0.1:9")
    with pytest.raises(RefusedError):
        payments.parse_webhook(BODY, signed(BODY, ""))


def test_the_tolerance_is_configurable_but_cannot_be_switched_off() -> None:
    late = signed(BODY, at=time.time() - 400)
    assert client_of("http://127.0.0.1:9", clock_tolerance=500).parse_webhook(BODY, late).event_id == "evt_1"
    with pytest.raises(ValueError, match="tolerance"):
        client_of("http://127.0.0.1:9", clock_tolerance=0)


# -- errors


@pytest.mark.parametrize(
    ("status", "body", "error", "reason", "tries"),
    [
        (400, refusal("parameter_invalid_integer"), PermanentError, "stripe_refused", 1),
        (400, refusal("charge_already_refunded"), PermanentError, "charge_already_refunded", 1),
        (400, refusal("charge_disputed"), PermanentError, "charge_disputed", 1),
        (400, refusal(kind="idempotency_error"), PermanentError, "stripe_refused", 1),
        (402, refusal("card_declined", kind="card_error"), PermanentError, "stripe_refused", 1),
        (400, refusal("resource_missing"), NotFound, None, 1),
        (404, refusal("resource_missing"), NotFound, None, 1),
        (404, refusal(), NotFound, None, 1),
        (404, b"<html>not found</html>", AmbiguousError, None, 1),
        (400, b"<html>bad request</html>", AmbiguousError, None, 1),
        (401, refusal(), AccountError, None, 1),
        (403, refusal(), AccountError, None, 1),
        (429, refusal("rate_limit"), RateLimited, None, 1),
        (409, refusal("idempotency_key_in_use", kind="idempotency_error"), AmbiguousError, None, 3),
        (500, refusal(kind="api_error"), AnsweredError, None, 3),
        (503, b"", AnsweredError, None, 3),
        (302, b"", AmbiguousError, None, 1),
        (200, b"<html>", AmbiguousError, None, 1),
        (200, b"", AmbiguousError, None, 1),
        (200, b"[]", UnreadableError, None, 1),
        (200, b"{}", UnreadableError, None, 1),
        (200, {"id": "re_1", "object": "refund"}, UnreadableError, None, 1),
    ],
)
def test_every_answer_of_stripe_is_the_right_error(
    server: ScriptedServer,
    status: int,
    body: bytes | dict[str, Any],
    error: type[SmiError],
    reason: str | None,
    tries: int,
) -> None:
    server.says(status, body, headers={"Location": f"{server.url}/elsewhere"} if status == 302 else {})
    with pytest.raises(SmiError) as raised:
        client_of(server).create_refund(payment_intent_id="pi_1", amount_cents=1, idempotency_key="k", metadata={})
    assert type(raised.value) is error
    assert getattr(raised.value, "reason", None) == reason
    assert "\n" not in str(raised.value)
    assert [r.path for r in server.requests] == ["/v1/refunds"] * tries


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), (None, 5), ("soon", 5), ("0", 1), ("4000", 60)])
def test_a_rate_limit_says_when_to_come_back(server: ScriptedServer, value: str | None, seconds: float) -> None:
    server.says(429, refusal("rate_limit"), headers={"Retry-After": value} if value else {})
    with pytest.raises(RateLimited) as raised:
        client_of(server).refund("re_1")
    assert (raised.value.retry_after, raised.value.counts) == (seconds, False)


@pytest.mark.parametrize("answer", [{"drop": True}, {"hold": 5}, {"body": REFUND, "cut": True}])
def test_no_answer_is_ambiguous(server: ScriptedServer, answer: dict[str, Any]) -> None:
    server.says(**answer)
    with pytest.raises(AmbiguousError, match="gave no answer"):
        client_of(server, timeout=0.2).refund("re_1")


def test_no_connection_is_ambiguous_too(closed_port: str) -> None:
    with pytest.raises(AmbiguousError, match="gave no answer"):
        client_of(closed_port).refund("re_1")


def test_stripe_asking_not_to_retry_is_obeyed(server: ScriptedServer) -> None:
    server.says(500, refusal(), headers={"Stripe-Should-Retry": "false"})
    with pytest.raises(AmbiguousError):
        client_of(server).refund("re_1")
    assert len(server.requests) == 1


def test_keys_and_addresses_never_appear_in_messages_or_logs(
    server: ScriptedServer, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = [repr(client_of(server))]
    for answer in (
        {"status": 401, "body": refusal(message=f"Invalid API Key provided: {KEY}")},
        {"status": 400, "body": refusal("email_invalid", "Invalid email address: ann@example.com")},
        {"status": 500, "body": refusal(message=f"{SECRET}\n ann@example.com")},
        {"drop": True},
    ):
        server.answers[:] = []
        server.says(**answer)
        with caplog.at_level(logging.INFO), pytest.raises(SmiError) as raised:
            open_checkout(client_of(server))
        said.append(f"{raised.value} {raised.value!r}")
    with caplog.at_level(logging.INFO), pytest.raises(SmiError) as raised:
        open_checkout(client_of(closed_port))
    said += [str(raised.value), caplog.text]
    leaks = [text for text in said if KEY in text or SECRET in text or "ann@" in text]
    assert leaks == []


@pytest.mark.parametrize(("key", "base"), [("sk_te\nst", None), (KEY, "api.stripe.com"), (KEY, "ftp://x")])
def test_settings_that_cannot_work_are_refused_without_naming_the_key(key: str, base: str | None) -> None:
    with pytest.raises(ValueError) as raised:
        StripePayments(key, SECRET, base)
    assert "sk_te" not in str(raised.value)


def test_proxies_and_netrc_of_the_environment_are_not_used(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.says(200, REFUND)
    client_of(server).refund("re_1")
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_the_library_writes_no_telemetry_into_the_home_folder(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    server.says(200, REFUND, headers={"Request-Id": "req_1"})
    client = client_of(server)
    client.refund("re_1")
    client.refund("re_1")
    assert list(tmp_path.iterdir()) == []
    assert "X-Stripe-Client-Telemetry" not in server.requests[1].headers


def test_one_client_serves_many_threads(server: ScriptedServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server.says(200, REFUND)
    client = client_of(server)
    with ThreadPoolExecutor(8) as pool:
        found = {facts.refund_id for facts in pool.map(client.refund, [f"re_{n}" for n in range(40)])}
    assert found == {"re_1"}
    assert len({r.path for r in server.requests}) == 40


def test_a_webhook_that_is_a_little_old_is_accepted() -> None:
    at = datetime.now(UTC) - timedelta(seconds=290)
    event = client_of("http://127.0.0.1:9").parse_webhook(BODY, signed(BODY, at=at.timestamp()))
    assert event.event_id == "evt_1"


def test_each_of_several_webhook_secrets_is_good_and_no_part_of_them() -> None:
    payments = StripePayments(KEY, "whsec_old, whsec_new,", "http://127.0.0.1:9")
    for secret in ("whsec_old", "whsec_new"):
        assert payments.parse_webhook(BODY, signed(BODY, secret)).event_id == "evt_1"
    for secret in ("whsec_old, whsec_new", "", "whsec"):
        with pytest.raises(RefusedError):
            payments.parse_webhook(BODY, signed(BODY, secret))


def test_a_webhook_from_the_future_is_refused() -> None:
    with pytest.raises(RefusedError):
        client_of("http://127.0.0.1:9").parse_webhook(BODY, signed(BODY, at=time.time() + 3600))
    assert client_of("http://127.0.0.1:9").parse_webhook(BODY, signed(BODY, at=time.time() + 60)).event_id == "evt_1"


def test_a_thin_event_is_read_without_its_object() -> None:
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.payment_intent.succeeded",
        "created": "2026-05-01T12:00:00.000Z",
        "related_object": {"id": "pi_1", "type": "payment_intent", "url": "/v1/payment_intents/pi_1"},
    }
    body = json.dumps(thin).encode()
    event = client_of("http://127.0.0.1:9").parse_webhook(body, signed(body))
    assert (event.event_id, event.object, event.created_at) == ("evt_thin", {}, EXPIRES)


@pytest.mark.parametrize("field", ["status", "currency", "metadata", "created", "amount_received", "latest_charge"])
def test_a_payment_with_a_null_is_read(server: ScriptedServer, field: str) -> None:
    server.says(200, {**INTENT, field: None})
    assert client_of(server).payment("pi_1").payment_intent_id == "pi_1"


@pytest.mark.parametrize("field", ["status", "currency", "metadata", "payment_intent", "failure_reason"])
def test_a_refund_with_a_null_is_read(server: ScriptedServer, field: str) -> None:
    server.says(200, {**REFUND, field: None})
    assert client_of(server).refund("re_1").amount_cents == 142


def test_a_refund_without_an_amount_is_not_readable(server: ScriptedServer) -> None:
    server.says(200, {**REFUND, "amount": None})
    with pytest.raises(UnreadableError):
        client_of(server).refund("re_1")
