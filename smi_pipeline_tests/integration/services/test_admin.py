"""The admin actions: what an operator does by hand."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import Conflict, NotFound, RefusedError
from smi_pipeline.core.models import Status, UpscaleReply
from smi_pipeline.services import admin, intake
from smi_pipeline.services.completions import check_completions
from smi_pipeline_tests.integration.services.steps import Steps


@pytest.mark.parametrize("job_id", ["f" * 32, "nonsense", "", "x\x00", "\udcff", "a" * 5000])
def test_an_unknown_job_is_not_found_in_one_short_line(shop: Steps, job_id: str) -> None:
    with pytest.raises(NotFound) as refused:
        admin.retry(shop.ctx, job_id)
    assert len(str(refused.value)) < 200


def test_a_job_is_known_with_and_without_hyphens(shop: Steps) -> None:
    import uuid

    job_id = shop.paid()
    assert admin.details(shop.ctx, str(uuid.UUID(job_id)).upper())["job"].job_id == job_id


def test_a_hold_keeps_a_job_and_a_release_gives_the_time_back(shop: Steps) -> None:
    job_id = shop.paid()
    start_by = shop.job(job_id).start_by
    assert admin.hold(shop.ctx, job_id, "fraud?") == "held"
    assert shop.submit_due() == []
    shop.later(hours=5)
    assert check_completions(shop.ctx)["not_started"] == 0
    assert shop.state.queries.alarms(shop.policy) == []
    admin.release(shop.ctx, job_id)
    moved = shop.job(job_id).start_by
    assert moved is not None and start_by is not None
    assert abs(moved - start_by - timedelta(hours=5)) < timedelta(minutes=1)
    shop.submit_due()
    assert shop.job(job_id).status == "processing"


def test_a_hold_stops_the_clock_for_at_most_its_limit(shop: Steps) -> None:
    job_id = shop.paid()
    admin.hold(shop.ctx, job_id, "fraud?")
    shop.later(hours=20)
    admin.hold(shop.ctx, job_id, "said again")
    shop.later(hours=4, minutes=30)
    assert check_completions(shop.ctx)["not_started"] == 0, "half an hour of the promise is left"
    shop.later(minutes=31)
    assert shop.state.queries.alarms(shop.policy) == []
    assert check_completions(shop.ctx)["not_started"] == 1
    shop.fulfil_due()
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_a_hold_with_an_unanswered_submission_does_not_last_for_ever(shop: Steps) -> None:
    from smi_pipeline.core.errors import AmbiguousError

    job_id = shop.paid()
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    admin.hold(shop.ctx, job_id, "fraud?")
    shop.later(hours=26)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).status == "failed"


def test_a_hold_does_not_stop_the_deadline_of_a_submitted_job(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    admin.hold(shop.ctx, job_id, "too late")
    shop.later(seconds=901)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "timed_out"


def test_holds_are_refused_where_they_make_no_sense(shop: Steps) -> None:
    with pytest.raises(Conflict):
        admin.hold(shop.ctx, shop.delivered(), "why")
    with pytest.raises(RefusedError):
        admin.hold(shop.ctx, shop.paid(), "  ")
    with pytest.raises(Conflict):
        admin.release(shop.ctx, shop.paid())


def test_an_extended_deadline_is_kept(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    admin.extend(shop.ctx, job_id, 10)
    shop.later(seconds=1000)
    check_completions(shop.ctx)
    assert shop.job(job_id).queue is None
    shop.later(seconds=600)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "timed_out"


@pytest.mark.parametrize("minutes", [0, -1, 1441, float("nan"), float("inf")])
def test_a_deadline_is_extended_by_a_sensible_length_only(shop: Steps, minutes: float) -> None:
    with pytest.raises(RefusedError):
        admin.extend(shop.ctx, shop.paid(), minutes)


def test_check_asks_at_once(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    assert "completed" in admin.check(shop.ctx, job_id)
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_an_open_paid_job_is_cancelled_with_its_refund(shop: Steps) -> None:
    job_id = shop.paid()
    assert "refund" in admin.cancel(shop.ctx, job_id)
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"]
    assert shop.submit_due() == []


def test_an_unpaid_job_that_is_cancelled_can_no_longer_be_paid(shop: Steps) -> None:
    job_id = shop.register().job_id
    admin.cancel(shop.ctx, job_id)
    assert [s.status for s in shop.payments.sessions.values()] == ["expired"]
    assert shop.job(job_id).status == "abandoned"


def test_closed_jobs_cannot_be_cancelled(shop: Steps) -> None:
    abandoned = shop.register().job_id
    admin.cancel(shop.ctx, abandoned)
    for job_id in (abandoned, shop.delivered(), shop.failed()):
        with pytest.raises(Conflict):
            admin.cancel(shop.ctx, job_id)


def test_a_delivered_job_is_refunded_as_goodwill_and_stays_delivered(shop: Steps) -> None:
    job_id = shop.delivered()
    admin.refund_job(shop.ctx, job_id)
    assert shop.job(job_id).status == "completed"
    assert shop.outcomes(job_id) == [(1, "deliver")]
    assert shop.mailer.subjects() == ["completion", "goodwill"]
    assert [r.amount_cents for r in shop.payments.refunds.values()] == [shop.job(job_id).price_cents]
    with pytest.raises(Conflict):
        admin.refund_job(shop.ctx, job_id)
    with pytest.raises(Conflict):
        admin.refund_job(shop.ctx, shop.register().job_id)


def test_a_refund_that_stripe_refuses_is_told_as_a_manual_task(shop: Steps) -> None:
    from smi_pipeline.core.errors import PermanentError

    job_id = shop.delivered()
    shop.payments.faults.extend([None, None, PermanentError("stripe_refused", "the account is closed")])
    assert "manual task" in admin.refund_job(shop.ctx, job_id)
    assert shop.tasks() == ["refund_failed"]


@pytest.mark.parametrize("make", ["delivered", "failed"])
def test_a_retry_of_a_closed_job_is_a_new_round_without_money(shop: Steps, make: str) -> None:
    job_id = getattr(shop, make)()
    shop.refund_due()
    with pytest.raises(Conflict):
        admin.retry(shop.ctx, job_id)
    assert "round 2" in admin.retry(shop.ctx, job_id, admin_override=True)
    shop.submit_due()
    shop.upscaler.fail(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    shop.refund_due()
    assert shop.outcomes(job_id)[1] == (2, "none")
    paid_back = sum(r.amount_cents for r in shop.payments.refunds.values())
    assert paid_back == (0 if make == "delivered" else shop.job(job_id).price_cents)
    assert shop.state.queries.alarms(shop.policy) == []


def test_a_retried_round_delivers_with_a_new_link_and_a_new_mail(shop: Steps) -> None:
    job_id = shop.failed()
    shop.refund_due()
    shop.mail_due()
    admin.retry(shop.ctx, job_id, admin_override=True)
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    shop.mail_due()
    assert shop.job(job_id).status == "completed"
    assert shop.outcomes(job_id) == [(1, "refund"), (2, "deliver")]
    assert shop.mailer.subjects() == ["completion", "refund"]
    admin.retry(shop.ctx, job_id, admin_override=True)
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    assert [key for key in shop.storage.files if key.startswith("results/")] == [shop.job(job_id).result_key]
    assert shop.payments.returned_cents(shop.job(job_id).payment_intent_id or "") == shop.job(job_id).price_cents


def test_an_unpaid_job_is_upscaled_on_an_admins_word_and_cannot_be_paid_any_more(shop: Steps) -> None:
    job_id = shop.register().job_id
    with pytest.raises(Conflict, match="not paid"):
        admin.retry(shop.ctx, job_id)
    admin.retry(shop.ctx, job_id, admin_override=True)
    assert [s.status for s in shop.payments.sessions.values()] == ["expired"]
    shop.submit_due()
    assert shop.job(job_id).status == "processing"


def test_a_job_at_upsampler_is_not_retried(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    with pytest.raises(Conflict, match="at Upsampler now"):
        admin.retry(shop.ctx, job_id)
    waiting = shop.paid()
    assert "in the queue" in admin.retry(shop.ctx, waiting)


@pytest.mark.parametrize("status", list(Status))
def test_the_next_step_is_one_sentence_for_every_state(shop: Steps, status: Status) -> None:
    job = replace(shop.job(shop.paid()), status=status)
    assert admin.next_step(job).endswith(".")


def test_registration_refuses_what_the_shop_should_correct_and_takes_no_money(shop: Steps) -> None:
    from smi_pipeline.services.intake import JobRequest

    shop.fetcher.bodies["https://images.example/x.tif"] = b"TIFF 1 1"
    good = JobRequest(image_url="https://images.example/a.png", resolution="4x", email="a@example.org")
    for wrong in (
        replace(good, resolution="3x"),
        replace(good, email="nobody"),
        replace(good, image_url="https://images.example/x.tif"),
    ):
        with pytest.raises(RefusedError) as refused:
            intake.register_job(shop.ctx, wrong)
        assert refused.value.status == 422
    assert shop.payments.calls == []
    assert shop.state.queries.counts() == {}
    odd = replace(good, customer_name="A\x00n\ud800na\r\nBcc: x")
    made = intake.register_job(shop.ctx, odd)
    name = shop.job(made.job_id).customer_name or ""
    assert name.isprintable()


def test_what_upsampler_answers_at_once_needs_no_further_call(shop: Steps) -> None:
    from smi_pipeline.core.models import Stage

    job_id = shop.paid()
    submit = shop.upscaler.submit

    def failed_at_once(request) -> UpscaleReply:
        return replace(submit(request), stage=Stage.FAILED, error="bad image")

    shop.upscaler.submit = failed_at_once  # type: ignore
    shop.submit_due()
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "upscale_failed"
    assert "upscaler.status" not in shop.upscaler.calls
