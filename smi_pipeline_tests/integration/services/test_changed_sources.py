"""A source that shows something else at its preparation than at its order."""

from dataclasses import replace

from smi_pipeline.services import admin, intake
from smi_pipeline.services.reconciliation.stored_files import remove_expired_files
from smi_pipeline_tests.integration.services.steps import Steps


def refetch_until_believed(shop: Steps) -> None:
    for _ in range(4):
        shop.submit_due()
        shop.later(seconds=20)


def test_another_picture_of_the_same_size_is_refunded_unless_it_was_there_only_for_a_moment(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=rocket"
    shop.submit_due()
    assert shop.job(job_id).status == "pending"
    assert "another picture" in (shop.job(job_id).last_error or "")
    refetch_until_believed(shop)
    assert (shop.job(job_id).status, shop.job(job_id).reason_code) == ("failed", "source_changed")
    assert shop.upscaler.submissions == []
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


def test_the_same_picture_coded_anew_is_delivered(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"JPEG 100 80 quality=60"
    shop.submit_due()
    assert shop.job(job_id).submitted_at
    (prepared,) = [event for event in shop.state.queries.events(job_id) if event.event == "prepared"]
    assert prepared.details["source_changed"] is True
    assert shop.tasks() == []


def test_the_picture_that_was_ordered_is_not_looked_at_twice(shop: Steps) -> None:
    shop.paid()
    shop.submit_due()
    assert shop.images.calls.count("images.fingerprint") == 1, "at the order"


def test_an_order_from_before_pictures_were_remembered_is_compared_by_size(shop: Steps) -> None:
    job_id = shop.paid()
    shop.change("DELETE FROM smi.ordered_pictures")
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=rocket"
    shop.submit_due()
    assert shop.job(job_id).submitted_at


def test_a_picture_whose_likeness_cannot_be_told_is_delivered(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"JPEG 100 80 quality=60"
    shop.images.fingerprint = lambda path: b""  # type: ignore[method-assign]
    shop.submit_due()
    assert shop.job(job_id).submitted_at


def held_for_its_picture(shop: Steps) -> str:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, source_changed="ask"))
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=rocket"
    refetch_until_believed(shop)
    return job_id


def test_a_person_may_be_asked_about_another_picture_and_let_it_pass(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    assert (shop.job(job_id).status, shop.job(job_id).hold_reason) == ("pending", "the source shows another picture")
    assert shop.tasks() == ["source_changed"]
    assert f"smi jobs release {job_id}" in shop.state.manual_tasks.opened()[0].next_step
    shop.later(hours=2)
    shop.everything()
    assert shop.job(job_id).status == "pending", "its clock stands still"
    admin.release(shop.ctx, job_id)
    shop.submit_due()
    assert shop.job(job_id).submitted_at
    assert shop.tasks() == []


def test_a_third_picture_after_the_release_is_asked_about_again(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    admin.release(shop.ctx, job_id)
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=harbour"
    refetch_until_believed(shop)
    assert shop.job(job_id).hold_reason == "the source shows another picture"
    assert shop.tasks() == ["source_changed"]
    assert shop.upscaler.submissions == []
    admin.release(shop.ctx, job_id)
    shop.submit_due()
    assert shop.job(job_id).submitted_at
    assert shop.tasks() == []


def test_a_released_picture_may_be_coded_anew(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    admin.release(shop.ctx, job_id)
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"JPEG 100 80 quality=60 shows=rocket"
    shop.submit_due()
    assert shop.job(job_id).submitted_at


def test_the_ordered_picture_that_is_back_after_the_release_is_delivered(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    admin.release(shop.ctx, job_id)
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"JPEG 100 80 quality=60"
    shop.submit_due()
    assert shop.job(job_id).submitted_at


def test_a_picture_that_nobody_released_is_asked_about_in_a_later_round_too(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    admin.cancel(shop.ctx, job_id)
    shop.refund_due()
    admin.retry(shop.ctx, job_id, admin_override=True)
    admin.hold(shop.ctx, job_id, "for another reason")
    admin.release(shop.ctx, job_id)
    refetch_until_believed(shop)
    assert shop.tasks() == ["source_changed"]
    assert shop.upscaler.submissions == []


def test_a_person_may_be_asked_about_another_picture_and_return_the_money(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    admin.cancel(shop.ctx, job_id)
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.tasks() == []


def test_nobody_who_is_asked_about_another_picture_and_does_nothing_keeps_the_money(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    shop.later(hours=26)
    shop.everything()
    assert shop.job(job_id).reason_code == "not_started_in_time"
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.tasks() == [], "there is nothing left to release"


def test_nobody_is_asked_any_more_about_a_picture_whose_payment_was_returned_at_stripe(shop: Steps) -> None:
    job_id = held_for_its_picture(shop)
    intent = shop.job(job_id).payment_intent_id or ""
    shop.payments.refund_by_hand(intent, shop.job(job_id).price_cents)
    shop.tell("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": intent})
    assert shop.job(job_id).status in ("failed", "refunded")
    assert shop.tasks() == []


def test_another_picture_is_noticed_when_an_abandoned_order_is_paid_after_all(shop: Steps) -> None:
    job_id = shop.register().job_id
    shop.later(hours=25)
    intake.close_abandoned(shop.ctx)
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 100 80 shows=rocket"
    shop.pay(job_id)
    refetch_until_believed(shop)
    assert shop.job(job_id).reason_code == "source_changed"


def test_another_size_is_refunded_without_asking(shop: Steps) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, source_changed="ask"))
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 200 80"
    refetch_until_believed(shop)
    assert shop.job(job_id).reason_code == "source_changed"


def test_what_a_picture_shows_is_forgotten_with_its_files_and_a_week_after_it_was_abandoned(shop: Steps) -> None:
    delivered, unpaid = shop.delivered(), shop.register().job_id
    shop.later(hours=50)
    intake.close_abandoned(shop.ctx)
    assert shop.job(unpaid).status == "abandoned"
    remove_expired_files(shop.ctx)
    assert [row["job_id"] for row in shop.sql("SELECT * FROM smi.ordered_pictures")] == [unpaid]
    assert shop.job(delivered).status == "completed"
    shop.later(hours=7 * 24)
    remove_expired_files(shop.ctx)
    assert shop.sql("SELECT * FROM smi.ordered_pictures") == []


def test_what_a_picture_shows_is_forgotten_of_an_order_whose_source_was_never_stored(shop: Steps) -> None:
    job_id = shop.paid()
    shop.fetcher.bodies[shop.job(job_id).source_url] = b"PNG 200 80"
    refetch_until_believed(shop)
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"
    shop.later(hours=8 * 24)
    remove_expired_files(shop.ctx)
    assert shop.sql("SELECT * FROM smi.ordered_pictures") == []
