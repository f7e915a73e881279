"""Each fault of the Upsampler sandbox does what it says."""

import io
import time
from typing import Any

import pytest
import requests
from PIL import Image, ImageChops, ImageStat

from smi_pipeline_tests.contract.sandbox.conftest import Receiver, Shop, until


def decoded(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


def difference(one: bytes, other: bytes) -> float:
    """Mean difference of two images of one size, in 0..255."""
    images = [decoded(body).convert("RGB") for body in (one, other)]
    return sum(ImageStat.Stat(ImageChops.difference(*images)).mean) / 3


def submissions(shop: Shop, job_id: str) -> list[dict[str, Any]]:
    return [line for line in shop.sandbox.ledger("upsampler")["submissions"] if line["job_id"] == job_id]


def test_latency_waits(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "latency", seconds=0.3)
    started = time.monotonic()
    shop.submit()
    assert time.monotonic() - started >= 0.3


def test_status_answers_the_code_with_retry_after_and_does_nothing(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "status", match={"endpoint": "submit"}, code=429, retry_after=7, times=2)
    replies = [shop.submit(job_id="status-fault") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [429, 429, 200]
    assert replies[0].headers["Retry-After"] == "7"
    assert len(submissions(shop, "status-fault")) == 1


def test_drop_closes_the_connection_and_nothing_was_done(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "drop", match={"job_id": "dropped"})
    with pytest.raises(requests.ConnectionError):
        shop.submit(job_id="dropped")
    assert submissions(shop, "dropped") == []
    assert shop.sandbox.ledger("upsampler")["requests"][-1]["status"] == 0


def test_accept_then_drop_closes_the_connection_after_the_work(shop: Shop, receiver: Receiver) -> None:
    shop.sandbox.fault("upsampler", "accept_then_drop", match={"job_id": "accepted"})
    with pytest.raises(requests.ConnectionError):
        shop.submit(job_id="accepted", webhook=f"{receiver.url}/accepted")
    assert len(submissions(shop, "accepted")) == 1
    assert until(lambda: receiver.bodies("/accepted"))[0]["status"] == "completed"


def test_garbage_is_a_200_that_is_not_json(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "garbage")
    reply = shop.submit()
    assert reply.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        reply.json()


@pytest.mark.parametrize(("kind", "code"), [("reject", 422), ("insufficient_credits", 402), ("unauthorized", 401)])
def test_a_refusal_creates_no_submission(shop: Shop, kind: str, code: int) -> None:
    shop.sandbox.fault("upsampler", kind, match={"job_id": kind})
    reply = shop.submit(job_id=kind)
    assert (reply.status_code, submissions(shop, kind)) == (code, [])
    assert reply.json()["error"]


@pytest.mark.parametrize("api_format", ["documented", "live"])
def test_fail_ends_failed_with_its_error_and_costs_nothing(shop: Shop, api_format: str) -> None:
    shop.sandbox.fault("upsampler", "fail", match={"image_url": "moon-200"}, error="GPU on fire")
    body = shop.submit(api_format=api_format, photo="moon-200.jpg").json()
    answer = shop.finished(body.get("job_id") or body["id"])
    assert answer["status"] in ("failed", "FAILED")
    assert answer["error"] == "GPU on fire"
    assert shop.sandbox.ledger("upsampler")["submissions"][-1]["credits"] == 0


def test_fail_at_once_says_so_in_the_reply(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "fail", at_once=True, error="No", times=2)
    assert shop.submit(api_format="live").json().items() >= {"status": "FAILED", "error": "No"}.items()
    assert shop.submit().json().items() >= {"success": False, "status": "failed", "error": "No"}.items()


def test_never_finishes_stays_processing_and_slow_takes_longer(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "never_finishes", match={"job_id": "endless"})
    shop.sandbox.fault("upsampler", "slow", match={"job_id": "slow"}, seconds=0.4)
    endless, slow, normal = (shop.submit(job_id=name).json()["job_id"] for name in ("endless", "slow", "normal"))
    shop.finished(normal)
    assert shop.status(slow)["status"] == "processing"
    shop.finished(slow)
    assert shop.status(endless)["status"] == "processing"


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_spoiled_results_are_spoiled_in_the_way_that_was_asked(shop: Shop, extension: str) -> None:
    photo = f"coffee-200.{extension}"
    for kind in ("truncated", "wrong_dimensions", "bit_flip", "black_tile", "wrong_image"):
        shop.sandbox.fault("upsampler", kind, match={"job_id": f"{kind}-{extension}"})
    good = shop.result(photo=photo)
    spoiled = {
        kind: shop.result(photo=photo, job_id=f"{kind}-{extension}")
        for kind in ("truncated", "wrong_dimensions", "bit_flip", "black_tile", "wrong_image")
    }
    assert spoiled["truncated"] == good[: int(len(good) * 0.6)]
    width, height = decoded(good).size
    assert decoded(spoiled["wrong_dimensions"]).size == (width - 16, height - 16)
    for kind in ("bit_flip", "black_tile", "wrong_image"):
        assert decoded(spoiled[kind]).size == (width, height), kind
        assert decoded(spoiled[kind]).format == decoded(good).format
    assert difference(good, spoiled["bit_flip"]) > 4
    assert 0.5 < difference(good, spoiled["black_tile"]) < 10
    assert difference(good, spoiled["wrong_image"]) > 30


def test_no_image_url_completes_without_one(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "no_image_url")
    answer = shop.finished(shop.submit().json()["job_id"])
    assert (answer["status"], answer["result_url"]) == ("completed", None)


def test_a_result_can_be_missing_at_the_cdn_for_a_while(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "result_404", match={"job_id": "gone"}, times=2)
    url = shop.finished(shop.submit(job_id="gone").json()["job_id"])["result_url"]
    assert [requests.get(url, timeout=10).status_code for _ in range(3)] == [404, 404, 200]


def test_a_download_can_break_off_in_the_middle(shop: Shop) -> None:
    url = shop.finished(shop.submit().json()["job_id"])["result_url"]
    shop.sandbox.fault("upsampler", "cut_transfer", match={"endpoint": "cdn"})
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(url, timeout=10)
    assert requests.get(url, timeout=10).status_code == 200


def test_faults_of_requests_spare_the_cdn_unless_it_is_named(shop: Shop) -> None:
    url = shop.finished(shop.submit().json()["job_id"])["result_url"]
    shop.sandbox.fault("upsampler", "status")
    assert requests.get(url, timeout=10).status_code == 200
    assert shop.submit().status_code == 500


def test_webhooks_are_lost_repeated_and_late(shop: Shop, receiver: Receiver) -> None:
    shop.sandbox.fault("upsampler", "lose_webhook", match={"job_id": "lost"})
    shop.sandbox.fault("upsampler", "repeat_webhook", match={"job_id": "repeated"}, n=3)
    shop.sandbox.fault("upsampler", "delay_webhook", match={"webhook": "/late"}, seconds=0.4)
    lost = shop.submit(job_id="lost", webhook=f"{receiver.url}/lost").json()["job_id"]
    shop.submit(job_id="repeated", webhook=f"{receiver.url}/repeated")
    late = shop.submit(api_format="live", webhook=f"{receiver.url}/late").json()["id"]
    shop.finished(late)
    assert receiver.bodies("/late") == []
    until(lambda: receiver.bodies("/late"))
    assert len(receiver.bodies("/repeated")) == 3
    assert (shop.finished(lost)["status"], receiver.bodies("/lost")) == ("completed", [])
