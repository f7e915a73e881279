"""Rules 5 and 6: the two clocks of an order, and back-pressure."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import (
    AccountError,
    RateLimited,
    TransientError,
    Unavailable,
)
from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline_tests.integration.services.steps import Steps


def states(shop: Steps, job_id: str) -> list[str]:
    return [submission.state for submission in shop.state.submissions.of_job(job_id)]


@pytest.mark.parametrize("words", ["401 wrong key", "402 no credits"])
def test_a_refused_account_opens_the_breaker_and_no_orders_are_taken(shop: Steps, words: str) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(AccountError(words))
    shop.submit_due()
    assert shop.job(job_id).status == "processing"
    assert shop.job(job_id).attempts == 0
    assert shop.tasks() == ["breaker"]
    with pytest.raises(Unavailable) as refused:
        shop.register()
    assert refused.value.status == 503
    assert shop.payments.calls.count("payments.create_checkout") == 1  # only the first job's
    shop.later(minutes=3)
    shop.submit_due()  # the account works again: this closes the breaker
    assert shop.tasks() == []
    shop.register()


def test_a_job_that_cannot_start_is_refunded_at_start_by(shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(seconds=3601)
    assert check_completions(shop.ctx)["not_started"] == 1
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "not_started_in_time"
    assert shop.upscaler.submissions == []
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_a_worker_that_comes_back_after_start_by_submits_nothing(shop: Steps) -> None:
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    from smi_pipeline.services import submit

    assert submit.prepare(shop.ctx, job_id, lease_id).state == "done"
    shop.later(seconds=3700)
    check_completions(shop.ctx)
    assert submit.submit(shop.ctx, job_id, lease_id).state == "lost"
    assert shop.upscaler.submissions == []


def test_at_the_deadline_one_last_status_call_decides(shop: Steps) -> None:
    in_time, late = shop.paid(), shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    shop.upscaler.finish(shop.external_id(in_time))
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(in_time).status == "completed"
    assert shop.job(late).reason_code == "timed_out"


def test_without_an_answer_the_job_is_refunded_two_minutes_after_its_deadline(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    shop.upscaler.faults.append(TransientError("no answer"))
    check_completions(shop.ctx)
    assert shop.job(job_id).queue is None
    shop.later(seconds=125)
    shop.upscaler.faults.append(TransientError("no answer"))
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "timed_out"


def test_a_late_success_after_the_refund_is_logged_and_not_delivered(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    check_completions(shop.ctx)
    shop.fulfil_due()
    shop.refund_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.later(minutes=20)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert "late_success" in shop.events(job_id)
    assert shop.job(job_id).status == "refunded"
    assert shop.outcomes(job_id) == [(1, "refund")]
    assert [s.credits for s in shop.state.submissions.of_job(job_id)] == [2]


def test_submissions_pause_at_the_limit_in_flight(shop: Steps) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.policy, max_in_flight=2))
    for _ in range(5):
        shop.paid()
    taken = [keys for _, keys in next_batches(shop.ctx, Queue.SUBMIT, max_leases=4, limit=25)]
    assert sum(len(keys) for keys in taken) == 2
    assert list(next_batches(shop.ctx, Queue.SUBMIT, max_leases=4, limit=25)) == []


def test_no_orders_are_taken_while_the_queue_is_longer_than_the_promise(shop: Steps) -> None:
    shop.ctx = replace(
        shop.ctx, policy=replace(shop.policy, max_wait=timedelta(seconds=3), submissions=Allowance(per_minute=60))
    )
    for _ in range(4):
        shop.paid()
    with pytest.raises(Unavailable, match="too many are waiting"):
        shop.register()


def test_no_orders_are_taken_once_the_budget_is_used(shop: Steps) -> None:
    shop.delivered()
    shop.ctx = replace(shop.ctx, policy=replace(shop.policy, monthly_credit_budget=2, budget_hold=True))
    with pytest.raises(Unavailable, match="budget"):
        shop.register()
    shop.ctx = replace(shop.ctx, policy=replace(shop.policy, monthly_credit_budget=3))
    shop.register()


def test_a_poll_close_to_its_deadline_goes_before_the_others(empty_url: str) -> None:
    shop = Steps(empty_url, per_minute=6)
    job_id = shop.paid()
    shop.submit_due()
    for _ in range(4):
        shop.limiter.acquire(CallPurpose.POLL)
    with pytest.raises(RateLimited):
        shop.limiter.acquire(CallPurpose.POLL)
    shop.change("UPDATE smi.submissions SET deadline_at = smi.now() + interval '30 seconds'")
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    assert states(shop, job_id) == ["completed"]
    shop.close()
