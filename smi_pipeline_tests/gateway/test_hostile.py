"""Whatever is sent to the gateway: no answer is a bug's, none tells what it should not, and strangers change no row.
SMI_FULL=1 tries a hundred times as often."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smi_pipeline.gateway import throttle
from smi_pipeline_tests.gateway.shop import API_KEY, SECRET_KEY, Shop, signed

TRIES = 3_000 if os.environ.get("SMI_FULL") else 30
ADMIN_KEY = "admin-key-of-the-tests"
hostile = settings(
    max_examples=TRIES,
    deadline=None,
    derandomize=not os.environ.get("SMI_FULL"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.timeout(1800 if os.environ.get("SMI_FULL") else 120)

NEVER_SAID = (
    *("Traceback", "smi_pipeline", "site-packages", "psycopg", "sqlalchemy", "SELECT ", "starlette", "uvicorn"),
    *(API_KEY, SECRET_KEY, ADMIN_KEY, "correct horse", "anna.smith", "of-the-shop", "whsec_sandbox"),
)


@pytest.fixture
def patient_shop(make_shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with orders in every state, that lets everybody guess on."""
    monkeypatch.setattr(throttle, "GUESSES", 10**9)
    shop: Shop = make_shop(smi_admin_api_key=ADMIN_KEY)
    for make in (shop.ordered, shop.submitted, shop.delivered, shop.refunded):
        make()
    return shop


def jobs(shop: Shop) -> list[str]:
    return sorted(row["job_id"] for row in shop.sql("SELECT job_id FROM smi.upscale_jobs"))


@pytest.fixture
def before(patient_shop: Shop) -> dict[str, list[str]]:
    """Its rows before anybody came."""
    return patient_shop.everything()


Answer = tuple[int, dict[str, str], bytes]


def ask(shop: Shop, method: str, target: bytes, headers: list[tuple[str, bytes]], body: bytes) -> Answer | None:
    """The answer to bytes that no client library would send; None when the connection just ended."""
    host, port = shop.url.removeprefix("http://").split(":")
    head = [f"{method} ".encode() + target + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    head += [name.encode() + b": " + value for name, value in headers]
    said = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(b"\r\n".join([*head, f"Content-Length: {len(body)}".encode(), b"", b""]) + body)
        while block := connection.recv(65536):
            said += block
    first, _, content = said.partition(b"\r\n\r\n")
    if not first:
        return None
    status, *lines = first.decode("latin-1").split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), content


def judge(answer: Answer | None) -> None:
    assert answer is not None
    status, headers, content = answer
    assert status < 500 or (status == 503 and "retry-after" in headers), (status, content)
    assert len(content) < 100_000
    said = f"{headers}\n{content.decode('utf-8', 'replace')}"
    for word in NEVER_SAID:
        assert word not in said
    if content != b"Invalid HTTP request received.":  # the server's own, before there is a request
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


nasty = st.one_of(
    st.sampled_from(
        ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "%0d%0aSet-Cookie:%20a=b", "'; DROP TABLE smi.x; --"]
    ),
    st.sampled_from(
        ["f" * 64, "F" * 64, "0" * 32, "<script>alert(1)</script>", "{{7*7}}", "%c0%ae", "a" * 3000, "-", "~"]
    ),
    st.text(max_size=40),
    st.binary(max_size=40).map(lambda raw: quote(raw)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
bodies = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["stars", "comment", "x"]), nasty, max_size=3).map(
        lambda form: "&".join(f"{name}={value}" for name, value in form.items()).encode("utf-8", "replace")
    ),
    st.just(b"[" * 50_000),
)
ROUTES = (
    *(
        "/smi-webhook/stripe",
        "/smi-webhook/upsampler/{x}",
        "/smi/v1/jobs",
        "/smi/v1/jobs/{x}",
        "/smi/v1/job-status/{x}",
    ),
    *("/smi/v1/download/{x}", "/smi/v1/rate/{x}", "/smi/v1/admin/jobs/{x}/{y}", "/ops", "/ops/jobs/{x}", "/health"),
    *("/ops/reports/{x}", "/ops/reports/{x}/{y}", "/metrics"),
    *("/static/{x}", "/{x}", "//{x}"),
)
METHODS = ("GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUACK")
HEADERS = (
    *("Authorization", "Accept", "Content-Type", "Range", "If-Range", "If-None-Match", "Origin", "Cookie", "Expect"),
    *("Stripe-Signature", "X-Forwarded-For", "X-Forwarded-Proto", "Accept-Encoding", "Transfer-Encoding"),
)
WORDS = (
    *(
        "Basic b3BzOg==",
        "Basic %%%",
        "Bearer x",
        "Bearer",
        "text/html",
        "application/json",
        "*/*",
        "bytes=0-",
        "bytes=-0",
    ),
    *(
        "bytes=9-1,2-",
        "application/x-www-form-urlencoded",
        "t=1,v1=00",
        "https://shop.example",
        "100-continue",
        "1, ::1",
    ),
)


def sendable(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").translate(None, b"\r\n\0")


header = st.tuples(
    st.sampled_from(HEADERS),
    st.one_of(st.sampled_from(WORDS), st.text(max_size=30)).map(lambda text: sendable(text.strip())),
)


@hostile
@given(data=st.data())
def test_strangers_change_nothing_and_learn_nothing(
    patient_shop: Shop, before: dict[str, list[str]], data: st.DataObject
) -> None:
    shop = patient_shop
    known = st.sampled_from(jobs(shop))
    path = data.draw(st.sampled_from(ROUTES)).format(x=data.draw(known | nasty), y=data.draw(nasty))
    names = data.draw(st.lists(st.sampled_from(["view", "key", "stars", "x"]), max_size=2))
    query = "&".join(f"{name}={data.draw(nasty)}" for name in names)
    target = sendable(path + ("?" + query if query else "")).replace(b" ", b"%20")
    judge(
        ask(
            shop,
            data.draw(st.sampled_from(METHODS)),
            target,
            data.draw(st.lists(header, max_size=4)),
            data.draw(bodies),
        )
    )
    assert shop.everything() == before
    assert shop.dispatched == []


@hostile
@given(
    body=JSON | st.dictionaries(st.sampled_from(["image_url", "resolution", "email", "customer_name"]), JSON | nasty)
)
def test_a_storefront_may_send_nonsense(patient_shop: Shop, before: dict[str, list[str]], body: Any) -> None:
    headers = [("Authorization", f"Bearer {API_KEY}".encode()), ("Content-Type", b"application/json")]
    answer = ask(patient_shop, "POST", b"/smi/v1/jobs", headers, json.dumps(body).encode())
    judge(answer)
    assert answer and 400 <= answer[0] < 500
    assert patient_shop.everything() == before


@hostile
@given(data=st.data())
def test_an_admin_program_may_send_nonsense(patient_shop: Shop, data: st.DataObject) -> None:
    actions = ("retry", "check", "extend", "refund", "resend", "token", "cancel", "hold", "release")
    action = data.draw(st.sampled_from(actions) | nasty)
    job_id = data.draw(st.sampled_from(jobs(patient_shop)) | nasty)
    body = data.draw(st.dictionaries(st.sampled_from(["minutes", "reason", "admin_override"]), JSON, max_size=2))
    target = sendable(f"/smi/v1/admin/jobs/{job_id}/{action}").replace(b" ", b"%20")
    headers = [("Authorization", f"Bearer {ADMIN_KEY}".encode())]
    answer = ask(patient_shop, "POST", target, headers, json.dumps(body).encode())
    assert answer is not None
    status, answered, content = answer
    assert status < 500 or (status == 503 and "retry-after" in answered), (status, content)


EVENTS = (
    *("payment_intent.succeeded", "checkout.session.completed", "checkout.session.expired", "charge.refunded"),
    *("refund.updated", "charge.dispute.created", "charge.dispute.closed", "payment_intent.payment_failed"),
)


@hostile
@given(data=st.data())
def test_an_authentic_event_of_any_shape_is_no_bug(whole_shop: Shop, data: st.DataObject) -> None:
    fields = ("id", "object", "metadata", "payment_intent", "payment_status", "status", "amount")
    ours = st.just({"source": "sell-my-images", "job_id": "e" * 32})
    obj = data.draw(
        st.dictionaries(st.sampled_from(fields), JSON | ours | st.sampled_from(["pi_1", "paid"]), max_size=5)
    )
    event = {
        "id": data.draw(st.just("evt_1") | JSON),
        "object": "event",
        "type": data.draw(st.sampled_from(EVENTS) | JSON),
        "created": data.draw(st.just(1) | JSON),
        "data": data.draw(st.just({"object": obj}) | JSON),
    }
    body = json.dumps(event).encode()
    headers = [(name, value.encode()) for name, value in signed(body).items()]
    judge(ask(whole_shop, "POST", b"/smi-webhook/stripe", headers, body))


TRAVERSALS = (
    "/../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/%2e%2e/app.py",
    "//etc/passwd",
    "/..\\app.py",
    "/%00",
)


@pytest.mark.parametrize("below", ["/static", "/smi/v1/download", "/smi/v1/jobs", "/smi-webhook/upsampler"])
def test_no_path_leads_out_of_its_folder(patient_shop: Shop, below: str) -> None:
    for path in TRAVERSALS:
        answer = ask(patient_shop, "POST" if "webhook" in below else "GET", (below + path).encode(), [], b"")
        judge(answer)
        assert answer and answer[0] in (400, 404, 405), path
        assert b"root:" not in answer[2]


@pytest.mark.parametrize("character", ["%0a", "%0d%0a", "%00", "%09", "%1f", "%7f", "%c2%85"])
def test_control_characters_in_a_path_are_refused(patient_shop: Shop, character: str) -> None:
    for path in ("/metrics", "/ops", "/health", "/", f"/smi/v1/jobs/{'e' * 32}", f"/smi/v1/download/{'f' * 64}"):
        answer = ask(patient_shop, "GET", f"{path}{character}".encode(), [], b"")
        judge(answer)
        assert answer and (answer[0], json.loads(answer[2])["error"]["code"]) == (400, "bad_request")
    page = ask(patient_shop, "GET", f"/{character}".encode(), [("Accept", b"text/html")], b"")
    assert page and page[0] == 400 and b"The address contains control characters." in page[2]


@pytest.fixture
def named(whole_shop: Shop) -> Iterator[tuple[Shop, str]]:
    """An order whose customer and file have names that are HTML."""
    origin = whole_shop.sandbox.urls.origin if whole_shop.sandbox else ""
    url = f"{origin}/photos/coffee-200.jpg?%3Cscript%3Ealert(1)%3C/script%3E"
    reply = whole_shop.register(customer_name='<img src=x onerror="alert(1)">', image_url=url)
    assert reply.status_code == 201, reply.text
    yield whole_shop, reply.json()["data"]["job_id"]


def test_names_that_are_html_stay_words(named: tuple[Shop, str]) -> None:
    shop, job_id = named
    pages = [shop.page(job_id), shop.client.get(f"/ops/jobs/{job_id}", auth=("operator", "correct horse")).text]
    for page in pages:
        assert "<img src=x" not in page
        assert "<script>alert" not in page


@pytest.mark.parametrize(
    "changes",
    [
        {"email": "anna@example.com\r\nBcc: everybody@example.com"},
        {"email": "anna@example.com, everybody@example.com"},
        {"email": '"a\nb"@example.com'},
        {"customer_name": "Anna\r\nBcc: everybody@example.com"},
        {"customer_name": "Anna\u2028Bcc: x"},
    ],
)
def test_nothing_that_could_become_a_mail_header_is_taken(whole_shop: Shop, changes: dict[str, str]) -> None:
    before = whole_shop.everything()
    assert whole_shop.register(**changes).status_code == 422
    assert whole_shop.everything() == before
