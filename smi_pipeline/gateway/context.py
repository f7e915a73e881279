"""What every endpoint works with, kept in the application's state."""

from dataclasses import dataclass

import structlog
from starlette.requests import HTTPConnection

from smi_pipeline.core.errors import SmiError
from smi_pipeline.gateway.metrics import Metrics
from smi_pipeline.gateway.rendering import Pages
from smi_pipeline.gateway.threads import BackgroundDispatch, Threads
from smi_pipeline.gateway.throttle import Throttle
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.settings import Settings

log = structlog.get_logger("smi_pipeline.gateway")


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The service context, the settings, and what belongs to this process."""

    ctx: ServiceContext
    settings: Settings
    pages: Pages
    metrics: Metrics
    threads: Threads
    dispatch: BackgroundDispatch
    wrong_secrets: Throttle

    def note_unavailable(self, error: SmiError) -> None:
        """Log which service does not answer; callers are told no details."""
        log.warning("a service does not answer", action="unavailable", error=str(error).replace("\n", " ")[:300])


def gateway_of(connection: HTTPConnection) -> Gateway:
    """Return the gateway that serves this request."""
    gateway: Gateway = connection.app.state.gateway
    return gateway
