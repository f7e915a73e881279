"""The storefront's entry point: it registers an order and answers with the price and the address of its Checkout."""

from dataclasses import asdict
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.gateway.auth import require_key
from smi_pipeline.gateway.bodies import ORDER_BYTES, Body, json_object, read_body, require_content_type, validated
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services.intake import JobRequest, register_job

log = structlog.get_logger("smi_pipeline.gateway")


def _printable(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    if not value.isprintable():  # control characters, line breaks
        raise ValueError("has characters that cannot be printed")
    return value


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if not good or any(c in value for c in ' <>"\\'):
        raise ValueError("is not a web address")
    return value


_PRINTABLE = AfterValidator(_printable)


class Order(Body):
    """The body of an order."""

    image_url: Annotated[str, Field(max_length=4096, description="Where the image is fetched from"), _PRINTABLE]
    resolution: Annotated[str, Field(max_length=10, description="4x or 8x"), _PRINTABLE]
    email: (
        Annotated[
            str,
            Field(max_length=254, description="The customer's e-mail address; else Checkout asks"),
            _PRINTABLE,
        ]
        | None
    ) = None
    customer_name: Annotated[str, Field(max_length=100, description="For the mails"), _PRINTABLE] | None = None
    return_url: (
        Annotated[
            str,
            Field(max_length=2048, description="The page of the shop that Checkout leads back to"),
            _PRINTABLE,
            AfterValidator(_web_address),
        ]
        | None
    ) = None


async def register(request: Request) -> Response:
    """Serve POST /smi/v1/jobs: register an order, answer 201 with the price and where to pay.

    This charges nobody; an order that is refused leaves no trace.
    """
    gateway = gateway_of(request)
    require_key(request, gateway.settings.smi_api_key, "SMI_API_KEY")
    require_content_type(request, "application/json")
    order = validated(Order, json_object(await read_body(request, ORDER_BYTES)))
    job = await gateway.threads.order(register_job, gateway.ctx, JobRequest(**order.model_dump()))
    log.info("job registered", action="register", job_id=job.job_id, price_cents=job.price_cents)
    return JSONResponse({"success": True, "data": asdict(job)}, status_code=201)
