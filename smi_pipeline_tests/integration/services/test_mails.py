"""Rule 7: one mail, one Message-ID, the same bytes on every try; and a mail undoes nothing."""

import time

import pytest

from smi_pipeline.core.errors import AccountError, AmbiguousError, Conflict, PermanentError, TransientError
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.models import Queue, RenderedMail
from smi_pipeline.services import admin, lease_renewal, notify, refund
from smi_pipeline.services.alerts import raise_alarms
from smi_pipeline_tests.integration.services.steps import Steps


def mail(shop: Steps, job_id: str):
    return shop.state.emails.of_job(job_id)[-1]


def test_a_451_is_tried_again_with_the_same_message_id_and_the_same_bytes(shop: Steps, job_id: str) -> None:
    tried: list[tuple[str, bytes]] = []
    send = shop.mailer.send
    shop.mailer.send = lambda m: (tried.append((m.message_id, m.content)), send(m))[1]  # type: ignore
    shop.mailer.faults.append(TransientError("451 later"))
    shop.mail_due()
    assert mail(shop, job_id).state == "claimed"
    shop.later(minutes=2)
    shop.mail_due()
    assert mail(shop, job_id).state == "accepted"
    assert len(tried) == 2
    assert len(set(tried)) == 1
    assert len(shop.mailer.taken) == 1


def test_the_bytes_are_committed_before_the_server_gets_them(shop: Steps, job_id: str) -> None:
    seen: list[tuple] = []
    send = shop.mailer.send

    def look(message):
        seen.append((mail(shop, job_id).state, bytes(mail(shop, job_id).content), message.content))
        send(message)

    shop.mailer.send = look  # type: ignore
    shop.mail_due()
    ((state, kept, sent),) = seen
    assert state == "handed_over"
    assert kept == sent


def test_an_unanswered_hand_over_is_sent_once_more_and_then_a_persons_task(shop: Steps, job_id: str) -> None:
    shop.mailer.after_effect.extend([AmbiguousError("no answer"), AmbiguousError("no answer")])
    for _ in range(4):
        shop.mail_due()
        shop.later(minutes=20)
    assert len(shop.mailer.taken) == 2
    assert len({(m.message_id, m.content) for m in shop.mailer.taken}) == 1
    assert mail(shop, job_id).state == "failed"
    assert shop.tasks() == ["mail_failed"]
    assert shop.job(job_id).status == "completed"


def test_a_worker_that_died_while_sending_counts_as_unanswered(shop: Steps, job_id: str) -> None:
    shop.mailer.after_effect.append(SystemExit())  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        shop.mail_due()
    assert mail(shop, job_id).state == "handed_over"
    shop.later(seconds=60)
    shop.mail_due()
    assert mail(shop, job_id).state == "accepted"
    assert shop.mailer.subjects() == ["completion"]


def test_a_refused_mail_is_a_persons_task_and_the_delivery_stands(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.append(PermanentError("mail_refused", "550 no such user"))
    shop.mail_due()
    assert shop.tasks() == ["mail_failed"]
    assert shop.job(job_id).status == "completed"
    assert shop.state.deliveries.current_token(job_id) is not None
    assert "accepted" in admin.resend(shop.ctx, job_id)
    assert shop.tasks() == [], "the customer has the mail: nothing is left for a person"


def test_an_outage_of_the_mail_server_gives_up_no_mail(shop: Steps, job_id: str) -> None:
    for _ in range(15):
        shop.mailer.faults.append(TransientError("no connection", counts=False))
        shop.mail_due()
        shop.later(minutes=20)
    shop.mail_due()
    assert mail(shop, job_id).state == "accepted"
    assert len(shop.mailer.taken) == 1


def test_a_mail_that_is_refused_for_the_time_being_is_given_up_after_a_day(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.extend([TransientError("452 mailbox full")] * 100)
    for hours in range(26):
        assert mail(shop, job_id).state == ("claimed" if hours < 24 else mail(shop, job_id).state), hours
        for _ in range(2):
            shop.mail_due()
            shop.later(minutes=30)
    assert mail(shop, job_id).state == "failed"
    (task,) = shop.state.manual_tasks.opened()
    assert task.kind == "mail_failed"
    assert "times in 24 h" in task.message and "452 mailbox full" in task.message


def test_a_day_in_which_the_mail_was_not_tried_does_not_give_it_up(shop: Steps, job_id: str) -> None:
    """Whatever kept it from being tried: the mail server refused the shop, or the processes were stopped."""
    shop.mailer.faults.extend([TransientError("450 4.2.0 Greylisted")] * 3)
    shop.mail_due()
    shop.later(hours=26)
    for minutes in (1, 10, 10):
        shop.mail_due()
        assert mail(shop, job_id).state != "failed"
        shop.later(minutes=minutes)
    assert mail(shop, job_id).state == "accepted"
    assert shop.tasks() == []


def test_a_mail_that_cannot_be_written_is_set_aside(shop: Steps, job_id: str) -> None:
    shop.change("UPDATE smi.upscale_jobs SET customer_email = 'a@b.example' || chr(10) || 'Bcc: x'")
    shop.mail_due()
    assert mail(shop, job_id).state == "failed"
    assert shop.mailer.sent == []


def test_two_workers_send_a_mail_once(shop: Steps, job_id: str) -> None:
    lease_id, (key,) = shop.take(Queue.MAIL)
    assert notify.send_owed(shop.ctx, job_id) == []
    shop.later(seconds=60)
    other, _ = shop.take(Queue.MAIL)
    assert notify.send(shop.ctx, key, lease_id).state == "lost"
    assert notify.send(shop.ctx, key, other).state == "done"
    assert len(shop.mailer.sent) == 1


def test_a_resend_is_a_new_mail(shop: Steps) -> None:
    job_id = shop.delivered()
    assert "accepted" in admin.resend(shop.ctx, job_id)
    assert [m.sequence for m in shop.state.emails.of_job(job_id)] == [1, 2]
    assert len({m.message_id for m in shop.mailer.taken}) == 2
    refunded = shop.failed()
    with pytest.raises(Conflict):
        admin.resend(shop.ctx, refunded)
    shop.refund_due()
    shop.mail_due()
    admin.resend(shop.ctx, refunded)
    assert shop.mailer.subjects() == ["completion", "completion", "refund", "refund"]


def test_a_link_that_has_expired_is_not_mailed_again(shop: Steps) -> None:
    job_id = shop.delivered()
    shop.later(hours=25)
    with pytest.raises(Conflict, match="expired"):
        admin.resend(shop.ctx, job_id)
    admin.new_link_by_mail(shop.ctx, job_id)
    assert shop.mailer.subjects() == ["completion", "completion"]


@pytest.mark.parametrize("what", ["mail", "refund"])
def test_one_row_that_is_worked_on_slowly_is_not_taken_by_another_worker(
    shop: Steps, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(lease_renewal, "RENEW_SECONDS", 0.01)
    failed = shop.failed()
    queue, port, call = (
        (Queue.MAIL, shop.mailer, "send") if what == "mail" else (Queue.REFUND, shop.payments, "create_refund")
    )
    if what == "mail":
        shop.refund_due()
    quick, others = getattr(port, call), []

    def slow(*args: object, **kwargs: object) -> object:
        for _ in range(4):
            shop.later(seconds=30)
            ends = time.monotonic() + 30
            while not _lease_left(shop) > 40 and time.monotonic() < ends:
                time.sleep(0.005)
            others.append(shop.take(queue)[1])
        return quick(*args, **kwargs)

    monkeypatch.setattr(port, call, slow)
    (notify.send_owed if what == "mail" else refund.refund_now)(shop.ctx, failed)
    assert others == [[]] * 4
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund"]
    assert len(shop.payments.refunds) == 1


def _lease_left(shop: Steps) -> float:
    rows = shop.sql(
        """SELECT extract(epoch FROM lease_until - smi.now())::float AS left FROM smi.emails WHERE lease_id IS NOT NULL
           UNION ALL SELECT extract(epoch FROM lease_until - smi.now())::float FROM smi.refunds
           WHERE lease_id IS NOT NULL"""
    )
    return max((row["left"] for row in rows), default=0.0)


def test_a_step_that_takes_longer_than_it_may_loses_its_row(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_renewal, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(notify, "SEND_SECONDS", 0)
    failed = shop.failed()
    shop.refund_due()
    taken = []
    send = shop.mailer.send

    def hanging(mail: RenderedMail) -> None:
        time.sleep(0.05)
        shop.later(seconds=46)
        taken.append(shop.take(Queue.MAIL)[1])
        send(mail)

    monkeypatch.setattr(shop.mailer, "send", hanging)
    notify.send_owed(shop.ctx, failed)
    assert taken == [[f"{failed}/refund/1"]]


def test_a_refused_login_stops_all_mails_with_one_task_until_one_gets_through(shop: Steps) -> None:
    for _ in range(3):
        shop.failed()
    shop.refund_due()
    shop.mailer.faults.append(AccountError("535 5.7.139 Authentication unsuccessful"))
    lease_id, keys = shop.begin(Queue.MAIL) or ("", [])
    assert {notify.send(shop.ctx, key, lease_id).state for key in keys} == {"later"}
    assert shop.mailer.calls.count("mailer.send") == 1
    assert shop.tasks() == ["breaker"]
    for _ in range(2):
        shop.later(minutes=2)
        shop.mail_due()
    assert shop.mailer.subjects() == ["refund"] * 3
    assert shop.tasks() == []


REFUSED = PermanentError("mail_refused", "The mail server refused the recipient: 550 blocked")


def owed_by(shop: Steps, customers: int) -> None:
    """So many customers are to get a mail about their refund."""
    for _ in range(customers):
        shop.failed()
    shop.change("UPDATE smi.upscale_jobs SET customer_email = job_id || '@example.org'")
    shop.refund_due()


def states(shop: Steps) -> list[str]:
    return [row["state"] for row in shop.sql("SELECT state FROM smi.emails ORDER BY created_at")]


def test_recipients_refused_in_a_row_are_a_fault_of_the_shop_and_all_get_their_mail(shop: Steps) -> None:
    owed_by(shop, 6)
    shop.mailer.faults.extend([REFUSED] * 40)
    shop.mail_due()
    assert len(shop.mailer.faults) >= 36  # three, and a probe
    assert shop.tasks() == ["breaker"]
    assert states(shop) == ["claimed"] * 6
    for _ in range(30):
        shop.later(minutes=2)
        shop.mail_due()
    assert len(shop.mailer.faults) > 0
    assert states(shop) == ["claimed"] * 6
    shop.mailer.faults.clear()
    for _ in range(3):
        shop.later(minutes=3)
        shop.mail_due()
    assert shop.mailer.subjects() == ["refund"] * 6
    assert shop.tasks() == []


def test_a_dead_address_among_good_ones_is_a_task_of_its_own_and_opens_nothing(shop: Steps) -> None:
    for _ in range(5):
        owed_by(shop, 2)
        shop.mailer.faults.extend([REFUSED, None])
        shop.mail_due()
    assert shop.tasks() == ["mail_failed"] * 5


def test_three_mails_to_one_dead_address_are_one_recipient(shop: Steps) -> None:
    for _ in range(4):
        shop.failed()
    shop.refund_due()
    shop.mailer.faults.extend([REFUSED] * 4)
    shop.mail_due()
    assert shop.tasks() == ["mail_failed"] * 4


def test_dead_addresses_that_waited_for_the_breaker_are_told_once_others_get_their_mail(shop: Steps) -> None:
    owed_by(shop, 4)
    send, dead = shop.mailer.send, set[str]()

    def refuse_the_dead(mail: RenderedMail) -> None:
        if mail.recipients[0] in dead:
            raise REFUSED
        send(mail)

    shop.mailer.send = refuse_the_dead  # type: ignore[method-assign]
    dead |= {row["customer_email"] for row in shop.sql("SELECT customer_email FROM smi.upscale_jobs LIMIT 3")}
    for _ in range(10):
        shop.mail_due()
        shop.later(minutes=2)
    assert sorted(shop.tasks()) == ["mail_failed"] * 3
    assert sorted(states(shop)) == ["accepted", "failed", "failed", "failed"]
    opened = shop.sql("SELECT count(*) AS n FROM smi.job_events WHERE event = 'breaker_opened'")
    assert opened[0]["n"] <= 1


def test_no_address_of_a_customer_stands_in_the_breaker(shop: Steps) -> None:
    owed_by(shop, 1)
    shop.mailer.faults.append(REFUSED)
    shop.mail_due()
    assert "example" not in str(shop.state.breakers.get("mail").failed)


def test_greylisted_recipients_stop_no_other_mail(shop: Steps) -> None:
    for _ in range(4):
        shop.failed()
    shop.refund_due()
    for _ in range(3):
        shop.mailer.faults.extend([TransientError("451 greylisted")] * 4)
        shop.mail_due()
        shop.later(minutes=20)
    assert shop.tasks() == []
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund"] * 4


def test_contents_refused_three_times_in_a_row_are_a_fault_of_the_shop(shop: Steps) -> None:
    owed_by(shop, 5)
    shop.mailer.faults.extend([PermanentError("mail_refused", "554 looks like spam")] * 4)
    shop.mail_due()
    assert shop.tasks() == ["breaker"]
    for _ in range(3):
        shop.later(minutes=3)
        shop.mail_due()
    assert shop.mailer.subjects() == ["refund"] * 5
    assert shop.tasks() == []


QUOTA = PermanentError("mail_refused", "The mail server refused the recipient: 550 quota exceeded", scope=Scope.SHOP)


def test_4xx_for_every_recipient_are_tried_for_a_day_and_all_mails_leave(shop: Steps) -> None:
    owed_by(shop, 4)
    send = shop.mailer.send
    tries = []

    def later(mail: RenderedMail) -> None:
        tries.append(mail.message_id)
        raise TransientError("The mail server refused the recipient: 451 4.7.1 try again later")

    shop.mailer.send = later  # type: ignore[method-assign]
    for _ in range(40):
        shop.mail_due()
        shop.later(minutes=35)
    assert states(shop) == ["claimed"] * 4
    assert {tries.count(each) for each in tries} == {40}
    shop.mailer.send = send  # type: ignore[method-assign]
    shop.mail_due()
    assert states(shop) == ["accepted"] * 4
    assert shop.tasks() == []


def test_the_tries_of_a_refused_mail_are_spaced_so_that_greylisting_passes_with_one_of_them(shop: Steps) -> None:
    owed_by(shop, 1)
    shop.mailer.faults.extend([TransientError("450 4.2.0 greylisted")] * 100)
    seconds, tried = 0, list[int]()
    while seconds < 24 * 3600:
        before = len(shop.mailer.calls)
        shop.mail_due()
        if len(shop.mailer.calls) > before:
            tried.append(seconds)
        step = 30 if seconds < 3600 else 300
        shop.later(seconds=step)
        seconds += step
    assert 4 <= sum(at <= 300 for at in tried) <= 5
    assert any(300 < at <= 420 for at in tried)
    assert 40 < len(tried) < 60


def test_mails_to_others_leave_while_one_recipient_is_greylisted(shop: Steps) -> None:
    owed_by(shop, 3)
    shop.mailer.faults.append(TransientError("450 4.2.0 greylisted"))
    shop.mail_due()
    assert sorted(states(shop)) == ["accepted", "accepted", "claimed"]


def test_a_recipient_who_is_refused_for_the_time_being_keeps_no_open_breaker_from_being_probed(shop: Steps) -> None:
    owed_by(shop, 2)
    shop.mailer.faults.append(AccountError("535 5.7.8 Authentication failed"))
    shop.mail_due()
    assert shop.tasks() == ["breaker"]
    shop.later(minutes=2)
    shop.mailer.faults.append(TransientError("450 4.2.0 greylisted"))
    shop.mail_due()
    assert sorted(states(shop)) == ["accepted", "claimed"]
    assert shop.tasks() == []


def test_an_account_that_is_suspended_is_one_task_and_fails_no_mail(shop: Steps) -> None:
    for _ in range(2):  # also if it happens again to the same customers
        owed_by(shop, 4)
        shop.mailer.faults.extend([QUOTA] * 30)
        for _ in range(10):
            shop.mail_due()
            shop.later(minutes=6)
            assert shop.tasks() == ["breaker"]
        assert "failed" not in states(shop)
        shop.mailer.faults.clear()
        for _ in range(2):
            shop.mail_due()
            shop.later(minutes=6)
        assert shop.tasks() == []
        assert set(states(shop)) == {"accepted"}


def test_a_quota_that_passes_by_itself_is_told_and_counts_against_no_mail(shop: Steps) -> None:
    owed_by(shop, 2)
    shop.mailer.faults.extend([TransientError("452 4.7.1 daily sending quota exceeded", scope=Scope.SHOP)] * 8)
    for _ in range(8):
        shop.mail_due()
        shop.later(minutes=6)
    assert shop.tasks() == ["breaker"]
    assert shop.sql("SELECT max(refusals) AS n FROM smi.emails") == [{"n": 0}]
    shop.mail_due()
    assert states(shop) == ["accepted"] * 2


def test_a_recipient_whose_server_speaks_of_a_quota_is_a_task_of_its_own_once_others_get_their_mail(
    shop: Steps,
) -> None:
    owed_by(shop, 3)
    send = shop.mailer.send
    full = shop.sql("SELECT customer_email FROM smi.upscale_jobs LIMIT 1")[0]["customer_email"]

    def refuse(mail: RenderedMail) -> None:
        if mail.recipients[0] == full:
            raise QUOTA
        send(mail)

    shop.mailer.send = refuse  # type: ignore[method-assign]
    for _ in range(6):
        shop.mail_due()
        shop.later(minutes=6)
    assert sorted(states(shop)) == ["accepted", "accepted", "failed"]
    assert shop.tasks() == ["mail_failed"]
    opened = shop.sql("SELECT count(*) AS n FROM smi.job_events WHERE event = 'breaker_opened'")
    assert opened[0]["n"] == 1


def test_refused_logins_become_rare_so_that_they_lock_no_account(shop: Steps) -> None:
    owed_by(shop, 3)
    shop.mailer.faults.extend([AccountError("535 5.7.139 disabled")] * 500)
    for _ in range(240):
        shop.mail_due()
        shop.later(seconds=30)
    assert shop.mailer.calls.count("mailer.send") <= 32
    assert shop.tasks() == ["breaker"]


def test_mails_refused_for_hours_and_nobodys_accepted_are_one_task_until_one_is(shop: Steps) -> None:
    owed_by(shop, 3)
    shop.mailer.faults.extend([TransientError("The mail server refused the recipient: 451 4.3.0 later")] * 100)
    for _ in range(12):
        shop.mail_due()
        raise_alarms(shop.ctx)
        shop.later(minutes=10)
    assert shop.tasks() == ["mail_delayed"]
    (task,) = shop.state.manual_tasks.opened()
    assert "3 recipient(s)" in task.message and "451 4.3.0 later" in task.message
    shop.mailer.faults.clear()
    shop.later(minutes=30)
    shop.mail_due()
    raise_alarms(shop.ctx)
    assert shop.tasks() == []


def test_a_link_lives_on_while_its_mail_cannot_be_sent_and_the_mail_tells_of_all_its_time(
    shop: Steps, job_id: str
) -> None:
    first = shop.state.deliveries.current_token(job_id)
    assert first
    shop.mailer.faults.append(AccountError("535 5.7.8 Authentication failed"))
    shop.mail_due()
    for _ in range(72):
        shop.later(hours=1)
        shop.state.deliveries.renew_links(shop.policy.download_ttl)
        link = shop.state.deliveries.current_token(job_id)
        assert link and not link.expired and link.token == first.token
    assert shop.state.deliveries.expired_files(10) == []
    shop.mail_due()
    assert mail(shop, job_id).state == "accepted"
    expires_at = shop.mailer.contexts[-1]["expires_at"]
    assert expires_at - shop.state.submissions.now() >= shop.policy.download_ttl / 2
    assert repr(expires_at) in shop.mailer.taken[-1].content.decode(), "the mail was written anew"
    shop.later(hours=13)
    assert shop.state.deliveries.renew_links(shop.policy.download_ttl) == 0, "the mail has told of its time"


def test_a_link_that_died_while_the_whole_service_was_down_is_renewed_with_its_mail(shop: Steps, job_id: str) -> None:
    shop.down(hours=40)
    shop.mail_due()
    assert shop.mailer.subjects() == ["completion"]
    link = shop.state.deliveries.current_token(job_id)
    assert link and not link.expired
    assert shop.mailer.contexts[-1]["expires_at"] == link.expires_at


def test_one_mail_for_which_the_server_has_no_answer_for_an_hour_is_told(shop: Steps) -> None:
    owed_by(shop, 1)
    shop.mailer.faults.extend([TransientError("454 4.7.0 Temporary authentication failure", counts=False)] * 200)
    for minutes in range(0, 70, 5):
        shop.mail_due()
        raise_alarms(shop.ctx)
        assert shop.tasks() == ([] if minutes < 60 else ["mail_delayed"])
        shop.later(minutes=5)
    shop.mailer.faults.clear()
    shop.mail_due()
    raise_alarms(shop.ctx)
    assert (states(shop), shop.tasks()) == (["accepted"], [])
