"""The operators' pages, behind a password; and /metrics and /health for monitoring."""

import re
from math import ceil
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from smi_pipeline.core import faults, properties
from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Status
from smi_pipeline.gateway.auth import find_job, require_operator
from smi_pipeline.gateway.bodies import FORM_BYTES, read_body, require_content_type
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.gateway.rendering import masked_address
from smi_pipeline.services import admin
from smi_pipeline.state.dashboard import BreakerFigures

log = structlog.get_logger("smi_pipeline.gateway")

_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
FRESH_SECONDS = 3.0
"""How long the figures of the overview are reused: many open pages cost no more than one."""


class Overview:
    """The figures of the overview, kept for a few seconds."""

    def __init__(self) -> None:
        self._taken_at = float("-inf")
        self._figures: dict[str, Any] = {}

    def forget(self) -> None:
        """Read the figures anew at the next look: an operator has changed something."""
        self._taken_at = float("-inf")

    def figures(self, gateway: Gateway) -> dict[str, Any]:
        """Return all that the overview shows."""
        if monotonic() - self._taken_at > FRESH_SECONDS:
            self._figures = _figures(gateway)
            self._taken_at = monotonic()
        return self._figures


async def ops(request: Request) -> Response:
    """Serve GET /ops: the overview."""
    require_operator(request)
    gateway = gateway_of(request)
    figures = await gateway.threads.quick(request.app.state.overview.figures, gateway)
    return gateway.pages.response("ops.html", figures)


async def breakers(request: Request) -> Response:
    """Serve /ops/breakers: GET shows every circuit breaker, POST opens or closes one. Unlike the overview the page does
    not refresh itself: it would empty the form."""
    require_operator(request)
    gateway = gateway_of(request)
    if request.method != "POST":
        values = await gateway.threads.quick(_breakers, gateway)
        # Under `no-referrer`, the rule of the other pages, browsers send the form with `Origin: null`.
        return gateway.pages.response("ops_breakers.html", values, headers={"Referrer-Policy": "same-origin"})
    require_content_type(request, "application/x-www-form-urlencoded")
    body = await read_body(request, FORM_BYTES)
    try:
        form = parse_qs(body.decode("utf-8"), strict_parsing=True, max_num_fields=10)
        [verb], [name], [reason] = form["action"], form["name"], form.get("reason", [""])
        act = {"open": admin.open_breaker, "close": admin.close_breaker}[verb]
    except (ValueError, KeyError):
        raise HTTPException(400, "The form cannot be read.") from None
    done = await gateway.threads.quick(act, gateway.ctx.acting_as("operator, /ops"), name, reason)
    request.app.state.overview.forget()
    log.info("admin action", action=f"admin_{verb}_breaker", name=name[:64], done=done)
    return RedirectResponse(f"{gateway.pages.root}/ops/breakers", status_code=303)


async def ops_job(request: Request) -> Response:
    """Serve GET /ops/jobs/{job_id}: everything about one order, its address masked."""
    require_operator(request)
    gateway = gateway_of(request)
    values = await gateway.threads.quick(_job, gateway, request)
    return gateway.pages.response("ops_job.html", values)


async def metrics(request: Request) -> Response:
    """Serve GET /metrics in Prometheus' text format: numbers only, no customer data."""
    gateway = gateway_of(request)
    content = await gateway.threads.quick(gateway.metrics.page)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def health(request: Request) -> Response:
    """Serve GET /health: 200 when the database answers and can write, else 503. Its status is `degraded` while the
    daemon or the workers of a queue are silent."""
    gateway = gateway_of(request)
    try:
        await gateway.threads.quick(gateway.ctx.state.queries.counts)
    except Exception as error:  # not reachable, or not migrated
        log.warning("not healthy", action="health", error=type(error).__name__)
        return _unhealthy("The database does not answer, or `smi migrate` has not been run on it.")
    try:
        await gateway.threads.quick(gateway.ctx.state.dashboard.can_write)
    except TransientError as error:
        log.error("the database cannot write", action="health", error=str(error))
        return _unhealthy("The database cannot write: its disk is full, or it is read-only.")
    figures = await gateway.threads.quick(gateway.ctx.state.dashboard.breakers)
    shut = [f.breaker.name for f in figures if f.breaker.is_open]
    silent = request.app.state.watch.silent
    # Still 200: the gateway is well, and a restart would mend nothing.
    data = {"status": "degraded" if silent else "ok", "database": "ok", "open_breakers": shut, "silent": silent}
    return JSONResponse({"success": True, "data": data})


def _unhealthy(message: str) -> JSONResponse:
    body = {"success": False, "error": {"code": "unavailable", "message": message}}
    return JSONResponse(body, status_code=503, headers={"Retry-After": "5"})


def _figures(gateway: Gateway) -> dict[str, Any]:
    ctx, settings = gateway.ctx, gateway.settings
    state = ctx.state
    counts, queue = state.queries.counts(), state.queries.queue()
    outcomes = state.dashboard.outcomes()
    ended = sum(outcomes.values())
    prices = ctx.prices
    money = state.dashboard.money_today(ctx.policy.currency, prices.credit_cents)
    received = sum(cents * n for cents, _, n in money["payments"])
    fees = sum((prices.stripe_fee_cents(cents) if fee is None else fee) * n for cents, fee, n in money["payments"])
    cost = ceil(money["cost_cents"])
    return {
        "now": state.submissions.now(),
        "counts": [(status.value, counts.get(status, 0)) for status in Status],
        "queue": queue,
        "silent": int((queue.silent_seconds or 0) // 60),
        "minute_limit": settings.upsampler_requests_per_minute,
        "hour_limit": settings.upsampler_requests_per_hour,
        "status_limit": settings.upsampler_status_calls_per_minute,
        "pause": state.dashboard.pause(),
        "breakers": [_breaker(f) for f in state.dashboard.breakers()],
        "ended": ended,
        "delivered": outcomes.get("delivered", 0),
        "failures": [(reason, n) for reason, n in outcomes.items() if reason != "delivered"],
        "durations": state.dashboard.durations(),
        "money": {
            "received": received,
            "fees": fees,
            "cost": cost,
            "refunded": money["refunded_cents"],
            "margin": received - money["refunded_cents"] - fees - cost,
            "credits": money["credits"],
            "payments": sum(n for _, _, n in money["payments"]),
            "currency": ctx.policy.currency,
        },
        "credits_month": state.queries.credits_this_month(),
        "budget": ctx.policy.monthly_credit_budget,
        "unsold": [(found, properties.in_words(found.property)) for found in state.unsold.all(ctx.policy.unsold_days)],
        "tasks": state.manual_tasks.opened(),
        "alarms": state.queries.alarms(ctx.policy),
        "jobs": state.queries.jobs(limit=25),
        "dagster_url": dagster_url(gateway),
    }


def _breakers(gateway: Gateway) -> dict[str, Any]:
    found = {f.breaker.name: _breaker(f) for f in gateway.ctx.state.dashboard.breakers()}
    calm = {"is_open": False, "failing": False}
    return {
        "now": gateway.ctx.state.submissions.now(),
        "breakers": [
            found.get(name) or {"name": name, "headline": faults.headline(name), **calm}
            for name in dict.fromkeys((*found, *admin.BREAKERS))
        ],
        "dagster_url": dagster_url(gateway),
    }


def _breaker(figures: BreakerFigures) -> dict[str, Any]:
    breaker = figures.breaker
    return {
        "name": breaker.name,
        "headline": faults.headline(breaker.name),
        "is_open": breaker.is_open,
        "failing": not breaker.is_open,
        "since": breaker.opened_at or breaker.failing_since,
        "failed": len(breaker.failed),
        "message": breaker.message,
        "next_step": breaker.next_step,
        "by_hand": breaker.by_hand,
        "waiting": figures.waiting_text,
        "probing": breaker.probe is not None,
        "next_probe_at": breaker.next_probe_at,
        "failed_probes": breaker.failed_probes,
    }


def _job(gateway: Gateway, request: Request) -> dict[str, Any]:
    job = find_job(request)
    state = gateway.ctx.state
    return {
        "job": job,
        "address": masked_address(job.customer_email),
        "source": without_query(job.source_url),
        "next_step": admin.next_step(job),
        "now": state.submissions.now(),
        "events": [vars(event) | {"run": _run_of(event.actor)} for event in state.queries.events(job.job_id)],
        "submissions": state.submissions.of_job(job.job_id),
        "payments": state.dashboard.payments(job.job_id),
        "refunds": state.refunds.of_job(job.job_id),
        "mails": state.emails.of_job(job.job_id),
        "downloads": state.dashboard.downloads(job.job_id),
        "rating": state.dashboard.rating(job.job_id),
        "tasks": [task for task in state.manual_tasks.opened() if task.job_id == job.job_id],
        "cost": gateway.ctx.prices.cost_cents(
            sum(s.credits or 0 for s in state.submissions.of_job(job.job_id)), job.credit_cents
        ),
        "dagster_url": dagster_url(gateway),
    }


def dagster_url(gateway: Gateway) -> str:
    """Return where operators open Dagster's UI: the team site of the front, or a port of this machine."""
    return gateway.settings.smi_team_url or f"http://127.0.0.1:{gateway.settings.smi_dagster_port}"


def _run_of(actor: str) -> str | None:
    found = _RUN_ID.search(actor)
    return found[0] if found else None


def without_query(url: str) -> str:
    """Return a URL without its query, which may hold keys of the shop."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
