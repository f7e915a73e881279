"""The admins' door (W16) for other programs of the shop, with a key of its own: what `smi jobs` does, over HTTP."""

from collections.abc import Callable
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.gateway.auth import require_key
from smi_pipeline.gateway.bodies import ORDER_BYTES, json_object, read_body
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services import admin
from smi_pipeline.services.context import ServiceContext

log = structlog.get_logger("smi_pipeline.gateway")

# Each action with the fields its body may have: name, type, and the value when it is left out (`...`: required).
_Fields = dict[str, tuple[type | tuple[type, ...], Any]]
_ACTIONS: dict[str, tuple[Callable[..., str], _Fields]] = {
    "retry": (admin.retry, {"admin_override": (bool, False)}),
    "check": (admin.check, {}),
    "extend": (admin.extend, {"minutes": ((int, float), ...)}),
    "refund": (admin.refund_job, {}),
    "resend": (admin.resend, {}),
    "token": (admin.new_token, {}),
    "cancel": (admin.cancel, {}),
    "hold": (admin.hold, {"reason": (str, ...)}),
    "release": (admin.release, {}),
}


async def act(request: Request) -> Response:
    """POST /smi/v1/admin/jobs/{job_id}/{action}: 200 with what was done; 404, 409 or 422 in one line, and nothing done.

    `token` answers with the new download link.
    """
    gateway = gateway_of(request)
    require_key(request, gateway.settings.smi_admin_api_key, "SMI_ADMIN_API_KEY", patient=True)
    name = request.path_params["action"]
    if name not in _ACTIONS:
        raise HTTPException(404, f"There is no action {name[:40]!r}; known are {', '.join(_ACTIONS)}.")
    service, fields = _ACTIONS[name]
    raw = await read_body(request, ORDER_BYTES)
    values = _values(json_object(raw) if raw else {}, fields)
    job_id = request.path_params["job_id"]
    ctx: ServiceContext = gateway.ctx.acting_as("admin, HTTP")
    done = await gateway.threads.order(service, ctx, job_id, **values)
    log.info("admin action", action=f"admin_{name}", job_id=job_id[:64])
    return JSONResponse({"success": True, "data": {"job_id": job_id, "action": name, "done": done}})


def _values(body: dict[str, Any], fields: _Fields) -> dict[str, Any]:
    unknown = sorted(set(body) - set(fields))
    if unknown:
        known = f"known are {', '.join(fields)}" if fields else "this action takes none"
        raise HTTPException(422, f"unknown field {unknown[0][:60]!r}; {known}")
    values = {}
    for name, (kind, default) in fields.items():
        value = body.get(name, default)
        wrong_bool = isinstance(value, bool) and kind is not bool
        if value is ... or wrong_bool or not isinstance(value, kind):
            raise HTTPException(422, f"{name} is missing or of the wrong type")
        values[name] = value
    return values
