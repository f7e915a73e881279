"""Render the complete message of a mail from the data of an order; the texts are in `templates/`."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from typing import Any

import css_inline
import jinja2

from smi_pipeline import formatting
from smi_pipeline.adapters.mail import content
from smi_pipeline.addresses import named_address
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.models import RenderedMail

REFUND_STATES = ("pending", "succeeded")


@cache  # compiling them takes longer than rendering a mail, and every run of a worker builds its own mailer
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("smi_pipeline", "templates"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


class MailRenderer:
    """Render every kind of mail; the same arguments give the same bytes.

    `sender` is an address with or without a name, `support_email` a bare address; `owner_copy` (or None) receives
    each customer's mail as a blind copy. Raises RefusedError for a value that may not stand in a header.
    """

    def __init__(self, *, sender: str, support_email: str, owner_copy: str | None, shop_name: str) -> None:
        self._shop_name = content.header_value(shop_name, "the shop name")
        name, bare = named_address(content.header_value(sender, "SMI_MAIL_FROM"))
        self._sender_name = name or self._shop_name
        self.sender = content.own_address(bare, "SMI_MAIL_FROM")
        """The bare address that mails come from, in ASCII."""
        self._support_email = content.own_address(support_email, "SMI_SUPPORT_EMAIL")
        self._owner_copy = content.own_address(owner_copy, "SMI_ADMIN_EMAIL") if owner_copy else None
        self._templates = _templates()
        # Nothing is loaded from the network or the disk.
        self._inliner = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)
        self._views: dict[str, Callable[[Mapping[str, Any], datetime], dict[str, Any]]] = {
            "completion": self._completion,
            "refund": self._refund,
            "duplicate_payment": self._duplicate_payment,
            "goodwill": self._goodwill,
            "delay": self._delay,
            "refund_action": self._refund_action,
            "payment_started": self._payment_started,
            "alert": self._alert,
        }

    def render(self, kind: str, *, to: str, message_id: str, context: Mapping[str, Any], at: datetime) -> RenderedMail:
        """Return the message; see `core.ports.MailerPort.render`.

        Raises RefusedError also for an unknown kind and for a missing or unusable value of `context`."""
        if kind not in self._views:
            raise RefusedError(f"there is no mail of kind {kind!r}")
        at = formatting.in_utc(at, "the date")
        recipient = content.address(to, "the recipient")
        message_id = content.message_id(message_id)
        try:
            view = self._views[kind](context, at)
        except KeyError as error:
            raise RefusedError(f"the {kind} mail needs {error.args[0]!r}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise RefusedError(f"the {kind} mail got an unusable value: {type(error).__name__}") from None
        view |= {"shop_name": self._shop_name, "support_email": self._support_email}
        message = self._message(view["subject"], recipient, message_id, at)
        template = view["template"]
        # Quoted-printable keeps every line short and every byte 7 bit, so no server on the way has to rewrite them.
        text = self._templates.get_template(f"{template}.txt").render(view)
        html = self._inliner.inline(self._templates.get_template(f"{template}.html").render(view))
        message.set_content(text, cte="quoted-printable")
        message.add_alternative(html, subtype="html", cte="quoted-printable")
        # The library's own boundary is random; a second rendering must give the same bytes.
        message.set_boundary(f"=_{hashlib.sha256(message_id.encode()).hexdigest()[:40]}")
        copies = (self._owner_copy,) if self._owner_copy and kind != "alert" and self._owner_copy != recipient else ()
        return RenderedMail(
            message_id=message_id,
            sender=self.sender,
            recipients=(recipient, *copies),
            subject=view["subject"],
            content=message.as_bytes(),
        )

    def _message(self, subject: str, recipient: str, message_id: str, at: datetime) -> EmailMessage:
        # Only a local part beyond ASCII needs UTF-8 headers (RFC 6532), which old servers refuse.
        message = EmailMessage(policy=policy.SMTP if recipient.isascii() else policy.SMTPUTF8)
        message["From"] = self._header_address(self.sender, self._sender_name)
        message["To"] = self._header_address(recipient)
        message["Reply-To"] = self._header_address(self._support_email)
        message["Subject"] = content.header_value(subject, "the subject")
        message["Date"] = format_datetime(at)
        message["Message-ID"] = message_id
        message["Auto-Submitted"] = "auto-generated"
        return message

    @staticmethod
    def _header_address(value: str, name: str = "") -> Address:
        local, _, domain = value.rpartition("@")
        return Address(display_name=name, username=local, domain=domain)

    def _customer(self, context: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "customer_name": formatting.one_line(context.get("customer_name") or "", 60),
            "job_id": formatting.one_line(str(context["job_id"])),
            "status_url": content.link(context["status_url"], "status_url"),
        }

    def _completion(self, context: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        resolution = formatting.one_line(context["resolution"], 20)
        ratings = {int(stars): url for stars, url in context["rating_urls"].items()}
        if sorted(ratings) != sorted(formatting.RATINGS):
            raise RefusedError("the completion mail needs a rating link for each of 1 to 5 stars")
        return self._customer(context) | {
            "template": "completion",
            "subject": f"Your {resolution} image is ready to download",
            "resolution": resolution,
            "dimensions": formatting.dimensions(context["width"], context["height"]),
            "file_size": formatting.file_size(context["file_bytes"]),
            "format": formatting.one_line(context["format"], 20),
            "file_name": formatting.one_line(context["file_name"], 120),
            "download_url": content.link(context["download_url"], "download_url"),
            "expires": formatting.moment(context["expires_at"]),
            "time_left": formatting.time_left(context["expires_at"], at),
            "price": formatting.money(context["price_cents"], context["currency"]),
            "ratings": [
                (n, formatting.RATINGS[n], content.link(ratings[n], f"rating_urls[{n}]")) for n in sorted(ratings)
            ],
        }

    def _payment_started(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        price = formatting.money(context["price_cents"], context["currency"])
        return self._customer(context) | {
            "template": "payment_started",
            "subject": f"Your payment of {price} is on its way",
            "heading": "Your payment is on its way",
            "price": price,
        }

    def _money_back(self, context: Mapping[str, Any]) -> dict[str, Any]:
        state = context["refund_state"]
        if state not in REFUND_STATES:
            # One that waits for the customer has a mail of its own; failed and canceled ones are manual tasks.
            raise RefusedError(f"no mail may promise a refund that is {state!r}")
        return self._customer(context) | {
            "template": "refund",
            "amount": formatting.money(context["amount_cents"], context["currency"]),
            "reason": formatting.one_line(context["reason"], 300),
            "pending": state == "pending",
            "action": "",
        }

    def _refund(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        view = self._money_back(context)
        started = view["pending"]
        return view | {
            "subject": f"{'We have started your refund of' if started else 'We have refunded'} {view['amount']}",
            "heading": "We have started your refund" if started else "We have refunded your payment",
            "intro": "We are sorry that we could not deliver the image you ordered. You get your money back.",
            "aside": "Your order is closed. If you still want the image, you can order it again in the shop.",
        }

    def _duplicate_payment(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        view = self._money_back(context)
        started = view["pending"]
        return view | {
            "subject": f"Your second payment of {view['amount']} {'is being' if started else 'has been'} returned",
            "heading": f"Your second payment {'is being' if started else 'has been'} returned",
            "intro": "We received two payments for one order. We keep the first and return the second.",
            "aside": "Your order is not affected: you pay for it once, and we send the image in a separate e-mail.",
        }

    def _goodwill(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        view = self._money_back(context)
        started = view["pending"]
        return view | {
            "subject": f"We {'are returning' if started else 'have returned'} {view['amount']} to you",
            "heading": f"We {'are returning' if started else 'have returned'} your payment",
            "intro": "As a gesture of goodwill, we refund an order that we have already delivered.",
            "aside": "The image we delivered is yours to keep.",
        }

    def _delay(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        return self._customer(context) | {
            "template": "delay",
            "subject": "Your image takes longer than we promised",
            "resolution": formatting.one_line(context["resolution"], 20),
            "file_name": formatting.one_line(context["file_name"], 120),
            "price": formatting.money(context["price_cents"], context["currency"]),
            "end_waiting_url": content.link(context["end_waiting_url"], "end_waiting_url"),
        }

    def _refund_action(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        view = self._money_back({**context, "refund_state": "pending"})
        return view | {
            "subject": f"Your refund of {view['amount']} needs your bank details",
            "heading": "Your refund needs your bank details",
            "intro": "We have started your refund, but the money cannot go back the way you paid. Our payment provider "
            "Stripe needs to know where to send it.",
            "aside": "Your refund is made as soon as Stripe has your details.",
            "action": "Stripe has sent you an e-mail that asks for your bank details. Please follow its instructions. "
            "If you do not find it, look into your spam folder or write to us.",
        }

    def _alert(self, context: Mapping[str, Any], _at: datetime) -> dict[str, Any]:
        subject = content.header_value(context["subject"], "the subject")
        return {
            "template": "alert",
            "subject": f"[{self._shop_name}] {subject}",
            "heading": subject,
            "lines": [formatting.one_line(line, 500) for line in context["lines"]],
            "links": [
                (formatting.one_line(label), content.link(url, label)) for label, url in context["links"].items()
            ],
        }
