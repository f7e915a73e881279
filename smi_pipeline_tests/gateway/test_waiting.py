"""What a customer sees and may do while the order waits for a service we use."""

from typing import Any

import pytest

from smi_pipeline.core import faults
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.lifecycle import end_waiting_token
from smi_pipeline.core.models import Queue
from smi_pipeline_tests.gateway.shop import Shop, wait_for
from smi_pipeline_tests.gateway.test_pages import text

LATE = "UPDATE smi.clock SET shift = '16 minutes'"


def fault(shop: Shop, name: str = faults.SUBMISSIONS) -> None:
    shop.state.breakers.note(Failure(breaker=name, work_key="x", message="402: no credits", scope=Scope.SHOP))


def path(shop: Shop, job_id: str, key: str | None = None) -> str:
    key = end_waiting_token(shop.ctx.secret_key, job_id) if key is None else key
    return f"/smi/v1/end-waiting/{job_id}?key={key}"


def post(shop: Shop, job_id: str, key: str | None = None) -> Any:
    return shop.client.post(path(shop, job_id, key), data={"confirm": "yes"})


@pytest.mark.parametrize("view", [True, False])
def test_the_page_and_the_status_say_at_once_that_the_order_waits_and_the_money_is_safe(shop: Shop, view: bool) -> None:
    job_id = shop.paid()
    before = shop.status(job_id, view=view)
    assert before["waiting"] is None
    fault(shop)
    now = shop.status(job_id, view=view)
    assert (now["status"], now["step"]) == ("queued", "queued"), "the known words stay"
    assert (now["eta"], now["eta_text"]) == (None, "Waiting; it continues automatically.")
    assert now["waiting"]["since"]
    assert now["revision"] != before["revision"], "an open page loads itself anew"
    for words in (now["waiting"]["message"], text(shop.page(job_id, view=view))):
        assert "A service that we use to make your image has a problem" in words
        assert "it continues automatically" in words
        assert "Your money is safe" in words
        assert "Upsampler" not in words and "credits" not in words
    assert "<h1>Your order is waiting</h1>" in shop.page(job_id, view=view)


def test_orders_that_do_not_wait_are_told_nothing_of_a_fault(shop: Shop) -> None:
    jobs = [shop.ordered(), shop.submitted(), shop.delivered(), shop.refunded()]
    fault(shop)
    for job_id in jobs:
        assert shop.status(job_id)["waiting"] is None
        assert "waiting</h1>" not in shop.page(job_id)


def test_after_the_promised_time_the_page_offers_to_end_the_waiting(shop: Shop) -> None:
    job_id = shop.paid()
    fault(shop)
    early = shop.status(job_id, view=True)
    assert early["end_waiting_url"] is None
    assert "end-waiting" not in shop.page(job_id)
    shop.sql(LATE)
    late = shop.status(job_id, view=True)
    assert late["end_waiting_url"] == shop.url + path(shop, job_id)
    assert late["revision"] != early["revision"]
    assert path(shop, job_id) in shop.page(job_id)
    assert "end-waiting" not in shop.page(job_id, view=False)
    assert "end_waiting_url" not in shop.status(job_id)


def test_opening_the_link_changes_nothing(shop: Shop) -> None:
    job_id = shop.paid()
    fault(shop)
    before = shop.everything()
    for _ in range(2):
        reply = shop.client.get(path(shop, job_id))
        assert reply.status_code == 200
        assert "Cancel and refund $2.49" in reply.text
    assert shop.client.head(path(shop, job_id)).status_code == 200
    assert shop.everything() == before


def test_the_button_ends_the_order_once_with_its_refund(shop: Shop) -> None:
    job_id = shop.paid()
    fault(shop)
    for _ in range(2):
        reply = post(shop, job_id)
        assert reply.status_code == 200
        assert "Your order is cancelled" in text(reply.text)
        assert "$2.49" in reply.text
    job = shop.job(job_id)
    assert (job.status, job.reason_code) == ("failed", "cancelled")
    assert len(shop.state.refunds.of_job(job_id)) == 1
    wait_for(lambda: shop.dispatched == [Queue.REFUND])
    shop.settle_refund(job_id, "succeeded")
    assert [mail.kind for mail in shop.state.emails.of_job(job_id)] == ["refund"]
    assert "Your order is cancelled" in text(shop.client.get(path(shop, job_id)).text)


def test_an_order_that_has_gone_on_is_not_ended(shop: Shop) -> None:
    for job_id in (shop.submitted(), shop.checking(), shop.delivered()):
        before = shop.job(job_id)
        assert "can no longer be cancelled" in text(shop.client.get(path(shop, job_id)).text)
        reply = post(shop, job_id)
        assert (reply.status_code, "can no longer be cancelled" in text(reply.text)) == (409, True)
        assert shop.job(job_id) == before
    assert shop.dispatched == []


def test_a_link_without_its_key_is_no_link(shop: Shop) -> None:
    job_id, other = shop.paid(), shop.paid()
    for key in ("", "0" * 32, end_waiting_token(shop.ctx.secret_key, other), shop.view(job_id)):
        assert post(shop, job_id, key).status_code == 404
        assert shop.client.get(path(shop, job_id, key)).status_code == 404
    assert shop.job(job_id).status == "pending"
    assert shop.client.post(path(shop, job_id), json={}).status_code == 415
