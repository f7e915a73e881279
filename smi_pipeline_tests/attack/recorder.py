"""What stands behind the front in an attack: the servers and routes of the product, with endpoints that only record."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, cast

import uvicorn
from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from smi_pipeline.gateway.app import create_app
from smi_pipeline.gateway.server import server_config
from smi_pipeline.settings import Settings
from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, SITES, TEAM

WEBSOCKET = "WEBSOCKET"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request that arrived. `route` is the pattern that matched, "" if none did; a WebSocket's method is
    `WEBSOCKET`."""

    site: str
    route: str
    method: str
    path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]


def dagster_routes() -> list[BaseRoute]:
    """Return the routes of the installed dagster-webserver."""
    webserver = object.__new__(DagsterWebserver)  # its constructor wants a workspace; its routes do not
    webserver._app_path_prefix = ""
    return webserver.build_routes()


def gateway_routes() -> list[BaseRoute]:
    """Return the routes of the gateway."""
    return create_app(cast(Any, None), Settings(_env_file=None), on_work=lambda queue: None).routes  # type: ignore[call-arg]


class Recorder:
    """An ASGI application with these routes. Calls `record` for each request, whether a route matches or not."""

    def __init__(self, site: str, routes: Sequence[BaseRoute], record: Callable[[Recorded], None]) -> None:
        self._site = site
        self._record = record
        self._patterns: dict[Any, str] = {}
        self._app = Starlette(routes=[self._recording(route) for route in routes])
        self._app.router.redirect_slashes = False

    def _recording(self, route: BaseRoute) -> BaseRoute:
        async def answer(request: Request) -> PlainTextResponse:
            request.state.body = await request.body()
            return PlainTextResponse("recorded")

        async def greet(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()

        async def answer_mounted(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("recorded")(scope, receive, send)

        made: BaseRoute
        if isinstance(route, WebSocketRoute):
            made, endpoint = WebSocketRoute(route.path, greet), cast(Any, greet)
        elif isinstance(route, Route):
            made, endpoint = Route(route.path, answer, methods=list(route.methods or ())), answer
        else:
            assert isinstance(route, Mount)
            made, endpoint = Mount(route.path, answer_mounted), answer_mounted
        self._patterns[endpoint] = route.path
        return made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        recorded = False

        async def sending(message: Message) -> None:
            nonlocal recorded
            if not recorded:  # before the answer, so that who has the answer finds the record
                recorded = True
                self._record(self._seen(scope))
            await send(message)

        with suppress(ClientDisconnect):
            await self._app(scope, receive, sending)
        if not recorded:
            self._record(self._seen(scope))

    def _seen(self, scope: Scope) -> Recorded:
        return Recorded(
            site=self._site,
            route=self._patterns.get(scope.get("endpoint"), ""),
            method=scope.get("method", WEBSOCKET),
            path=scope["raw_path"],
            query=scope["query_string"],
            headers=tuple(scope["headers"]),
            body=scope["state"].get("body", b""),
        )


@contextmanager
def recorders(record: Callable[[Recorded], None]) -> Iterator[dict[str, int]]:
    """Serve a recorder for each site as the product's own servers do; yields the ports."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests that uvicorn refuses
    dagster = dagster_routes()
    sockets = {site: socket.create_server(("127.0.0.1", 0), backlog=512) for site in SITES}
    ports = {site: bound.getsockname()[1] for site, bound in sockets.items()}
    configurations = {
        CUSTOMERS: server_config(
            cast(Any, Recorder(CUSTOMERS, gateway_routes(), record)), host="127.0.0.1", port=ports[CUSTOMERS]
        )
    } | {
        site: uvicorn.Config(Recorder(site, dagster, record), log_config=None, access_log=False)
        for site in (TEAM, ANALYSTS)
    }
    servers = [uvicorn.Server(configuration) for configuration in configurations.values()]
    threads = [
        Thread(target=asyncio.run, args=(server.serve([sockets[site]]),), daemon=True)
        for site, server in zip(configurations, servers, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield ports
    finally:
        for server in servers:
            server.should_exit = True
        for thread in threads:
            thread.join(timeout=15)
        for bound in sockets.values():
            bound.close()
