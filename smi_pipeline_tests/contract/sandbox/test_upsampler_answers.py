"""What upscaling services and their networks answer beside the documented: each behaviour does what it says."""

import gzip
import io
import time
from typing import Any

import pytest
import requests
from PIL import Image

from smi_pipeline_tests.contract.sandbox.conftest import Receiver, Shop, until


def result_url(shop: Shop, **submission: Any) -> str:
    return shop.finished(shop.submit(**submission).json()["job_id"])["result_url"]


@pytest.mark.parametrize(("code", "about"), [(200, "maintenance"), (403, "challenge"), (522, "maintenance")])
def test_a_page_stands_before_the_service(shop: Shop, code: int, about: str) -> None:
    shop.sandbox.fault("upsampler", "page", match={"endpoint": "submit"}, code=code, about=about)
    reply = shop.submit(job_id=f"page-{code}")
    assert (reply.status_code, reply.headers["content-type"]) == (code, "text/html; charset=utf-8")
    assert reply.text.lower().startswith("<!doctype html>")
    assert not [line for line in shop.sandbox.ledger("upsampler")["submissions"] if line["job_id"] == f"page-{code}"]


def test_a_page_can_hide_a_submission_that_was_taken(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "page", match={"endpoint": "submit"}, code=502, after_work=True)
    assert shop.submit(job_id="hidden").status_code == 502
    assert [line for line in shop.sandbox.ledger("upsampler")["submissions"] if line["job_id"] == "hidden"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("word", ["CANCELED", "ERROR", "TIMEOUT", "EXPIRED", "NSFW"])
def test_a_failure_can_have_any_word(shop: Shop, word: str, at_once: bool) -> None:
    shop.sandbox.fault("upsampler", "fail", word=word, at_once=at_once, error="Insufficient credits")
    reply = shop.submit(api_format="live").json()
    answer = reply if at_once else until(lambda: (a := shop.status(reply["id"]))["status"] == word and a)
    assert (answer["status"], answer["error"]) == (word, "Insufficient credits")


def test_a_failure_can_pass_when_the_image_is_submitted_again(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "fail", match={"image_url": "rocket-200"}, times=None, first=2)
    ends = [shop.finished(shop.submit(photo="rocket-200.jpg").json()["job_id"])["status"] for _ in range(3)]
    assert ends == ["failed", "failed", "completed"]


def test_a_status_word_can_be_unknown_for_a_while(shop: Shop) -> None:
    submitted = shop.submit(job_id="paused").json()["job_id"]
    shop.finished(submitted)
    shop.sandbox.fault("upsampler", "status_word", match={"job_id": "paused"}, word="PAUSED")
    first, second = shop.status(submitted), shop.status(submitted)
    assert (first["status"], first["result_url"], second["status"]) == ("PAUSED", None, "completed")


def test_an_address_and_a_result_come_late_by_the_moved_clock(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "late_address", match={"job_id": "address"}, seconds=60)
    shop.sandbox.fault("upsampler", "late_result", match={"job_id": "result"}, seconds=60, code=403)
    address = shop.submit(job_id="address").json()["job_id"]
    url = result_url(shop, job_id="result")
    assert shop.finished(address)["result_url"] is None
    assert requests.get(url, timeout=10).status_code == 403
    shop.sandbox.configure("upsampler", clock_offset=70)
    assert requests.get(shop.status(address)["result_url"], timeout=10).ok
    assert requests.get(url, timeout=10).ok


def test_results_move_to_another_host(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "other_host", times=2)
    url = result_url(shop)
    assert url.startswith(shop.sandbox.urls.upsampler_other + "/cdn/")
    assert requests.get(url, timeout=10).ok
    shop.sandbox.clear_faults("upsampler")
    shop.sandbox.fault("upsampler", "other_host", base="https://new.example")
    assert result_url(shop).startswith("https://new.example/cdn/")


def test_results_redirect_and_come_encoded_chunked_and_as_another_type(shop: Shop) -> None:
    url = result_url(shop)
    cdn = {"endpoint": "cdn"}
    whole = requests.get(url, timeout=10)
    shop.sandbox.fault("upsampler", "redirected", match=cdn, code=307)
    moved = requests.get(url, timeout=10)
    assert ([step.status_code for step in moved.history], moved.content) == ([307], whole.content)
    shop.sandbox.fault("upsampler", "encoded", match=cdn)
    with requests.get(url, timeout=10, stream=True) as encoded:
        assert encoded.headers["content-encoding"] == "gzip"
        assert gzip.decompress(encoded.raw.read(decode_content=False)) == whole.content
    shop.sandbox.fault("upsampler", "chunked", match=cdn)
    chunked = requests.get(url, timeout=10)
    assert (chunked.headers["transfer-encoding"], chunked.content) == ("chunked", whole.content)
    shop.sandbox.fault("upsampler", "media_type", match=cdn)
    odd = requests.get(url, timeout=10)
    assert (odd.headers["content-type"], odd.content) == ("application/octet-stream", whole.content)
    shop.sandbox.fault("upsampler", "empty_body", match=cdn)
    assert requests.get(url, timeout=10).content == b""
    shop.sandbox.fault("upsampler", "slow_body", match=cdn, seconds=0.3)
    began = time.monotonic()
    assert requests.get(url, timeout=10).content == whole.content
    assert time.monotonic() - began >= 0.3


def test_results_are_rounded_capped_without_alpha_and_in_another_format(shop: Shop) -> None:
    def made(kind: str, photo: str = "coffee-200.jpg", **params: Any) -> Image.Image:
        shop.sandbox.fault("upsampler", kind, match={"job_id": kind}, **params)
        return Image.open(io.BytesIO(shop.result(job_id=kind, photo=photo)))

    whole = Image.open(io.BytesIO(shop.result(photo="coffee-200.jpg")))
    assert made("rounded", multiple=64).size == tuple(side // 64 * 64 for side in whole.size)
    capped = made("capped", pixels=100_000)
    assert 90_000 < capped.width * capped.height <= 100_000
    assert made("other_format").format == "WEBP"
    assert made("drops_alpha", photo="coffee-200.png").mode == "RGB"


@pytest.mark.parametrize("photo", ["coffee-200.jpg", "coffee-200.png", "chelsea-200.webp"])
def test_a_result_can_keep_what_a_camera_has_written(shop: Shop, photo: str) -> None:
    shop.sandbox.fault("upsampler", "leaves_metadata", match={"job_id": photo}, name="Jane Doe")
    result = shop.result(job_id=photo, photo=photo)
    assert b"Jane Doe" in result
    assert result.endswith(b"SEFT")
    assert 0x8825 in Image.open(io.BytesIO(result)).getexif()


def test_two_submissions_can_get_one_id(shop: Shop) -> None:
    first = shop.submit(job_id="one").json()["job_id"]
    shop.sandbox.fault("upsampler", "same_id", match={"job_id": "two"})
    assert shop.submit(job_id="two").json()["job_id"] == first


def test_webhooks_can_come_by_get_and_as_a_form(shop: Shop, receiver: Receiver) -> None:
    shop.sandbox.fault("upsampler", "webhook_by", match={"job_id": "form"}, how="FORM")
    shop.sandbox.fault("upsampler", "webhook_by", match={"job_id": "get"})
    shop.submit(job_id="form", webhook=f"{receiver.url}/form")
    asked = shop.submit(job_id="get", webhook=f"{receiver.url}/get").json()["job_id"]
    _, headers, body = until(lambda: [each for each in receiver.received if each[0] == "/form"])[0]
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert b"status=completed" in body
    query = until(lambda: [path for path, _, _ in receiver.received if path.startswith("/get?")])[0]
    assert f"job_id={asked}" in query
    assert "status=completed" in query


def test_bot_protection_begins_at_the_image_origin(shop: Shop) -> None:
    assert requests.get(shop.photo(), timeout=10).ok
    shop.sandbox.fault("origin", "page", match={"path": "/photos/"}, times=None, code=403, about="challenge")
    blocked = requests.get(shop.photo(), timeout=10)
    assert (blocked.status_code, blocked.headers["content-type"]) == (403, "text/html; charset=utf-8")
