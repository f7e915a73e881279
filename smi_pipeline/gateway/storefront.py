"""The storefront's door (W26): an order comes in, its price and the address of its Checkout go out."""

from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.gateway.auth import require_key
from smi_pipeline.gateway.bodies import ORDER_BYTES, json_object, read_body, require_content_type
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services.intake import JobRequest, register_job

log = structlog.get_logger("smi_pipeline.gateway")

# Longest value of each field; `None` may be said of the optional ones.
_REQUIRED = {"image_url": 4096, "resolution": 10, "email": 254}
_OPTIONAL = {"customer_name": 100, "return_url": 2048}


async def register(request: Request) -> Response:
    """POST /smi/v1/jobs: 201 with the price and where to pay. Takes no money, and keeps nothing it refuses."""
    gateway = gateway_of(request)
    require_key(request, gateway.settings.smi_api_key, "SMI_API_KEY")
    require_content_type(request, "application/json")
    order = parse_order(json_object(await read_body(request, ORDER_BYTES)))
    job = await gateway.threads.order(register_job, gateway.ctx, order)
    log.info("job registered", action="register", job_id=job.job_id, price_cents=job.price_cents)
    data = {
        "job_id": job.job_id,
        "price_cents": job.price_cents,
        "currency": job.currency,
        "output_width": job.output_width,
        "output_height": job.output_height,
        "checkout_url": job.checkout_url,
        "status_url": job.status_url,
    }
    return JSONResponse({"success": True, "data": data}, status_code=201)


def parse_order(body: dict[str, Any]) -> JobRequest:
    """The order in `body`. Raises HTTPException (422) naming the first field that is missing, unknown or unusable."""
    unknown = sorted(set(body) - set(_REQUIRED) - set(_OPTIONAL))
    if unknown:
        raise _invalid(f"unknown field {unknown[0][:60]!r}; known are {', '.join([*_REQUIRED, *_OPTIONAL])}")
    for name in _REQUIRED:
        if body.get(name) is None:
            raise _invalid(f"{name} is missing")
    for name, longest in (_REQUIRED | _OPTIONAL).items():
        _check_text(name, body.get(name), longest)
    if body.get("return_url") is not None:
        _check_web_address("return_url", body["return_url"])
    return JobRequest(**body)


def _check_text(name: str, value: Any, longest: int) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise _invalid(f"{name} must be text")
    if not value.strip():
        raise _invalid(f"{name} is empty")
    if len(value) > longest:
        raise _invalid(f"{name} is longer than {longest} characters")
    if not value.isprintable():  # control characters, line breaks, lone surrogates
        raise _invalid(f"{name} has characters that cannot be printed")


def _check_web_address(name: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if not good or any(c in value for c in ' <>"\\'):
        raise _invalid(f"{name} is not a web address")


def _invalid(message: str) -> HTTPException:
    return HTTPException(422, message)
