"""The way of an order from registration to its closing mail."""

import pytest

from smi_pipeline.state.database import Database, transaction_is_open
from smi_pipeline_tests.integration.services.steps import Steps


def test_a_paid_job_is_upscaled_delivered_and_mailed_once(shop: Steps) -> None:
    job_id = shop.delivered()
    job = shop.job(job_id)
    assert (job.result_width, job.result_height, job.result_format) == (400, 320, "PNG")
    assert shop.storage.files[job.result_key or ""] == b"PNG 400 320"
    assert shop.outcomes(job_id) == [(1, "deliver")]
    assert len(shop.upscaler.submissions) == 1
    assert shop.mailer.subjects() == ["completion"]
    assert shop.payments.refunds == {}
    assert shop.events(job_id) == [
        "registered", "paid", "prepared", "submitting", "submitted", "upscaled", "verified", "delivered",
        "mail_accepted",
    ]  # fmt: skip
    link = shop.mailer.contexts[-1]["download_url"]
    assert len(link.rsplit("/", 1)[1]) == 64
    assert shop.state.queries.alarms(shop.policy) == []


def test_a_failed_upscale_is_refunded_and_the_customer_told_once(shop: Steps) -> None:
    job_id = shop.failed()
    assert shop.job(job_id).reason_code == "upscale_failed"
    shop.refund_due()
    shop.mail_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.outcomes(job_id) == [(1, "refund")]
    assert [r.amount_cents for r in shop.payments.refunds.values()] == [shop.job(job_id).price_cents]
    assert shop.mailer.subjects() == ["refund"]


def test_the_fakes_notice_a_call_within_a_transaction(shop: Steps, services_url: str) -> None:
    with Database(services_url).transaction():
        assert transaction_is_open()
        with pytest.raises(AssertionError, match="while a transaction is open"):
            shop.upscaler.status("up_1")
    assert not transaction_is_open()
