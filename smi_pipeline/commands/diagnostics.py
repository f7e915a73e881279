"""The checks of `smi doctor`. They change nothing, except for a probe file that is deleted again."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from smi_pipeline.commands import installation
from smi_pipeline.commands.cli_support import load_settings
from smi_pipeline.commands.errors import lines, settings_problems
from smi_pipeline.commands.findings import Finding, note, ok, wrong
from smi_pipeline.core.errors import NotFound, RateLimited, SmiError
from smi_pipeline.settings import SHORTEST_API_KEY, SHORTEST_SECRET, Settings, several

if TYPE_CHECKING:
    from smi_pipeline.adapters.stripe.payments import StripePayments

MAX_SKEW = timedelta(seconds=5)
LITTLE_SPACE = 2_000_000_000  # bytes; a busy day of the largest results
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NOT_SETTINGS = frozenset({"SMI_CELERY_BACKEND_URL"})  # set by the stack for its own children


def examine() -> list[Finding]:
    """Return all findings, those of the configuration first; if it cannot be read, only those."""
    try:
        settings = load_settings()
    except ValidationError as error:
        problems = (problem.partition(": ") for problem in settings_problems(error))
        return [wrong(name, problem, "correct it in the environment or in .env") for name, _, problem in problems]
    return [*configuration(settings), *connections(settings)]


def configuration(settings: Settings) -> Iterator[Finding]:
    """Check the settings without any connection."""
    yield _secret("SMI_SECRET_KEY", settings.smi_secret_key, SHORTEST_SECRET)
    yield _secret("SMI_API_KEY", settings.smi_api_key, SHORTEST_API_KEY)
    if set(several(settings.smi_api_key)) & set(several(settings.smi_admin_api_key)):
        yield wrong(
            "SMI_ADMIN_API_KEY",
            "is the same as SMI_API_KEY: a compromised shop could refund",
            f"set it to other {SHORTEST_SECRET} random characters",
        )
    else:
        yield _secret("SMI_ADMIN_API_KEY", settings.smi_admin_api_key, SHORTEST_API_KEY)
    yield _public_url(settings)
    for name in ("UPSAMPLER_API_KEY", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "SMTP_HOST"):
        set_ = _value(settings, name).strip()
        yield ok(name, "is set") if set_ else wrong(name, "is not set", "see .env.example")
    for name in ("SMI_MAIL_FROM", "SMI_SUPPORT_EMAIL", "SMI_ADMIN_EMAIL"):
        yield _address(name, _value(settings, name), required=name != "SMI_ADMIN_EMAIL")
    yield _hosts("SMI_ALLOWED_SOURCE_HOSTS", settings.smi_allowed_source_hosts, "images are sold")
    yield _hosts("SMI_ALLOWED_RESULT_HOSTS", settings.smi_allowed_result_hosts, "Upsampler's results come")
    yield _alert_webhook(settings)
    for name in ("SMI_UI", "SMI_ANALYSTS", "SMTP"):
        if bool(_value(settings, f"{name}_USER")) != bool(_value(settings, f"{name}_PASSWORD")):
            yield wrong(f"{name}_USER", f"only one of {name}_USER and {name}_PASSWORD is set", "set both or none")
    yield from installation.files(settings)
    yield from installation.ports(settings)
    known = {name.upper() for name in type(settings).model_fields} | _NOT_SETTINGS
    for name in sorted(name for name in os.environ if name.startswith("SMI_") and name not in known):
        yield Finding(name, "note", "is not a setting", "misspelt? .env.example lists all of them")


def _value(settings: Settings, name: str) -> str:
    """Return a text by the name of its variable, also a secret one; empty when it is not set."""
    value = getattr(settings, name.lower())
    return value.get_secret_value() if isinstance(value, SecretStr) else value or ""


def _secret(name: str, secret: SecretStr, shortest: int) -> Finding:
    make = f"set it to {SHORTEST_SECRET} random characters (python3 -c 'import secrets; print(secrets.token_hex(32))')"
    keys = several(secret)
    if not keys:
        return wrong(name, "is not set", make)
    if len(keys[-1]) < shortest:  # one of several is never shorter
        return wrong(name, f"has {len(keys[-1])} characters, at least {shortest} are needed", make)
    if len(keys) > 1:
        return note(name, f"has {len(keys)} keys, all of them are accepted", "remove the older ones: docs/keys.md")
    return ok(name, f"is set, {len(keys[0])} characters")


def _public_url(settings: Settings) -> Finding:
    url, name = urlsplit(settings.public_url), "SMI_PUBLIC_URL"
    in_production = urlsplit(settings.upsampler_base_url).hostname not in _LOOPBACK
    if in_production and url.hostname in _LOOPBACK:
        return wrong(
            name,
            f"is {settings.public_url}: neither customers nor webhooks reach it",
            "set it to the public address of the gateway",
        )
    if in_production and url.scheme != "https":
        return wrong(name, "is not https: download links would be sent unencrypted", "put TLS in front of the gateway")
    return ok(name, settings.public_url)


def _address(name: str, address: str, *, required: bool) -> Finding:
    if address:  # one that cannot work is refused with the settings
        return ok(name, "is set")
    if required:
        return wrong(name, "is not set", "mails need it")
    return Finding(name, "note", "is not set", "no alerts are mailed without it")


def _alert_webhook(settings: Settings) -> Finding:
    name = "SMI_ALERT_WEBHOOK_URL"
    if settings.smi_alert_webhook_url:
        return ok(name, "is set")
    found = "is not set: nobody is told when no mail can be sent"
    return Finding(name, "note", found, "set it to a URL that takes JSON")


def _hosts(name: str, hosts: tuple[str, ...], what: str) -> Finding:
    from smi_pipeline.adapters.fetching.allowed_hosts import AllowedHosts

    if not hosts:
        return wrong(name, "is not set: every image is refused", f"list the host names from which {what}")
    try:
        AllowedHosts(hosts, name)
    except ValueError as error:
        return wrong(name, str(error).removeprefix(f"{name}: "), "correct the list")
    return ok(name, ", ".join(hosts))


def connections(settings: Settings) -> Iterator[Finding]:
    """Check that each service answers and accepts our credentials."""
    for name, look, to_do in (
        ("database", _database, "start it, or correct SMI_DATABASE_URL"),
        (
            "Dagster's database",
            _dagster_database,
            "start it, or correct DAGSTER_POSTGRES_URL; `smi migrate` creates it",
        ),
        ("circuit breakers", _breakers, "see the database"),
        ("broker", installation.broker, "start it, or correct SMI_BROKER_URL"),
        ("Dagster daemon", installation.daemon, "restart it; its log is daemon.log in SMI_HOME/logs"),
        ("storage", _storage, "correct SMI_STORAGE_URL or the folder's permissions"),
        (
            "mail server",
            _mail,
            "correct SMTP_HOST, SMTP_PORT, SMTP_USER, SMTP_PASSWORD, SMTP_STARTTLS, SMTP_CA_FILE",
        ),
        ("Stripe", _stripe, "correct STRIPE_API_KEY or STRIPE_API_BASE"),
        ("SMI_CURRENCY", _currency, "correct STRIPE_API_KEY or STRIPE_API_BASE"),
        ("Stripe webhook", _webhook, "correct STRIPE_API_KEY or STRIPE_API_BASE"),
        ("Upsampler", _upsampler, "correct UPSAMPLER_API_KEY or UPSAMPLER_BASE_URL"),
    ):
        yield _asked(name, look, to_do, settings)


def _breakers(settings: Settings) -> Finding:
    from smi_pipeline.core.faults import headline
    from smi_pipeline.state.dashboard import Dashboard
    from smi_pipeline.state.database import Database
    from smi_pipeline.wiring import state_url

    name = "circuit breakers"
    try:
        database = Database(state_url(settings), pool_size=1)
        try:
            found = [f for f in Dashboard(database).breakers() if f.breaker.is_open]
        finally:
            database.dispose()
    except Exception:  # the check of the database has named it
        return Finding(name, "note", "not known", "see the database")
    if not found:
        return ok(name, "none is open")
    words = "; ".join(f"{headline(f.breaker.name)}: {f.breaker.message} ({f.waiting_text} waiting)" for f in found)
    return wrong(name, words, " ".join(dict.fromkeys(f.breaker.next_step for f in found)))


def _asked(name: str, look: Callable[[Settings], str | Finding], to_do: str, settings: Settings) -> Finding:
    try:
        found = look(settings)
    except Exception as error:  # any error of a driver is a finding
        return wrong(name, lines(error)[0], to_do)
    return found if isinstance(found, Finding) else ok(name, found)


def _required(settings: Settings, name: str) -> str:
    value = _value(settings, name)
    if not value.strip():
        raise SmiError(f"not checked: {name} is not set")
    return value


def _database(settings: Settings) -> str | Finding:
    from smi_pipeline.state.database import Database
    from smi_pipeline.state.health import check_database
    from smi_pipeline.wiring import state_url

    database = Database(state_url(settings), pool_size=1)
    try:
        health = check_database(database)
    finally:
        database.dispose()
    if health.revision != health.head:
        found = f"its schema is at {health.revision or 'nothing'}, this release needs {health.head}"
        return wrong("database", found, "run `smi migrate`")
    if abs(health.skew) > MAX_SKEW:
        found = f"its clock differs from this machine's by {health.skew.total_seconds():.0f} s"
        return wrong("database", found, "synchronise both clocks: signatures and links depend on them")
    if health.shift:
        found = f"the state's clock is shifted by {health.shift}"
        return wrong("database", found, "UPDATE smi.clock SET shift = '0': only tests shift it")
    where = "embedded " if settings.smi_database_url is None else ""
    return f"{where}PostgreSQL {health.server}, revision {health.revision}"


def _dagster_database(settings: Settings) -> str:
    from smi_pipeline.state.health import server_version

    if settings.dagster_postgres_url is None:
        return "beside the state's, made at the first start"
    return f"PostgreSQL {server_version(settings.dagster_postgres_url)}"


def _storage(settings: Settings) -> str | Finding:
    from smi_pipeline.adapters.storage import FileStorage, local_folder
    from smi_pipeline.privileges.accounts import own_home

    if settings.smi_storage_url is None:
        own_home(settings.smi_home)
    storage, key = FileStorage(settings.storage_url), f"doctor/{uuid.uuid4().hex}"
    storage.put_bytes(key, b"probe")
    try:
        with storage.open(key) as file:
            if file.read() != b"probe":
                return wrong("storage", "returned other bytes than were stored", "check the file system")
    finally:
        storage.delete(key)
    folder = local_folder(settings.storage_url)
    if folder is None:
        return f"{settings.storage_url.partition(':')[0]}, written and read"
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        return wrong("storage", f"only {free / 1e9:.1f} GB are free", "free disk space, or move SMI_STORAGE_URL")
    return f"{folder}, written and read, {free / 1e9:.0f} GB free"


def _mail(settings: Settings) -> str:
    from smi_pipeline.adapters.mail.smtp import SmtpMailer

    nobody = "doctor@example.com"  # nothing is sent; the addresses are checked above
    mailer = SmtpMailer(
        _required(settings, "SMTP_HOST"),
        settings.smtp_port,
        settings.smtp_user,
        settings.smtp_password.get_secret_value(),
        settings.smtp_starttls,
        sender=settings.smi_mail_from or nobody,
        support_email=nobody,
        owner_copy=None,
        timeout_seconds=10,
        ca_file=settings.smtp_ca_file,
    )
    found = f"{mailer.check()}: login accepted"
    return found if mailer.reaches("ü@example.com") else f"{found}; no SMTPUTF8: orders with such addresses are refused"


def _payments(settings: Settings) -> "StripePayments":
    from smi_pipeline.adapters.stripe.payments import StripePayments

    key = _required(settings, "STRIPE_API_KEY")
    return StripePayments(key, "whsec_unused", settings.stripe_api_base, timeout=10)


def _stripe(settings: Settings) -> str:
    next(iter(_payments(settings).payments_since(datetime.now(UTC))), None)
    return "key accepted, payments can be listed" + (
        "; test mode" if "_test_" in _value(settings, "STRIPE_API_KEY") else ""
    )


def _webhook(settings: Settings) -> str | Finding:
    from smi_pipeline.services.intake import HANDLED_EVENTS

    name, url = "Stripe webhook", f"{settings.public_url}/smi-webhook/stripe"
    add = "add it in the Stripe dashboard, with the events of docs/external-services.md"
    try:
        enabled = _payments(settings).webhook_events(url)
    except SmiError:  # a restricted key may not list them; the check of Stripe names all else
        return Finding(name, "note", "its events are not known: they cannot be listed", f"look for {url} yourself")
    if enabled is None:
        late = "payments are found by asking only, minutes later"
        return Finding(name, "note", f"Stripe has no enabled webhook endpoint {url}: {late}", add)
    missing = [event for event in HANDLED_EVENTS if "*" not in enabled and event not in enabled]
    if missing:
        return wrong(name, f"the endpoint does not get {', '.join(missing)}", "enable them in the Stripe dashboard")
    return f"{url} gets all {len(HANDLED_EVENTS)} types of events that are handled"


def _currency(settings: Settings) -> str | Finding:
    ours = settings.smi_currency
    try:
        theirs = _payments(settings).default_currency()
    except SmiError:  # a restricted key may not read the account; the check of Stripe names all else
        theirs = ""
    if theirs and theirs != ours:
        found = f"is {ours}, the default currency of the Stripe account is {theirs}: Stripe converts, for a fee"
        to_do = "this is right if prices are meant so; SMI_CREDIT_CENTS and the fees are amounts of SMI_CURRENCY, too"
        return Finding("SMI_CURRENCY", "note", found, to_do)
    return f"{ours}, the default currency of the Stripe account" if theirs else f"{ours}; the account's is not known"


def _upsampler(settings: Settings) -> str:
    from smi_pipeline.adapters.upsampler.client import UpsamplerClient

    key = _required(settings, "UPSAMPLER_API_KEY")
    client = UpsamplerClient(settings.upsampler_base_url, key, settings.upsampler_wire, read_timeout=10)
    try:
        client.status("smi-doctor")
    except NotFound:
        return f"key accepted, API format {settings.upsampler_wire}"
    except RateLimited:
        return "answers, but its rate limit is reached at the moment"
    finally:
        client.close()
    raise SmiError("knows an upscale that cannot exist: is this really Upsampler?")
