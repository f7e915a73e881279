"""Rules 1, 4 and 6: the call that costs credits, and what refuses it."""

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
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.lifecycle import callback_token
from smi_pipeline.core.models import Stage, UpscaleReply
from smi_pipeline.services.completions import check_completions, take_hint
from smi_pipeline_tests.integration.services.service_context import SECRET_KEY
from smi_pipeline_tests.integration.services.steps import Steps


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
    take_hint(shop.ctx, token(shop, job_id), external_id.encode())
    assert states(shop, job_id) == ["accepted"]
    check_completions(shop.ctx)
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
    take_hint(shop.ctx, token(shop, job_id, 0), lost_id.encode())
    check_completions(shop.ctx)
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
    shop.state.jobs.cancel(job_id, reason="cancelled", message="cancelled", actor="test")
    assert shop.state.submissions.in_flight() == 1
    shop.later(minutes=10)
    check_completions(shop.ctx)
    assert shop.state.submissions.in_flight() == 0


def test_a_webhook_with_an_unknown_token_is_refused(shop: Steps) -> None:
    with pytest.raises(NotFound):
        take_hint(shop.ctx, "f" * 64, b"up_1")


def test_a_webhook_proves_nothing_the_status_call_decides(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    take_hint(shop.ctx, token(shop, job_id), b"up_forged")
    assert check_completions(shop.ctx)["waiting"] == 1
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


def test_a_429_stops_the_submissions_of_every_process(shop: Steps) -> None:
    shop.paid(), shop.paid()
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.submit_due()
    assert shop.upscaler.calls.count("upscaler.submit") == 1


def test_a_429_of_a_submission_does_not_stop_status_calls(shop: Steps) -> None:
    shop.paid()
    shop.submit_due()
    shop.paid()
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.submit_due()
    shop.poll()
    assert shop.upscaler.calls.count("upscaler.status") == 1


def test_a_429_of_a_status_call_stops_status_calls_and_no_submission(shop: Steps) -> None:
    first = shop.paid()
    shop.submit_due()
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.poll()
    shop.poll()
    assert shop.upscaler.calls.count("upscaler.status") == 1
    second = shop.paid()
    shop.submit_due()
    assert states(shop, first) == states(shop, second) == ["accepted"]


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
    check_completions(shop.ctx)
    assert shop.job(job_id).queue == "submit"  # its clock stands still, for a day at most
    shop.later(hours=24)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "not_started_in_time"
    shop.register()  # the next order tries the account again


def test_bad_input_is_refunded_at_once(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(PermanentError("rejected_by_api", "422: no image", scope=Scope.ORDER))
    shop.submit_due()
    assert shop.job(job_id).reason_code == "rejected_by_api"
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


@pytest.mark.parametrize("now", [b"PNG 200 80", b"TIFF 200 80", b"TIFF 100 80"])
def test_a_source_that_is_another_one_than_ordered_is_refused_when_it_stays_so(shop: Steps, now: bytes) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = now
    shop.submit_due()
    assert shop.job(job_id).status == "pending"
    for _ in range(40):
        shop.later(seconds=100)
        shop.submit_due()
    assert shop.job(job_id).reason_code == "source_changed"


def test_a_host_that_showed_another_image_for_a_while_costs_no_order(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"TIFF 200 80"
    shop.submit_due()
    shop.fetcher.bodies.clear()
    shop.later(seconds=30)
    shop.submit_due()
    assert shop.job(job_id).submitted_at


def test_two_orders_with_one_id_are_one_call_and_one_without_a_clear_answer(shop: Steps) -> None:
    first, second = shop.paid(), shop.paid()
    one = UpscaleReply(external_id="up_shared", stage=Stage.QUEUED)
    shop.upscaler.replies["up_shared"] = one
    shop.upscaler.submit = lambda request: one  # type: ignore
    shop.submit_due()
    assert (states(shop, first), states(shop, second)) == (["accepted"], ["sending"])
    assert shop.tasks() == ["shared_id"]
    task = shop.state.manual_tasks.opened()[0]
    assert (task.subject, task.job_id) == ("up_shared", second)
    assert "up_shared" in task.message
    del shop.upscaler.submit
    shop.later(seconds=180)  # the grace, and the spread of the pause
    shop.submit_due()
    assert states(shop, second) == ["lost", "accepted"]
    assert shop.external_id(second) != "up_shared"


def test_the_webhook_of_a_call_that_got_the_id_of_another_tells_its_own(shop: Steps) -> None:
    shop.paid()
    shop.submit_due()
    job_id = shop.paid()
    taken = shop.sql("SELECT external_id FROM smi.submissions")[0]["external_id"]
    shop.upscaler.submit = lambda request: UpscaleReply(external_id=taken, stage=Stage.QUEUED)  # type: ignore
    shop.submit_due()
    take_hint(shop.ctx, token(shop, job_id), b"up_its_own")
    assert (states(shop, job_id), shop.external_id(job_id)) == (["accepted"], "up_its_own")


def test_a_success_without_an_address_is_still_running_until_the_deadline(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    external_id = shop.external_id(job_id)
    shop.upscaler.finish(external_id, url="")
    shop.poll()
    assert (states(shop, job_id), shop.job(job_id).stage) == (["accepted"], "processing")
    shop.upscaler.finish(external_id)
    shop.poll()
    assert states(shop, job_id) == ["completed"]


def test_a_success_without_an_address_at_the_deadline_is_no_result(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id), url="")
    shop.later(minutes=16)
    shop.poll()
    assert states(shop, job_id) == ["completed"]
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "no_result"
