"""Webhooks of Stripe and Upsampler.

400 for a bad signature, 404 for an unknown token, 413 for a body that is too large, 200 for events of other systems,
and 503 for whatever the sender should send again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from urllib.parse import parse_qsl

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.core.errors import NotFound, RefusedError, SmiError
from smi_pipeline.core.models import StripeEvent
from smi_pipeline.core.vocabulary import PaymentRole, Queue
from smi_pipeline.gateway.auth import is_token
from smi_pipeline.gateway.bodies import WEBHOOK_BYTES, read_body
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.gateway.errors import unavailable
from smi_pipeline.services import completions, intake

log = structlog.get_logger("smi_pipeline.gateway")

STRIPE, UPSAMPLER = "stripe", "upsampler"


async def stripe(request: Request) -> Response:
    """Serve POST /smi-webhook/stripe: verify the signature of the raw body, then apply the event at most once."""
    gateway = gateway_of(request)
    with _counted(gateway, STRIPE) as outcome:
        if not gateway.settings.stripe_webhook_secret.get_secret_value():
            # An empty secret would accept every signature made with an empty secret.
            raise HTTPException(503, "Webhooks are closed: STRIPE_WEBHOOK_SECRET is not set.", {"Retry-After": "300"})
        body = await read_body(request, WEBHOOK_BYTES)
        signature = request.headers.get("stripe-signature", "")
        event = gateway.ctx.payments.parse_webhook(body, signature)
        try:
            effect = await gateway.threads.event(
                intake.handle_stripe_event, gateway.ctx, event, source="stripe webhook"
            )
        except SmiError as error:
            # Authentic but not applied, also when Stripe does not know its own object: Stripe is to send it again, and
            # to show in its dashboard that it had to.
            outcome.append("unavailable")
            return unavailable(request, error)
        outcome.append(effect)
        _log_event(event, effect)
        if effect == PaymentRole.ORDER:
            gateway.dispatch(Queue.SUBMIT)
        return JSONResponse({"success": True, "data": {"effect": effect}})


async def upsampler(request: Request) -> Response:
    """Serve GET and POST /smi-webhook/upsampler/{token}: make the status call of the token's submission due now.

    The webhook's content is not trusted: the result is only taken from the status call. It is JSON, a form, or in the
    address.
    """
    gateway = gateway_of(request)
    with _counted(gateway, UPSAMPLER) as outcome:
        token = request.path_params["token"]
        if not is_token(token):
            raise NotFound("unknown webhook token")
        body = _as_json(request, await read_body(request, WEBHOOK_BYTES))
        reply = await gateway.threads.quick(completions.take_hint, gateway.ctx, token, body)
        outcome.append("hint")
        log.info("upsampler webhook", action="webhook", source=UPSAMPLER, stage=reply.stage)
        gateway.dispatch(Queue.FULFIL)
        return JSONResponse({"success": True, "data": {"effect": "noted"}})


def _as_json(request: Request, body: bytes) -> bytes:
    """Return the content of a webhook as JSON, also of a GET and of a form. Without content it says that the upscale is
    processing: only the status call tells more."""
    if request.method == "POST":
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return body
        fields = dict(parse_qsl(body.decode("utf-8", "replace")))
    else:
        fields = dict(request.query_params)
    named = {name: fields[name] for name in ("job_id", "id", "status") if fields.get(name)}
    return json.dumps(named or {"status": "processing"}).encode()


@contextmanager
def _counted(gateway: Gateway, source: str) -> Iterator[list[str]]:
    """Count one webhook by its outcome, which the caller appends to the list, and the time it took."""
    started = perf_counter()
    outcome: list[str] = []
    try:
        yield outcome
    except (RefusedError, HTTPException) as error:
        status = error.status if isinstance(error, RefusedError) else error.status_code
        outcome.append("refused" if status < 500 else "unavailable")
        raise
    except SmiError:
        outcome.append("unavailable")
        raise
    finally:
        gateway.metrics.webhooks.labels(source, outcome[0] if outcome else "error").inc()
        gateway.metrics.webhook_seconds.labels(source).observe(perf_counter() - started)


def _log_event(event: StripeEvent, effect: str) -> None:
    log.info("stripe webhook", action="webhook", source=STRIPE, event_id=event.event_id, type=event.type, effect=effect)
