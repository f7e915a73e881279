"""The HTTP admin API for other programs of the shop: the admin actions on jobs, with a key of its own."""

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.gateway.auth import require_key
from smi_pipeline.gateway.bodies import ORDER_BYTES, Body, json_object, read_body, validated
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services.admin import actions
from smi_pipeline.services.admin_actions import Interface

log = structlog.get_logger("smi_pipeline.gateway")

ACTIONS = {action.verb: action for action in actions.over(Interface.HTTP)}
BODIES = {verb: action.model(Body, without="job_id") for verb, action in ACTIONS.items()}


async def act(request: Request) -> Response:
    """Serve POST /smi/v1/admin/jobs/{job_id}/{action}: do the action and say what was done.

    400, 404, 409 and 422 say in one line what is wrong; then nothing was changed. `token` answers with the new
    download link.
    """
    gateway = gateway_of(request)
    require_key(request, gateway.settings.smi_admin_api_key, "SMI_ADMIN_API_KEY", patient=True)
    verb, job_id = request.path_params["action"], request.path_params["job_id"]
    if verb not in ACTIONS:
        raise HTTPException(404, f"There is no action {verb[:40]!r}; known are {', '.join(ACTIONS)}.")
    raw = await read_body(request, ORDER_BYTES)
    parameters = validated(BODIES[verb], json_object(raw) if raw else {})
    ctx = gateway.ctx.acting_as("admin, HTTP")
    done = await gateway.threads.order(ACTIONS[verb].run, ctx, job_id=job_id, **parameters.model_dump())
    log.info("admin action", action=f"admin_{verb}", job_id=job_id[:64])
    return JSONResponse({"success": True, "data": {"job_id": job_id, "action": verb, "done": done}})
