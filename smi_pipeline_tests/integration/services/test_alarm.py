"""Nobody who paid is forgotten, and a person hears of what only a person can settle."""

from smi_pipeline.core import faults
from smi_pipeline.core.errors import AccountError, PermanentError, TransientError
from smi_pipeline.services import admin
from smi_pipeline.services.alerts import raise_alarms, send_alerts
from smi_pipeline_tests.integration.services.steps import Steps


def test_a_paid_job_that_nobody_works_on_is_an_alarm_and_a_task(shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(seconds=3600 + 290)
    assert shop.state.queries.alarms(shop.policy) == []
    shop.later(seconds=20)
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]
    assert raise_alarms(shop.ctx) == raise_alarms(shop.ctx) == 1
    assert shop.tasks() == ["overdue"]


def test_a_refund_that_is_not_carried_out_is_an_alarm(shop: Steps) -> None:
    job_id = shop.failed()
    shop.later(hours=2)
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]
    shop.refund_due()
    assert shop.state.queries.alarms(shop.policy) == []


def test_a_refund_that_failed_is_one_task_and_no_alarm_besides(shop: Steps) -> None:
    shop.payments.refund_status = "failed"
    job_id = shop.failed()
    shop.refund_due()
    shop.later(hours=2)
    assert raise_alarms(shop.ctx) == 0
    assert shop.tasks() == ["refund_failed"]
    shop.sql("UPDATE smi.person_tasks SET closed_at = smi.now() RETURNING task_id")  # without a payment returned
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]


def test_a_second_payments_refund_that_failed_hides_no_job_that_is_stuck(shop: Steps) -> None:
    job_id = shop.paid()
    shop.payments.refund_status = "failed"
    shop.pay(job_id)
    shop.refund_due()
    assert shop.tasks() == ["refund_failed"]
    shop.later(hours=12)
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]


def test_an_overdue_task_ends_by_itself_when_the_job_does(shop: Steps) -> None:
    shop.failed()
    shop.later(hours=2)
    raise_alarms(shop.ctx)
    shop.refund_due()
    assert raise_alarms(shop.ctx) == 0
    assert shop.tasks() == []


def test_held_delivered_refunded_and_unpaid_jobs_are_no_alarm(shop: Steps) -> None:
    shop.delivered()
    shop.register()
    held = shop.paid()
    admin.hold(shop.ctx, held, "fraud?")
    refunded = shop.failed()
    shop.refund_due()
    assert shop.job(refunded).status == "refunded"
    shop.later(hours=20)
    assert shop.state.queries.alarms(shop.policy) == []


def test_a_person_is_told_once(shop: Steps) -> None:
    for n in range(3):
        shop.state.manual_tasks.open(kind="test", subject=str(n), job_id=None, message=f"thing {n}.", next_step="look.")
    posted: list[tuple[str, list[str]]] = []
    assert send_alerts(shop.ctx, "owner@example.com", lambda *alert: posted.append(alert)) == 3
    assert send_alerts(shop.ctx, "owner@example.com", lambda *alert: posted.append(alert)) == 0
    assert len(posted) == len(shop.mailer.taken) == 1
    assert posted[0][1][0] == "thing 0. Next step: look."


def test_an_alert_that_reached_nobody_is_told_again(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="thing.", next_step="look.")
    shop.mailer.faults.append(TransientError("no connection"))
    assert send_alerts(shop.ctx, "owner@example.com", None) == 0
    assert send_alerts(shop.ctx, "owner@example.com", None) == 1


def test_with_nobody_to_tell_nothing_is_called_told(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="thing.", next_step="look.")
    assert send_alerts(shop.ctx, None, None) == 0
    assert len(shop.state.manual_tasks.unalerted(10)) == 1


def test_a_storage_without_room_is_a_persons_task_as_long_as_it_is(shop: Steps) -> None:
    shop.storage.short = "3 bytes are free"
    raise_alarms(shop.ctx)
    raise_alarms(shop.ctx)
    assert shop.tasks() == ["disk_full"]
    shop.storage.short = None
    raise_alarms(shop.ctx)
    assert shop.tasks() == []


def test_a_sensor_of_the_clocks_that_is_switched_off_is_told_while_the_others_work(shop: Steps) -> None:
    shop.poll()
    raise_alarms(shop.ctx)
    assert shop.tasks() == []
    shop.down(minutes=6)
    raise_alarms(shop.ctx)
    assert shop.tasks() == ["sensor_silent"]
    shop.poll()
    raise_alarms(shop.ctx)
    assert shop.tasks() == []


def test_an_order_at_upsampler_is_overdue_also_while_a_breaker_is_open(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.state.breakers.open_by_hand(faults.SUBMISSIONS, message="the account is moved", actor="test")
    shop.later(hours=3)
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]


REFUSED = AccountError("The mail server refuses us: 535 5.7.139 basic authentication is disabled")


def test_mails_that_cannot_be_sent_are_told_by_the_webhook_within_a_minute_and_once(shop: Steps) -> None:
    for _ in range(3):
        shop.failed()
    shop.refund_due()
    shop.mailer.faults.extend([REFUSED] * 1000)
    posted: list[tuple[str, list[str]]] = []
    for _ in range(20):
        shop.mail_due()
        send_alerts(shop.ctx, "owner@example.com", lambda *alert: posted.append(alert))
        shop.later(seconds=30)
    assert shop.tasks() == ["breaker"]
    assert len(posted) == 1
    assert "Mails cannot be sent" in posted[0][0] and "535 5.7.139" in posted[0][0]
    assert "SMTP_PASSWORD" in posted[0][1][0]


def test_an_alert_that_only_a_dead_mail_server_would_carry_is_not_told_and_not_tried_at_each_tick(shop: Steps) -> None:
    shop.state.manual_tasks.open(kind="test", subject="1", job_id=None, message="thing.", next_step="look.")
    shop.mailer.faults.extend([REFUSED] * 1000)
    for _ in range(240):
        assert send_alerts(shop.ctx, "owner@example.com", None) == 0
        shop.later(seconds=30)
    assert shop.tasks() == ["test", "breaker"]
    assert shop.mailer.calls.count("mailer.send") <= 32
    shop.mailer.faults.clear()
    shop.later(minutes=5)
    assert send_alerts(shop.ctx, "owner@example.com", None) == 2
    assert shop.tasks() == ["test"], "the accepted alert has closed the breaker"


def test_an_alert_whose_recipient_is_refused_keeps_no_mail_to_customers_back(shop: Steps) -> None:
    shop.failed()
    shop.refund_due()
    shop.mailer.faults.append(REFUSED)
    shop.mail_due()
    shop.later(minutes=2)
    shop.mailer.faults.append(PermanentError("mail_refused", "550 no such user"))
    assert send_alerts(shop.ctx, "owner@example.com", None) == 0
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund"]
    assert shop.tasks() == []
