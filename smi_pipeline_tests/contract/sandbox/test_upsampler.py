"""The Upsampler sandbox behaves like the service, in both API formats."""

import io
import time
from email.utils import parsedate_to_datetime

import pytest
import requests
from PIL import Image

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.sandbox.conftest import Receiver, Shop, until


def test_a_documented_submission_goes_from_queued_to_a_completed_result(shop: Shop, receiver: Receiver) -> None:
    reply = shop.submit(job_id="d1", webhook=f"{receiver.url}/d1")
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"success", "job_id", "status", "estimated_completion"}
    assert (body["success"], body["status"]) == (True, "queued")
    answer = shop.finished(body["job_id"])
    assert answer["job_id"] == body["job_id"]
    assert (answer["status"], answer["credits_used"], answer["error"]) == ("completed", 1, None)
    assert answer["result_url"].startswith(shop.sandbox.urls.upsampler_cdn)
    (webhook,) = until(lambda: receiver.bodies("/d1"))
    assert webhook == {
        "job_id": body["job_id"],
        "status": "completed",
        "result_url": answer["result_url"],
        "error": None,
        "metadata": {"job_id": "d1", "plugin": "test"},
    }


def test_a_live_submission_is_answered_in_the_live_words(shop: Shop, receiver: Receiver) -> None:
    body = shop.submit(api_format="live", webhook=f"{receiver.url}/l1").json()
    assert body == {"id": body["id"], "status": "IN_QUEUE"}
    answer = shop.finished(body["id"])
    assert set(answer) == {"id", "status", "imageUrl", "compressedImageUrl", "creditCost", "error"}
    assert (answer["status"], answer["creditCost"]) == ("SUCCESS", 1)
    (webhook,) = until(lambda: receiver.bodies("/l1"))
    assert webhook == {"id": body["id"], "status": "SUCCESS", "imageUrl": answer["imageUrl"], "creditCost": 1,
                       "error": None}  # fmt: skip


def test_the_stages_are_queued_processing_completed(shop: Shop) -> None:
    shop.sandbox.configure("upsampler", processing_seconds=0.4)
    id = shop.submit().json()["job_id"]
    seen = [shop.status(id)["status"]]
    while seen[-1] != "completed":
        time.sleep(0.02)
        seen.append(shop.status(id)["status"])
    assert list(dict.fromkeys(seen)) == ["queued", "processing", "completed"]


@pytest.mark.parametrize(
    ("photo", "image_format", "mode"),
    [("chelsea-300.png", "PNG", "RGB"), ("coffee-300.jpg", "JPEG", "RGB"), ("rocket-200.webp", "WEBP", "RGB"),
     ("cutout-200.png", "PNG", "RGBA"), ("cutout-200.webp", "WEBP", "RGBA"), ("camera-200.png", "PNG", "RGB")],
)  # fmt: skip
def test_the_result_is_the_image_enlarged_in_its_own_format(
    shop: Shop, photo: str, image_format: str, mode: str
) -> None:
    source = Image.open(io.BytesIO(requests.get(shop.photo(photo), timeout=10).content)).convert("RGBA")
    result = Image.open(io.BytesIO(shop.result(photo=photo)))
    assert (result.format, result.mode) == (image_format, mode)
    assert result.size == (source.width * 4, source.height * 4)
    white = Image.new("RGBA", source.size, "white")
    small = Image.alpha_composite(white, result.convert("RGBA").resize(source.size)).convert("L")
    wanted = Image.alpha_composite(white, source).convert("L")
    difference = sum(abs(one - two) for one, two in zip(small.tobytes(), wanted.tobytes(), strict=True))
    assert difference / (small.width * small.height) < 4


def test_a_result_is_served_with_its_type_and_in_ranges(shop: Shop) -> None:
    url = shop.finished(shop.submit().json()["job_id"])["result_url"]
    whole = requests.get(url, timeout=10)
    part = requests.get(url, headers={"Range": "bytes=10-19"}, timeout=10)
    assert whole.headers["Content-Type"] == "image/jpeg"
    assert (part.status_code, part.content) == (206, whole.content[10:20])


def test_a_result_expires_after_three_hours(shop: Shop) -> None:
    url = shop.finished(shop.submit().json()["job_id"])["result_url"]
    shop.sandbox.configure("upsampler", clock_offset=2.9 * 3600)
    assert requests.get(url, timeout=10).status_code == 200
    shop.sandbox.configure("upsampler", clock_offset=3.1 * 3600)
    assert requests.get(url, timeout=10).status_code == 404


def test_credits_are_a_quarter_per_output_megapixel_rounded_up(shop: Shop) -> None:
    answer = shop.finished(shop.submit(photo="astronaut-300.jpg", scale=8).json()["job_id"])
    assert answer["credits_used"] == 2  # 2400 x 2400 = 5.76 MP


def test_the_ledger_lists_requests_and_submissions(shop: Shop) -> None:
    id = shop.submit(job_id="ledger-1").json()["job_id"]
    shop.finished(id)
    ledger = shop.sandbox.ledger("upsampler")
    assert set(ledger) == {"requests", "submissions"}
    (line,) = [line for line in ledger["submissions"] if line["id"] == id]
    assert set(line) == {"at", "id", "image_url", "scale", "job_id", "status", "credits"}
    assert (line["job_id"], line["scale"], line["status"], line["credits"]) == ("ledger-1", 4, "completed", 1)
    assert abs(line["at"] - time.time()) < 10
    last = [line for line in ledger["requests"] if line["path"] == f"/status/{id}"][-1]
    assert set(last) == {"at", "method", "path", "status"}
    assert (last["method"], last["status"]) == ("GET", 200)


def test_a_live_submission_has_no_job_id_in_the_ledger(shop: Shop) -> None:
    id = shop.submit(api_format="live").json()["id"]
    (line,) = [line for line in shop.sandbox.ledger("upsampler")["submissions"] if line["id"] == id]
    assert line["job_id"] is None


@pytest.mark.parametrize("body", [{}, {"image_url": "x", "scale_factor": 4}, {"image_url": "http://a/b"},
                                  {"image_url": "http://a/b", "scale_factor": 17}, {"input": {}}, [1]])  # fmt: skip
def test_a_submission_that_makes_no_sense_is_a_400(shop: Shop, body: object) -> None:
    reply = shop.http.post(f"{shop.sandbox.urls.upsampler}/precise-upscale", json=body, timeout=10)
    assert reply.status_code == 400
    assert reply.json()["error"]


def test_a_wrong_key_is_a_401_and_an_unknown_id_a_404(shop: Shop) -> None:
    base = shop.sandbox.urls.upsampler
    assert requests.get(f"{base}/status/x", headers={"Authorization": "Bearer no"}, timeout=10).status_code == 401
    assert shop.http.get(f"{base}/status/x", timeout=10).status_code == 404


@pytest.mark.parametrize(("content", "message"), [("gif", "Unsupported"), ("text", "not point to an image")])
def test_a_source_that_is_no_usable_image_ends_failed_without_credits(shop: Shop, content: str, message: str) -> None:
    shop.sandbox.fault("origin", "swap", match={"path": "/photos/brick-200.jpg"}, content=content)
    id = shop.submit(photo="brick-200.jpg").json()["job_id"]
    answer = shop.finished(id)
    assert (answer["status"], answer["result_url"], answer["credits_used"]) == ("failed", None, 0)
    assert message in answer["error"]


def test_more_than_the_allowed_status_calls_in_a_minute_get_429_with_retry_after(tmp_path) -> None:
    with Sandbox(tmp_path, only=["upsampler"], rate_status=5) as sandbox:
        replies = [requests.get(f"{sandbox.urls.upsampler}/status/x", timeout=10) for _ in range(8)]
        assert [reply.status_code for reply in replies] == [401] * 5 + [429] * 3
        assert 1 <= int(replies[-1].headers["Retry-After"]) <= 60
    # the window survives a restart
    with Sandbox(tmp_path, only=["upsampler"], rate_status=5) as sandbox:
        assert requests.get(f"{sandbox.urls.upsampler}/status/x", timeout=10).status_code == 429
        sandbox.configure("upsampler", rate_status=0)
        assert requests.get(f"{sandbox.urls.upsampler}/status/x", timeout=10).status_code == 401


def test_submissions_and_status_calls_have_limits_of_their_own(tmp_path) -> None:
    with Sandbox(tmp_path, only=["upsampler"], rate_minute=2, rate_hour=0, rate_status=3) as sandbox:

        def submissions(count: int) -> list[int]:
            url = f"{sandbox.urls.upsampler}/precise-upscale"
            return [requests.post(url, json={}, timeout=10).status_code for _ in range(count)]

        def status_calls(count: int) -> list[int]:
            url = f"{sandbox.urls.upsampler}/status/x"
            return [requests.get(url, timeout=10).status_code for _ in range(count)]

        assert submissions(3) == [401, 401, 429]
        assert status_calls(4) == [401, 401, 401, 429], "the refused submission has used none of them"
        sandbox.configure("upsampler", rate_minute=0, rate_hour=3)
        assert submissions(2) == [401, 429]


def test_a_minute_of_the_rate_limit_can_be_shorter(tmp_path) -> None:
    with Sandbox(tmp_path, only=["upsampler"], rate_minute=1, rate_hour=0, rate_minute_seconds=0.5) as sandbox:
        url = f"{sandbox.urls.upsampler}/precise-upscale"
        assert requests.post(url, json={}, timeout=10).status_code == 401
        assert requests.post(url, json={}, timeout=10).status_code == 429
        time.sleep(0.5)
        assert requests.post(url, json={}, timeout=10).status_code == 401


def test_the_end_of_a_pause_can_be_named_as_a_date(tmp_path) -> None:
    with Sandbox(tmp_path, only=["upsampler"], rate_minute=1, rate_hour=0, retry_after="date") as sandbox:
        url = f"{sandbox.urls.upsampler}/precise-upscale"
        requests.post(url, json={}, timeout=10)
        named = requests.post(url, json={}, timeout=10).headers["Retry-After"]
        assert named.endswith(" GMT")
        assert 0 < parsedate_to_datetime(named).timestamp() - time.time() <= 61


def test_a_webhook_is_tried_four_times_until_it_is_taken(shop: Shop, receiver: Receiver) -> None:
    receiver.statuses["/w"] = [500, 302, 503]
    shop.submit(webhook=f"{receiver.url}/w")
    until(lambda: len(receiver.bodies("/w")) == 4)
    receiver.statuses["/never"] = [500] * 9
    shop.submit(webhook=f"{receiver.url}/never")
    until(lambda: len(receiver.bodies("/never")) == 4)
    time.sleep(0.3)
    assert len(receiver.bodies("/never")) == 4
