"""The Upsampler sandbox: its API in both formats, its CDN, and the life of a submission.

A submission is queued, processing, then completed or failed, and ends with a webhook.

Endpoints for ``match``: ``submit``, ``status``, ``cdn`` (request faults hit the CDN only where the match names it).
A submission is matched by ``image_url``, ``webhook``, ``scale``, ``id`` and, in the documented API format,
``job_id``; so are its status calls, downloads and webhooks. Kinds beside the request faults of base.py:

- ``unauthorized`` (401), ``insufficient_credits`` (402), ``reject`` ``{"code": 422, "message": ...}``: refused at
  submission;
- ``fail`` ``{"error": ..., "at_once": false, "word": null, "first": null}``: the submission fails; ``at_once``: in the
  response to it; ``word``: instead of FAILED (CANCELED, ERROR, TIMEOUT, EXPIRED, NSFW); ``first``: only the first so
  many submissions of each image do, those after them pass;
- ``status_word`` ``{"word": "PAUSED"}``: a status call gets this word and nothing else;
- ``never_finishes``: stays in processing; ``slow`` ``{"seconds": 10}``: takes this much longer;
- ``wrong_dimensions`` ``{"pixels": 16}`` (too small by), ``truncated`` ``{"keep": 0.6}`` (the part that is kept),
  ``black_tile`` ``{"fraction": 0.125}`` (of each side), ``bit_flip``, ``wrong_image``: the result is corrupt;
- ``rounded`` ``{"multiple": 8}``, ``capped`` ``{"pixels": 1000000}``, ``drops_alpha``, ``other_format``
  ``{"format": "WEBP"}``: the result is sound, and not what was asked for (grey images always come as RGB);
- ``leaves_metadata`` ``{"name": ..., "trailer": ...}``: the result has a camera's place, name and serial number, and a
  block behind its end;
- ``no_image_url``: completed, but without URL; ``late_address`` ``{"seconds": 60}``: so long without;
- ``result_404``: the CDN responds 404 to the download; ``late_result`` ``{"seconds": 60, "code": 404}``: so long after
  completion; ``redirected`` ``{"code": 302}``: it leads elsewhere on the same host;
- ``other_host`` ``{"base": null}``: the result is on another host, by default on the second port of this service;
- ``same_id``: the submission is answered with the id of the one before it;
- ``webhook_by`` ``{"how": "GET"}``: its webhook comes by ``GET`` with a query, or as a ``FORM``;
- ``lose_webhook``, ``repeat_webhook`` ``{"n": 3}`` (times in all), ``delay_webhook`` ``{"seconds": 5}``.

Processing runs on the machine's clock; ``clock_offset`` shifts only estimates, the expiry of results, and how long
results and addresses are late.
``GET /_downloads`` lists downloads from the CDN, ``GET /_webhooks`` all attempts to deliver a webhook,
``GET /_submissions`` the whole record of each submission, with the ``sha256`` of its result's pixels.
"""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox.base import REQUEST_KINDS, SandboxService, one_of
from smi_pipeline.sandbox.faults import Kind
from smi_pipeline.sandbox.ledger import Record
from smi_pipeline.sandbox.timers import Handler
from smi_pipeline.sandbox.upsampler import api_format
from smi_pipeline.sandbox.upsampler.processing import Processor
from smi_pipeline.sandbox.upsampler.rate_limit import RateLimit
from smi_pipeline.sandbox.upsampler.upscaling import EXTENSIONS, MEDIA_TYPES, UnusableImage
from smi_pipeline.sandbox.webhooks import WEBHOOK_KINDS, Webhooks

RESULT_LIFE_SECONDS = 3 * 3600
WEBHOOK_ATTEMPTS = 4  # the first and three more
_QUEUED_SHARE = 0.25  # of the processing time is spent queued
_REFUSALS = {
    "unauthorized": Kind(defaults={"code": 401, "message": "Invalid API key"}),
    "insufficient_credits": Kind(defaults={"code": 402, "message": "Insufficient credits"}),
    "reject": Kind(defaults={"code": 422, "message": "The image cannot be processed"}),
}
_OUTCOMES = {
    "fail": Kind(
        defaults={
            "error": "Unsupported image: no recognisable content",
            "at_once": False,
            "word": None,
            "first": None,
        }
    ),
    "never_finishes": Kind(),
    "slow": Kind(defaults={"seconds": 10.0}),
    "no_image_url": Kind(),
    "wrong_dimensions": Kind(defaults={"pixels": 16}),
    "truncated": Kind(defaults={"keep": 0.6}),
    "black_tile": Kind(defaults={"fraction": 0.125}),
    "bit_flip": Kind(),
    "wrong_image": Kind(),
    "rounded": Kind(defaults={"multiple": 8}),
    "capped": Kind(defaults={"pixels": 1_000_000}),
    "drops_alpha": Kind(),
    "leaves_metadata": Kind(defaults={"name": "Erika Mustermann", "trailer": "SEFHe\x00\x00\x00SEFT"}),
    "other_format": Kind(defaults={"format": "WEBP"}, choices={"format": ("PNG", "JPEG", "WEBP")}),
    "late_address": Kind(defaults={"seconds": 60.0}),
    "late_result": Kind(defaults={"seconds": 60.0, "code": 404}),
    "other_host": Kind(defaults={"base": None}),
    "same_id": Kind(),
    "webhook_by": Kind(defaults={"how": "GET"}, choices={"how": ("GET", "FORM")}),
}


class Upsampler(SandboxService):
    """Settings: api_key (several by commas: all are good), api_format, rate_minute, rate_hour and rate_status (0:
    unlimited), rate_minute_seconds, retry_after, processing_seconds, webhook_retry_seconds, workers."""

    name = "upsampler"
    kinds: ClassVar[Mapping[str, Kind]] = {
        **REQUEST_KINDS,
        **_OUTCOMES,
        **WEBHOOK_KINDS,
        **_REFUSALS,
        "result_404": Kind(),
        "redirected": Kind(defaults={"code": 302}),
        "status_word": Kind(defaults={"word": "PAUSED"}),
    }
    other_url = ""
    """The second address of the service; set once the server listens."""

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        super().__init__(state, settings)
        self._processor = Processor(state / "results", self.ledger)
        self._workers = ThreadPoolExecutor(int(settings["workers"]), thread_name_prefix="upscale")
        self._webhooks = Webhooks(self)
        hour_ago = time.time() - 3600
        log = [line for line in self.ledger.all("requests") if line["at"] > hour_ago and line["status"] != 429]
        self._submissions = RateLimit(line["at"] for line in log if line["method"] == "POST")
        self._status_calls = RateLimit(line["at"] for line in log if line["method"] == "GET")

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the API, of the CDN and of the logs."""
        submit = self.guard("submit", self._submit)
        status = self.guard("status", self._status)
        cdn = self.guard("cdn", self._download, quiet=True, log="downloads")
        routes: list[BaseRoute] = [
            self.log_route("downloads"),
            self.log_route("webhooks"),
            self.log_route("submissions"),
            Route("/cdn/{id}/{file}", cdn, methods=["GET"]),
            Route("/cdn/{id}/moved/{file}", cdn, methods=["GET"]),
        ]
        for prefix in ("", "/api/v1"):
            routes += [
                Route(f"{prefix}/precise-upscale", submit, methods=["POST"]),
                Route(f"{prefix}/status/{{id}}", status, methods=["GET"]),
            ]
        return [*routes, Route("/{rest:path}", self.guard("unknown", self.unknown), methods=["GET", "POST"])]

    def handlers(self) -> dict[str, Handler]:
        """Return the steps of a submission."""
        return {"process": self._process, "finish": self._finish, "deliver": self._deliver}

    def read_ledger(self) -> dict[str, Any]:
        """Return all requests and submissions."""
        fields = ("at", "id", "image_url", "scale", "job_id", "status", "credits")
        submissions = [{field: record[field] for field in fields} for record in self.ledger.all("submissions")]
        return {"requests": self.ledger.all("requests"), "submissions": submissions}

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the fields of the submission that a request is about."""
        record = self.ledger.get("submissions", request.path_params.get("id", ""))
        if record is not None:
            return _context(record)
        try:
            parsed = json.loads(body)
            asked = api_format.parse(parsed, api_format.recognise(parsed, self.settings["api_format"]))
        except ValueError:
            return {}
        return {"image_url": asked.image_url, "scale": asked.scale, "job_id": asked.job_id, "webhook": asked.webhook}

    def admit(self, request: Request) -> Response | None:
        """Return 429 if the rate limit of submissions or that of status calls is exceeded; the CDN has none."""
        if request.url.path.startswith("/cdn/"):
            return None
        now, minute = time.time(), float(self.settings["rate_minute_seconds"])
        if request.method == "POST":
            limits = {minute: self.settings["rate_minute"], 60 * minute: self.settings["rate_hour"]}
            wait = self._submissions.admit(now, limits)
        else:
            wait = self._status_calls.admit(now, {minute: self.settings["rate_status"]})
        if wait is None:
            return None
        reply = self.error(request, 429, "Too many requests")
        pause = int(wait) + 1
        as_date = self.settings["retry_after"] == "date"
        reply.headers["Retry-After"] = formatdate(now + pause, usegmt=True) if as_date else str(pause)
        return reply

    def error(self, request: Request, status: int, message: str) -> Response:
        """Return an error in the default API format."""
        return JSONResponse(api_format.error(self.settings["api_format"], message), status_code=status)

    async def stop(self) -> None:
        """Stop timers, workers and webhooks."""
        await super().stop()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._webhooks.close()

    # --- the API

    async def _submit(self, request: Request, body: bytes) -> Response:
        if (unauthorized := self._unauthorized(request)) is not None:
            return unauthorized
        chosen = self.settings["api_format"]
        try:
            parsed = json.loads(body)
            chosen = api_format.recognise(parsed, chosen)
            asked = api_format.parse(parsed, chosen)
        except api_format.BadRequest as error:
            return JSONResponse(api_format.error(chosen, str(error)), status_code=400)
        except ValueError:
            return JSONResponse(api_format.error(chosen, "The body is not JSON"), status_code=400)
        for refusal in self.faults.take(set(_REFUSALS), request.state.context).values():
            return JSONResponse(api_format.error(chosen, refusal["message"]), status_code=refusal["code"])
        before = next(self.ledger.newest("submissions"), None)
        record = self._accept(asked, self._behaviour(asked, self.faults.take(set(_OUTCOMES), request.state.context)))
        answer = api_format.accepted(record)
        if "same_id" in record["behaviour"] and before:
            answer["id" if record["api_format"] == "live" else "job_id"] = before["id"]
        return JSONResponse(answer)

    def _behaviour(self, asked: api_format.Submission, taken: dict[str, Any]) -> dict[str, Any]:
        """Return the faults of a submission, without a failure that only earlier ones of this image have."""
        first = taken.get("fail", {}).get("first")
        if first is None:
            return taken
        earlier = sum(record["image_url"] == asked.image_url for record in self.ledger.all("submissions"))
        return {kind: params for kind, params in taken.items() if kind != "fail" or earlier < first}

    def _accept(self, asked: api_format.Submission, behaviour: dict[str, Any]) -> Record:
        now, duration = time.time(), float(self.settings["processing_seconds"])
        at_once = "fail" in behaviour and behaviour["fail"]["at_once"]
        record: Record = {
            "at": now,
            "id": str(uuid.uuid4()),
            **asdict(asked),
            "status": "failed" if at_once else "queued",
            "credits": 0,
            "error": behaviour["fail"]["error"] if at_once else None,
            "word": behaviour["fail"]["word"] if at_once else None,
            "behaviour": behaviour,
            "estimated_completion": self.clock() + duration,
            "duration": duration,
            "file": None,
            "sha256": None,
        }
        with self.ledger.transaction():
            self.ledger.put("submissions", record["id"], record)
            if not at_once:
                self.timers.at(now + duration * _QUEUED_SHARE, "process", id=record["id"])
        return record

    async def _status(self, request: Request, body: bytes) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        record = self.ledger.get("submissions", request.path_params["id"])
        if record is None:
            return self.error(request, 404, "Job not found")
        if word := self.faults.take({"status_word"}, request.state.context).get("status_word"):
            record = {**record, "status": "processing", "word": word["word"], "file": None}
        return JSONResponse(api_format.status(record, self._result_url(record)))

    def _unauthorized(self, request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and one_of(given, self.settings["api_key"]):
            return None
        return self.error(request, 401, "Invalid API key")

    # --- the CDN

    def _result_url(self, record: Record) -> str | None:
        """Return the URL of the result; built at each call, because the port may have changed."""
        late = record["behaviour"].get("late_address")
        if not record["file"] or (late and self.clock() < record["completed_at"] + late["seconds"]):
            return None
        base = self.base_url
        if other := record["behaviour"].get("other_host"):
            base = other["base"] or self.other_url
        return f"{base}/cdn/{record['id']}/{record['file']}"

    async def _download(self, request: Request, body: bytes) -> Response:
        record = self.ledger.get("submissions", request.path_params["id"])
        missing = Response("Not found", status_code=404, media_type="text/plain")
        if record is None or record["file"] != request.path_params["file"]:
            return missing
        late = record["behaviour"].get("late_result")
        if late and self.clock() < record["completed_at"] + late["seconds"]:
            return Response("Not yet", status_code=late["code"], media_type="text/plain")
        taken = self.faults.take({"result_404", "redirected"}, request.state.context)
        if (moved := taken.get("redirected")) and "/moved/" not in request.url.path:
            target = f"/cdn/{record['id']}/moved/{record['file']}"
            return Response(status_code=moved["code"], headers={"Location": target})
        lost = "result_404" in taken
        if lost or self.clock() > record["completed_at"] + RESULT_LIFE_SECONDS:
            return missing
        return FileResponse(self._processor.folder / record["stored"], media_type=MEDIA_TYPES[record["format"]])

    # --- the life of a submission

    async def _process(self, id: str) -> None:
        record = self.ledger.update("submissions", id, status="processing")
        if "never_finishes" in record["behaviour"]:
            return
        if "fail" in record["behaviour"]:
            outcome = {"error": record["behaviour"]["fail"]["error"], "word": record["behaviour"]["fail"]["word"]}
        else:
            loop = asyncio.get_running_loop()
            try:
                outcome = await loop.run_in_executor(self._workers, self._processor.make, record)
            except UnusableImage as error:
                outcome = {"error": str(error)}
        due = record["at"] + record["duration"] + record["behaviour"].get("slow", {}).get("seconds", 0)
        with self.ledger.transaction():
            self.ledger.update("submissions", id, outcome=outcome)
            self.timers.at(due, "finish", id=id)

    async def _finish(self, id: str) -> None:
        record = self.ledger.get("submissions", id)
        if record is None or record["status"] in ("completed", "failed"):
            return
        outcome = record["outcome"]
        with self.ledger.transaction():
            if "error" in outcome:
                self.ledger.update("submissions", id, status="failed", **outcome)
            else:
                file = None
                if "no_image_url" not in record["behaviour"]:
                    file = f"{secrets.token_urlsafe(12)}.{EXTENSIONS[outcome['format']]}"
                changes = {"status": "completed", "file": file, "completed_at": self.clock(), **outcome}
                self.ledger.update("submissions", id, **changes)
            if record["webhook"]:
                taken = self.faults.take(set(WEBHOOK_KINDS), {**_context(record), "endpoint": "webhook"})
                self._webhooks.plan({"id": id}, taken)

    async def _deliver(self, id: str, attempt: int) -> None:
        record = self.ledger.get("submissions", id)
        if record is None:
            return
        fields = api_format.webhook(record, self._result_url(record))
        body = json.dumps(fields).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "Upsampler-Webhook/1.0"}
        url, attempts, how = record["webhook"], WEBHOOK_ATTEMPTS, record["behaviour"].get("webhook_by", {}).get("how")
        if how:
            form = urlencode({name: value for name, value in fields.items() if isinstance(value, str)})
            if how == "GET":
                url, body = f"{url}?{form}", b""
            else:
                body, headers["Content-Type"] = form.encode(), "application/x-www-form-urlencoded"
        method = "GET" if how == "GET" else "POST"
        await self._webhooks.send({"id": id}, url, body, headers, attempt=attempt, attempts=attempts, method=method)


def _context(record: Record) -> dict[str, Any]:
    return {field: record[field] for field in ("id", "image_url", "scale", "job_id", "webhook")}
