"""Build the gateway from the settings and configure its server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from smi_pipeline.gateway.app import create_app
from smi_pipeline.gateway.threads import DATABASE_CONNECTIONS
from smi_pipeline.settings import Settings
from smi_pipeline.wiring import build_context, build_dispatcher

HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request, from the start of the connection."""

SEND_SECONDS = 60.0
"""How long a client may leave unread what was sent to it: a quarter of a megabyte of a download."""


def build_app(settings: Settings) -> Starlette:
    """Return the application on the configured services. Raise RefusedError when a secret is missing."""
    ctx = build_context(settings, actor="gateway", pool_size=DATABASE_CONNECTIONS)
    return create_app(ctx, settings, on_work=build_dispatcher(settings, ctx))


def server_config(app: Starlette, *, host: str, port: int, proxies: Sequence[str] = ()) -> uvicorn.Config:
    """Return uvicorn's configuration: no access log, no server header, limits on heads, connections and shutdown.

    Paths hold tokens, so the middleware logs their patterns instead. Only `proxies` are trusted about the client's
    address.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=TimeoutProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        limit_concurrency=500,
        backlog=512,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=8,
        h11_max_incomplete_event_size=32 * 1024,
    )


class TimeoutProtocol(H11Protocol):
    """uvicorn's protocol with timeouts for clients that send their head slowly or do not read their answer."""

    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timeout of the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timeouts."""
        _cancel(self._waiting)
        _cancel(self._unread)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timeout of an unread answer."""
        super().pause_writing()
        _cancel(self._unread)
        self._unread = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timeout of an unread answer."""
        _cancel(self._unread)
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Start the timeout of the next head."""
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        _cancel(self._waiting)
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
