"""The status API: four words, no secrets without the signed word, readable from the shop's own pages only."""

import time

import pytest

from smi_pipeline_tests.gateway.shop import Shop


def test_each_state_has_one_of_the_four_words(shop: Shop) -> None:
    words = {
        shop.ordered(): ("queued", "awaiting_payment"),
        shop.paid(): ("queued", "queued"),
        shop.preparing(): ("processing", "preparing"),
        shop.submitted(): ("processing", "upscaling"),
        shop.checking(): ("processing", "checking"),
        shop.delivered(): ("completed", "completed"),
        shop.failed(): ("failed", "failed"),
        shop.refunded(): ("failed", "refunded"),
    }
    for job_id, expected in words.items():
        data = shop.status(job_id)
        assert (data["status"], data["step"]) == expected


def test_progress_and_eta_move_while_the_image_is_upscaled(shop: Shop) -> None:
    job_id = shop.submitted()
    shop.sql("UPDATE smi.clock SET shift = '20 seconds'")
    data = shop.status(job_id)
    assert 30 <= data["progress"] <= 36
    assert 36 <= data["eta"] <= 41
    assert data["eta_text"] == "Less than a minute left."
    shop.sql("UPDATE smi.clock SET shift = '80 seconds'")
    late = shop.status(job_id)
    assert (late["progress"], late["eta"]) == (95, None)
    assert late["eta_text"] == "This takes a little longer than usual."


def test_a_result_that_came_early_is_almost_there(shop: Shop) -> None:
    assert shop.status(shop.checking())["progress"] == 90


def test_a_paid_job_in_line_has_an_eta(shop: Shop) -> None:
    data = shop.status(shop.paid())
    assert data["progress"] == 0
    assert data["eta"] > 0


def test_a_job_on_hold_has_no_eta(shop: Shop) -> None:
    job_id = shop.paid()
    shop.sql("UPDATE smi.upscale_jobs SET hold_reason = 'another picture', held_at = smi.now()")
    data = shop.status(job_id)
    assert (data["eta"], data["eta_text"]) == (None, "This takes a little longer than usual.")


def test_a_completed_job_stands_at_a_hundred_percent(shop: Shop) -> None:
    data = shop.status(shop.delivered())
    assert (data["progress"], data["eta"], data["poll_after"]) == (100, None, None)


def test_a_mail_that_is_delayed_is_told_on_the_page_where_the_download_stays(shop: Shop) -> None:
    job_id = shop.delivered()
    data = shop.status(job_id, view=True)
    assert (data["mail"], data["poll_after"]) == ({"state": "queued", "message": None}, 60)
    assert "delayed" not in shop.page(job_id)
    shop.sql("UPDATE smi.clock SET shift = '3 minutes'")
    late = shop.status(job_id, view=True)
    assert late["mail"]["state"] == "delayed"
    assert late["revision"] != data["revision"], "an open page is drawn again"
    page = shop.page(job_id)
    assert "The e-mail with your link is delayed" in page
    assert f'href="{late["download"]["url"]}"' in page
    assert shop.client.get(late["download"]["url"]).status_code == 200


@pytest.mark.parametrize(
    ("state", "told", "words"), [("accepted", "sent", ""), ("failed", "failed", "could not be delivered")]
)
def test_the_page_says_what_became_of_the_mail(shop: Shop, state: str, told: str, words: str) -> None:
    job_id = shop.delivered()
    shop.sql(f"UPDATE smi.emails SET state = '{state}', accepted_at = smi.now()")
    data = shop.status(job_id, view=True)
    assert (data["mail"]["state"], data["poll_after"]) == (told, None)
    assert words in shop.page(job_id)
    assert "delayed" not in shop.page(job_id)


def test_without_the_signed_word_nothing_of_the_order_is_told(shop: Shop) -> None:
    for job_id in (shop.delivered(), shop.refunded()):
        for query in ("", "?view=", "?view=" + "0" * 32, "?view=" + shop.view("f" * 32)):
            reply = shop.client.get(f"/smi/v1/job-status/{job_id}{query}")
            assert not {"download", "refunds", "order", "reason"} & set(reply.json()["data"])
            assert "download" not in reply.text
            assert "refund:" not in reply.text


def test_with_the_signed_word_the_link_is_told(shop: Shop) -> None:
    job_id = shop.delivered()
    download = shop.status(job_id, view=True)["download"]
    assert download["url"] == f"{shop.url}/smi/v1/download/{shop.token(job_id)}"
    assert (download["file_name"], download["width"], download["height"]) == ("sunset-4x.png", 2560, 1920)
    assert download["available"]


def test_an_expired_link_is_not_told(shop: Shop) -> None:
    job_id = shop.delivered(ttl_hours=1)
    shop.sql("UPDATE smi.clock SET shift = '2 hours'")
    download = shop.status(job_id, view=True)["download"]
    assert (download["available"], download["url"]) == (False, None)


def test_with_the_signed_word_the_refund_is_told_in_the_words_for_customers(shop: Shop) -> None:
    data = shop.status(shop.refunded("pending"), view=True)
    assert data["reason"] == "The upscaling service could not process this image."
    assert "node-7" not in str(data)
    [refund] = data["refunds"]
    assert (refund["state"], refund["amount_cents"], refund["amount_text"]) == ("pending", 249, "$2.49")


def test_a_job_is_found_with_and_without_hyphens_in_any_case(shop: Shop) -> None:
    job_id = shop.paid()
    hyphened = f"{job_id[:8]}-{job_id[8:12]}-{job_id[12:16]}-{job_id[16:20]}-{job_id[20:]}"
    for name in (hyphened, hyphened.upper(), job_id.upper()):
        assert shop.status(name)["job_id"] == job_id


@pytest.mark.parametrize("name", ["f" * 32, "nonsense", "a" * 5000, "..%2f..%2fetc", "%F0%9F%92%A9", "'--"])
def test_an_unknown_job_is_a_404_in_one_line(shop: Shop, name: str) -> None:
    reply = shop.client.get(f"/smi/v1/job-status/{name}")
    assert reply.status_code == 404
    assert reply.json()["success"] is False
    assert "\n" not in reply.json()["error"]["message"]


def test_the_shops_own_origin_may_read_it_and_no_other(shop: Shop) -> None:
    job_id = shop.paid()
    path = f"/smi/v1/job-status/{job_id}"
    own = shop.client.get(path, headers={"Origin": "https://shop.example"})
    assert own.headers["access-control-allow-origin"] == "https://shop.example"
    assert own.headers["vary"] == "Origin"
    unknown = shop.client.get("/smi/v1/job-status/" + "e" * 32, headers={"Origin": "https://shop.example"})
    assert (unknown.status_code, "access-control-allow-origin" in unknown.headers) == (404, True)
    for other in ("https://evil.example", "https://shop.example.evil", "http://shop.example", "null"):
        reply = shop.client.get(path, headers={"Origin": other})
        assert "access-control-allow-origin" not in reply.headers


def test_a_preflight_is_answered(shop: Shop) -> None:
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    reply = shop.client.options("/smi/v1/job-status/" + "e" * 32, headers=headers)
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-methods"] == "GET"
    assert reply.headers["access-control-allow-origin"] == "https://shop.example"
    refused = shop.client.options("/smi/v1/job-status/x", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_without_a_configured_origin_nobody_may_read_it(make_shop) -> None:
    shop = make_shop(smi_shop_origin="")
    reply = shop.client.get(f"/smi/v1/job-status/{shop.paid()}", headers={"Origin": ""})
    assert "access-control-allow-origin" not in reply.headers


def test_a_database_that_is_down_is_a_503_that_says_when_to_come_again(dead_shop: Shop) -> None:
    started = time.monotonic()
    reply = dead_shop.client.get("/smi/v1/job-status/" + "e" * 32, headers={"Origin": "https://shop.example"})
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert reply.headers["access-control-allow-origin"] == "https://shop.example"
    assert "127.0.0.1" not in reply.text
    assert time.monotonic() - started < 20
