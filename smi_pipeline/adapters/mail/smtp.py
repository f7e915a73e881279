"""Hand mails to an SMTP server.

What matters is whether the server can have accepted the message: before its first byte is sent it cannot
(TransientError); after that it may have, until it answers (AmbiguousError).
"""

import logging
import re
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from smi_pipeline.adapters.mail.login import log_in
from smi_pipeline.adapters.mail.rendering import MailRenderer
from smi_pipeline.adapters.mail.replies import ACCOUNT_CODES, is_about_us
from smi_pipeline.addresses import ascii_host
from smi_pipeline.core.errors import AccountError, AmbiguousError, PermanentError, TransientError
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.models import RenderedMail

MAIL_REFUSED = "mail_refused"
IMPLICIT_TLS_PORT = 465  # RFC 8314: TLS from the first byte, no STARTTLS
LEARNED_FOR_SECONDS, UNKNOWN_FOR_SECONDS = 600, 30
"""How long it is believed what the server offers, and how long it is not asked again when it did not answer."""
_QUESTION_SECONDS = 5.0  # for each answer while a customer waits for an order
_log = logging.getLogger(__name__)


class SmtpMailer:
    """Implement `core.ports.MailerPort` over SMTP.

    `user` and `password` may be empty for a server without AUTH. `starttls` demands STARTTLS with a certificate valid
    for `host`; port 465 uses TLS from the start. `owner_copy` receives a blind copy of each customer's mail.
    `timeout_seconds` bounds each answer of the server; a server that is slow at all of them, so that the content could
    not begin within `session_seconds`, gets none: by then somebody else may have the mail. `ca_file` names a PEM file
    of authorities that are trusted beside the system's. Raises OSError if it cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str | None,
        password: str | None,
        starttls: bool,
        sender: str,
        support_email: str,
        owner_copy: str | None,
        shop_name: str = "Sell My Images",
        timeout_seconds: float = 20,
        session_seconds: float = 40,
        ca_file: Path | None = None,
    ) -> None:
        self._renderer = MailRenderer(
            sender=sender, support_email=support_email, owner_copy=owner_copy, shop_name=shop_name
        )
        self._host, self._port, self._starttls = ascii_host(host) or host, port, starttls
        self._user, self._password = user or "", password or ""
        self._timeout = timeout_seconds
        self._session_seconds = session_seconds
        self._tls_context = _trusting(ca_file) if ca_file else None
        self._takes_utf8: tuple[bool | None, float] = None, 0.0  # and until when that is believed
        # Our own domain: by default DNS is asked for this machine's name, which can take seconds.
        self._helo = self._renderer.sender.rpartition("@")[2]

    def render(self, kind: str, *, to: str, message_id: str, context: Mapping[str, Any], at: datetime) -> RenderedMail:
        """Return the complete message; `kind` is completion, refund, duplicate_payment, goodwill or alert. The same
        arguments give the same bytes. Raises RefusedError for line breaks in header values and for missing
        or unusable values of `context`."""
        return self._renderer.render(kind, to=to, message_id=message_id, context=context, at=at)

    def send(self, mail: RenderedMail) -> None:
        """Hand `mail.content` to the server unchanged. Raises TransientError (certainly not accepted; AccountError: it
        refuses us, whatever the mail), AmbiguousError (may have been accepted), PermanentError(reason
        'mail_refused': the recipient or the content; of scope ORDER: the server cannot reach such an address). If
        the answer names the shop's account or sender, the scope is SHOP."""
        ends = monotonic() + self._session_seconds
        with self._session() as smtp:
            with self._before_content():
                self._envelope(smtp, mail)
                self._expect(smtp.docmd("DATA"), "the message", 354)
            if monotonic() > ends:
                smtp.close()  # the server discards content without an end
                raise TransientError("The mail server is too slow.", counts=False)
            self._expect(self._content(smtp, mail.content), "the message", 250)

    def check(self) -> str:
        """Connect, encrypt and log in without sending, for `smi doctor`; return the server's name and port.
        Raises TransientError with the cause."""
        with self._session() as smtp, self._before_content():
            self._expect(smtp.noop(), "NOOP", 250)
        return f"{self._host}:{self._port}"

    def reaches(self, address: str) -> bool | None:
        """Return whether the server takes this address: one with a local part beyond ASCII needs SMTPUTF8. None if that
        is not known now. Asks the server, without a login, at most every ten minutes."""
        if address.rpartition("@")[0].isascii():
            return True
        known, until = self._takes_utf8
        if monotonic() >= until:
            try:
                with self._session(timeout=min(_QUESTION_SECONDS, self._timeout), login=False) as smtp:
                    known = smtp.has_extn("smtputf8")
            except TransientError:
                known = None
            lasts = UNKNOWN_FOR_SECONDS if known is None else LEARNED_FOR_SECONDS
            self._takes_utf8 = known, monotonic() + lasts
        return known

    @contextmanager
    def _session(self, *, timeout: float | None = None, login: bool = True) -> Iterator[smtplib.SMTP]:
        with self._before_content():
            smtp = self._connect(timeout or self._timeout, login=login)
        try:
            yield smtp
        finally:
            # The answer to QUIT no longer matters, and a server that has hung up gives none.
            with suppress(OSError, smtplib.SMTPException):
                if smtp.sock is not None:
                    smtp.sock.settimeout(min(2.0, self._timeout))
                smtp.quit()
            smtp.close()

    def _connect(self, timeout: float, *, login: bool) -> smtplib.SMTP:
        context = self._tls_context or ssl.create_default_context()
        if self._port == IMPLICIT_TLS_PORT:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, self._helo, timeout=timeout, context=context)
        else:
            smtp = smtplib.SMTP(self._host, self._port, self._helo, timeout=timeout)
        try:
            smtp.ehlo_or_helo_if_needed()
            if self._starttls and self._port != IMPLICIT_TLS_PORT:
                smtp.starttls(context=context)  # raises when not offered: never falls back to plain text
                smtp.ehlo()
            if login and self._user:
                log_in(smtp, self._user, self._password)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _envelope(self, smtp: smtplib.SMTP, mail: RenderedMail) -> None:
        options = [f"SIZE={len(mail.content)}"] if smtp.has_extn("size") else []
        if not all(address.isascii() for address in (mail.sender, *mail.recipients)):
            if not smtp.has_extn("smtputf8"):
                raise PermanentError(
                    MAIL_REFUSED,
                    "The mail server cannot reach addresses with letters beyond ASCII.",
                    scope=Scope.ORDER,
                )
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        code, text = smtp.mail(mail.sender, options)
        if code != 250:  # the sender is ours in every mail
            raise _refused_us(f"The mail server refused the sender: {code} {_scrub(text)}", code, text)
        customer, *copies = mail.recipients
        self._expect(smtp.rcpt(customer), "the recipient", 250, 251)
        for copy in copies:
            code, _ = smtp.rcpt(copy)
            if code not in (250, 251):
                # The customer's mail must not depend on the owner's mailbox.
                _log.warning("the mail server refused the owner's copy (%s); only the customer gets the mail", code)

    @staticmethod
    def _content(smtp: smtplib.SMTP, content: bytes) -> tuple[int, bytes]:
        # A line that begins with a dot would end the message (RFC 5321, 4.5.2). The lines are CRLF already.
        stuffed = re.sub(rb"(?m)^\.", b"..", content)
        try:
            smtp.send(stuffed + (b"" if stuffed.endswith(b"\r\n") else b"\r\n") + b".\r\n")
            code, text = smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise AmbiguousError(
                f"The mail server gave no answer after the message was sent ({_cause(error)}); it may be on its way."
            ) from None
        if code // 100 not in (2, 4, 5):
            raise AmbiguousError("The mail server gave an unreadable answer after the message was sent.")
        return code, text

    @contextmanager
    def _before_content(self) -> Iterator[None]:
        """Translate the errors of a session of which no byte of the message has been sent."""
        try:
            yield
        except smtplib.SMTPNotSupportedError as error:
            raise AccountError(f"The mail server does not offer what is configured: {error}") from None
        except smtplib.SMTPResponseException as error:
            # Greeting, EHLO, STARTTLS and AUTH do not concern this mail: a wrong password must not fail it permanently.
            said = f"The mail server refuses us: {error.smtp_code} {_scrub(error.smtp_error)}"
            raise _refused_us(said, error.smtp_code, error.smtp_error) from None
        except (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError) as error:
            raise AccountError(f"No connection to the mail server ({_cause(error)}).") from None
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            raise TransientError(f"No connection to the mail server ({_cause(error)}).", counts=False) from None

    @staticmethod
    def _expect(answer: tuple[int, bytes], what: str, *good: int) -> None:
        code, text = answer
        if code in good:
            return
        said = f"The mail server refused {what}: {code} {_scrub(text)}"
        if code in ACCOUNT_CODES:
            raise AccountError(said)
        scope = Scope.SHOP if is_about_us(code, _scrub(text)) else Scope.UNKNOWN
        if code // 100 == 5:
            raise PermanentError(MAIL_REFUSED, said, scope=scope)
        raise TransientError(said, scope=scope)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(ca_file)
    return context


def _refused_us(said: str, code: int, text: bytes | str) -> TransientError:
    """Return the error for an answer before the recipient is named: it concerns no single mail."""
    if code // 100 == 5 or is_about_us(code, _scrub(text)):
        return AccountError(said)
    return TransientError(said, retry_after=60.0, counts=False)


def _scrub(text: bytes | str) -> str:
    """Return a server's answer on one line without addresses and links, for rows and logs."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    words = re.sub(r"https?://\S+", "[link]", " ".join(words.split()))
    return re.sub(r"[^\s<>()\[\]\"',;:]+@[^\s<>()\[\]\"',;:]+", "[address]", words)[:300]


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return _scrub(error.strerror)
    return _scrub(str(error)) or type(error).__name__
