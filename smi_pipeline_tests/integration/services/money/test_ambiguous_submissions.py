"""Rule 4: a submission without an answer. Only its webhook can identify it; it is repeated once, never blindly."""

import pytest

from smi_pipeline.core.errors import AmbiguousError
from smi_pipeline.core.lifecycle import callback_token
from smi_pipeline.services import admin
from smi_pipeline.services.completions import check_completions, take_hint
from smi_pipeline_tests.integration.services.service_context import SECRET_KEY
from smi_pipeline_tests.integration.services.steps import Steps

NO_ANSWER = AmbiguousError("no answer")


def states(shop: Steps, job_id: str) -> list[str]:
    return [submission.state for submission in shop.state.submissions.of_job(job_id)]


def identify(shop: Steps, job_id: str, nth: int) -> str:
    """The webhook of the job's nth call comes. Returns Upsampler's id of that upscale."""
    external_id = list(shop.upscaler.replies)[nth]
    token = callback_token(SECRET_KEY, shop.state.submissions.of_job(job_id)[nth].submission_id)
    take_hint(shop.ctx, token, external_id.encode())
    return external_id


def lost_then_submitted_again(shop: Steps, *, answered: bool = True) -> str:
    """A job whose first call was not answered, and whose second one was (or not)."""
    job_id = shop.paid()
    shop.upscaler.after_effect.extend([NO_ANSWER, None if answered else NO_ANSWER])
    shop.submit_due()
    shop.later(seconds=150)
    shop.submit_due()
    assert states(shop, job_id) == ["lost", "accepted" if answered else "sending"]
    return job_id


def test_the_failure_of_the_second_call_waits_for_the_first_that_was_found_again(shop: Steps) -> None:
    job_id = lost_then_submitted_again(shop)
    first = identify(shop, job_id, 0)
    shop.upscaler.fail(shop.external_id(job_id, 1))
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "processing", "the first upscale is still running"
    shop.upscaler.finish(first)
    shop.poll()
    shop.fulfil_due()
    assert shop.outcomes(job_id) == [(1, "deliver")]


@pytest.mark.parametrize("first_ends", ["failed", "timed_out"])
def test_the_job_ends_when_both_calls_have_ended_without_success(shop: Steps, first_ends: str) -> None:
    job_id = lost_then_submitted_again(shop)
    first = identify(shop, job_id, 0)
    shop.upscaler.fail(shop.external_id(job_id, 1))
    shop.poll()
    if first_ends == "failed":
        shop.upscaler.fail(first)
    else:
        shop.later(seconds=shop.policy.max_processing.total_seconds())
    shop.poll()
    shop.fulfil_due()
    assert states(shop, job_id) == [first_ends, "failed"]
    assert shop.job(job_id).status == "failed"
    shop.refund_due()
    assert shop.payments.returned_cents(shop.job(job_id).payment_intent_id or "") == shop.job(job_id).price_cents


def test_the_second_call_runs_out_of_time_while_the_first_that_was_found_again_goes_on(shop: Steps) -> None:
    job_id = lost_then_submitted_again(shop)
    first = identify(shop, job_id, 0)
    admin.extend(shop.ctx, job_id, 60)
    shop.change("UPDATE smi.submissions SET deadline_at = smi.now() WHERE state = 'accepted'")
    shop.poll()
    shop.fulfil_due()
    assert states(shop, job_id)[1] == "timed_out"
    assert shop.job(job_id).status == "processing"
    shop.upscaler.finish(first)
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_no_second_call_is_made_for_an_upscale_that_was_found_again(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.after_effect.append(NO_ANSWER)
    shop.submit_due()
    shop.state.submissions.mark_lost(shop.state.submissions.of_job(job_id)[0].submission_id, actor="test")
    first = identify(shop, job_id, 0)
    for _ in range(3):
        shop.later(minutes=3)
        shop.submit_due()
        shop.poll()
    assert len(shop.upscaler.submissions) == 1
    shop.upscaler.finish(first)
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_an_upscale_that_was_found_again_is_not_cut_short_by_start_by(shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(minutes=57)
    shop.upscaler.after_effect.append(NO_ANSWER)
    shop.submit_due()
    shop.state.submissions.mark_lost(shop.state.submissions.of_job(job_id)[0].submission_id, actor="test")
    first = identify(shop, job_id, 0)
    shop.later(minutes=4)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).status == "processing"
    shop.upscaler.finish(first)
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_a_first_call_that_failed_and_a_second_that_was_lost_are_two_there_is_no_third(shop: Steps) -> None:
    job_id = lost_then_submitted_again(shop, answered=False)
    shop.upscaler.fail(identify(shop, job_id, 0))
    check_completions(shop.ctx)
    for _ in range(3):
        shop.submit_due()
        shop.later(seconds=150)
    shop.fulfil_due()
    assert len(shop.upscaler.submissions) == 2
    assert shop.job(job_id).reason_code == "upscale_failed"
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_a_call_that_was_certainly_not_taken_is_none_of_the_two(shop: Steps) -> None:
    from smi_pipeline.core.errors import TransientError

    job_id = shop.paid()
    for _ in range(3):
        shop.upscaler.faults.append(TransientError("503", counts=False))
        shop.submit_due()
        shop.later(minutes=1)
    shop.submit_due()
    assert states(shop, job_id) == ["rejected"] * 3 + ["accepted"]
