"""What every endpoint works with, kept in the application's state."""

from dataclasses import dataclass

import structlog
from starlette.requests import HTTPConnection

from smi_pipeline.core.errors import SmiError
from smi_pipeline.gateway.metrics import Metrics
from smi_pipeline.gateway.rendering import Pages
from smi_pipeline.gateway.threads import Kick, Threads
from smi_pipeline.gateway.throttle import Throttle
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.settings import Settings

log = structlog.get_logger("smi_pipeline.gateway")


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The service context, the settings, and this process's own tools."""

    ctx: ServiceContext
    settings: Settings
    pages: Pages
    metrics: Metrics
    threads: Threads
    kick: Kick
    guesses: Throttle

    def note_unavailable(self, error: SmiError) -> None:
        """Logs what does not answer; the callers are told no details."""
        log.warning("something does not answer", action="unavailable", error=str(error).replace("\n", " ")[:300])


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway that serves this request."""
    return connection.app.state.gateway
