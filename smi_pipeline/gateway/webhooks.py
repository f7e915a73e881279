"""What Stripe and Upsampler tell us (W1, W7). Section 6 rule 9: 400 for a bad signature, 404 for an unknown token, 413
for too much, 200 for what is not ours, and 503 for whatever the sender should tell us again."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.core.errors import NotFound, RefusedError, SmiError
from smi_pipeline.core.models import Queue, StripeEvent
from smi_pipeline.gateway.auth import is_token
from smi_pipeline.gateway.bodies import WEBHOOK_BYTES, read_body
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.gateway.errors import unavailable
from smi_pipeline.services import completions, intake

log = structlog.get_logger("smi_pipeline.gateway")

STRIPE, UPSAMPLER = "stripe", "upsampler"


async def stripe(request: Request) -> Response:
    """POST /smi-webhook/stripe: the signature over the raw body first, then the event, at most once."""
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
            # Authentic, but not applied, also when Stripe does not know its own object: Stripe shall send it again,
            # and show its owner that it does.
            outcome.append("unavailable")
            return unavailable(request, error)
        outcome.append(effect)
        _log_event(event, effect)
        if effect == "order":
            gateway.kick(Queue.SUBMIT)
        return JSONResponse({"success": True, "data": {"effect": effect}})


async def upsampler(request: Request) -> Response:
    """POST /smi-webhook/upsampler/{token}: a hint only, which makes the status call of its submission due now."""
    gateway = gateway_of(request)
    with _counted(gateway, UPSAMPLER) as outcome:
        token = request.path_params["token"]
        if not is_token(token):
            raise NotFound("unknown webhook token")
        body = await read_body(request, WEBHOOK_BYTES)
        reply = await gateway.threads.quick(completions.take_hint, gateway.ctx, token, body)
        outcome.append("hint")
        log.info("upsampler webhook", action="webhook", source=UPSAMPLER, stage=reply.stage)
        gateway.kick(Queue.FULFIL)
        return JSONResponse({"success": True, "data": {"effect": "noted"}})


@contextmanager
def _counted(gateway: Gateway, source: str) -> Iterator[list[str]]:
    """Counts one webhook by its outcome, which the caller appends, and the time it took."""
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
