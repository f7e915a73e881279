"""The Upsampler client against literal payloads of both API formats and every way HTTP can fail."""

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import pytest

from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    NotFound,
    PermanentError,
    RateLimited,
    RefusedError,
    SmiError,
    TransientError,
)
from smi_pipeline.core.faults import Scope, scope_of_words
from smi_pipeline.core.models import ApiFormat, Stage, SubmitRequest, UpscaleReply
from smi_pipeline_tests.contract.adapters.conftest import ScriptedServer

KEY = "up_secret_0123456789"
REQUEST = SubmitRequest(
    job_id="5f0c", image_url="https://shop.example/a.jpg", scale=4, webhook_url="https://shop.example/hook/token"
)
EITHER_FORMAT = pytest.mark.parametrize("api_format", list(ApiFormat))


def client_of(server: ScriptedServer | str, api_format: ApiFormat = ApiFormat.LIVE, **more: Any) -> UpsamplerClient:
    base = server if isinstance(server, str) else server.url
    return UpsamplerClient(f"{base}/api/v1", KEY, api_format, **{"connect_timeout": 2, "read_timeout": 2, **more})


# -- what is sent


def test_documented_submission_is_the_documents_json(server: ScriptedServer) -> None:
    server.says(200, {"success": True, "job_id": "u1", "status": "queued"})
    client_of(server, ApiFormat.DOCUMENTED).submit(REQUEST)
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("POST", "/api/v1/precise-upscale")
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.json == {
        "image_url": "https://shop.example/a.jpg",
        "scale_factor": 4,
        "format": "auto",
        "webhook_url": "https://shop.example/hook/token",
        "metadata": {"job_id": "5f0c", "plugin": "sell-my-images"},
    }


def test_live_submission_is_what_public_clients_send(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "IN_QUEUE"})
    client_of(server, ApiFormat.LIVE).submit(REQUEST)
    assert server.requests[0].json == {
        "webhook": "https://shop.example/hook/token",
        "input": {
            "imageUrl": "https://shop.example/a.jpg",
            "inputImageType": "universal",
            "upscaleFactor": 4,
            "globalCreativity": 7,
            "detail": 8,
        },
    }


@pytest.mark.parametrize("api_format", ApiFormat)
@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("https://shop.example/Bild für dich.jpg", "https://shop.example/Bild%20f%C3%BCr%20dich.jpg"),
        ("https://KÖLN.example/a.jpg?w=1 200", "https://xn--kln-sna.example/a.jpg?w=1%20200"),
        ("https://shop.example/a%20b.jpg?sig=x%2Fy", "https://shop.example/a%20b.jpg?sig=x%2Fy"),
    ],
)
def test_the_api_gets_the_address_as_we_request_it_ourselves(
    server: ScriptedServer, api_format: ApiFormat, address: str, sent: str
) -> None:
    server.says(200, {"id": "u1", "status": "IN_QUEUE", "job_id": "u1"})
    client_of(server, api_format).submit(replace(REQUEST, image_url=address))
    body = server.requests[0].json
    assert (body.get("image_url") or body["input"]["imageUrl"]) == sent


def test_status_is_asked_by_id_and_an_odd_id_stays_one_path_segment(server: ScriptedServer) -> None:
    server.says(200, {"id": "a/../b?c", "status": "IN_PROGRESS"})
    client_of(server).status("a/../b?c")
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/api/v1/status/a%2F..%2Fb%3Fc")


@pytest.mark.parametrize("external_id", ["", ".", ".."])
def test_an_id_that_is_only_dots_is_never_asked_for(server: ScriptedServer, external_id: str) -> None:
    with pytest.raises(NotFound):
        client_of(server).status(external_id)
    assert server.requests == []


def test_each_submission_has_a_fresh_connection_and_status_calls_share_one(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "IN_QUEUE"})
    client = client_of(server)
    for _ in range(2):
        client.submit(REQUEST)
        client.status("u1")
    submissions = {r.connection for r in server.requests if r.method == "POST"}
    polls = {r.connection for r in server.requests if r.method == "GET"}
    assert (len(submissions), len(polls)) == (2, 1)


def test_proxies_of_the_environment_are_not_used(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.says(200, {"id": "u1", "status": "IN_QUEUE"})
    assert client_of(server).submit(REQUEST).external_id == "u1"


def test_a_redirect_is_not_followed_so_that_the_key_stays_home(server: ScriptedServer) -> None:
    server.says(307, headers={"Location": f"{server.url}/elsewhere"})
    with pytest.raises(AccountError, match="not at the configured address"):
        client_of(server).submit(REQUEST)
    with pytest.raises(AccountError):
        client_of(server).status("u1")
    assert [r.path for r in server.requests] == ["/api/v1/precise-upscale", "/api/v1/status/u1"]


def test_cookies_are_not_kept(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "IN_QUEUE"}, headers={"Set-Cookie": "a=b"})
    client = client_of(server)
    client.status("u1")
    client.status("u1")
    assert "Cookie" not in server.requests[1].headers


# -- what is read: replies of either shape, whatever is configured


@EITHER_FORMAT
def test_documented_reply_is_read(server: ScriptedServer, api_format: ApiFormat) -> None:
    server.says(
        200,
        b'{"success": true, "job_id": "upsampler_job_12345", "status": "queued",'
        b' "estimated_completion": "2023-10-15T10:45:00Z"}',
    )
    assert client_of(server, api_format).submit(REQUEST) == UpscaleReply(
        external_id="upsampler_job_12345",
        stage=Stage.QUEUED,
        estimated_completion=datetime(2023, 10, 15, 10, 45, tzinfo=UTC),
    )


@EITHER_FORMAT
def test_live_reply_is_read(server: ScriptedServer, api_format: ApiFormat) -> None:
    server.says(200, b'{"id": "u1", "status": "IN_QUEUE", "creditCost": 4}')
    assert client_of(server, api_format).submit(REQUEST) == UpscaleReply(
        external_id="u1", stage=Stage.QUEUED, credits=4
    )


@EITHER_FORMAT
def test_an_upscale_may_fail_at_once(server: ScriptedServer, api_format: ApiFormat) -> None:
    server.says(200, b'{"id": "u1", "status": "FAILED", "error": "cannot read image"}')
    reply = client_of(server, api_format).submit(REQUEST)
    assert (reply.external_id, reply.stage, reply.error) == ("u1", Stage.FAILED, "cannot read image")


def test_an_upscale_that_failed_at_once_needs_no_id(server: ScriptedServer) -> None:
    server.says(200, {"status": "FAILED", "error": "cannot read image"})
    assert client_of(server).submit(REQUEST).stage is Stage.FAILED


COMPLETED = UpscaleReply(external_id="u1", stage=Stage.COMPLETED, result_url="https://cdn.example/r.png", credits=16)
DOCUMENTED_DONE = (
    b'{"job_id": "u1", "status": "completed", "result_url": "https://cdn.example/r.png", "credits_used": 16,'
    b' "error": null}'
)
LIVE_DONE = (
    b'{"id": "u1", "status": "SUCCESS", "imageUrl": "https://cdn.example/r.png",'
    b' "compressedImageUrl": "https://cdn.example/r.webp", "creditCost": 16, "error": null}'
)


@EITHER_FORMAT
@pytest.mark.parametrize("body", [DOCUMENTED_DONE, LIVE_DONE], ids=["documented", "live"])
def test_a_completed_status_of_either_api_format_is_one_model(
    server: ScriptedServer, api_format: ApiFormat, body: bytes
) -> None:
    server.says(200, body)
    assert client_of(server, api_format).status("u1") == COMPLETED


@pytest.mark.parametrize(
    ("word", "stage"),
    [
        ("queued", Stage.QUEUED),
        ("processing", Stage.PROCESSING),
        ("completed", Stage.COMPLETED),
        ("failed", Stage.FAILED),
        ("IN_QUEUE", Stage.QUEUED),
        ("IN_PROGRESS", Stage.PROCESSING),
        ("SUCCESS", Stage.COMPLETED),
        ("FAILED", Stage.FAILED),
    ],
)
def test_status_words_of_both_api_formats_are_the_four_stages(server: ScriptedServer, word: str, stage: Stage) -> None:
    server.says(200, {"id": "u1", "status": word})
    assert client_of(server).status("u1").stage is stage


@pytest.mark.parametrize("word", ["THINKING", 7, {"a": 1}])
def test_an_unknown_status_word_is_still_processing_and_logged(
    server: ScriptedServer, word: object, caplog: pytest.LogCaptureFixture
) -> None:
    server.says(200, {"id": "u1", "status": word})
    with caplog.at_level(logging.WARNING):
        assert client_of(server).status("u1").stage is Stage.PROCESSING
    assert "unknown" in caplog.text


@pytest.mark.parametrize("word", ["CANCELED", "cancelled", "ERROR", "TIMEOUT", "EXPIRED"])
def test_other_words_for_a_failure_are_failures_that_blame_nobody(server: ScriptedServer, word: str) -> None:
    server.says(200, {"id": "u1", "status": word}).says(200, {"id": "u1", "status": word, "error": "Worker lost"})
    plain, with_words = (client_of(server).status("u1") for _ in range(2))
    assert (plain.stage, plain.error) == (Stage.FAILED, f"status {word}")
    assert scope_of_words(plain.error or "") is Scope.UNKNOWN
    assert (with_words.stage, with_words.error) == (Stage.FAILED, "Worker lost")


def test_nsfw_is_a_failure_that_blames_the_image(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "NSFW"})
    reply = client_of(server).status("u1")
    assert (reply.stage, scope_of_words(reply.error or "")) == (Stage.FAILED, Scope.ORDER)


@pytest.mark.parametrize("words", ["Insufficient credits", "Invalid API key", "unauthorized"])
def test_an_account_that_is_refused_with_status_200_is_no_failed_image(server: ScriptedServer, words: str) -> None:
    server.says(200, {"status": "FAILED", "error": words})
    with pytest.raises(AccountError, match=words):
        client_of(server).submit(REQUEST)


def test_a_result_without_url_is_left_to_the_caller(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "SUCCESS"})
    reply = client_of(server).status("u1")
    assert (reply.stage, reply.result_url) == (Stage.COMPLETED, None)


def test_the_compressed_copy_is_never_the_result(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "SUCCESS", "compressedImageUrl": "https://cdn.example/r.webp"})
    assert client_of(server).status("u1").result_url is None


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("creditCost", 2.25, 3),
        ("creditCost", "4", 4),
        ("credits_used", 0, 0),
        ("creditCost", -1, None),
        ("creditCost", True, None),
        ("creditCost", "many", None),
        ("creditCost", 1e300, None),
        ("creditCost", float("nan"), None),
    ],
)
def test_credits_are_whole_and_nonsense_is_unknown(
    server: ScriptedServer, field: str, value: object, expected: int | None
) -> None:
    server.says(200, {"id": "u1", "status": "SUCCESS", field: value})
    assert client_of(server).status("u1").credits == expected


def test_an_error_is_kept_as_one_printable_line_whatever_its_shape(server: ScriptedServer) -> None:
    server.says(200, b'{"id": "u1", "status": "FAILED", "error": {"message": "no\\u0000 face\\nfound \\ud800"}}')
    assert client_of(server).status("u1").error == "no face found"


def test_a_long_error_is_cut_at_300_characters(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "FAILED", "error": "x" * 5000})
    error = client_of(server).status("u1").error
    assert error is not None and len(error) == 300 and error.endswith("…")


def test_a_status_answer_for_another_upscale_is_not_believed(server: ScriptedServer) -> None:
    server.says(200, {"id": "u2", "status": "SUCCESS", "imageUrl": "https://cdn.example/other.png"})
    with pytest.raises(TransientError, match="asked for u1"):
        client_of(server).status("u1")


def test_a_status_answer_without_id_is_about_what_was_asked(server: ScriptedServer) -> None:
    server.says(200, {"status": "SUCCESS", "imageUrl": "https://cdn.example/r.png"})
    assert client_of(server).status("u1").result_url == "https://cdn.example/r.png"


def test_a_failed_question_is_not_a_failed_upscale(server: ScriptedServer) -> None:
    server.says(200, {"success": False, "error": "database is busy"})
    assert client_of(server).status("u1").stage is Stage.PROCESSING


# -- webhooks


@EITHER_FORMAT
@pytest.mark.parametrize(
    "body",
    [
        b'{"job_id": "u1", "status": "completed", "result_url": "https://cdn.example/r.png", "credits_used": 16,'
        b' "error": null, "metadata": {"job_id": "5f0c", "plugin": "sell-my-images"}}',
        LIVE_DONE,
    ],
    ids=["documented", "live"],
)
def test_webhooks_of_either_api_format_are_read(api_format: ApiFormat, body: bytes) -> None:
    assert client_of("http://127.0.0.1:9", api_format).parse_webhook(body) == COMPLETED


@pytest.mark.parametrize(
    "body", [b'{"job_id": "u1", "status": "failed", "error": "no"}', b'{"id": "u1", "status": "FAILED", "error": "no"}']
)
def test_failure_webhooks_of_either_api_format_are_read(body: bytes) -> None:
    reply = client_of("http://127.0.0.1:9").parse_webhook(body)
    assert (reply.external_id, reply.stage, reply.error) == ("u1", Stage.FAILED, "no")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe\x00", b"{}", b'{"hello": 1}', b"[" * 100_000]
)
def test_a_webhook_that_makes_no_sense_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        client_of("http://127.0.0.1:9").parse_webhook(body)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value)


def test_a_webhook_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(RefusedError) as refused:
        client_of("http://127.0.0.1:9").parse_webhook(b" " * 1_000_001)
    assert refused.value.status == 413


# -- errors

STATUSES = [
    (400, PermanentError, TransientError),
    (401, AccountError, AccountError),
    (402, AccountError, AccountError),
    (403, AccountError, NotFound),
    (404, AccountError, NotFound),
    (405, AccountError, AccountError),
    (408, TransientError, TransientError),
    (409, PermanentError, TransientError),
    (410, PermanentError, NotFound),
    (413, PermanentError, TransientError),
    (422, PermanentError, TransientError),
    (425, TransientError, TransientError),
    (429, RateLimited, RateLimited),
    (500, AmbiguousError, TransientError),
    (502, AmbiguousError, TransientError),
    (503, TransientError, TransientError),
    (504, AmbiguousError, TransientError),
    (520, AmbiguousError, TransientError),
    (521, TransientError, TransientError),
    (522, TransientError, TransientError),
    (523, TransientError, TransientError),
    (524, AmbiguousError, TransientError),
    (525, TransientError, TransientError),
]


@pytest.mark.parametrize(("code", "on_submit", "on_status"), STATUSES)
def test_every_http_status_is_the_right_error_and_is_asked_for_once(
    server: ScriptedServer, code: int, on_submit: type[SmiError], on_status: type[SmiError]
) -> None:
    server.says(code, {"error": "some words"})
    client = client_of(server)
    with pytest.raises(SmiError) as submitted:
        client.submit(REQUEST)
    with pytest.raises(SmiError) as asked:
        client.status("u1")
    assert (type(submitted.value), type(asked.value)) == (on_submit, on_status)
    assert len(server.requests) == 2


def test_only_429_and_outages_do_not_count_as_attempts(server: ScriptedServer) -> None:
    counted = {}
    for code in (429, 401, 503, 408, 500):
        server.answers[:] = []
        server.says(code)
        with pytest.raises(TransientError) as raised:
            client_of(server).submit(REQUEST)
        counted[code] = raised.value.counts
    assert counted == {429: False, 401: False, 503: False, 408: True, 500: True}


def test_a_rejection_says_what_the_api_said(server: ScriptedServer) -> None:
    server.says(422, {"error": {"message": "Image format\nnot supported"}})
    with pytest.raises(PermanentError) as raised:
        client_of(server).submit(REQUEST)
    assert raised.value.reason == "rejected_by_api"
    assert str(raised.value) == "Upsampler refused the image (422: Image format not supported)"


def test_a_documented_refusal_with_status_200_is_a_rejection(server: ScriptedServer) -> None:
    server.says(200, {"success": False, "message": "unsupported format"})
    with pytest.raises(PermanentError, match="unsupported format"):
        client_of(server).submit(REQUEST)


def test_the_key_and_the_callback_token_never_appear_in_messages(
    server: ScriptedServer, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    for answer in ({"status": 401}, {"status": 400}, {"status": 500}, {"drop": True}):
        server.answers[:] = []
        server.says(body={"error": f"the key {KEY} is not good"}, **answer)  # type: ignore[arg-type]
        with caplog.at_level(logging.INFO), pytest.raises(SmiError) as raised:
            client_of(server).submit(REQUEST)
        said.append(f"{raised.value} {raised.value!r}")
    with pytest.raises(SmiError) as raised:
        client_of(closed_port).submit(REQUEST)
    server.answers[:] = []
    server.says(200, {"id": "u1", "status": "FAILED", "error": KEY})
    said += [str(raised.value), repr(client_of(server)), str(client_of(server).status("u1")), caplog.text]
    assert not [text for text in said if KEY in text or "token" in text or "\n" in text.strip()]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("17", 17), ("0", 1), ("-5", 30), ("99999", 3600), ("soon", 30), ("nan", 30), ("1.5", 1.5), (None, 30)],
)
def test_retry_after_in_seconds_is_kept_and_30_is_the_default(
    server: ScriptedServer, value: str | None, seconds: float
) -> None:
    server.says(429, headers={"Retry-After": value} if value else {})
    with pytest.raises(RateLimited) as raised:
        client_of(server).submit(REQUEST)
    assert raised.value.retry_after == seconds


def test_retry_after_as_a_date_is_read_in_seconds(server: ScriptedServer) -> None:
    at = datetime.now(UTC) + timedelta(seconds=50)
    server.says(429, headers={"Retry-After": format_datetime(at, usegmt=True)})
    with pytest.raises(RateLimited) as raised:
        client_of(server).status("u1")
    assert raised.value.retry_after is not None and 47 <= raised.value.retry_after <= 51


@pytest.mark.parametrize("code", [413, 429, 503])
def test_a_status_call_that_is_told_to_wait_leaves_waiting_to_the_caller(server: ScriptedServer, code: int) -> None:
    server.says(code, headers={"Retry-After": "3"})
    with pytest.raises(TransientError):
        client_of(server).status("u1")
    assert len(server.requests) == 1


def test_503_keeps_the_time_it_names(server: ScriptedServer) -> None:
    server.says(503, headers={"Retry-After": "120"})
    with pytest.raises(TransientError) as raised:
        client_of(server).submit(REQUEST)
    assert (raised.value.retry_after, type(raised.value)) == (120, TransientError)


def test_a_refused_connection_is_certainly_not_a_submission(closed_port: str) -> None:
    with pytest.raises(TransientError, match="connection refused") as raised:
        client_of(closed_port).submit(REQUEST)
    assert (type(raised.value), raised.value.counts) == (TransientError, False)
    with pytest.raises(TransientError, match="connection refused"):
        client_of(closed_port).status("u1")


def test_an_unknown_host_is_certainly_not_a_submission() -> None:
    with pytest.raises(TransientError, match="unknown host name") as raised:
        client_of("http://nobody.invalid").submit(REQUEST)
    assert type(raised.value) is TransientError


def test_a_connect_timeout_is_certainly_not_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3.util.connection

    def never(*args: object, **kwargs: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib3.util.connection, "create_connection", never)
    with pytest.raises(TransientError, match="connection timed out") as raised:
        client_of("http://127.0.0.1:9").submit(REQUEST)
    assert type(raised.value) is TransientError


PAGE = b"<!DOCTYPE html><title>Just a moment...</title>"


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html; charset=utf-8"}, {}], ids=["html", "no type"])
@pytest.mark.parametrize("status", [200, 503, 521, 522])
def test_a_page_instead_of_the_api_has_carried_nothing_out(
    server: ScriptedServer, status: int, headers: dict[str, str]
) -> None:
    server.says(status, PAGE, headers=headers)
    client = client_of(server)
    with pytest.raises(TransientError) as submitted:
        client.submit(REQUEST)
    assert (type(submitted.value), submitted.value.counts) == (TransientError, False)
    with pytest.raises(TransientError):
        client.status("u1")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [500, 502, 504, 520, 524])
def test_a_page_of_a_proxy_that_may_have_passed_the_request_on_is_ambiguous(
    server: ScriptedServer, status: int
) -> None:
    server.says(status, PAGE, headers={"Content-Type": "text/html"})
    with pytest.raises(AmbiguousError):
        client_of(server).submit(REQUEST)


@pytest.mark.parametrize("status", [401, 403])
def test_a_page_that_refuses_programs_stops_submissions(server: ScriptedServer, status: int) -> None:
    server.says(status, PAGE, headers={"Content-Type": "text/html"})
    with pytest.raises(AccountError, match="an HTML page"):
        client_of(server).submit(REQUEST)


@pytest.mark.parametrize(
    "answer",
    [
        {"drop": True},
        {"hold": 5},
        {"body": b'{"id": "u1"', "cut": True},
        {"body": b""},
        {"body": b'["u1"]'},
        {"body": {"status": "IN_QUEUE"}},
        {"body": b" " * 2000},
        {"body": b" " * 900, "drip": 0.01},
    ],
    ids=["dropped", "silent", "cut off", "empty", "list", "no id", "too long", "dripping"],
)
def test_an_answer_that_is_lost_or_unreadable_makes_a_submission_ambiguous_and_is_not_repeated(
    server: ScriptedServer, answer: dict[str, Any]
) -> None:
    server.says(**answer)
    client = client_of(server, read_timeout=0.3, max_reply_bytes=1000)
    with pytest.raises(AmbiguousError):
        client.submit(REQUEST)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [{"drop": True}, {"hold": 5}, {"body": b'{"id": "u1"', "cut": True}, {"body": b"<html>"}, {"body": b" " * 2000}],
    ids=["dropped", "silent", "cut off", "html", "too long"],
)
def test_a_status_call_is_never_ambiguous(server: ScriptedServer, answer: dict[str, Any]) -> None:
    server.says(**answer)
    with pytest.raises(TransientError) as raised:
        client_of(server, read_timeout=0.3, max_reply_bytes=1000).status("u1")
    assert type(raised.value) is TransientError


def test_a_dropped_status_call_is_repeated_once(server: ScriptedServer) -> None:
    server.says(drop=True).says(200, {"id": "u1", "status": "IN_PROGRESS"})
    assert client_of(server).status("u1").stage is Stage.PROCESSING
    assert len(server.requests) == 2


def test_a_status_call_that_timed_out_is_not_repeated(server: ScriptedServer) -> None:
    server.says(hold=5)
    with pytest.raises(TransientError, match="timed out"):
        client_of(server, read_timeout=0.2).status("u1")
    assert len(server.requests) == 1


def test_an_error_status_decides_even_when_its_body_is_lost(server: ScriptedServer) -> None:
    server.says(429, b"slow", headers={"Retry-After": "9"}, cut=True)
    with pytest.raises(RateLimited):
        client_of(server).submit(REQUEST)


def test_a_compressed_bomb_stops_at_the_size_cap(server: ScriptedServer) -> None:
    import gzip

    server.says(200, gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(AmbiguousError, match="too long"):
        client_of(server).submit(REQUEST)


@pytest.mark.parametrize("base_url", ["", "upsampler.com/api", "ftp://upsampler.com", "https://"])
def test_a_base_url_that_is_none_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        UpsamplerClient(base_url, KEY, ApiFormat.LIVE)


def test_a_key_with_a_line_break_inside_is_refused_without_naming_it_and_one_at_the_end_is_dropped(
    server: ScriptedServer,
) -> None:
    with pytest.raises(ValueError) as raised:
        UpsamplerClient("https://upsampler.com/api/v1", "up_se\ncret", ApiFormat.LIVE)
    assert "cret" not in str(raised.value)
    server.says(200, {"id": "u1", "status": "IN_QUEUE"})
    UpsamplerClient(server.url, KEY + "\n", ApiFormat.LIVE).status("u1")
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_one_client_serves_many_threads(server: ScriptedServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server.says(200, {"status": "IN_PROGRESS"})
    client = client_of(server)
    with ThreadPoolExecutor(8) as pool:
        stages = {reply.stage for reply in pool.map(client.status, [f"u{n}" for n in range(40)])}
    assert stages == {Stage.PROCESSING}
    assert sorted(r.path for r in server.requests) == sorted(f"/api/v1/status/u{n}" for n in range(40))


def test_json_of_the_submission_survives_odd_characters(server: ScriptedServer) -> None:
    server.says(200, {"id": "u1", "status": "IN_QUEUE"})
    url = "https://shop.example/%C3%BC/'\"<\\.jpg?a=1&b=%20"
    client_of(server).submit(SubmitRequest(job_id="1", image_url=url, scale=8, webhook_url="https://shop.example/h"))
    assert json.loads(server.requests[0].body)["input"]["imageUrl"] == quote(url, safe=":/%'?&=")
