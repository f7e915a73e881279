"""What the four stand-ins share: control endpoints, settings, clock, and requests under faults.

Belongs here: `/_ledger`, `/_faults`, `/_injections` (every fault applied), `/_timers` (what is still to come),
`/_config`, `/_health`, and the guard that every request of a customer of the stand-in passes.
Does not belong here: anything a single service does.

Faults of requests, the same for all stand-ins with HTTP:

- ``latency`` ``{"seconds": 1.0, "after_work": false}``: waits before the work, or after it and before the answer;
- ``status`` ``{"code": 500, "retry_after": null, "after_work": false}``: answers this status; nothing is done, unless
  ``after_work``, when all is done and the answer still says it failed;
- ``drop``: closes the connection before anything is done;
- ``accept_then_drop``: does the work and closes the connection without an answer (POST only);
- ``garbage``: does the work and answers 200 with broken JSON;
- ``cut_transfer``: does the work, sends the headers and half of the body, closes the connection.
"""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox.connections import CutInHalf, Dropped
from smi_pipeline.sandbox.faults import FaultBook, FaultError, Kind
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
}
_GARBAGE = b'{"status": "ok", "id": "8c1'


class StandIn(ABC):
    """One stand-in: an ASGI app with a ledger, faults, timers and settings.

    ``settings`` are what ``POST /_config`` changes at run time; they are not persisted, a restart takes them from its
    start again. ``base_url`` is known once the server listens.
    """

    name: ClassVar[str]
    kinds: ClassVar[Mapping[str, Kind]] = REQUEST_KINDS
    request_log: ClassVar[str] = "requests"

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        self.state = state
        self.settings: dict[str, Any] = {"clock_offset": 0.0, **settings}
        self.ledger = Ledger(state / f"{self.name}.sqlite")
        self.faults = FaultBook(self.ledger, self.kinds)
        self.timers = Timers(self.ledger, self.handlers())
        self.base_url = ""
        self.app = Starlette(routes=[*self._control_routes(), *self.routes()])

    # --- for the stand-ins to fill in

    def routes(self) -> list[BaseRoute]:
        """The routes of the service itself; views wrapped in :meth:`guard`."""
        return []

    def handlers(self) -> dict[str, Handler]:
        """What timers may call, by name."""
        return {}

    @abstractmethod
    def read_ledger(self) -> dict[str, Any]:
        """What ``GET /_ledger`` answers."""

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        """What faults can match of a request beside endpoint, method and path."""
        return {}

    def admit(self, request: Request) -> Response | None:
        """Refuse a request before anything else, faults included (rate limits)."""
        return None

    def error(self, request: Request, status: int, message: str) -> Response:
        """An error reply as the service words it."""
        return JSONResponse({"error": message}, status_code=status)

    async def start(self) -> None:
        """Go on with what was in flight. Runs on the event loop, before the first request."""
        self.timers.start()

    async def stop(self) -> None:
        """Stop; what is in flight stays in the ledger for the next start."""
        await self.timers.stop()
        self.ledger.close()

    # --- shared

    def clock(self) -> float:
        """The service's own time in unix seconds, off by the setting ``clock_offset``."""
        return time.time() + float(self.settings["clock_offset"])

    def guard(self, endpoint: str, view: View, *, quiet: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a view: admission, faults, and one line in the request log.

        ``quiet``: faults apply only where their match names this endpoint or path. The log's ``at`` is the machine's
        clock at arrival, whatever the stand-in's clock says, so that ledgers of all stand-ins can be compared.
        """

        async def guarded(request: Request) -> Response:
            at = time.time()
            body = await request.body()
            reply = self.admit(request)
            if reply is None:
                context = {"endpoint": endpoint, "method": request.method, "path": request.url.path}
                context.update(self.describe(request, body))
                reply = await self._under_faults(request, body, view, context, quiet)
            self.record_request(endpoint, request, at, reply.status_code)
            return reply

        return guarded

    def record_request(self, endpoint: str, request: Request, at: float, status: int) -> None:
        """One line in the request log; status 0 is a dropped connection."""
        entry = {"at": at, "method": request.method, "path": request.url.path, "status": status}
        self.ledger.append(self.request_log, entry)

    def log_route(self, kind: str) -> Route:
        """A control endpoint ``/_{kind}`` that lists all ledger records of a kind, such as webhooks."""

        async def view(request: Request) -> Response:
            return JSONResponse({kind: self.ledger.all(kind)})

        return Route(f"/_{kind}", view)

    async def _under_faults(
        self, request: Request, body: bytes, view: View, context: dict[str, Any], quiet: bool
    ) -> Response:
        kinds = set(REQUEST_KINDS)
        if request.method != "POST":
            kinds.discard("accept_then_drop")
        taken = self.faults.take(kinds, context, only_named=quiet)
        latency, status = taken.get("latency"), taken.get("status")
        if latency and not latency["after_work"]:
            await asyncio.sleep(latency["seconds"])
        if "drop" in taken:
            return Dropped()
        if status and not status["after_work"]:
            return self._failing(request, status)
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
        if "cut_transfer" in taken:
            return CutInHalf(reply)
        return reply

    def failed_after_work(self, request: Request, reply: Response) -> None:  # noqa: B027 - most need none
        """The work was done and the answer says it failed; for services that remember their answers."""

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
        return JSONResponse({"status": "ok", "stand_in": self.name})

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
