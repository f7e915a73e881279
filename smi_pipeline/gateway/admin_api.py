"""The HTTP admin API for other programs of the shop, with a key of its own."""

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.gateway.auth import require_key
from smi_pipeline.gateway.bodies import ORDER_BYTES, Body, json_object, read_body, validated
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services.admin import actions
from smi_pipeline.services.admin_actions import HTTP_PATHS, Action, Interface

log = structlog.get_logger("smi_pipeline.gateway")

ACTIONS: dict[str, dict[str, Action]] = {
    kind: {action.verb: action for action in actions.over(Interface.HTTP) if action.target is target}
    for target, (kind, _) in HTTP_PATHS.items()
}
"""By the part of the path that says what they act on, and by their verb."""
_SUBJECTS = dict(HTTP_PATHS.values())
BODIES = {
    (kind, verb): action.model(Body, without=_SUBJECTS[kind])
    for kind, known in ACTIONS.items()
    for verb, action in known.items()
}


async def act(request: Request) -> Response:
    """Serve POST /smi/v1/admin/{kind}/{subject}/{action}: do the action and say what was done.

    400, 404, 409 and 422 say in one line what is wrong; then nothing was changed. `token` answers with the new
    download link.
    """
    gateway = gateway_of(request)
    require_key(request, gateway.settings.smi_admin_api_key, "SMI_ADMIN_API_KEY", patient=True)
    kind, subject, verb = (request.path_params[name] for name in ("kind", "subject", "action"))
    if kind not in ACTIONS:
        raise HTTPException(404, "There is nothing at this address.")
    if verb not in ACTIONS[kind]:
        raise HTTPException(404, f"There is no action {verb[:40]!r}; known are {', '.join(ACTIONS[kind])}.")
    parameter = _SUBJECTS[kind]
    raw = await read_body(request, ORDER_BYTES)
    parameters = validated(BODIES[kind, verb], json_object(raw) if raw else {})
    ctx = gateway.ctx.acting_as("admin, HTTP")
    run = ACTIONS[kind][verb].run
    done = await gateway.threads.order(run, ctx, **{parameter: subject}, **parameters.model_dump())
    log.info("admin action", action=f"admin_{verb}", **{parameter: subject[:64]})
    return JSONResponse({"success": True, "data": {parameter: subject, "action": verb, "done": done}})
