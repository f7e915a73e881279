"""The storefront's entry point. Bad input gets a clear 4xx in one line, and nothing changes."""

from typing import Any

import pytest

from smi_pipeline.core.faults import SUBMISSIONS, Failure, Scope
from smi_pipeline.core.models import Status
from smi_pipeline_tests.gateway.shop import API_KEY, Shop

JOBS = "/smi/v1/jobs"
KEY = {"Authorization": f"Bearer {API_KEY}"}


def refused(shop: Shop, reply: Any, status: int, *words: str, before: dict[str, list[str]]) -> None:
    """The reply refuses in one line with these words, and no row has changed."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    message = body["error"]["message"]
    assert "\n" not in message
    assert len(message) <= 400
    for word in words:
        assert word.lower() in message.lower(), message
    assert shop.everything() == before


def test_an_order_gets_its_price_and_where_to_pay(whole_shop: Shop) -> None:
    reply = whole_shop.register(customer_name="Anna", return_url="https://shop.example/cart")
    assert reply.status_code == 201
    data = reply.json()["data"]
    job = whole_shop.job(data["job_id"])
    assert job.status is Status.AWAITING_PAYMENT
    assert (data["price_cents"], data["currency"]) == (50, "usd")
    assert (data["output_width"], data["output_height"]) == (job.source_width * 4, job.source_height * 4)
    assert data["checkout_url"].startswith(whole_shop.sandbox.urls.stripe)  # type: ignore[union-attr]
    assert data["status_url"] == f"{whole_shop.url}/smi/v1/jobs/{job.job_id}?view={whole_shop.view(job.job_id)}"
    assert whole_shop.client.get(data["status_url"]).status_code == 200


@pytest.mark.parametrize("resolution", ["4x", "8x"])
def test_both_resolutions_are_sold(whole_shop: Shop, resolution: str) -> None:
    assert whole_shop.register(resolution=resolution).status_code == 201


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({}, "key"),
        ({"Authorization": "Bearer wrong"}, "key"),
        ({"Authorization": f"Basic {API_KEY}"}, "key"),
        ({"Authorization": f"Bearer {API_KEY}x"}, "key"),
        ({"Authorization": API_KEY}, "key"),
    ],
)
def test_a_wrong_key_is_a_401(shop: Shop, headers: dict[str, str], word: str) -> None:
    before = shop.everything()
    reply = shop.client.post(JOBS, json=shop.order_body(), headers=headers)
    refused(shop, reply, 401, word, before=before)
    assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x"])
def test_an_empty_key_in_the_settings_opens_to_nobody(make_shop, header: str) -> None:
    shop = make_shop(smi_api_key="")
    reply = shop.client.post(JOBS, json=shop.order_body(), headers={"Authorization": header})
    refused(shop, reply, 503, "SMI_API_KEY", before=shop.everything())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_url": "not a url"}, ["image_url", "malformed"]),
        ({"image_url": "https://"}, ["image_url"]),
        ({"image_url": "ftp://shop.example/x.png"}, ["image_url", "https"]),
        ({"image_url": "https://evil.example/x.png"}, ["evil.example"]),
        ({"image_url": "http://169.254.169.254/latest/meta-data"}, ["image_url"]),
        ({"image_url": "file:///etc/passwd"}, ["image_url"]),
        ({"image_url": "https://[::1"}, ["image_url"]),
        ({"image_url": ""}, ["image_url", "empty"]),
        ({"image_url": "x" * 5000}, ["image_url", "longer"]),
        ({"image_url": 7}, ["image_url", "text"]),
        ({"image_url": None}, ["image_url", "missing"]),
        ({"image_url": ...}, ["image_url", "missing"]),
        ({"resolution": "16x"}, ["resolution", "4x"]),
        ({"resolution": 4}, ["resolution", "text"]),
        ({"resolution": ...}, ["resolution", "missing"]),
        ({"email": "nobody"}, ["email"]),
        ({"email": "a@b"}, ["email"]),
        ({"email": "anna@example.com\nBcc: all@example.com"}, ["email"]),
        ({"email": ["anna@example.com"]}, ["email", "text"]),
        ({"email": ""}, ["email"]),
        ({"customer_name": "Anna\r\nBcc: x@y.z"}, ["customer_name"]),
        ({"customer_name": "\ud800"}, ["customer_name"]),
        ({"customer_name": "a\x00b"}, ["customer_name"]),
        ({"customer_name": "x" * 101}, ["customer_name", "longer"]),
        ({"return_url": "javascript:alert(1)"}, ["return_url"]),
        ({"return_url": "https://user@shop.example/"}, ["return_url"]),
        ({"return_url": "//shop.example/"}, ["return_url"]),
        ({"price_cents": 1}, ["unknown field", "price_cents"]),
        ({"job_id": "x"}, ["unknown field", "job_id"]),
    ],
)
def test_what_the_shop_must_correct_is_a_422_that_names_it(
    make_shop, sandbox, changes: dict[str, Any], words: list[str]
) -> None:
    shop = make_shop(sandbox)
    before = shop.everything()
    refused(shop, shop.register(**changes), 422, *words, before=before)


def test_an_address_that_the_mail_server_cannot_write_to_is_a_422_before_payment(make_shop, sandbox) -> None:
    sandbox.configure("mail", smtputf8=0)
    try:
        shop = make_shop(sandbox)
        before = shop.everything()
        refused(shop, shop.register(email="björn@example.com"), 422, "email", "before the @", before=before)
        assert shop.register(email="anna@köln.example").status_code == 201, "domains are ASCII on the wire"
    finally:
        sandbox.configure("mail", smtputf8=1)


@pytest.mark.parametrize(
    ("path", "fault", "words"),
    [
        ("/photos/coffee-300.jpg", ("zero_bytes", {}), ["empty"]),
        ("/photos/coffee-300.jpg", ("swap", {"content": "text", "times": 1}), ["instead of the image"]),
        ("/photos/coffee-300.jpg", ("swap", {"content": "gif", "times": 1}), ["PNG"]),
        ("/photos/coffee-300.jpg", ("swap", {"content": "svg", "times": 1}), ["PNG"]),
        ("/photos/coffee-300.jpg", ("swap", {"content": "html", "times": 1}), ["HTML page instead of the image"]),
        ("/photos/coffee-300.jpg", ("truncated", {"keep": 0.5}), []),
        ("/photos/coffee-300.jpg", ("redirect", {"to": "http://127.0.0.1:1/x.png"}), []),
        ("/photos/coffee-300.jpg", ("status", {"code": 500}), ["500"]),
        ("/photos/nothing-300.jpg", None, ["404"]),
    ],
)
def test_a_source_that_cannot_be_sold_is_a_422_before_any_money(
    whole_shop: Shop, path: str, fault: tuple[str, dict[str, Any]] | None, words: list[str]
) -> None:
    assert whole_shop.sandbox
    if fault:
        whole_shop.sandbox.fault("origin", fault[0], match={"path": path}, **fault[1])
    before = whole_shop.everything()
    sessions = len(whole_shop.sandbox.ledger("stripe")["intents"])
    reply = whole_shop.register(image_url=whole_shop.sandbox.urls.origin + path)
    refused(whole_shop, reply, 422, "image_url", *words, before=before)
    assert len(whole_shop.sandbox.ledger("stripe")["intents"]) == sessions


def test_a_source_of_no_size_is_a_422(make_shop, serve_files) -> None:
    # A PNG whose header says 0 x 0, with a right checksum.
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    png += struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    url = serve_files({"/zero.png": png})
    shop = make_shop(smi_allowed_source_hosts=(url,))
    before = shop.everything()
    refused(shop, shop.register(image_url=f"{url}/zero.png"), 422, "image_url", before=before)


def test_a_source_that_is_too_large_is_a_422(make_shop, sandbox) -> None:
    shop = make_shop(sandbox, smi_max_source_bytes=1000)
    refused(shop, shop.register(), 422, "larger", before=shop.everything())
    shop = make_shop(sandbox, smi_max_output_megapixels=0.1)
    refused(shop, shop.register(), 422, "image_url", before=shop.everything())


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"\xff\xfe\x00", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"null", 400),
        (b'{"email": NaN}', 400),
        (b"[" * 60_000, 400),
        (b'{"email": "a@example.com", "email": "b@example.com"}', 400),
        (b"x" * 2_000_000, 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(shop: Shop, content: bytes, status: int) -> None:
    before = shop.everything()
    reply = shop.client.post(JOBS, content=content, headers=KEY | {"Content-Type": "application/json"})
    refused(shop, reply, status, before=before)


def test_a_body_must_say_that_it_is_json(shop: Shop) -> None:
    before = shop.everything()
    reply = shop.client.post(JOBS, content=b"{}", headers=KEY | {"Content-Type": "text/plain"})
    refused(shop, reply, 415, "application/json", before=before)
    charset = KEY | {"Content-Type": "Application/JSON; charset=utf-8"}
    assert shop.client.post(JOBS, content=b"{}", headers=charset).status_code == 422


def test_while_the_upscaler_refuses_our_account_no_money_is_taken(whole_shop: Shop) -> None:
    whole_shop.ctx.state.breakers.note(
        Failure(breaker=SUBMISSIONS, work_key="x", message="402: no credits", scope=Scope.SHOP)
    )
    before = whole_shop.everything()
    reply = whole_shop.register()
    refused(whole_shop, reply, 503, "no orders", before=before)
    assert reply.headers["retry-after"] == "300"


def test_while_too_many_wait_no_money_is_taken(make_shop, sandbox) -> None:
    shop = make_shop(sandbox, smi_max_wait_seconds=1)
    shop.paid()
    shop.paid()
    before = shop.everything()
    reply = shop.register()
    refused(shop, reply, 503, "too many", before=before)
    assert int(reply.headers["retry-after"]) >= 1


def test_while_stripe_fails_the_order_is_refused_and_closed(whole_shop: Shop) -> None:
    assert whole_shop.sandbox
    whole_shop.sandbox.fault("stripe", "status", code=500, times=10, match={"endpoint": "checkout/sessions"})
    reply = whole_shop.register()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) > 0
    assert whole_shop.state.queries.counts() == {"abandoned": 1}


def test_a_key_that_may_open_no_session_stops_orders_until_one_can_be_opened(whole_shop: Shop) -> None:
    assert whole_shop.sandbox is not None
    whole_shop.sandbox.fault("stripe", "status", code=403, match={"endpoint": "checkout/sessions"})
    assert [whole_shop.register().status_code for _ in range(2)] == [503, 503]
    assert whole_shop.state.queries.counts() == {"abandoned": 1}, "the second one was refused before"
    assert [each.name for each in whole_shop.state.breakers.all() if each.is_open] == ["checkout"]
    whole_shop.sandbox.clear_faults("stripe")
    whole_shop.sql(
        "UPDATE smi.breakers SET opened_at = opened_at - interval '2 minutes', "
        "next_probe_at = next_probe_at - interval '2 minutes'"
    )
    assert whole_shop.register().status_code == 201
    assert not any(each.is_open for each in whole_shop.state.breakers.all())


def test_without_a_database_no_order_is_taken(dead_shop: Shop) -> None:
    reply = dead_shop.register()
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0


def test_orders_are_posted(shop: Shop) -> None:
    reply = shop.client.get(JOBS)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
