"""The options of a sandbox, and the addresses where it listens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smi_pipeline.sandbox.upsampler.api_format import ApiFormat

HOST = "127.0.0.1"
SERVICES = ("upsampler", "stripe", "mail", "origin")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a sandbox. Ports: 0 picks a free one. Rates: 0 means no limit."""

    only: Sequence[str] = SERVICES
    upsampler_port: int = 0
    stripe_port: int = 0
    smtp_port: int = 0
    mail_port: int = 0
    origin_port: int = 0
    upsampler_key: str = "upsampler-sandbox-key"
    api_format: ApiFormat = "documented"
    rate_minute: int = 60
    rate_hour: int = 1800
    processing_seconds: float = 2.0
    upsampler_webhook_retry_seconds: float = 1.0
    workers: int = 2
    stripe_key: str = "sk_test_sandbox"
    stripe_webhook_url: str = ""
    stripe_webhook_secret: str = "whsec_sandbox"  # noqa: S105 - protects no real money
    stripe_webhook_retry_seconds: float = 1.0
    stripe_webhook_attempts: int = 15
    webhooks_per_second: int = 0
    min_session_seconds: int = 1800
    fee_percent: float = 2.9
    fee_fixed_cents: int = 30
    dispute_fee_cents: int = 1500
    smtp_user: str = ""
    smtp_password: str = ""


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Where the services listen; empty for one that does not run."""

    upsampler: str = ""
    upsampler_cdn: str = ""
    stripe: str = ""
    smtp_host: str = HOST
    smtp_port: int = 0
    mail: str = ""
    origin: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the ports file."""
        return asdict(self)
