"""The customers' pages: the order page, its status as JSON, the rating, and the end of the waiting."""

import re
from typing import Any
from urllib.parse import parse_qs

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import NotFound, SmiError
from smi_pipeline.core.models import UpscaleJob
from smi_pipeline.core.vocabulary import Queue, Status
from smi_pipeline.formatting import RATINGS, money
from smi_pipeline.gateway import errors
from smi_pipeline.gateway.auth import find_job, may_end_waiting, may_rate, may_view, shop_headers
from smi_pipeline.gateway.bodies import FORM_BYTES, read_body, require_content_type
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.gateway.progress import STEPS, snapshot
from smi_pipeline.services import notify
from smi_pipeline.state.waiting import Ending

log = structlog.get_logger("smi_pipeline.gateway")

MAX_COMMENT = 2000
_STARS = {str(stars): stars for stars in RATINGS}
_LABELS = dict(zip(STEPS, ("Payment", "In line", "Preparation", "Upscaling", "Quality check", "Ready"), strict=True))


async def job_status(request: Request) -> Response:
    """Serve GET /smi/v1/job-status/{job_id}[?view=], also to scripts of the shop's own pages."""
    headers = shop_headers(request)
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers | {"Allow": "GET, HEAD, OPTIONS"})
    gateway = gateway_of(request)
    try:
        data = await gateway.threads.quick(_status, gateway, request)
    except (SmiError, HTTPException) as error:  # the shop's pages must be able to read errors, too
        handler = errors.on_smi_error if isinstance(error, SmiError) else errors.on_http_exception
        answer = await handler(request, error)
        answer.headers.update(headers)
        return answer
    return JSONResponse({"success": True, "data": data}, headers=headers)


def _status(gateway: Gateway, request: Request) -> dict[str, Any]:
    job = find_job(request)
    return snapshot(gateway.ctx, job, full=may_view(request, job))


async def job_page(request: Request) -> Response:
    """Serve GET /smi/v1/jobs/{job_id}[?view=]: the page of an order. Its script polls the status."""
    gateway = gateway_of(request)
    values = await gateway.threads.quick(_page, gateway, request)
    return gateway.pages.response("order.html", values)


def _page(gateway: Gateway, request: Request) -> dict[str, Any]:
    job = find_job(request)
    full = may_view(request, job)
    data = snapshot(gateway.ctx, job, full=full)
    query = f"?view={request.query_params['view']}" if full else ""
    return {
        "job": data,
        "full": full,
        "steps": _steps(data["step"], job),
        "status_url": f"{gateway.pages.root}/smi/v1/job-status/{job.job_id}{query}",
        "ratings": _rating_links(gateway, job) if full else [],
    }


def _steps(step: str, job: UpscaleJob) -> list[tuple[str, str]]:
    """Return (label, state) of each step; the state is done, current, failed or open."""
    if step in (Status.FAILED, Status.REFUNDED):
        if job.payment_intent_id is None:
            return []
        return [
            ("Payment", "done"),
            ("Upscaling", "failed"),
            ("Refund", "done" if step == Status.REFUNDED else "current"),
        ]
    if step in (Status.ABANDONED, Status.COMPLETED):
        return []
    at = STEPS.index(step)
    return [(label, "done" if i < at else "current" if i == at else "open") for i, label in enumerate(_LABELS.values())]


def _rating_links(gateway: Gateway, job: UpscaleJob) -> list[tuple[int, str, str]]:
    base = notify.rating_url(gateway.ctx, job)
    return [(stars, word, f"{base}&stars={stars}") for stars, word in RATINGS.items()]


async def rating(request: Request) -> Response:
    """Serve /smi/v1/rate/{job_id}?key=&stars=: GET shows the form, POST stores the rating."""
    return await (_rate if request.method == "POST" else _rating_form)(request)


async def _rating_form(request: Request) -> Response:
    """Show the form. Opening it stores nothing: mail scanners open every link."""
    gateway = gateway_of(request)
    job = await gateway.threads.quick(_rated_job, request)
    stars = _STARS.get(request.query_params.get("stars", ""))
    return gateway.pages.response("rate.html", {"job_id": job.job_id, "ratings": RATINGS, "stars": stars})


async def _rate(request: Request) -> Response:
    """Store the stars and an optional comment."""
    gateway = gateway_of(request)
    require_content_type(request, "application/x-www-form-urlencoded")
    body = await read_body(request, FORM_BYTES)
    job = await gateway.threads.quick(_rated_job, request)
    try:
        form = parse_qs(body.decode("utf-8"), strict_parsing=True, max_num_fields=10)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    stars = _STARS.get(form.get("stars", [""])[0])
    if stars is None:
        raise HTTPException(422, "Please choose 1 to 5 stars.")
    # A form sends line breaks as CR LF; other control characters are removed.
    comment = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", form.get("comment", [""])[0]).strip()
    if len(comment) > MAX_COMMENT:
        raise HTTPException(422, f"The comment is longer than {MAX_COMMENT:,} characters.")
    await gateway.threads.quick(gateway.ctx.state.deliveries.rate, job.job_id, stars, comment or None)
    log.info("rated", action="rate", job_id=job.job_id, stars=stars)
    return gateway.pages.response("thanks.html", {"stars": stars, "word": RATINGS[stars]})


def _rated_job(request: Request) -> UpscaleJob:
    job = find_job(request)
    if not may_rate(request, job):
        raise NotFound("This rating link is not valid.")
    return job


async def end_waiting(request: Request) -> Response:
    """Serve /smi/v1/end-waiting/{job_id}?key=: GET shows a button, POST cancels the order and returns the money."""
    return await (_end_waiting if request.method == "POST" else _end_waiting_page)(request)


async def _end_waiting_page(request: Request) -> Response:
    """Show the button. Opening the page changes nothing: mail scanners open every link."""
    gateway = gateway_of(request)
    job = await gateway.threads.quick(_waiting_job, request)
    ended = job.reason_code == reasons.CANCELLED
    state = "ended" if ended else "offer" if await gateway.threads.quick(_can_end, gateway, job) else "too_late"
    return _end_waiting_response(gateway, job, state)


async def _end_waiting(request: Request) -> Response:
    """Cancel the order. A repeated request is told the same and changes nothing."""
    gateway = gateway_of(request)
    require_content_type(request, "application/x-www-form-urlencoded")
    await read_body(request, FORM_BYTES)
    job = await gateway.threads.quick(_waiting_job, request)
    ending = await gateway.threads.quick(_end, gateway, job)
    log.info("waiting ended by the customer", action="end_waiting", job_id=job.job_id, ending=ending.value)
    if ending is Ending.TOO_LATE:
        return _end_waiting_response(gateway, job, "too_late", status=409)
    if ending is Ending.ENDED:
        gateway.dispatch(Queue.REFUND)  # a sensor makes the refund if this does not
    return _end_waiting_response(gateway, job, "ended")


def _can_end(gateway: Gateway, job: UpscaleJob) -> bool:
    return gateway.ctx.state.waiting.can_end(job.job_id)


def _end(gateway: Gateway, job: UpscaleJob) -> Ending:
    return gateway.ctx.state.waiting.end(job.job_id, actor="customer")


def _end_waiting_response(gateway: Gateway, job: UpscaleJob, state: str, *, status: int = 200) -> Response:
    values = {
        "state": state,
        "job_id": job.job_id,
        "file_name": job.file_name,
        "resolution": job.resolution,
        "price": money(job.price_cents, job.currency),
        "order_url": notify.status_url(gateway.ctx, job.job_id, job.links_revoked),
    }
    return gateway.pages.response("end_waiting.html", values, status=status)


def _waiting_job(request: Request) -> UpscaleJob:
    job = find_job(request)
    if not may_end_waiting(request, job):
        raise NotFound("This link is not valid.")
    return job
