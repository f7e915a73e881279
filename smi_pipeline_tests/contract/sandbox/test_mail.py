"""The mail sandbox takes mails by SMTP, keeps and shows them, and its faults do what they say."""

import smtplib
import ssl
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from smi_pipeline.sandbox.server import Sandbox


def message(number: int = 1, to: str = "customer@example.com") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.com", to, f"Grüße <b>{number}</b>"
    mail["Message-ID"] = f"<{number}@example.com>"
    mail.set_content("Your image is ready: http://shop.example/x")
    mail.add_alternative("<h1>Ready</h1><script>alert(1)</script>", subtype="html")
    return mail


def send(sandbox: Sandbox, mail: EmailMessage) -> None:
    with smtplib.SMTP(sandbox.urls.smtp_host, sandbox.urls.smtp_port, timeout=10) as server:
        server.send_message(mail)


def accepted(sandbox: Sandbox, number: int) -> int:
    return sum(line["message_id"] == f"<{number}@example.com>" for line in sandbox.ledger("mail")["messages"])


def test_an_accepted_mail_is_in_the_ledger_and_on_the_pages(sandbox: Sandbox) -> None:
    send(sandbox, message(1))
    messages = sandbox.ledger("mail")["messages"]
    last, number = messages[-1], len(messages)
    assert set(last) == {"message_id", "to", "subject", "at"}
    assert (last["message_id"], last["to"]) == ("<1@example.com>", ["customer@example.com"])
    assert last["subject"] == "Grüße <b>1</b>"
    page = requests.get(f"{sandbox.urls.mail}/messages/{number}", timeout=10).text
    assert "Your image is ready" in page
    assert "Grüße &lt;b&gt;1&lt;/b&gt;" in page
    assert 'sandbox="allow-popups' in page
    assert "<script>" not in page
    assert "Ready</h1>" in requests.get(f"{sandbox.urls.mail}/messages/{number}.html", timeout=10).text
    source = requests.get(f"{sandbox.urls.mail}/messages/{number}.eml", timeout=10)
    assert source.headers["Content-Type"].startswith("message/rfc822")
    assert "<1@example.com>" in source.text
    assert f"/messages/{number}" in requests.get(sandbox.urls.mail, timeout=10).text
    assert requests.get(f"{sandbox.urls.mail}/messages/9999", timeout=10).status_code == 404


@pytest.mark.parametrize(("code", "at"), [(451, "RCPT"), (550, "RCPT"), (451, "DATA"), (552, "DATA"), (421, "MAIL")])
def test_a_code_refuses_so_often_and_nothing_is_accepted(sandbox: Sandbox, code: int, at: str) -> None:
    sandbox.fault("mail", "code", code=code, at=at, times=2)
    number = code * 100 + ord(at[0])
    for _ in range(2):
        with pytest.raises(smtplib.SMTPException) as raised:
            send(sandbox, message(number))
        assert str(code) in str(raised.value)
    assert accepted(sandbox, number) == 0
    send(sandbox, message(number))
    assert accepted(sandbox, number) == 1


def test_a_code_can_be_for_one_recipient_or_subject(sandbox: Sandbox) -> None:
    sandbox.fault("mail", "code", code=550, match={"to": "victim@"})
    sandbox.fault("mail", "code", code=552, at="DATA", match={"subject": "<b>77"})
    send(sandbox, message(10))
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(sandbox, message(11, to="victim@example.com"))
    with pytest.raises(smtplib.SMTPDataError):
        send(sandbox, message(77))


def test_drop_after_data_has_accepted_the_mail_unless_told_otherwise(sandbox: Sandbox) -> None:
    cases: list[tuple[int, dict[str, Any]]] = [(20, {}), (21, {"accepted": False})]
    for number, options in cases:
        sandbox.fault("mail", "drop_after_data", **options)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(sandbox, message(number))
    assert (accepted(sandbox, 20), accepted(sandbox, 21)) == (1, 0)


@pytest.mark.parametrize("at", ["CONNECT", "MAIL", "RCPT", "DATA"])
def test_drop_closes_the_connection_before_anything_is_accepted(sandbox: Sandbox, at: str) -> None:
    number = 3000 + sum(at.encode())
    sandbox.fault("mail", "drop", at=at)
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(sandbox, message(number))
    assert accepted(sandbox, number) == 0
    send(sandbox, message(number))
    assert accepted(sandbox, number) == 1


def test_latency_waits(sandbox: Sandbox) -> None:
    sandbox.fault("mail", "latency", seconds=0.3)
    started = time.monotonic()
    send(sandbox, message(40))
    assert time.monotonic() - started >= 0.3


def test_starttls_and_login_when_asked_for(tmp_path: Path) -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    with (
        Sandbox(tmp_path, only=["mail"], smtp_user="shop", smtp_password="secret", tls=server_side) as sandbox,
        smtplib.SMTP("localhost", sandbox.urls.smtp_port, timeout=10) as server,
    ):
        server.starttls(context=client_side)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            server.login("shop", "wrong")
        with pytest.raises(smtplib.SMTPException):
            server.send_message(message())
        server.login("shop", "secret")
        server.send_message(message())
        assert len(sandbox.ledger("mail")["messages"]) == 1


def test_a_login_can_be_refused_from_one_day_to_the_next(tmp_path: Path) -> None:
    with (
        Sandbox(tmp_path, only=["mail"], smtp_user="shop", smtp_password="secret") as sandbox,
        smtplib.SMTP("localhost", sandbox.urls.smtp_port, timeout=10) as server,
    ):
        sandbox.fault("mail", "code", code=535, at="AUTH", message="5.7.139 Basic authentication is disabled", times=2)
        with pytest.raises(smtplib.SMTPAuthenticationError, match="Basic authentication"):
            server.login("shop", "secret")
        server.login("shop", "secret")


def test_a_refusal_can_end_the_connection_and_421_always_does(tmp_path: Path) -> None:
    with Sandbox(tmp_path, only=["mail"], smtp_user="shop", smtp_password="secret") as sandbox:
        for code, at, hang_up in ((535, "AUTH", True), (421, "AUTH", False)):
            sandbox.fault("mail", "code", code=code, at=at, hang_up=hang_up)
            with smtplib.SMTP(sandbox.urls.smtp_host, sandbox.urls.smtp_port, timeout=10) as server:
                server.ehlo()
                assert server.docmd("AUTH", "LOGIN")[0] == code
                with pytest.raises(smtplib.SMTPServerDisconnected):
                    server.noop()


def test_two_passwords_are_good_while_one_is_replaced(tmp_path: Path) -> None:
    with Sandbox(tmp_path, only=["mail"], smtp_user="shop", smtp_password="old, one") as sandbox:

        def logs_in(password: str) -> bool:
            with smtplib.SMTP(sandbox.urls.smtp_host, sandbox.urls.smtp_port, timeout=10) as server:
                try:
                    server.login("shop", password)
                except smtplib.SMTPAuthenticationError:
                    return False
                return True

        assert logs_in("old, one"), "a comma is part of a password"
        sandbox.configure("mail", smtp_password="new", smtp_old_password="old, one")
        assert logs_in("new") and logs_in("old, one")
        sandbox.configure("mail", smtp_old_password="")
        assert logs_in("new") and not logs_in("old, one") and not logs_in("")


def test_greylisting_refuses_a_new_pair_of_sender_and_recipient_for_a_while(sandbox: Sandbox) -> None:
    sandbox.configure("mail", greylist_seconds=300)
    for _ in range(2):
        with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"450.*Greylisted"):
            send(sandbox, message(50, to="new@example.com"))
    sandbox.configure("mail", clock_offset=301)
    send(sandbox, message(50, to="new@example.com"))
    assert accepted(sandbox, 50) == 1


def test_another_sender_is_refused_when_the_recipient_is_known(sandbox: Sandbox) -> None:
    sandbox.configure("mail", senders="shop@example.org,help@example.org")
    with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"553.*Sender address rejected"):
        send(sandbox, message(51))
    sandbox.configure("mail", senders="shop@example.com")
    send(sandbox, message(51))


def test_addresses_and_headers_beyond_ascii_need_smtputf8(sandbox: Sandbox) -> None:
    with smtplib.SMTP(sandbox.urls.smtp_host, sandbox.urls.smtp_port, timeout=10) as server:
        with pytest.raises(smtplib.SMTPDataError, match=r"5\.6\.7"):
            server.sendmail("shop@example.com", ["anna@example.com"], "Subject: Grüße\r\n\r\nx".encode())
        server.sendmail("shop@example.com", ["björn@example.com"], b"Subject: x\r\n\r\nx", ["SMTPUTF8"])
        assert server.mail("shop@example.com")[0] == 250
        server.command_encoding = "utf-8"
        assert server.rcpt("björn@example.com") == (
            553,
            b"5.6.7 Addresses beyond ASCII, but SMTPUTF8 was not asked for",
        )
    sandbox.configure("mail", smtputf8=0)
    with smtplib.SMTP(sandbox.urls.smtp_host, sandbox.urls.smtp_port, timeout=10) as server:
        server.ehlo()
        assert not server.has_extn("smtputf8")
