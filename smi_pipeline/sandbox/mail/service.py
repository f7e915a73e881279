"""The mail sandbox: an SMTP server that stores mails, and pages that show them.

Faults, matched by ``to`` (part of the recipient's address) and, once the content is known, ``subject``:

- ``code`` ``{"code": 451, "at": "RCPT", "message": "...", "hang_up": false}``: responds with this at ``AUTH``,
  ``MAIL``, ``RCPT`` or ``DATA``: a login that is refused, an account that is suspended, a quota that is used up;
  ``hang_up``: and closes the connection, as 421 always does, and many servers after a wrong password;
- ``drop`` ``{"at": "RCPT"}``: closes the connection at ``CONNECT`` (before the greeting), ``MAIL``, ``RCPT`` or
  ``DATA`` (before the mail is stored);
- ``drop_after_data`` ``{"accepted": true}``: closes the connection instead of responding to the content; the mail is
  stored (or, when false, lost), which the sender cannot know;
- ``latency`` ``{"seconds": 1.0, "at": "DATA"}``.

A fault that matches by something that is not known yet at CONNECT, AUTH, MAIL or RCPT does not apply there.

Settings make it behave like servers that are set up so: ``greylist_seconds`` refuses each pair of sender and recipient
with 450 until so long after its first try, ``senders`` are the only ones that may send (like Postfix, it says so at
``RCPT``), and without ``smtputf8`` it takes no address beyond ASCII. Headers beyond ASCII need SMTPUTF8 in any case.
The pages are ``/`` (all mails), ``/messages/{n}`` and ``/messages/{n}.eml``; n counts from 1.
"""

import asyncio
import secrets
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session, syntax
from babel.dates import format_timedelta
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox.base import SandboxService
from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.mail import message
from smi_pipeline.sandbox.pages import html

_COMMANDS = ("AUTH", "MAIL", "RCPT", "DATA")
_GREETING = "Sandbox mail server"
_MAX_BYTES = 20_000_000


class Mail(SandboxService):
    """Settings: smtp_user and smtp_password (empty: no login), smtp_old_password (good, too, while it is replaced),
    greylist_seconds, senders, smtputf8."""

    name = "mail"
    kinds: ClassVar[Mapping[str, Kind]] = {
        "code": Kind(
            defaults={"code": 451, "at": "RCPT", "message": "Try again later", "hang_up": False},
            choices={"at": _COMMANDS},
        ),
        "drop": Kind(defaults={"at": "RCPT"}, choices={"at": ("CONNECT", *_COMMANDS)}),
        "drop_after_data": Kind(defaults={"accepted": True}),
        "latency": Kind(defaults={"seconds": 1.0, "at": "DATA"}, choices={"at": _COMMANDS}),
    }

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        super().__init__(state, settings)
        self._folder = state / "mails"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._first_tried: dict[tuple[str | None, str], float] = {}

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the pages."""
        return [
            Route("/", self._inbox),
            Route("/messages/{n:int}.eml", self._of_mail(self._source)),
            Route("/messages/{n:int}.html", self._of_mail(self._html_part)),
            Route("/messages/{n:int}", self._of_mail(self._message)),
        ]

    def read_ledger(self) -> dict[str, Any]:
        """Return Message-ID, recipients, subject and time of all stored mails."""
        fields = ("message_id", "to", "subject", "at")
        return {"messages": [{field: mail[field] for field in fields} for mail in self.ledger.all("messages")]}

    # --- SMTP

    def smtp(self, tls: ssl.SSLContext | None) -> SMTP:
        """Return the protocol of a new connection, which offers STARTTLS if ``tls`` is given."""
        user, old = self.settings["smtp_user"], self.settings["smtp_old_password"]
        logins = [f"{user}\0{each}".encode() for each in (self.settings["smtp_password"], *([old] if old else []))]

        def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
            right = isinstance(given, LoginPassword) and any(
                secrets.compare_digest(given.login + b"\0" + given.password, each) for each in logins
            )
            return AuthResult(success=right, handled=right)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a login without TLS is what a test may ask for
            return _Connection(
                self,
                hostname="localhost",
                ident=_GREETING,
                data_size_limit=_MAX_BYTES,
                enable_SMTPUTF8=bool(self.settings["smtputf8"]),
                tls_context=tls,
                authenticator=login,
                auth_required=bool(user),
                auth_require_tls=tls is not None,
            )

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept the sender. Called by aiosmtpd."""
        if refused := await self._under_smtp_faults(server, "MAIL", {}):
            return refused
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept a recipient. Called by aiosmtpd."""
        refused = await self._under_smtp_faults(server, "RCPT", {"to": address}) or self._policy(envelope, address)
        if refused:
            return refused
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store the mail. Called by aiosmtpd."""
        content = envelope.original_content or b""
        if not envelope.smtp_utf8 and not content.partition(b"\r\n\r\n")[0].isascii():
            return "554 5.6.7 Headers beyond ASCII, but SMTPUTF8 was not asked for"
        headers = message.headers(content)
        context = {"to": ", ".join(envelope.rcpt_tos), "subject": headers["subject"]}
        if refused := await self._under_smtp_faults(server, "DATA", context):
            return refused
        dropped = self.faults.take({"drop_after_data"}, {**context, "endpoint": "DATA"}).get("drop_after_data")
        if dropped is None or dropped["accepted"]:
            self._keep(content, envelope, headers)
        if dropped is not None:
            _cut(server)
        return "250 OK: queued"

    async def login_refused(self, server: SMTP) -> str | None:
        """Return the refusal of a fault at AUTH, or None."""
        return await self._under_smtp_faults(server, "AUTH", {})

    def _policy(self, envelope: Envelope, recipient: str) -> str | None:
        """Return why the settings refuse a recipient for now or for good, or None."""
        sender, senders = envelope.mail_from, self.settings["senders"]
        if senders and sender not in senders.split(","):
            return f"553 5.7.1 <{sender}>: Sender address rejected: not owned by user"
        if not envelope.smtp_utf8 and not f"{sender}{recipient}".isascii():
            return "553 5.6.7 Addresses beyond ASCII, but SMTPUTF8 was not asked for"
        first = self._first_tried.setdefault((sender, recipient), self.clock())
        if self.clock() - first < self.settings["greylist_seconds"]:
            return f"450 4.2.0 <{recipient}>: Recipient address rejected: Greylisted"
        return None

    async def _under_smtp_faults(self, server: SMTP, at: str, context: dict[str, Any]) -> str | None:
        """Return the refusal of a fault at this command, or None. Raises ConnectionResetError when the connection is
        closed."""
        taken = self.faults.take({"code", "drop", "latency"}, {**context, "endpoint": at}, at=at)
        if "latency" in taken:
            await asyncio.sleep(taken["latency"]["seconds"])
        if "drop" in taken:
            _cut(server)
        if "code" not in taken:
            return None
        refused = taken["code"]
        answer = f"{refused['code']} {refused['message']}"
        if refused["code"] == 421 or refused["hang_up"]:
            await server.push(answer)
            server.transport.close()  # type: ignore[union-attr]
            raise ConnectionResetError("the server hangs up")
        return answer

    def drop_at_connect(self) -> bool:
        """Return whether a fault closes this connection before the greeting."""
        return "drop" in self.faults.take({"drop"}, {"endpoint": "CONNECT"}, at="CONNECT")

    def _keep(self, content: bytes, envelope: Envelope, headers: Mapping[str, str]) -> None:
        number = len(self.ledger.all("messages")) + 1
        (self._folder / f"{number}.eml").write_bytes(content)
        record = {
            "n": number,
            "message_id": headers["message-id"],
            "to": list(envelope.rcpt_tos),
            "subject": headers["subject"],
            "at": time.time(),
            "from": envelope.mail_from,
            "bytes": len(content),
        }
        self.ledger.put("messages", str(number), record)

    # --- pages

    async def _inbox(self, request: Request) -> Response:
        return html("inbox.html", mails=[{**mail, "age": _age(mail["at"])} for mail in self.ledger.newest("messages")])

    def _of_mail(self, page: Callable[[int, bytes], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Return the view of a page that shows the content of a mail."""

        async def view(request: Request) -> Response:
            number = request.path_params["n"]
            path = self._folder / f"{number}.eml"
            if not path.exists():
                return JSONResponse({"error": "No such message"}, status_code=404)
            return page(number, path.read_bytes())

        return view

    def _source(self, number: int, content: bytes) -> Response:
        return Response(content, media_type="message/rfc822")

    def _message(self, number: int, content: bytes) -> Response:
        mail = self.ledger.get("messages", str(number))
        return html("message.html", mail=mail, number=number, **message.parts(content))

    def _html_part(self, number: int, content: bytes) -> Response:
        page = message.parts(content)["html"] or "<p>No HTML part."
        # links open in a new tab: the shop's pages would not work inside the sandboxed frame
        return HTMLResponse('<base target="_blank">' + page, headers={"Content-Security-Policy": "script-src 'none'"})


class _Connection(SMTP):
    def __init__(self, mail: Mail, **options: Any) -> None:
        super().__init__(mail, **options)
        self._mail = mail

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._original_transport is None and self._mail.drop_at_connect():
            transport.abort()  # type: ignore[attr-defined]
        super().connection_made(transport)

    @syntax("AUTH <mechanism>")
    async def smtp_AUTH(self, arg: str) -> None:
        if refused := await self._mail.login_refused(self):
            await self.push(refused)
        else:
            await super().smtp_AUTH(arg)


def _cut(server: SMTP) -> None:
    server.transport.abort()  # type: ignore[union-attr]
    raise ConnectionResetError("injected fault")


def _age(at: float) -> str:
    return format_timedelta(int(at - time.time()), add_direction=True, locale="en")
