"""The base of the four sandbox services: control endpoints, settings, clock, and request faults.

Control endpoints: `/_ledger`, `/_faults`, `/_injections` (all faults applied so far), `/_timers` (pending actions),
`/_config`, `/_health`.

Request faults, the same for every service with HTTP:

- ``latency`` ``{"seconds": 1.0, "after_work": false}``: waits before the request is handled, or before the response;
- ``status`` ``{"code": 500, "retry_after": null, "after_work": false}``: responds with this status; the request is not
  handled, unless ``after_work``: then it is, and the response still says that it failed;
- ``drop``: closes the connection before the request is handled;
- ``accept_then_drop``: handles the request and closes the connection without a response (POST only);
- ``garbage``: handles the request and responds 200 with malformed JSON;
- ``cut_transfer``: handles the request, sends the headers and half of the body, then closes the connection;
- ``stall`` ``{"seconds": 60.0}``: the same, but stands still for so long before;
- ``page`` ``{"code": 200, "about": "maintenance", "after_work": false}``: responds with an HTML page, as a proxy in
  front of a service does; ``about``: ``maintenance`` or ``challenge`` (of bot protection);
- ``empty_body``: handles the request and responds without a body; ``slow_body`` ``{"seconds": 5.0}``: handles it, and
  takes so long to send the body in ten pieces;
- ``encoded`` ``{"encoding": "gzip"}``: handles the request and compresses the body, ``gzip`` or ``deflate``, whatever
  the client accepts; ``chunked``: sends the body without announcing its length; ``media_type``
  ``{"value": "application/octet-stream"}``: names another type.
"""

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox import replies
from smi_pipeline.sandbox.connections import CutInHalf, Dropped
from smi_pipeline.sandbox.faults import FaultError, FaultRegistry, Kind
from smi_pipeline.sandbox.ledger import Ledger
from smi_pipeline.sandbox.timers import Handler, Timers

View = Callable[[Request, bytes], Awaitable[Response]]

REQUEST_KINDS: Mapping[str, Kind] = {
    "latency": Kind(defaults={"seconds": 1.0, "after_work": False}),
    "status": Kind(defaults={"code": 500, "retry_after": None, "after_work": False}),
    "drop": Kind(),
    "accept_then_drop": Kind(),
    "garbage": Kind(),
    "cut_transfer": Kind(),
    "stall": Kind(defaults={"seconds": 60.0}),
    "page": Kind(defaults={"code": 200, "about": "maintenance", "after_work": False}, choices={"about": replies.PAGES}),
    "empty_body": Kind(),
    "slow_body": Kind(defaults={"seconds": 5.0}),
    "encoded": Kind(defaults={"encoding": "gzip"}, choices={"encoding": ("gzip", "deflate")}),
    "chunked": Kind(),
    "media_type": Kind(defaults={"value": "application/octet-stream"}),
}
_GARBAGE = b'{"status": "ok", "id": "8c1'


def one_of(given: str, several: str) -> bool:
    """Return whether a secret is one of several, separated by commas: of two keys, both are good for a while."""
    return any([secrets.compare_digest(given.encode(), each.encode()) for each in several.split(",")])


class SandboxService(ABC):
    """A service: an ASGI app with a ledger, faults, timers and settings.

    ``POST /_config`` changes ``settings`` at run time; changes are lost at a restart. ``base_url`` is set once the
    server listens.
    """

    name: ClassVar[str]
    kinds: ClassVar[Mapping[str, Kind]] = REQUEST_KINDS

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        self.state = state
        self.settings: dict[str, Any] = {"clock_offset": 0.0, **settings}
        self.ledger = Ledger(state / f"{self.name}.sqlite")
        self.faults = FaultRegistry(self.ledger, self.kinds)
        self.timers = Timers(self.ledger, self.handlers())
        self.base_url = ""
        self.app = Starlette(routes=[*self._control_routes(), *self.routes()])

    # --- to be overridden

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the service itself, their views wrapped in :meth:`guard`."""
        return []

    def handlers(self) -> dict[str, Handler]:
        """Return the functions that timers may call, by name."""
        return {}

    @abstractmethod
    def read_ledger(self) -> dict[str, Any]:
        """Return the body of ``GET /_ledger``."""

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return what faults can match of a request, beside endpoint, method and path."""
        return {}

    def admit(self, request: Request) -> Response | None:
        """Return a refusal that precedes even faults (rate limit), or None."""
        return None

    def error(self, request: Request, status: int, message: str) -> Response:
        """Return an error response in the format of the service."""
        return JSONResponse({"error": message}, status_code=status)

    async def start(self) -> None:
        """Resume pending timers. Called on the event loop, before the first request."""
        self.timers.start()

    async def stop(self) -> None:
        """Stop; pending timers stay in the ledger for the next start."""
        await self.timers.stop()
        self.ledger.close()

    # --- shared

    def clock(self) -> float:
        """Return the service's time in unix seconds: the machine's plus the setting ``clock_offset``."""
        return time.time() + float(self.settings["clock_offset"])

    def guard(
        self, endpoint: str, view: View, *, quiet: bool = False, log: str = "requests"
    ) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a view with admission, faults, and an entry in the log of this name.

        ``quiet``: only faults whose match names this endpoint or path apply. The view finds what faults can match in
        ``request.state.context``. In the log ``at`` is the machine's time of arrival, without ``clock_offset``, so that
        the ledgers of all services can be compared; status 0 is a dropped connection.
        """

        async def guarded(request: Request) -> Response:
            at = time.time()
            body = await request.body()
            reply = self.admit(request)
            if reply is None:
                context = {"endpoint": endpoint, "method": request.method, "path": request.url.path}
                request.state.context = context | self.describe(request, body)
                reply = await self._under_faults(request, body, view, quiet)
            entry = {"at": at, "method": request.method, "path": request.url.path, "status": reply.status_code}
            self.ledger.append(log, entry)
            return reply

        return guarded

    def log_route(self, kind: str) -> Route:
        """Return the control endpoint ``/_{kind}``, which lists all ledger records of this kind."""

        async def view(request: Request) -> Response:
            return JSONResponse({kind: self.ledger.all(kind)})

        return Route(f"/_{kind}", view)

    async def unknown(self, request: Request, body: bytes) -> Response:
        """Answer a path that the service does not have."""
        return self.error(request, 404, "Not found")

    async def _under_faults(self, request: Request, body: bytes, view: View, quiet: bool) -> Response:
        kinds = set(REQUEST_KINDS)
        if request.method != "POST":
            kinds.discard("accept_then_drop")
        taken = self.faults.take(kinds, request.state.context, only_named=quiet)
        latency, status, page = taken.get("latency"), taken.get("status"), taken.get("page")
        if latency and not latency["after_work"]:
            await asyncio.sleep(latency["seconds"])
        if "drop" in taken:
            return Dropped()
        if status and not status["after_work"]:
            return self._failing(request, status)
        if page and not page["after_work"]:
            return replies.page(page["about"], page["code"])
        reply = await view(request, body)
        if status:
            reply = self._failing(request, status)
            self.failed_after_work(request, reply)
        if latency and latency["after_work"]:
            await asyncio.sleep(latency["seconds"])
        if "accept_then_drop" in taken:
            return Dropped()
        if "garbage" in taken:
            return Response(_GARBAGE, media_type="application/json")
        if page:
            return replies.page(page["about"], page["code"])
        reply = replies.altered(reply, taken)
        if stall := taken.get("stall"):
            return CutInHalf(reply, stall["seconds"])
        return CutInHalf(reply) if "cut_transfer" in taken else reply

    def failed_after_work(self, request: Request, reply: Response) -> None:  # noqa: B027 - optional to override
        """React to a response that was replaced by an error after the request had been handled."""

    def _failing(self, request: Request, fault: Mapping[str, Any]) -> Response:
        reply = self.error(request, fault["code"], "Injected fault")
        if fault["retry_after"] is not None:
            reply.headers["Retry-After"] = str(fault["retry_after"])
        return reply

    def _control_routes(self) -> list[BaseRoute]:
        return [
            Route("/_health", self._health),
            Route("/_ledger", self._ledger),
            Route("/_faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/_config", self._config, methods=["GET", "POST"]),
            self.log_route("injections"),
            self.log_route("timers"),
        ]

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": self.name})

    async def _ledger(self, request: Request) -> Response:
        return JSONResponse(self.read_ledger())

    async def _faults(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                return JSONResponse(self.faults.add(json.loads(await request.body())), status_code=201)
            except ValueError as error:  # FaultError is one, broken JSON another
                kind = "fault" if isinstance(error, FaultError) else "JSON"
                return JSONResponse({"error": f"bad {kind}: {error}"}, status_code=400)
        if request.method == "DELETE":
            self.faults.clear()
        return JSONResponse(self.faults.report())

    async def _config(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                changes = json.loads(await request.body())
                unknown = set(changes) - set(self.settings)
            except (ValueError, TypeError):
                return JSONResponse({"error": "settings are a JSON object"}, status_code=400)
            if unknown:
                known = sorted(self.settings)
                return JSONResponse({"error": f"unknown {sorted(unknown)}; known: {known}"}, status_code=400)
            self.settings.update(changes)
        return JSONResponse(self.settings)
