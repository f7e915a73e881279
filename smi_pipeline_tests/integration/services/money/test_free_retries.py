"""Rule 2: a later round is a gift of the shop. It takes nothing away from a customer who was delivered."""

import pytest

from smi_pipeline.core.models import Verdict
from smi_pipeline.services import admin
from smi_pipeline_tests.integration.services.steps import Steps


def end(shop: Steps, job_id: str, how: str) -> None:
    if how == "cancelled while it waits":
        admin.cancel(shop.ctx, job_id)
        return
    for _ in range(1 if how == "failed at Upsampler" else 3):
        shop.submit_due()
        if how == "failed at Upsampler":
            shop.upscaler.fail(shop.external_id(job_id))
        else:
            shop.upscaler.finish(shop.external_id(job_id))
            shop.images.verdict = Verdict(ok=False, facts=None, reason="result_rejected", message="a black tile")
        shop.poll()
        shop.fulfil_due()
        shop.later(seconds=30)


@pytest.mark.parametrize("how", ["failed at Upsampler", "result rejected", "cancelled while it waits"])
def test_a_gift_that_fails_after_delivery_leaves_the_customer_the_link_and_the_file(shop: Steps, how: str) -> None:
    job_id = shop.delivered()
    link = shop.state.deliveries.current_token(job_id)
    assert link
    admin.retry(shop.ctx, job_id, admin_override=True)
    end(shop, job_id, how)
    assert shop.outcomes(job_id) == [(1, "deliver"), (2, "none")]
    assert shop.job(job_id).status == "completed"
    found = shop.state.deliveries.find_download(link.token)
    assert found and found.status == "completed" and not found.revoked and not found.expired
    assert found.result_key and shop.storage.files[found.result_key] == b"PNG 400 320"
    assert shop.events(job_id)[-1] == "free_retry_failed"
    shop.refund_due()
    shop.mail_due()
    assert shop.payments.refunds == {}
    assert shop.mailer.subjects() == ["completion"]
    shop.later(hours=2)
    assert shop.state.queries.alarms(shop.policy) == []


def test_a_gift_that_fails_after_the_file_was_removed_is_failed(shop: Steps) -> None:
    job_id = shop.delivered()
    shop.later(hours=50)
    assert shop.state.deliveries.give_up_files(job_id) != []
    admin.retry(shop.ctx, job_id, admin_override=True)
    end(shop, job_id, "failed at Upsampler")
    assert shop.job(job_id).status == "failed"
