"""The customers' pages: the order page, its status as JSON, and the rating."""

import re
from typing import Any
from urllib.parse import parse_qs

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.core.errors import NotFound, SmiError
from smi_pipeline.core.lifecycle import rating_token
from smi_pipeline.core.models import UpscaleJob
from smi_pipeline.core.vocabulary import Status
from smi_pipeline.formatting import RATINGS
from smi_pipeline.gateway import errors
from smi_pipeline.gateway.auth import find_job, may_rate, may_view, shop_headers
from smi_pipeline.gateway.bodies import FORM_BYTES, read_body, require_content_type
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.gateway.progress import STEPS, snapshot

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
    return snapshot(gateway.ctx, job, full=may_view(request, job.job_id))


async def job_page(request: Request) -> Response:
    """Serve GET /smi/v1/jobs/{job_id}[?view=]: the page of an order. Its script polls the status."""
    gateway = gateway_of(request)
    values = await gateway.threads.quick(_page, gateway, request)
    return gateway.pages.response("order.html", values)


def _page(gateway: Gateway, request: Request) -> dict[str, Any]:
    job = find_job(request)
    full = may_view(request, job.job_id)
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
    base = f"{gateway.pages.root}/smi/v1/rate/{job.job_id}?key={rating_token(gateway.ctx.secret_key, job.job_id)}"
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
    if not may_rate(request, job.job_id):
        raise NotFound("This rating link is not valid.")
    return job
