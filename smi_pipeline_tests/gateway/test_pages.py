"""What customers read: the page of an order in each of its states, the stars, and pages for what goes wrong."""

import re
from typing import Any

import pytest

from smi_pipeline.core.vocabulary import RefundKind
from smi_pipeline.services import admin
from smi_pipeline_tests.gateway.shop import Shop

BROWSER = {"Accept": "text/html,*/*;q=0.8"}


def text(html: str) -> str:
    """The words of a page."""
    body = html[html.index("<main") : html.index("</body>")]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def rate(shop: Shop, job_id: str, key: str | None = None, **form: Any) -> Any:
    key = shop.rating_key(job_id) if key is None else key
    return shop.client.post(f"/smi/v1/rate/{job_id}?key={key}", data=form)


def ratings(shop: Shop) -> list[dict[str, Any]]:
    return shop.sql("SELECT job_id, score, comment FROM smi.feedback")


def test_before_payment_the_customer_is_sent_back_to_the_shop(shop: Shop) -> None:
    html = shop.page(shop.ordered())
    page = text(html)
    assert "Waiting for your payment" in page
    assert "return to the shop" in page
    assert 'href="https://shop.example">return to the shop' in html
    assert "Price $2.49" in page


def test_while_it_works_the_page_shows_the_step_and_asks_every_ten_seconds(shop: Shop) -> None:
    for job_id, heading, current in (
        (shop.paid(), "Your order is in line", "In line"),
        (shop.preparing(), "Your image is being prepared", "Preparation"),
        (shop.submitted(), "Your image is being upscaled", "Upscaling"),
        (shop.checking(), "Checking the result", "Quality check"),
    ):
        html = shop.page(job_id)
        assert f"<h1>{heading}</h1>" in html
        assert f"{current} : now" in text(html)
        assert 'data-poll-after="10"' in html
        assert f"/smi/v1/job-status/{job_id}?view={shop.view(job_id)}" in html
        assert "<progress" in html
        assert "e-mail with the download link" in text(html)


def test_a_finished_image_can_be_downloaded_and_rated(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.sql("UPDATE smi.emails SET state = 'accepted', accepted_at = smi.now()")
    html = shop.page(job_id)
    assert f'href="{shop.url}/smi/v1/download/{shop.token(job_id)}"' in html
    page = text(html)
    for words in ("Your 4x image is ready", "2,560 × 1,920 pixels", "10 KB, PNG", "24 hours left", "sunset-4x.png"):
        assert words in page
    assert f"key={shop.rating_key(job_id)}&amp;stars=5" in html
    assert "<script" not in html  # nothing changes any more


def test_an_expired_download_says_so_and_whom_to_ask(shop: Shop) -> None:
    job_id = shop.delivered(ttl_hours=1)
    shop.sql("UPDATE smi.clock SET shift = '2 hours'")
    html = shop.page(job_id)
    assert "Your download has expired" in html
    assert "help@shop.example" in html
    assert "/smi/v1/download/" not in html


@pytest.mark.parametrize(
    ("status", "heading", "words"),
    [
        (None, "Your image could not be delivered", "Your refund of $2.49 is being prepared"),
        ("pending", "Your image could not be delivered", "Refund started: $2.49"),
        ("requires_action", "Your image could not be delivered", "Your refund of $2.49 needs your bank details"),
        ("succeeded", "Your money has been returned", "Refunded: $2.49"),
        ("failed", "Your image could not be delivered", "We are working on your refund of $2.49"),
    ],
)
def test_a_failure_tells_the_reason_the_amount_and_how_the_refund_stands(
    shop: Shop, status: str | None, heading: str, words: str
) -> None:
    job_id = shop.refunded(status) if status else shop.failed()
    html = shop.page(job_id)
    page = text(html)
    assert heading in page
    assert words in page
    assert ("refund started" in page.lower()) == (status == "pending")
    assert "The upscaling service could not process this image." in page
    assert "node-7" not in html
    assert "What happens next" in page


def test_a_second_payment_and_a_goodwill_refund_are_told(shop: Shop) -> None:
    twice = shop.paid()
    shop.paid(twice)
    page = text(shop.page(twice))
    assert "Your order is in line" in page
    assert "Your refund of $2.49 is being prepared" in page
    assert "paid twice" in page
    gift = shop.delivered()
    job = shop.job(gift)
    shop.state.refunds.owe(
        job_id=gift,
        payment_intent_id=job.payment_intent_id or "",
        kind=RefundKind.GOODWILL,
        currency="usd",
        reason="goodwill",
        actor="test",
    )
    shop.settle_refund(gift, "succeeded")
    page = text(shop.page(gift))
    assert "Your 4x image is ready" in page
    assert "Refunded: $2.49" in page
    assert "as goodwill" in page


def test_an_order_nobody_paid_says_that_nothing_was_charged(shop: Shop) -> None:
    job_id = shop.ordered()
    shop.state.jobs.abandon(job_id, actor="test")
    page = text(shop.page(job_id))
    assert "This order is closed" in page
    assert "nothing was charged" in page


def test_a_wrong_amount_is_returned_in_words(shop: Shop) -> None:
    job_id = shop.paid(cents=100)
    page = text(shop.page(job_id))
    assert "did not match the price" in page
    assert "Your refund of $1.00" in page


@pytest.mark.parametrize("state", ["ordered", "paid", "submitted", "delivered", "failed", "refunded"])
def test_without_the_signed_word_the_page_shows_progress_only(shop: Shop, state: str) -> None:
    job_id = getattr(shop, state)()
    for query in ("", "?view=wrong", "?view=%00", "?view=" + shop.view("e" * 32)):
        html = shop.client.get(f"/smi/v1/jobs/{job_id}{query}").text
        for secret in ("/smi/v1/download/", "$2.49", "sunset", "upscaling service could not", "key=", "view="):
            assert secret not in html


def test_an_unknown_order_is_a_friendly_404(shop: Shop) -> None:
    reply = shop.client.get("/smi/v1/jobs/" + "e" * 32, headers=BROWSER)
    assert reply.status_code == 404
    assert "There is no such order." in text(reply.text)
    assert shop.client.get("/smi/v1/jobs/" + "e" * 32).json()["error"]["code"] == "not_found"


def test_without_a_database_the_page_asks_to_come_again(dead_shop: Shop) -> None:
    reply = dead_shop.client.get("/smi/v1/jobs/" + "e" * 32, headers=BROWSER)
    assert (reply.status_code, "retry-after" in reply.headers) == (503, True)
    assert "Nothing is lost" in text(reply.text)


def test_names_of_customers_and_files_cannot_put_anything_into_a_page(shop: Shop) -> None:
    job_id = shop.delivered(file_name='<script>alert("x")</script>')
    assert "<script>alert" not in shop.page(job_id)
    reply = shop.client.get("/ops/jobs/" + job_id, auth=("operator", "correct horse"))
    assert "<script>alert" not in reply.text


def test_pages_work_below_a_path_of_a_proxy(make_shop) -> None:
    shop = make_shop(smi_public_url="https://shop.example/images")
    html = shop.page(shop.submitted())
    assert 'href="/images/static/page.css' in html
    assert 'data-status-url="/images/smi/v1/job-status/' in html


def test_opening_a_rating_link_stores_nothing(shop: Shop) -> None:
    job_id = shop.delivered()
    before = shop.everything()
    for method in ("GET", "HEAD"):
        for stars in range(1, 6):
            path = f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}&stars={stars}"
            assert shop.client.request(method, path).status_code == 200
    assert shop.everything() == before


def test_the_form_preselects_the_stars_of_the_link(shop: Shop) -> None:
    job_id = shop.delivered()
    base = f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}"
    assert re.findall(r'value="(\d)" required checked', shop.client.get(f"{base}&stars=4").text) == ["4"]
    for odd in ("", "&stars=9", "&stars=x", "&stars=-1", "&stars=4&stars=5%00"):
        assert " checked" not in shop.client.get(base + odd).text


def test_a_rating_is_stored_and_a_later_one_replaces_it(shop: Shop) -> None:
    job_id = shop.delivered()
    reply = rate(shop, job_id, stars="2", comment=" a bit\r\nsoft \x07")
    assert reply.status_code == 200
    assert "Thank you" in reply.text
    assert "help@shop.example" in text(reply.text)
    assert ratings(shop) == [{"job_id": job_id, "score": 2, "comment": "a bit\nsoft"}]
    assert "5 of 5 stars: Excellent" in text(rate(shop, job_id, stars="5").text)
    assert ratings(shop) == [{"job_id": job_id, "score": 5, "comment": "a bit\nsoft"}]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 422),
        ({"stars": "0"}, 422),
        ({"stars": "6"}, 422),
        ({"stars": "x"}, 422),
        ({"comment": "no stars"}, 422),
        ({"stars": "5", "comment": "x" * 2001}, 422),
        ({"stars": "5", "comment": "x" * 100_000}, 413),
        ({"stars": "5", **{f"f{n}": "1" for n in range(20)}}, 400),
    ],
)
def test_a_rating_that_cannot_be_is_refused_and_not_stored(shop: Shop, form: dict[str, str], status: int) -> None:
    job_id = shop.delivered()
    reply = shop.client.post(
        f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}",
        data=form,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert reply.status_code == status
    assert ratings(shop) == []


def test_a_rating_must_be_a_form(shop: Shop) -> None:
    job_id = shop.delivered()
    reply = shop.client.post(f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}", json={"stars": 5})
    assert (reply.status_code, ratings(shop)) == (415, [])


def test_a_wrong_key_or_an_unknown_job_rates_nothing(shop: Shop) -> None:
    job_id = shop.delivered()
    for key in ("", "0" * 32, shop.view(job_id), shop.rating_key("e" * 32)):
        assert rate(shop, job_id, key, stars="5").status_code == 404
        assert shop.client.get(f"/smi/v1/rate/{job_id}?key={key}&stars=5").status_code == 404
    assert rate(shop, "e" * 32, stars="5").status_code == 404
    assert ratings(shop) == []


def test_after_a_gift_the_page_shows_the_new_round_and_the_old_refund(shop: Shop) -> None:
    job_id = shop.refunded()
    admin.retry(shop.ctx, job_id, admin_override=True)
    page = text(shop.page(job_id))
    assert "Your order is in line" in page
    assert "Refunded: $2.49" in page
