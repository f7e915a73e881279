"""Serves the pages and files of the reports to operators. The reporting location writes them."""

import re

from starlette.requests import Request
from starlette.responses import Response

from smi_pipeline.core.errors import NotFound
from smi_pipeline.gateway.auth import require_operator
from smi_pipeline.gateway.context import Gateway, gateway_of

_PATH = re.compile(r"(?:day|week|month)/[0-9-]{7,10}/[a-z_]{1,40}\.(html|csv|parquet)", re.ASCII)
_TYPES = {"html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8"}


async def file(request: Request) -> Response:
    """Serve GET /ops/reports/{path}: 404 for what was not built. A page may use its own styles, and nothing else."""
    require_operator(request)
    path = request.path_params["path"]
    found = _PATH.fullmatch(path)
    if not found:
        raise NotFound("There is no such report.")
    gateway = gateway_of(request)
    content = await gateway.threads.file(_read, gateway, f"reports/{path}")
    policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-downloads; frame-ancestors 'none'"
    media_type = _TYPES.get(found[1], "application/octet-stream")
    return Response(content, media_type=media_type, headers={"Content-Security-Policy": policy})


def _read(gateway: Gateway, key: str) -> bytes:
    with gateway.ctx.storage.open(key) as stream:
        return stream.read()
