"""Handing over to real SMTP servers on loopback."""

import asyncio
import base64
import hmac
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from smi_pipeline.adapters.mail import smtp
from smi_pipeline.adapters.mail.smtp import SmtpMailer
from smi_pipeline.core.errors import AccountError, AmbiguousError, PermanentError, TransientError
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.models import RenderedMail
from smi_pipeline_tests.unit.mail.conftest import AT, CUSTOMER, MESSAGE_ID, OWNER


class Postbox:
    """Handler that keeps what it accepts; a fault is an answer at a stage, 'drop' or 'hang'."""

    def __init__(self) -> None:
        self.accepted: list[Envelope] = []
        self.faults: dict[str, str] = {}
        self.encrypted: list[bool] = []

    async def _stage(self, stage: str, server: SMTP) -> str | None:
        fault = self.faults.get(stage)
        if fault == "drop":
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        elif fault == "hang":
            await asyncio.sleep(30)
        return fault

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, host: str, responses: list[str]
    ) -> list[str]:
        session.host_name = host
        return responses

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if fault := await self._stage("MAIL", server):
            return fault
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if fault := await self._stage(f"RCPT {address}", server) or await self._stage("RCPT", server):
            return fault
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if fault := await self._stage("DATA", server):
            return fault
        self.encrypted.append(session.ssl is not None)
        self.accepted.append(envelope)
        return "250 OK"


@contextmanager
def serving(postbox: Postbox, **settings: Any) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(postbox, hostname="127.0.0.1", port=port, **settings)
    controller.start()
    try:
        yield port
    finally:
        controller.stop(no_assert=True)


@contextmanager
def scripted(*answers: bytes, after: Callable[[socket.socket], None] = lambda _: None) -> Iterator[int]:
    """A server that says its lines, one per line of the client, for what a well-behaved server never says."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def run() -> None:
            try:
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(5)
                lines = connection.makefile("rb")
                for number, answer in enumerate(answers):
                    if number:
                        while not lines.readline().strip():
                            pass
                    connection.sendall(answer)
                after(connection)
                lines.close()
                connection.close()
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.close()
        thread.join(5)


@pytest.fixture
def postbox() -> Postbox:
    return Postbox()


@pytest.fixture
def port(postbox: Postbox) -> Iterator[int]:
    with serving(postbox, enable_SMTPUTF8=True) as port:
        yield port


@pytest.fixture
def mail(make_mailer: Callable[..., SmtpMailer], completion: dict[str, Any]) -> RenderedMail:
    return make_mailer().render("completion", to=CUSTOMER, message_id=MESSAGE_ID, context=completion, at=AT)


Make = Callable[..., SmtpMailer]


def test_the_server_gets_exactly_the_rendered_bytes_each_time(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail
) -> None:
    mailer = make_mailer(port=port)
    mailer.send(mail)
    mailer.send(mail)
    assert [envelope.original_content for envelope in postbox.accepted] == [mail.content, mail.content]
    assert postbox.accepted[0].mail_from == "shop@example.com"
    assert postbox.accepted[0].rcpt_tos == [CUSTOMER, OWNER]


def test_lines_that_begin_with_a_dot_arrive_whole(make_mailer: Make, port: int, postbox: Postbox) -> None:
    content = b"Subject: x\r\n\r\n.first\r\n..\r\n.\r\nlast\r\n"
    make_mailer(port=port).send(
        RenderedMail(message_id="<a@b>", sender="s@b.example", recipients=(CUSTOMER,), subject="x", content=content)
    )
    assert postbox.accepted[0].original_content == content


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_a_451_at_any_stage_means_try_again(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, stage: str
) -> None:
    postbox.faults[stage] = "451 4.7.1 greylisted, come back later"
    with pytest.raises(TransientError, match="451") as caught:
        make_mailer(port=port).send(mail)
    assert not isinstance(caught.value, AmbiguousError)
    postbox.faults.clear()
    make_mailer(port=port).send(mail)
    assert len(postbox.accepted) == 1


def test_a_5xx_for_the_sender_is_about_us_and_not_about_the_mail(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail
) -> None:
    postbox.faults["MAIL"] = "550 5.7.60 account suspended"
    with pytest.raises(AccountError, match="550"):
        make_mailer(port=port).send(mail)


@pytest.mark.parametrize("stage", ["RCPT", "DATA"])
def test_a_550_for_the_recipient_or_the_content_is_final_and_names_nobodys_fault(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, stage: str
) -> None:
    postbox.faults[stage] = f"550 5.1.1 <{CUSTOMER}> unknown, see https://mail.example.com/why?{CUSTOMER}"
    with pytest.raises(PermanentError, match="550") as caught:
        make_mailer(port=port).send(mail)
    assert (caught.value.reason, caught.value.scope) == ("mail_refused", Scope.UNKNOWN)
    assert CUSTOMER not in str(caught.value)
    assert "https://" not in str(caught.value)


@pytest.mark.parametrize("stage", ["MAIL", "RCPT"])
@pytest.mark.parametrize("fault", ["drop", "hang"])
def test_a_connection_lost_before_the_content_is_certainly_not_accepted(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, stage: str, fault: str
) -> None:
    postbox.faults[stage] = fault
    with pytest.raises(TransientError) as caught:
        make_mailer(port=port, timeout_seconds=0.3).send(mail)
    assert not isinstance(caught.value, AmbiguousError)


@pytest.mark.parametrize(("fault", "word"), [("drop", "closed"), ("hang", "timed out")])
def test_an_answer_lost_after_the_content_is_ambiguous(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, fault: str, word: str
) -> None:
    postbox.faults["DATA"] = fault
    with pytest.raises(AmbiguousError, match=rf"no answer after the message was sent.*{word}"):
        make_mailer(port=port, timeout_seconds=0.3).send(mail)


def test_an_unreadable_answer_after_the_content_is_ambiguous(make_mailer: Make, mail: RenderedMail) -> None:
    lines = (b"220 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\nwhat?\r\n")
    with scripted(*lines) as port, pytest.raises(AmbiguousError, match=r"unreadable|no answer"):
        make_mailer(port=port).send(mail)


def test_no_server_at_all_is_an_outage_that_counts_against_no_mail(make_mailer: Make, mail: RenderedMail) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TransientError, match="No connection") as caught:
            make_mailer(port=unused.getsockname()[1]).send(mail)
    assert caught.value.counts is False
    assert not isinstance(caught.value, AmbiguousError)


def test_a_server_that_never_greets_times_out(make_mailer: Make, mail: RenderedMail) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TransientError, match="timed out"):
        make_mailer(port=silent.getsockname()[1], timeout_seconds=0.2).send(mail)


@pytest.mark.parametrize("greeting", [b"554 no service here\r\n", b"421 busy\r\n", b"SSH-2.0-OpenSSH\r\n"])
def test_a_greeting_that_refuses_us_convicts_no_mail(make_mailer: Make, mail: RenderedMail, greeting: bytes) -> None:
    with scripted(greeting) as port, pytest.raises(TransientError) as caught:
        make_mailer(port=port).send(mail)
    assert caught.value.counts is False


def test_a_refused_copy_for_the_owner_does_not_stop_the_customers_mail(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, caplog: pytest.LogCaptureFixture
) -> None:
    postbox.faults[f"RCPT {OWNER}"] = f"550 mailbox {OWNER} is full"
    with caplog.at_level(logging.DEBUG):
        make_mailer(port=port).send(mail)
    assert postbox.accepted[0].rcpt_tos == [CUSTOMER]
    assert "owner's copy" in caplog.text


def test_no_address_is_logged(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="smi_pipeline"):
        postbox.faults[f"RCPT {OWNER}"] = f"550 {OWNER}"
        make_mailer(port=port).send(mail)
        postbox.faults["RCPT"] = f"550 {CUSTOMER}"
        with pytest.raises(PermanentError):
            make_mailer(port=port).send(mail)
    assert "@" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("smi_"))


def test_an_address_beyond_ascii_is_sent_with_smtputf8(
    make_mailer: Make, port: int, postbox: Postbox, completion: dict[str, Any]
) -> None:
    mailer = make_mailer(port=port)
    mail = mailer.render("completion", to="björn@köln.example", message_id=MESSAGE_ID, context=completion, at=AT)
    mailer.send(mail)
    assert postbox.accepted[0].rcpt_tos[0] == "björn@xn--kln-sna.example"
    assert postbox.accepted[0].original_content == mail.content


def test_an_address_beyond_ascii_is_refused_where_the_server_cannot(
    make_mailer: Make, postbox: Postbox, completion: dict[str, Any]
) -> None:
    with serving(postbox, enable_SMTPUTF8=False) as port:
        mailer = make_mailer(port=port)
        mail = mailer.render("completion", to="björn@example.org", message_id=MESSAGE_ID, context=completion, at=AT)
        with pytest.raises(PermanentError, match="beyond ASCII"):
            mailer.send(mail)


@pytest.mark.parametrize(
    ("stage", "answer"),
    [
        ("RCPT", "550 5.7.1 Your account has been suspended"),
        ("DATA", "554 5.2.252 SendAsDenied; not allowed to send as this sender"),
        ("RCPT", "452 4.7.1 Daily sending quota exceeded"),
        ("DATA", "454 Throttling failure: Daily message quota exceeded"),
    ],
)
def test_a_suspended_account_or_a_used_up_quota_is_the_shops_at_any_stage(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, stage: str, answer: str
) -> None:
    postbox.faults[stage] = answer
    kind = PermanentError if answer.startswith("5") else TransientError
    with pytest.raises(kind, match=answer[:3]) as caught:
        make_mailer(port=port).send(mail)
    assert caught.value.scope is Scope.SHOP  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "error"), [("451 4.3.0 later", TransientError), ("451 4.7.1 your account is suspended", AccountError)]
)
def test_a_4xx_for_the_sender_counts_against_no_mail(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail, answer: str, error: type[TransientError]
) -> None:
    postbox.faults["MAIL"] = answer
    with pytest.raises(error, match="451") as caught:
        make_mailer(port=port).send(mail)
    assert type(caught.value) is error and not caught.value.counts


def test_what_the_server_takes_is_asked_once_and_not_known_while_it_does_not_answer(
    make_mailer: Make, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make_mailer(port=9, timeout_seconds=0.3)
    assert mailer.reaches("anna@köln.example") is True, "its domain is ASCII on the wire"
    assert mailer.reaches("björn@example.org") is None
    with serving(postbox, enable_SMTPUTF8=False) as port:
        knowing = make_mailer(port=port, user="shop", password="never sent")
        assert knowing.reaches("björn@example.org") is False
    assert knowing.reaches("zoë@example.org") is False, "it is remembered"
    now = time.monotonic()
    monkeypatch.setattr(smtp, "monotonic", lambda: now + smtp.LEARNED_FOR_SECONDS + 1)
    assert knowing.reaches("zoë@example.org") is None, "and asked again after a while"


def test_a_server_without_a_login_by_password_is_the_shops_fault(make_mailer: Make, mail: RenderedMail) -> None:
    offers = scripted(b"220 hi\r\n", b"250-hi\r\n250 AUTH XOAUTH2 NTLM\r\n")
    with offers as port, pytest.raises(AccountError, match="it offers XOAUTH2, NTLM"):
        make_mailer(port=port, user="shop", password="x").send(mail)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_names_and_passwords_are_sent_in_utf8(make_mailer: Make, mail: RenderedMail, mechanism: str) -> None:
    user, password, challenge = "käse", "pässwörd-€", b"<1896.697170952@mail.example>"
    said: list[bytes] = []

    def read(connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        said.append(lines.readline())
        for answer in {"PLAIN": [], "LOGIN": [b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"]}.get(
            mechanism, [base64.b64encode(challenge)]
        ):
            connection.sendall(b"334 " + answer + b"\r\n")
            said.append(base64.b64decode(lines.readline()))
        connection.sendall(b"535 5.7.8 no\r\n")

    asking = scripted(b"220 hi\r\n", f"250-hi\r\n250 AUTH {mechanism}\r\n".encode(), after=read)
    with asking as port, pytest.raises(AccountError, match="535"):
        make_mailer(port=port, user=user, password=password).send(mail)
    digest = hmac.new(password.encode(), challenge, "md5").hexdigest()
    plain = base64.b64encode(f"\0{user}\0{password}".encode())
    assert (
        said
        == {
            "PLAIN": [b"AUTH PLAIN " + plain + b"\r\n"],
            "LOGIN": [b"AUTH LOGIN\r\n", user.encode(), password.encode()],
            "CRAM-MD5": [b"AUTH CRAM-MD5\r\n", f"{user} {digest}".encode()],
        }[mechanism]
    )


@pytest.mark.parametrize("then", [b"", b"421 4.7.0 Too many failed logins\r\n"], ids=["hangs up", "421"])
def test_a_wrong_password_stays_the_reason_when_the_server_ends_the_session_for_it(
    make_mailer: Make, mail: RenderedMail, then: bytes
) -> None:
    lines = [b"220 hi\r\n", b"250-hi\r\n250 AUTH PLAIN LOGIN\r\n", b"535 5.7.8 wrong password\r\n"]
    with scripted(*lines, *([then] if then else [])) as port, pytest.raises(AccountError, match=r"535 5\.7\.8"):
        make_mailer(port=port, user="shop", password="old").send(mail)


@pytest.mark.parametrize("why", ["unreadable challenge", "no MD5"])
def test_another_mechanism_follows_when_cram_md5_cannot_be_used(
    make_mailer: Make, mail: RenderedMail, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise ValueError("[digital envelope routines] unsupported")

    challenge = b"334 abc\r\n" if why == "unreadable challenge" else b"334 PDE4OTY+\r\n"
    if why == "no MD5":
        monkeypatch.setattr(hmac, "new", forbidden)
    said: list[bytes] = []

    def read(connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        for answer in (challenge, b"501 cancelled\r\n", b"235 welcome\r\n", b"550 5.1.8 sender rejected\r\n"):
            said.append(lines.readline())
            connection.sendall(answer)

    offers = scripted(b"220 hi\r\n", b"250-hi\r\n250 AUTH CRAM-MD5 PLAIN\r\n", after=read)
    with offers as port, pytest.raises(AccountError, match="sender"):
        make_mailer(port=port, user="shop", password="s3cret").send(mail)
    assert said[:2] == [b"AUTH CRAM-MD5\r\n", b"*\r\n"]
    assert said[2].startswith(b"AUTH PLAIN ")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@contextmanager
def serving_tls(postbox: Postbox, authority: trustme.CA, name: str, **settings: Any) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with serving(postbox, tls_context=context, **settings) as port:
        yield port


def authenticator(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"shop", b"s3cret")
    return AuthResult(success=good, handled=False)


def test_starttls_and_auth_are_used_with_a_verified_certificate(
    make_mailer: Make, postbox: Postbox, mail: RenderedMail, authority: trustme.CA, ca_file: Path
) -> None:
    with serving_tls(
        postbox, authority, "127.0.0.1", authenticator=authenticator, auth_required=True, require_starttls=True
    ) as port:
        make = {"port": port, "starttls": True, "user": "shop", "ca_file": ca_file}
        make_mailer(**make, password="s3cret").send(mail)
        assert make_mailer(**make, password="s3cret").check() == f"127.0.0.1:{port}"
        with pytest.raises(TransientError, match="535") as caught:
            make_mailer(**make, password="wrong").send(mail)
    assert caught.value.counts is False
    assert postbox.encrypted == [True]


def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    make_mailer: Make, postbox: Postbox, mail: RenderedMail, authority: trustme.CA
) -> None:
    with serving_tls(postbox, authority, "127.0.0.1") as port, pytest.raises(TransientError, match="certificate"):
        make_mailer(port=port, starttls=True).send(mail)
    assert not postbox.accepted


def test_a_certificate_for_another_name_is_not_trusted(
    make_mailer: Make, postbox: Postbox, mail: RenderedMail, authority: trustme.CA, ca_file: Path
) -> None:
    with (
        serving_tls(postbox, authority, "mail.example.com") as port,
        pytest.raises(TransientError, match="certificate"),
    ):
        make_mailer(port=port, starttls=True, ca_file=ca_file).send(mail)
    assert not postbox.accepted


def test_a_server_without_starttls_gets_nothing_in_plain_text(
    make_mailer: Make, port: int, postbox: Postbox, mail: RenderedMail
) -> None:
    with pytest.raises(TransientError, match="STARTTLS"):
        make_mailer(port=port, starttls=True, user="shop", password="s3cret").send(mail)
    assert not postbox.accepted


def test_a_server_that_wants_a_login_we_do_not_have_convicts_no_mail(
    make_mailer: Make, postbox: Postbox, mail: RenderedMail, authority: trustme.CA, ca_file: Path
) -> None:
    with (
        serving_tls(postbox, authority, "127.0.0.1", authenticator=authenticator, auth_required=True) as port,
        pytest.raises(TransientError, match="530") as caught,
    ):
        make_mailer(port=port, starttls=True, ca_file=ca_file).send(mail)
    assert caught.value.counts is False


def test_the_check_reports_a_server_that_is_not_there(make_mailer: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TransientError, match="No connection to the mail server"):
            make_mailer(port=unused.getsockname()[1]).check()


def test_a_server_that_hangs_up_on_quit_has_still_accepted(make_mailer: Make, mail: RenderedMail) -> None:
    def last(connection: socket.socket) -> None:
        while not connection.recv(65536).endswith(b"\r\n.\r\n"):
            pass
        connection.sendall(b"250 accepted\r\n")

    lines = (b"220 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    started = time.monotonic()
    with scripted(*lines, after=last) as port:
        make_mailer(port=port).send(mail)
    assert time.monotonic() - started < 8


def test_a_server_that_is_slow_at_every_word_gets_no_content(
    make_mailer: Callable[..., SmtpMailer], mail: RenderedMail, postbox: Postbox, port: int
) -> None:
    mailer = make_mailer(port=port, session_seconds=0.0)
    with pytest.raises(TransientError, match="too slow") as slow:
        mailer.send(mail)
    assert not isinstance(slow.value, AmbiguousError)
    make_mailer(port=port).send(mail)
    assert len(postbox.accepted) == 1
