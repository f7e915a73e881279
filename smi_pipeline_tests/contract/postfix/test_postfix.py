"""The product's mails through Debian's Postfix, set up as people do it."""

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from smi_pipeline.adapters.mail import login
from smi_pipeline.core.errors import AccountError, AmbiguousError, PermanentError, RefusedError, TransientError
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.models import RenderedMail
from smi_pipeline.services import intake
from smi_pipeline.services.alerts import send_alerts
from smi_pipeline_tests.contract.postfix.conftest import MakeMailer, mailing
from smi_pipeline_tests.contract.postfix.server import LOGIN, REFUSED_SENDER, Postfix
from smi_pipeline_tests.integration.services.steps import IMAGE, Steps

AT = datetime(2026, 11, 20, 14, 5, tzinfo=UTC)
REFUND: dict[str, Any] = {
    "job_id": "3f2a9c7be1d04f6c8a5b2e90d1c4f7a8",
    "customer_name": "Zoë",
    "amount_cents": 120,
    "currency": "eur",
    "reason": "The upscaled image did not pass our quality check.",
    "refund_state": "pending",
    "status_url": "https://shop.example/smi/jobs/3f2a?view=abc",
}


def rendered(mailer: Any, to: str, message_id: str = "<refund.1@shop.example>") -> RenderedMail:
    return mailer.render("refund", to=to, message_id=message_id, context=REFUND, at=AT)


def parsed(content: bytes | None) -> EmailMessage:
    assert content is not None
    return email.message_from_bytes(content, policy=email.policy.default)


def owed_by(shop: Steps, customers: int) -> list[str]:
    """So many customers are to get a mail about their refund."""
    jobs = [shop.failed() for _ in range(customers)]
    shop.change("UPDATE smi.upscale_jobs SET customer_email = job_id || '@example.org'")
    shop.refund_due()
    return jobs


def states(shop: Steps) -> list[str]:
    return sorted({row["state"] for row in shop.sql("SELECT state FROM smi.emails")})


def test_a_mail_arrives_encrypted_and_unchanged_if_the_authority_is_a_trusted_one(
    make_mailer: MakeMailer, postfix: Postfix
) -> None:
    mailer = make_mailer("tls", starttls=True, ca_file=postfix.ca_file)
    mail = rendered(mailer, "tls@example.org")
    mailer.send(mail)
    assert (postfix.next_server.mail_to("tls@example.org").original_content or b"").endswith(mail.content)
    assert "starttls=1" in postfix.log
    with pytest.raises(AccountError, match="certificate is not valid"):
        make_mailer("tls", starttls=True).send(mail)
    with pytest.raises(AccountError, match="530"):
        make_mailer("tls").send(mail)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_name_and_a_password_beyond_ascii_log_in(
    make_mailer: MakeMailer, postfix: Postfix, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    monkeypatch.setattr(login, "MECHANISMS", (mechanism,))
    user, password = LOGIN
    settings = {"starttls": True, "ca_file": postfix.ca_file, "user": user}
    mailer = make_mailer("login", **settings, password=password)
    mailer.send(rendered(mailer, f"{mechanism.lower()}@example.org"))
    postfix.next_server.mail_to(f"{mechanism.lower()}@example.org")
    with pytest.raises(AccountError, match="535"):
        make_mailer("login", **settings, password="passwort-€").check()


def test_a_login_that_fails_stops_all_mails_with_one_alert_and_all_leave_afterwards(
    make_mailer: MakeMailer, postfix: Postfix, shop: Steps
) -> None:
    user, password = LOGIN
    settings = {"starttls": True, "ca_file": postfix.ca_file, "user": user}
    mailing(shop, make_mailer("login", **settings, password="changed"))
    jobs = owed_by(shop, 4)
    shop.mail_due()
    assert (states(shop), shop.tasks()) == (["claimed"], ["breaker"])
    posted: list[str] = []
    assert send_alerts(shop.ctx, "owner@example.org", lambda subject, lines: posted.append(subject)) == 1
    assert "Mails cannot be sent" in posted[0] and "535" in posted[0]
    mailing(shop, make_mailer("login", **settings, password=password))
    for _ in range(3):
        shop.later(minutes=6)
        shop.mail_due()
    assert (states(shop), shop.tasks()) == (["accepted"], [])
    for job_id in jobs:
        postfix.next_server.mail_to(f"{job_id}@example.org")


def test_an_address_that_needs_smtputf8_is_refused_before_payment_where_the_server_has_none(
    make_mailer: MakeMailer, shop: Steps
) -> None:
    order = intake.JobRequest(image_url=IMAGE, resolution="4x", email="björn@example.org")
    assert make_mailer("plain").reaches("björn@example.org") is True
    mailing(shop, make_mailer("no_smtputf8"))
    with pytest.raises(RefusedError, match="before the @") as refused:
        intake.register_job(shop.ctx, order)
    assert refused.value.status == 422
    with pytest.raises(PermanentError, match="beyond ASCII"):
        shop.ctx.mailer.send(rendered(shop.ctx.mailer, "björn@example.org"))
    mailing(shop, make_mailer("plain"))
    assert intake.register_job(shop.ctx, order).checkout_url


def test_an_address_beyond_ascii_gets_its_mail_by_smtputf8(make_mailer: MakeMailer, postfix: Postfix) -> None:
    mailer = make_mailer("plain")
    mailer.send(rendered(mailer, "björn@köln.example"))
    arrived = postfix.next_server.mail_to("björn@xn--kln-sna.example")
    assert arrived.smtp_utf8
    assert parsed(arrived.original_content)["To"] == "björn@xn--kln-sna.example"


@pytest.mark.parametrize("configuration", ["plain", "no_smtputf8"])
def test_domains_with_umlauts_of_sender_and_recipient_are_ascii_on_the_wire(
    make_mailer: MakeMailer, postfix: Postfix, configuration: str
) -> None:
    mailer = make_mailer(configuration, sender="Bilder, für Käufer <laden@köln.example>")
    mailer.send(rendered(mailer, "zoe@münchen.example", "<refund.1.3f2a@köln.example>"))
    arrived = postfix.next_server.mail_to("zoe@xn--mnchen-3ya.example")
    assert arrived.mail_from == "laden@xn--kln-sna.example"
    message = parsed(arrived.original_content)
    assert message["From"].addresses[0].display_name == "Bilder, für Käufer"
    assert message["From"].addresses[0].addr_spec == "laden@xn--kln-sna.example"
    assert message["Message-ID"] == "<refund.1.3f2a@xn--kln-sna.example>"
    assert (arrived.original_content or b"").isascii()


def test_greylisted_mails_leave_after_five_minutes_and_stop_no_other(
    make_mailer: MakeMailer, postfix: Postfix, shop: Steps
) -> None:
    mailing(shop, make_mailer("greylisting"))
    jobs = owed_by(shop, 4)
    for _ in range(4):
        shop.mail_due()
        shop.later(minutes=1)
    assert (states(shop), shop.tasks()) == (["claimed"], [])
    postfix.greylist.passes = True
    shop.later(minutes=5)
    shop.mail_due()
    assert (states(shop), shop.tasks()) == (["accepted"], [])
    for job_id in jobs:
        postfix.next_server.mail_to(f"{job_id}@example.org")


@pytest.mark.parametrize("configuration", ["senders", "senders_at_once"])
def test_a_sender_that_is_refused_is_one_task_of_the_shop_and_all_mails_leave_with_another(
    make_mailer: MakeMailer, postfix: Postfix, shop: Steps, configuration: str
) -> None:
    mailing(shop, make_mailer(configuration, sender=REFUSED_SENDER))
    jobs = owed_by(shop, 3)
    for _ in range(3):
        shop.mail_due()
        shop.later(minutes=6)
    assert (states(shop), shop.tasks()) == (["claimed"], ["breaker"])
    mailing(shop, make_mailer(configuration))
    for _ in range(2):
        shop.mail_due()
        shop.later(minutes=6)
    assert (states(shop), shop.tasks()) == (["accepted"], [])
    for job_id in jobs:
        arrived = parsed(postfix.next_server.mail_to(f"{job_id}@example.org").original_content)
        assert arrived["From"].addresses[0].addr_spec == "shop@shop.example"


def test_a_server_that_does_not_relay_for_the_shop_is_the_shops_fault(make_mailer: MakeMailer) -> None:
    mailer = make_mailer("no_relay")
    with pytest.raises(PermanentError, match="Relay access denied") as refused:
        mailer.send(rendered(mailer, "anna@example.org"))
    assert refused.value.scope is Scope.SHOP


def test_what_postfix_refuses_for_the_time_being_may_be_tried_again(make_mailer: MakeMailer) -> None:
    mailer = make_mailer("greylisting")
    with pytest.raises(TransientError, match="450") as refused:
        mailer.send(rendered(mailer, "anna@example.org"))
    assert refused.value.counts and refused.value.scope is Scope.UNKNOWN
    assert not isinstance(refused.value, AmbiguousError)
