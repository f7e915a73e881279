"""The options of a sandbox, and the addresses where it listens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from smi_pipeline.sandbox.upsampler.api_format import ApiFormat

HOST = "127.0.0.1"
SERVICES = ("upsampler", "stripe", "mail", "origin")


def _of(service: str, default: Any, words: str = "default %(default)s", *, setting: str = "") -> Any:
    """Return an option that becomes a setting of a service, of the same name unless `setting` names it."""
    return field(default=default, metadata={"service": service, "help": words, "setting": setting})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a sandbox. Ports: 0 picks a free one. Rates: 0 means no limit."""

    only: Sequence[str] = SERVICES
    upsampler_port: int = 0
    upsampler_other_port: int = 0
    stripe_port: int = 0
    smtp_port: int = 0
    mail_port: int = 0
    origin_port: int = 0
    upsampler_key: str = _of("upsampler", "upsampler-sandbox-key", setting="api_key")
    api_format: ApiFormat = _of(  # noqa: RUF009 - a field
        "upsampler", "documented", "format of replies to no submission; a submission is answered in its own format"
    )
    rate_minute: int = _of("upsampler", 60, "submissions in any rolling minute; 0: no limit")
    rate_hour: int = _of("upsampler", 1800, "submissions in any rolling hour; 0: no limit")
    rate_status: int = _of("upsampler", 240, "status calls in any rolling minute; 0: no limit")
    rate_minute_seconds: float = _of("upsampler", 60.0, "seconds of a minute of the rate limits")
    retry_after: str = _of("upsampler", "seconds", "how a 429 names its pause: seconds or date")
    processing_seconds: float = _of("upsampler", 2.0, "seconds from submission to result")
    upsampler_webhook_retry_seconds: float = _of("upsampler", 1.0, setting="webhook_retry_seconds")
    workers: int = _of("upsampler", 2, "threads that resize images")
    stripe_key: str = _of("stripe", "sk_test_sandbox", setting="api_key")
    stripe_webhook_url: str = _of("stripe", "", setting="webhook_url")
    stripe_webhook_events: str = _of(
        "stripe", "*", "events that the endpoint is enabled for, by commas", setting="webhook_events"
    )
    stripe_webhook_secret: str = _of("stripe", "whsec_sandbox", setting="webhook_secret")
    stripe_webhook_retry_seconds: float = _of("stripe", 1.0, setting="webhook_retry_seconds")
    signing_clock: str = _of("stripe", "own", "clock of webhooks' signatures: own (with clock_offset) or machine")
    webhooks_per_second: int = _of("stripe", 0, "resend old Stripe events up to this rate; 0: never")
    fee_percent: float = _of("stripe", 2.9)
    fee_fixed_cents: int = _of("stripe", 30)
    dispute_fee_cents: int = _of("stripe", 1500)
    settlement_currency: str = _of("stripe", "", "currency of the balance (default: that of each charge)")
    default_currency: str = _of("stripe", "usd", "default currency of the account (default %(default)s)")
    smtp_user: str = _of("mail", "", "user name that the mail server requires (default: no login)")
    smtp_password: str = _of("mail", "")
    smtp_old_password: str = _of("mail", "", "another password that the mail server takes, until it is replaced")
    greylist_seconds: float = _of("mail", 0.0, "seconds for which the mail server refuses a new recipient with 450")
    smtp_senders: str = _of("mail", "", "addresses that may send, by commas (default: all)", setting="senders")
    smtputf8: int = _of("mail", 1, "1: the mail server takes addresses beyond ASCII; 0: it does not")

    def settings_of(self, service: str) -> dict[str, Any]:
        """Return the settings of a service, by the names that its `/_config` shows."""
        own = [option for option in fields(self) if option.metadata.get("service") == service]
        return {option.metadata["setting"] or option.name: getattr(self, option.name) for option in own}


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Where the services listen; empty for one that does not run."""

    upsampler: str = ""
    upsampler_cdn: str = ""
    upsampler_other: str = ""
    stripe: str = ""
    smtp_host: str = HOST
    smtp_port: int = 0
    mail: str = ""
    origin: str = ""
