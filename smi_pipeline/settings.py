"""Define all settings, read from the environment and `.env` in the working folder when `Settings()` is built.

`.env.example` documents each variable; a test keeps the two lists equal.
"""

import ssl
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from smi_pipeline.addresses import ascii_address, named_address
from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.currencies import charged_currency
from smi_pipeline.core.models import ApiFormat
from smi_pipeline.core.nat64 import LENGTHS as NAT64_LENGTHS
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.pricing import Prices


def postgres_url(url: str) -> str:
    """Return a PostgreSQL URL for psycopg2: SQLAlchemy 2.1 takes `postgresql://` for psycopg 3."""
    scheme, _, rest = url.partition("://")
    if scheme.split("+")[0] not in ("postgresql", "postgres") or not rest:
        raise ValueError("is not a PostgreSQL URL (postgresql://user:password@host:5432/database)")
    return f"postgresql+psycopg2://{rest}"


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http(s) URL")
    return url.rstrip("/")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:  # `*` would trust every client, a host name none
        try:
            ip_network(entry, strict=False)
        except ValueError:
            raise ValueError(f"{entry!r} is not an IP address or network") from None
    return value


def _proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    networks = [ip_network(entry, strict=False) for entry in _addresses(value)]
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError("a network of all addresses would let every client claim another address")
    return tuple(map(str, networks))


def _nat64_prefixes(value: tuple[str, ...]) -> tuple[str, ...]:
    networks = [ip_network(entry, strict=False) for entry in _addresses(value)]
    for network in networks:
        if network.version != 6 or network.prefixlen not in NAT64_LENGTHS:
            raise ValueError(f"{network} is no prefix of NAT64: IPv6 with /32, /40, /48, /56, /64 or /96 (RFC 6052)")
    return tuple(map(str, networks))


SHORTEST_SECRET = 32
SHORTEST_API_KEY = 16
"""Characters of a secret that nobody can guess; keys of programs may be a little shorter."""


def several(secret: SecretStr) -> tuple[str, ...]:
    """Return the keys of a setting that may hold several, separated by commas, the newest first."""
    parts = (part.strip() for part in secret.get_secret_value().split(","))
    return tuple(part for part in parts if part)


def _of_at_least(shortest: int) -> AfterValidator:
    """Refuse several keys of which one is short: that may be one key of an earlier release that has commas in it."""

    def checked(secret: SecretStr) -> SecretStr:
        keys = several(secret)
        if len(keys) > 1 and any(len(key) < shortest for key in keys):
            raise ValueError(f"has several keys, separated by commas, and one has fewer than {shortest} characters")
        return secret

    return AfterValidator(checked)


def _authorities(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ValueError(f"{path} holds no certificate in PEM") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path.absolute()


def _sender(value: str) -> str:
    _shop_address(named_address(value)[1])
    return value


def _shop_address(value: str) -> str:
    found = ascii_address(value) if value else ""
    if found is None:
        raise ValueError("is not an e-mail address")
    if not found.isascii():
        raise ValueError("has letters beyond ASCII before the @, which many mail servers refuse")
    return value


PostgresUrl = Annotated[str, AfterValidator(postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
ShopAddress = Annotated[str, AfterValidator(_shop_address)]
Kept = Literal["copyright", "artist", "camera", "all", "none"]

WEEK = 7 * 24 * 3600
"""Longest promise accepted, in seconds; more is a typing error."""


class Settings(BaseSettings):
    """The configuration. Field names are the names of the variables in lower case."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True)

    # State and storage
    smi_database_url: PostgresUrl | None = None
    dagster_postgres_url: PostgresUrl | None = None
    smi_home: Path = Path(".smi")
    smi_storage_url: str | None = None
    smi_broker_url: str | None = None
    smi_workers: int = Field(2, ge=1, le=64)

    # Entry points
    smi_public_url: HttpUrl | None = None
    smi_api_key: Annotated[SecretStr, _of_at_least(SHORTEST_API_KEY)] = SecretStr("")
    smi_admin_api_key: Annotated[SecretStr, _of_at_least(SHORTEST_API_KEY)] = SecretStr("")
    smi_shop_origin: str = ""
    smi_secret_key: Annotated[SecretStr, _of_at_least(SHORTEST_SECRET)] = SecretStr("")
    smi_ui_user: str = ""
    smi_ui_password: SecretStr = SecretStr("")
    smi_gateway_port: int = Field(8080, ge=1, le=65535)
    smi_dagster_port: int = Field(3000, ge=1, le=65535)
    smi_dispatch_url: HttpUrl | None = None
    smi_team_url: HttpUrl | None = None
    smi_analysts_url: HttpUrl | None = None
    smi_analysts_user: str = ""
    smi_analysts_password: SecretStr = SecretStr("")
    smi_analysts_port: int = Field(3001, ge=1, le=65535)
    smi_trusted_proxies: Annotated[CommaSeparated, AfterValidator(_addresses)] = ("127.0.0.1",)
    smi_front_proxies: Annotated[CommaSeparated, AfterValidator(_proxies)] = ()

    # Upsampler
    upsampler_base_url: HttpUrl = "https://upsampler.com/api/v1"
    upsampler_api_key: SecretStr = SecretStr("")
    upsampler_wire: ApiFormat = ApiFormat.LIVE
    upsampler_requests_per_minute: int = Field(60, ge=0)
    upsampler_requests_per_hour: int = Field(1800, ge=0)
    upsampler_status_calls_per_minute: int = Field(180, ge=0)

    # Stripe
    stripe_api_key: SecretStr = SecretStr("")
    stripe_api_base: HttpUrl | None = None
    stripe_webhook_secret: SecretStr = SecretStr("")
    smi_payment_methods: CommaSeparated = ("card",)

    # Mail
    smtp_host: str = ""
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_user: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_starttls: bool = True
    smtp_ca_file: Annotated[Path, AfterValidator(_authorities)] | None = None
    smi_mail_from: Annotated[str, AfterValidator(_sender)] = ""
    smi_support_email: ShopAddress = ""
    smi_admin_email: ShopAddress | None = None

    # Promises
    smi_max_processing_seconds: int = Field(900, ge=1, le=WEEK)
    smi_max_wait_seconds: int = Field(3600, ge=1, le=WEEK)
    smi_poll_seconds: float = Field(30, gt=0, le=WEEK)
    smi_ambiguous_grace_seconds: int = Field(120, ge=0, le=WEEK)
    smi_download_ttl_hours: float = Field(24, gt=0, le=24 * 365)
    smi_max_hold_hours: float = Field(24, ge=0, le=24 * 365)
    smi_max_outage_hours: float = Field(12, ge=0, le=24 * 365)
    smi_max_resubmissions: int = Field(2, ge=0, le=3)
    smi_max_in_flight: int = Field(15, ge=1)

    # Images
    smi_allowed_source_hosts: CommaSeparated = ()
    smi_allowed_result_hosts: CommaSeparated = ()
    smi_nat64_prefixes: Annotated[CommaSeparated, AfterValidator(_nat64_prefixes)] = ()
    smi_max_source_bytes: int = Field(50_000_000, ge=1)
    smi_max_output_megapixels: float = Field(50, gt=0, le=100_000)
    smi_unsold_days: float = Field(30, gt=0, le=3650)
    smi_fidelity: Literal["observe", "enforce"] = "observe"
    smi_source_changed: Literal["refund", "ask"] = "refund"
    smi_keep_metadata: Annotated[tuple[Kept, ...], NoDecode, BeforeValidator(_split)] = ("copyright",)

    # Money
    smi_currency: Annotated[str, AfterValidator(charged_currency)] = "usd"
    smi_minimum_price_cents: int = Field(0, ge=0, le=100_000_000)
    smi_markup_percent: Decimal = Field(Decimal(200), ge=0, le=100_000)
    smi_credit_cents: Decimal = Field(Decimal(4), ge=0, le=100_000)
    smi_stripe_fee_percent: Decimal = Field(Decimal("2.9"), ge=0, le=100)
    smi_stripe_fee_fixed_cents: int = Field(30, ge=0)
    smi_monthly_credit_budget: int | None = Field(None, ge=1)
    smi_budget_hold: bool = False
    smi_margin_floor_percent: Decimal = Field(Decimal(30), le=100)
    smi_completion_floor_percent: Decimal = Field(Decimal(95), ge=0, le=100)
    smi_reports_fresh_minutes: int = Field(60, ge=1)

    # Alerts
    smi_alert_webhook_url: HttpUrl | None = None

    # Tests
    smi_failpoints: Path | None = None

    @property
    def public_url(self) -> str:
        """Return the URL at which customers, Stripe and Upsampler reach the gateway, without a trailing slash."""
        return self.smi_public_url or f"http://127.0.0.1:{self.smi_gateway_port}"

    @property
    def public_origin(self) -> str:
        """The origin of `public_url` in the form that browsers send: lower case, without the usual port."""
        parts = urlsplit(self.public_url)
        usual = {"http": 80, "https": 443}[parts.scheme]
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port not in (None, usual) else "")

    @property
    def dispatch_url(self) -> str:
        """Return the address of the Dagster webserver through which runs are started at once."""
        return self.smi_dispatch_url or f"http://127.0.0.1:{self.smi_dagster_port}"

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """Return the keys of links: the first one signs, all are accepted."""
        return several(self.smi_secret_key)

    @property
    def storage_url(self) -> str:
        """Return the root of the stored files: a folder below `smi_home` unless configured."""
        return self.smi_storage_url or str((self.smi_home / "storage").absolute())

    @property
    def prices(self) -> Prices:
        """Return the price list."""
        return Prices(
            markup_percent=self.smi_markup_percent,
            credit_cents=self.smi_credit_cents,
            fee_percent=self.smi_stripe_fee_percent,
            fee_fixed_cents=self.smi_stripe_fee_fixed_cents,
            currency=self.smi_currency,
            minimum_cents=self.smi_minimum_price_cents,
        )

    @property
    def policy(self) -> Policy:
        """Return the promises and limits of the services."""
        return Policy(
            public_url=self.public_url,
            currency=self.smi_currency,
            payment_methods=self.smi_payment_methods,
            mail_domain=(ascii_address(named_address(self.smi_mail_from)[1]) or "localhost").rpartition("@")[2],
            max_processing=timedelta(seconds=self.smi_max_processing_seconds),
            max_wait=timedelta(seconds=self.smi_max_wait_seconds),
            poll_every=timedelta(seconds=self.smi_poll_seconds),
            ambiguous_grace=timedelta(seconds=self.smi_ambiguous_grace_seconds),
            download_ttl=timedelta(hours=self.smi_download_ttl_hours),
            max_hold=timedelta(hours=self.smi_max_hold_hours),
            max_outage=timedelta(hours=self.smi_max_outage_hours),
            max_in_flight=self.smi_max_in_flight,
            max_resubmissions=self.smi_max_resubmissions,
            max_source_bytes=self.smi_max_source_bytes,
            max_output_megapixels=self.smi_max_output_megapixels,
            unsold_days=self.smi_unsold_days,
            source_changed=self.smi_source_changed,
            submissions=Allowance(
                per_minute=self.upsampler_requests_per_minute, per_hour=self.upsampler_requests_per_hour
            ),
            status_calls=Allowance(per_minute=self.upsampler_status_calls_per_minute),
            monthly_credit_budget=self.smi_monthly_credit_budget,
            budget_hold=self.smi_budget_hold,
        )
