"""Read a mail: headers, text and HTML part, attachments."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any

_SHOWN = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "Auto-Submitted")


def headers(content: bytes) -> dict[str, str]:
    """Return subject and Message-ID, decoded; empty when missing."""
    message = _parse(content)
    return {"subject": _text(message["subject"]), "message-id": _text(message["message-id"])}


def parts(content: bytes) -> dict[str, Any]:
    """Return what the page shows: ``headers`` (pairs), ``text``, ``html`` (or None), ``attachments`` (names)."""
    message = _parse(content)
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    return {
        "headers": [(name, _text(message[name])) for name in _SHOWN if message[name] is not None],
        "text": text.get_content() if text is not None else None,
        "html": html.get_content() if html is not None else None,
        "attachments": [part.get_filename() or part.get_content_type() for part in message.iter_attachments()],
    }


def _parse(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def _text(value: Any) -> str:
    return str(value).strip() if value is not None else ""
