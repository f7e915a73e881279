"""Rules 1, 4, 5 and 6: the call that costs credits, its two clocks, and back-pressure."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    NotFound,
    PermanentError,
    RateLimited,
    TransientError,
    Unavailable,
)
from smi_pipeline.core.lifecycle import callback_token
from smi_pipeline.core.models import Queue
from smi_pipeline.services.batches import next_batches
from smi_pipeline.services.completions import check_completions, take_hint
from smi_pipeline_tests.unit.services.steps import Steps
from smi_pipeline_tests.unit.services.world import SECRET_KEY


def states(shop: Steps, job_id: str) -> list[str]:
    return [submission.state for submission in shop.state.submissions.of_job(job_id)]


def token(shop: Steps, job_id: str, nth: int = -1) -> str:
    return callback_token(SECRET_KEY, shop.state.submissions.of_job(job_id)[nth].submission_id)


def test_the_intent_of_a_call_is_committed_before_it(shop: Steps) -> None:
    job_id = shop.paid()
    seen: list[list[str]] = []
    submit = shop.upscaler.submit
    shop.upscaler.submit = lambda request: (seen.append(states(shop, job_id)), submit(request))[1]  # type: ignore
    shop.submit_due()
    assert seen == [["sending"]]


def test_an_unanswered_submission_is_closed_after_the_grace_and_submitted_once_more(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    assert states(shop, job_id) == ["sending"]
    shop.later(seconds=60)
    shop.submit_due()
    assert len(shop.upscaler.submissions) == 1, "repeated within the grace time"
    shop.later(seconds=90)
    shop.submit_due()
    assert states(shop, job_id) == ["lost", "accepted"]
    assert len(shop.upscaler.submissions) == 2


def test_a_second_lost_answer_ends_the_job_with_its_refund_and_no_third_call(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.extend([AmbiguousError("no answer"), AmbiguousError("no answer")])
    for _ in range(4):
        shop.submit_due()
        shop.later(seconds=150)
    assert shop.job(job_id).reason_code == "submission_lost"
    assert len(shop.upscaler.submissions) == 2
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_a_webhook_identifies_an_unanswered_submission(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    external_id = next(iter(shop.upscaler.replies))
    shop.upscaler.finish(external_id)
    take_hint(shop.world, token(shop, job_id), external_id.encode())
    assert states(shop, job_id) == ["accepted"]
    check_completions(shop.world)
    shop.later(minutes=5)
    shop.submit_due()
    assert len(shop.upscaler.submissions) == 1
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_whichever_of_two_results_comes_first_is_taken_and_both_are_paid_for(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    lost_id = next(iter(shop.upscaler.replies))
    shop.later(seconds=150)
    shop.submit_due()
    shop.upscaler.finish(lost_id, url="https://cdn.example/first.png")
    take_hint(shop.world, token(shop, job_id, 0), lost_id.encode())
    check_completions(shop.world)
    shop.fulfil_due()
    shop.upscaler.finish(shop.external_id(job_id), url="https://cdn.example/second.png")
    shop.poll()
    shop.fulfil_due()
    assert states(shop, job_id) == ["completed", "completed"]
    assert [s.credits for s in shop.state.submissions.of_job(job_id)] == [2, 2]
    assert shop.outcomes(job_id) == [(1, "deliver")]
    assert "late_success" in shop.events(job_id)
    assert sum(call == "fetcher.fetch result" for call in shop.fetcher.calls) == 1


def test_an_unanswered_submission_of_a_closed_job_does_not_stay_in_flight_for_ever(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    shop.state.deliveries.cancel(job_id, reason="cancelled", words="cancelled", actor="test")
    assert shop.state.submissions.in_flight() == 1
    shop.later(minutes=10)
    check_completions(shop.world)
    assert shop.state.submissions.in_flight() == 0


def test_a_webhook_with_an_unknown_token_is_refused(shop: Steps) -> None:
    with pytest.raises(NotFound):
        take_hint(shop.world, "f" * 64, b"up_1")


def test_a_webhook_proves_nothing_the_status_call_decides(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    take_hint(shop.world, token(shop, job_id), b"up_forged")
    assert check_completions(shop.world)["waiting"] == 1
    assert shop.job(job_id).status == "processing"
    assert states(shop, job_id) == ["accepted"]


@pytest.mark.parametrize("refusal", [RateLimited("429", retry_after=20), TransientError("503", counts=False)])
def test_429_and_outages_are_not_attempts(shop: Steps, refusal: TransientError) -> None:
    job_id = shop.paid()
    for _ in range(8):
        shop.upscaler.faults.append(refusal)
        shop.submit_due()
        shop.later(seconds=120)
    assert shop.job(job_id).attempts == 0
    shop.submit_due()
    assert shop.job(job_id).submitted_at is not None


def test_an_outage_of_the_image_host_is_not_an_attempt_and_ends_at_start_by(shop: Steps) -> None:
    job_id = shop.paid()
    for _ in range(8):
        shop.fetcher.faults.append(TransientError("connection refused"))
        shop.submit_due()
        shop.later(minutes=3)
    shop.submit_due()
    assert shop.job(job_id).submitted_at is not None


def test_a_429_stops_the_calls_of_every_process(shop: Steps) -> None:
    shop.paid(), shop.paid()
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.submit_due()
    assert shop.upscaler.calls.count("upscaler.submit") == 1


def test_a_429_to_a_status_call_stops_the_calls_of_every_process(shop: Steps) -> None:
    shop.paid()
    shop.submit_due()
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.poll()
    with pytest.raises(RateLimited):
        shop.limiter.acquire("submit")


@pytest.mark.parametrize("words", ["401 wrong key", "402 no credits"])
def test_a_refused_account_opens_the_breaker_and_no_orders_are_taken(shop: Steps, words: str) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(AccountError(words))
    shop.submit_due()
    assert shop.job(job_id).status == "processing"
    assert shop.job(job_id).attempts == 0
    assert shop.tasks() == ["account"]
    with pytest.raises(Unavailable) as refused:
        shop.register()
    assert refused.value.status == 503
    assert shop.payments.calls.count("payments.create_checkout") == 1  # only the first job's
    shop.later(minutes=3)
    shop.submit_due()  # the account works again: this closes the breaker
    assert shop.tasks() == []
    shop.register()


def test_a_key_that_is_refused_for_status_calls_opens_the_breaker_too(shop: Steps) -> None:
    shop.paid()
    shop.submit_due()
    shop.upscaler.faults.append(AccountError("401 wrong key"))
    shop.poll()
    with pytest.raises(Unavailable):
        shop.register()


def test_the_breaker_does_not_lock_the_shop_for_ever_when_nothing_is_left_to_submit(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(AccountError("402 no credits"))
    shop.submit_due()
    shop.later(hours=2)
    check_completions(shop.world)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "not_started_in_time"
    shop.register()  # the next order tries the account again


def test_a_job_that_cannot_start_is_refunded_at_start_by(shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(seconds=3601)
    assert check_completions(shop.world)["not_started"] == 1
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "not_started_in_time"
    assert shop.upscaler.submissions == []
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_a_worker_that_comes_back_after_start_by_submits_nothing(shop: Steps) -> None:
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    from smi_pipeline.services import submit

    assert submit.prepare(shop.world, job_id, lease_id).state == "done"
    shop.later(seconds=3700)
    check_completions(shop.world)
    assert submit.submit(shop.world, job_id, lease_id).state == "lost"
    assert shop.upscaler.submissions == []


def test_at_the_deadline_one_last_status_call_decides(shop: Steps) -> None:
    in_time, late = shop.paid(), shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    shop.upscaler.finish(shop.external_id(in_time))
    check_completions(shop.world)
    shop.fulfil_due()
    assert shop.job(in_time).status == "completed"
    assert shop.job(late).reason_code == "timed_out"


def test_without_an_answer_the_job_is_refunded_two_minutes_after_its_deadline(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    shop.upscaler.faults.append(TransientError("no answer"))
    check_completions(shop.world)
    assert shop.job(job_id).queue is None
    shop.later(seconds=125)
    shop.upscaler.faults.append(TransientError("no answer"))
    check_completions(shop.world)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "timed_out"


def test_a_late_success_after_the_refund_is_logged_and_not_delivered(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.later(seconds=901)
    check_completions(shop.world)
    shop.fulfil_due()
    shop.refund_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.later(minutes=20)
    check_completions(shop.world)
    shop.fulfil_due()
    assert "late_success" in shop.events(job_id)
    assert shop.job(job_id).status == "refunded"
    assert shop.outcomes(job_id) == [(1, "refund")]
    assert [s.credits for s in shop.state.submissions.of_job(job_id)] == [2]


def test_bad_input_is_refunded_at_once(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(PermanentError("rejected_by_api", "422: no image"))
    shop.submit_due()
    assert shop.job(job_id).reason_code == "rejected_by_api"
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_submissions_pause_at_the_limit_in_flight(shop: Steps) -> None:
    shop.world = replace(shop.world, policy=replace(shop.policy, max_in_flight=2))
    for _ in range(5):
        shop.paid()
    taken = [keys for _, keys in next_batches(shop.world, Queue.SUBMIT, max_leases=4, limit=25)]
    assert sum(len(keys) for keys in taken) == 2
    assert list(next_batches(shop.world, Queue.SUBMIT, max_leases=4, limit=25)) == []


def test_no_orders_are_taken_while_the_queue_is_longer_than_the_promise(shop: Steps) -> None:
    shop.world = replace(shop.world, policy=replace(shop.policy, max_wait=timedelta(seconds=3), requests_per_minute=60))
    for _ in range(2):
        shop.paid()
    with pytest.raises(Unavailable, match="too many are waiting"):
        shop.register()


def test_no_orders_are_taken_once_the_budget_is_used(shop: Steps) -> None:
    shop.delivered()
    shop.world = replace(shop.world, policy=replace(shop.policy, monthly_credit_budget=2, budget_hold=True))
    with pytest.raises(Unavailable, match="budget"):
        shop.register()
    shop.world = replace(shop.world, policy=replace(shop.policy, monthly_credit_budget=3))
    shop.register()


def test_a_poll_close_to_its_deadline_goes_before_submissions(empty_url: str) -> None:
    shop = Steps(empty_url, per_minute=6)
    job_id = shop.paid()
    shop.submit_due()
    for _ in range(3):
        shop.limiter.acquire("submit")
    shop.paid()
    assert shop.submit_due()[0].state == "later"  # type: ignore[union-attr]
    shop.change("UPDATE smi.submissions SET deadline_at = smi.now() + interval '30 seconds'")
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    assert states(shop, job_id) == ["completed"]
    shop.close()


def test_a_source_that_changed_after_the_order_is_refused(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 200 80"
    shop.submit_due()
    assert shop.job(job_id).reason_code == "source_changed"
    swapped = shop.paid()
    shop.fetcher.bodies[shop.job(swapped).source_url] = b"TIFF 200 80"
    shop.submit_due()
    assert shop.job(swapped).reason_code == "unsupported_format"
