"""Wrap every request: refuse control characters, add security headers, log, measure, answer unexpected errors."""

import unicodedata
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.gateway.errors import internal, refused

log = structlog.get_logger("smi_pipeline.gateway")

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # our addresses hold tokens
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",  # unless the endpoint says otherwise
}
_QUIET = ("/health", "/metrics", "/static")
CLIENT_GONE = 499


async def _malformed(scope: Scope, receive: Receive, send: Send) -> None:
    """Routes would ignore a line break at the end of a path, a proxy that guards some of them would not."""
    answer = refused(Request(scope, receive), 400, "The address contains control characters.")
    await answer(scope, receive, send)


class RequestMiddleware:
    """Pure ASGI, so that streamed bodies pass through untouched. `routes` names each endpoint's path pattern: the real
    paths hold tokens and are never logged."""

    def __init__(self, app: ASGIApp, *, routes: Mapping[Any, str], https: bool) -> None:
        self._app = app
        self._routes = routes
        self._headers = HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        answered: dict[str, Any] = {"status": CLIENT_GONE, "seconds": 0.0}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.update(status=message["status"], seconds=perf_counter() - started)
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        app = _malformed if any(unicodedata.category(c) == "Cc" for c in scope["path"]) else self._app
        try:
            await app(scope, receive, sending)
        except ClientDisconnect:
            pass
        except Exception as error:
            answer = internal(Request(scope, receive), error)  # logs it
            if answered["status"] != CLIENT_GONE:
                raise  # the answer has begun: the server must cut it short, so that nobody takes it for whole
            await answer(scope, receive, sending)
        finally:
            self._note(scope, answered, perf_counter() - started)

    def _note(self, scope: Scope, answered: Mapping[str, Any], seconds: float) -> None:
        route = self._routes.get(scope.get("endpoint"), "unknown")
        metrics = gateway_of(Request(scope)).metrics
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        metrics.requests.labels(method, route, answered["status"]).inc()
        metrics.request_seconds.labels(route).observe(answered["seconds"] or seconds)
        if not route.startswith(_QUIET):
            log.info(
                "request",
                action="request",
                method=method,
                route=route,
                status=answered["status"],
                ms=round(seconds * 1000, 1),
            )
