"""The one place that builds adapters from settings: the resources of Dagster, the gateway and the CLI call it."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from smi_pipeline.adapters.alert_webhook import alert_webhook
from smi_pipeline.adapters.dagster_runs import GraphQLRuns
from smi_pipeline.adapters.fetching.fetcher import HttpFetcher
from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.adapters.mail.smtp import SmtpMailer
from smi_pipeline.adapters.storage import FileStorage
from smi_pipeline.adapters.stripe.payments import StripePayments
from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.failpoints import PROCESS_VARIABLE, FailpointProxy, Failpoints, FailpointState
from smi_pipeline.privileges.accounts import own_home
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.dispatch import Dispatcher
from smi_pipeline.settings import SHORTEST_SECRET, Settings
from smi_pipeline.state import State
from smi_pipeline.state.database import Database
from smi_pipeline.state.embedded import DAGSTER_DATABASE, STATE_DATABASE, EmbeddedPostgres
from smi_pipeline.state.rate_limiter import RateLimiter
from smi_pipeline.state.schema import ensure_database, migrate


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The embedded server of this installation, not started."""
    return EmbeddedPostgres(settings.smi_home / "postgres")


def state_url(settings: Settings) -> str:
    """URL of the state's database. An embedded one is started or joined, and brought to the newest schema."""
    if settings.smi_database_url:
        return settings.smi_database_url
    server = embedded_postgres(settings)
    server.start()
    url = server.url(STATE_DATABASE)
    ensure_database(url)
    migrate(url)
    return url


def dagster_url(settings: Settings, state: str | None = None) -> str:
    """URL of Dagster's database, with the pool plugin: the configured one, else `dagster` on the state's server.

    `state` is the state's URL if the caller knows it; else it is found as by `state_url`.
    """
    configured = settings.dagster_postgres_url
    url = make_url(configured) if configured else make_url(state or state_url(settings)).set(database=DAGSTER_DATABASE)
    if not configured:
        ensure_database(url.render_as_string(hide_password=False))
    return url.update_query_dict({"plugin": "smi_pool"}).render_as_string(hide_password=False)


def stripe_payments(settings: Settings) -> StripePayments:
    """Return the client of the configured Stripe account."""
    return StripePayments(
        settings.stripe_api_key.get_secret_value(),
        settings.stripe_webhook_secret.get_secret_value(),
        settings.stripe_api_base,
        timeout=10,  # three tries, within the time of a sensor tick
    )


def build_context(settings: Settings, *, actor: str, pool_size: int = 5) -> ServiceContext:
    """All ports on the configured services. Opens no connection yet, except to an embedded database.

    Raises RefusedError when a secret that everything depends on is missing.
    """
    secret_keys = settings.secret_keys
    if not secret_keys or len(min(secret_keys, key=len)) < SHORTEST_SECRET:
        raise RefusedError(f"SMI_SECRET_KEY must be set to at least {SHORTEST_SECRET} random characters")
    policy = settings.policy
    if settings.smi_storage_url is None:
        own_home(settings.smi_home)
    database = Database(state_url(settings), pool_size=pool_size)
    ctx = ServiceContext(
        state=State(database, secret_keys=secret_keys, mail_domain=policy.mail_domain),
        upscaler=UpsamplerClient(
            settings.upsampler_base_url,
            settings.upsampler_api_key.get_secret_value(),
            settings.upsampler_wire,
            read_timeout=20,  # with the time budget of a tick it stays below the 60 s after which a sensor is stopped
        ),
        payments=stripe_payments(settings),
        mailer=SmtpMailer(
            settings.smtp_host,
            settings.smtp_port,
            settings.smtp_user,
            settings.smtp_password.get_secret_value(),
            settings.smtp_starttls,
            sender=settings.smi_mail_from,
            support_email=settings.smi_support_email,
            owner_copy=settings.smi_admin_email,
            ca_file=settings.smtp_ca_file,
        ),
        fetcher=HttpFetcher(
            settings.smi_allowed_source_hosts,
            settings.smi_allowed_result_hosts,
            Path(tempfile.gettempdir()),
            longest=policy.longest_download.total_seconds(),
            nat64_prefixes=settings.smi_nat64_prefixes,
        ),
        images=VipsImages(
            max_output_megapixels=settings.smi_max_output_megapixels,
            max_source_bytes=settings.smi_max_source_bytes,
            fidelity=settings.smi_fidelity,
            keep_metadata=settings.smi_keep_metadata,
        ),
        storage=FileStorage(settings.storage_url),
        limiter=RateLimiter(database, submissions=policy.submissions, status_calls=policy.status_calls),
        policy=policy,
        prices=settings.prices,
        secret_keys=secret_keys,
        actor=actor,
    )
    return _watched(ctx, database, settings.smi_failpoints) if settings.smi_failpoints else ctx


def _watched(ctx: ServiceContext, database: Database, folder: Path) -> ServiceContext:
    """Return the same context with failpoints around its ports and its state."""
    failpoints = Failpoints(folder, os.environ.get(PROCESS_VARIABLE, ""))
    database.before_commit(failpoints.committing)
    ports: dict[str, Any] = {
        name: FailpointProxy(getattr(ctx, name), name, failpoints)
        for name in ("payments", "upscaler", "fetcher", "storage", "mailer", "limiter")
    }
    state: Any = FailpointState(ctx.state, failpoints)  # answers for `State` in everything a service calls
    return replace(ctx, state=state, **ports)


def alert_post(settings: Settings) -> Callable[[str, list[str]], None] | None:
    """How alerts reach `SMI_ALERT_WEBHOOK_URL`; None when it is not set."""
    return alert_webhook(settings.smi_alert_webhook_url) if settings.smi_alert_webhook_url else None


def build_dispatcher(settings: Settings, ctx: ServiceContext) -> Dispatcher:
    """What starts runs at once, through the Dagster webserver."""
    runs: Any = GraphQLRuns(settings.dispatch_url)
    if settings.smi_failpoints:
        runs = FailpointProxy(runs, "runs", Failpoints(settings.smi_failpoints, os.environ.get(PROCESS_VARIABLE, "")))
    return Dispatcher(ctx, runs)
