"""What a second look at the way of the money found: each of these once ended wrong."""

from smi_pipeline.core.models import Queue
from smi_pipeline_tests.unit.services.steps import Steps


def test_a_run_that_never_starts_is_no_attempt(shop: Steps) -> None:
    job_id = shop.paid()
    for _ in range(8):  # all workers are gone for some minutes: sensors lease, nobody works
        assert shop.take(Queue.SUBMIT)[1] == [job_id]
        shop.later(seconds=50)
    shop.submit_due()
    assert shop.job(job_id).stage == "queued"
    assert len(shop.upscaler.submissions) == 1


def test_a_mail_whose_run_never_starts_is_not_given_up(shop: Steps) -> None:
    shop.failed()
    shop.refund_due()
    for _ in range(15):
        assert shop.take(Queue.MAIL)[1]
        shop.later(seconds=50)
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund"]


def test_new_work_does_not_keep_the_rows_of_a_dead_worker_waiting(shop: Steps) -> None:
    first = shop.paid()
    shop.take(Queue.SUBMIT)
    shop.later(minutes=2)
    second = shop.paid()
    assert shop.take(Queue.SUBMIT)[1] == [first]
    assert shop.take(Queue.SUBMIT)[1] == [second]
