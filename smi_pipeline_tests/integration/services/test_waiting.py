"""What an order's customer is told and may do while it waits for a circuit breaker, and what operators are told."""

import pytest

from smi_pipeline.core import faults
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.models import Queue
from smi_pipeline.services import admin
from smi_pipeline.services.alerts import send_alerts, send_resolved
from smi_pipeline.state.waiting import Ending
from smi_pipeline_tests.integration.services.steps import Steps

SOURCE = "source:images.example"


def fault(shop: Steps, name: str = faults.SUBMISSIONS) -> None:
    """A fault of the shop."""
    shop.state.breakers.note(Failure(breaker=name, work_key="x", message="402: no credits", scope=Scope.SHOP))


def checking(shop: Steps) -> str:
    """A job whose result is known and not fetched yet."""
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    return job_id


@pytest.mark.parametrize("name", [faults.SUBMISSIONS, faults.RESULTS, SOURCE])
def test_a_paid_order_waits_for_what_it_needs_next(shop: Steps, name: str) -> None:
    job_id = shop.paid()
    assert shop.state.waiting.since(job_id) is None
    fault(shop, name)
    assert shop.state.waiting.since(job_id) is not None
    shop.state.breakers.close_by_hand(name, policy=shop.policy, actor="test")
    assert shop.state.waiting.since(job_id) is None


@pytest.mark.parametrize("name", [faults.STRIPE, faults.MAIL, "source:other.example"])
def test_a_paid_order_does_not_wait_for_what_it_does_not_need(shop: Steps, name: str) -> None:
    job_id = shop.paid()
    fault(shop, name)
    assert shop.state.waiting.since(job_id) is None


def test_a_result_waits_for_the_breaker_of_results_alone(shop: Steps) -> None:
    job_id = checking(shop)
    fault(shop, faults.SUBMISSIONS)
    assert shop.state.waiting.since(job_id) is None
    fault(shop, faults.RESULTS)
    assert shop.state.waiting.since(job_id) is not None


def test_one_mail_after_the_promised_time_tells_of_the_delay(shop: Steps) -> None:
    job_id = shop.paid()
    fault(shop)
    shop.later(seconds=shop.policy.max_processing.total_seconds() - 5)
    assert shop.state.waiting.queue_delay_mails(shop.policy) == 0
    shop.later(seconds=10)
    assert shop.state.waiting.queue_delay_mails(shop.policy) == 1
    assert shop.state.waiting.queue_delay_mails(shop.policy) == 0
    shop.mail_due()
    assert shop.mailer.subjects() == ["delay"]
    assert f"/smi/v1/end-waiting/{job_id}?key=" in shop.mailer.contexts[-1]["end_waiting_url"]
    shop.later(hours=1)
    assert shop.state.waiting.queue_delay_mails(shop.policy) == 0


def test_an_order_that_is_late_for_another_reason_gets_no_mail_about_a_delay(shop: Steps) -> None:
    shop.paid()
    shop.later(hours=1)
    assert shop.state.waiting.queue_delay_mails(shop.policy) == 0


def test_a_mail_about_a_delay_that_is_over_is_not_sent(shop: Steps) -> None:
    job_id = shop.paid()
    fault(shop)
    shop.later(minutes=20)
    shop.state.waiting.queue_delay_mails(shop.policy)
    admin.close_breaker(shop.ctx, faults.SUBMISSIONS, "credits were bought")
    shop.mail_due()
    assert shop.mailer.subjects() == []
    assert shop.state.emails.of_job(job_id) == []
    assert "mail_withdrawn" in shop.events(job_id)


def test_a_customer_ends_the_waiting_once_and_has_the_money_back(shop: Steps) -> None:
    job_id = shop.paid()
    fault(shop)
    assert shop.state.waiting.can_end(job_id)
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.ENDED
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.ENDED_BEFORE
    shop.refund_due()
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.ENDED_BEFORE
    shop.mail_due()
    job = shop.job(job_id)
    assert (job.status, job.reason_code) == ("refunded", "cancelled")
    assert shop.mailer.subjects() == ["refund"]
    assert len(shop.state.refunds.of_job(job_id)) == 1


def test_an_order_that_is_upscaled_or_finished_cannot_be_ended_by_its_customer(shop: Steps) -> None:
    submitted = shop.paid()
    shop.submit_due()
    for job_id in (submitted, shop.delivered(), shop.register().job_id):
        assert not shop.state.waiting.can_end(job_id)
        before = shop.job(job_id)
        assert shop.state.waiting.end(job_id, actor="customer") is Ending.TOO_LATE
        assert shop.job(job_id) == before


def test_a_result_that_waits_can_be_ended_and_one_that_is_checked_cannot(shop: Steps) -> None:
    job_id = checking(shop)
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.TOO_LATE
    fault(shop, faults.RESULTS)
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.ENDED


def test_a_run_that_holds_the_order_decides_nothing_after_its_customer_has_ended_it(shop: Steps) -> None:
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    shop.state.leases.start(Queue.SUBMIT, lease_id)
    assert shop.state.waiting.end(job_id, actor="customer") is Ending.ENDED
    from smi_pipeline.services import submit

    assert submit.prepare(shop.ctx, job_id, lease_id).state == "lost"
    assert shop.upscaler.submissions == []


def test_who_got_the_alert_is_told_when_a_breaker_closes_by_itself(shop: Steps) -> None:
    posted: list[tuple[str, list[str]]] = []
    shop.paid()
    fault(shop)
    assert send_resolved(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 0
    send_alerts(shop.ctx, "owner@example.com", lambda *message: posted.append(message))
    shop.later(minutes=12)
    shop.submit_due()
    assert shop.tasks() == []
    assert send_resolved(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 1
    assert send_resolved(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 0
    assert [subject for subject, _ in posted][1:] == ["Resolved: Upsampler takes no submissions"]
    assert "continues automatically" in posted[1][1][0]
    assert len(shop.mailer.taken) == 2
    assert shop.tasks() == []


def test_a_breaker_that_closes_before_its_alert_is_told_in_one_notice(shop: Steps) -> None:
    posted: list[tuple[str, list[str]]] = []
    for _ in range(2):
        fault(shop)
        shop.later(seconds=12)
        shop.state.breakers.note_success(faults.SUBMISSIONS, shop.policy)
    assert send_alerts(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 0
    assert send_resolved(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 2
    assert send_resolved(shop.ctx, "owner@example.com", lambda *message: posted.append(message)) == 0
    ((subject, lines),) = posted
    assert subject == "Resolved: 2 problems"
    assert len(lines) == 2
    assert "Upsampler takes no submissions: " in lines[0]
    assert "Opened at " in lines[0] and ", closed again at " in lines[0]
    assert len(shop.mailer.taken) == 1


def test_a_notice_that_nobody_could_get_for_a_day_is_not_sent_any_more(shop: Steps) -> None:
    fault(shop)
    shop.state.breakers.note_success(faults.SUBMISSIONS, shop.policy)
    assert send_resolved(shop.ctx, None, None) == 0
    shop.later(hours=25)
    assert send_resolved(shop.ctx, "owner@example.com", None) == 0


def test_nobody_is_told_of_the_end_of_what_a_person_has_ended(shop: Steps) -> None:
    fault(shop)
    admin.close_breaker(shop.ctx, faults.SUBMISSIONS, "done")
    fault(shop)
    send_alerts(shop.ctx, "owner@example.com", None)
    admin.close_breaker(shop.ctx, faults.SUBMISSIONS, "done")
    assert send_resolved(shop.ctx, "owner@example.com", None) == 0


def test_an_end_that_reached_nobody_is_told_again(shop: Steps) -> None:
    from smi_pipeline.core.errors import TransientError

    fault(shop)
    send_alerts(shop.ctx, "owner@example.com", None)
    shop.state.breakers.note_success(faults.SUBMISSIONS, shop.policy)
    shop.mailer.faults.append(TransientError("no connection"))
    assert send_resolved(shop.ctx, "owner@example.com", None) == 0
    assert send_resolved(shop.ctx, "owner@example.com", None) == 1
