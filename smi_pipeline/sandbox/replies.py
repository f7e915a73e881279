"""Responses as proxies and other hosts alter them: HTML pages, empty and slow bodies, encodings."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

PAGES: Mapping[str, str] = {
    "maintenance": "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>",
    "challenge": "<!DOCTYPE html><title>Just a moment...</title><noscript>Enable JavaScript and cookies</noscript>",
}
_PIECES = 10


def page(about: str, code: int) -> Response:
    """Return an HTML page."""
    return HTMLResponse(PAGES[about], status_code=code)


def altered(reply: Response, taken: Mapping[str, Mapping[str, Any]]) -> Response:
    """Return a response under the faults that change its body or its headers."""
    if not {"empty_body", "slow_body", "encoded", "chunked", "media_type"} & set(taken):
        return reply
    content = b"" if "empty_body" in taken else _content(reply)
    kept = ("content-length", "content-type", "etag", "last-modified", "accept-ranges")
    headers = {name: value for name, value in reply.headers.items() if name not in kept}
    if encoded := taken.get("encoded"):
        headers["Content-Encoding"] = encoded["encoding"]
        content = gzip.compress(content) if encoded["encoding"] == "gzip" else zlib.compress(content)
    media_type = taken["media_type"]["value"] if "media_type" in taken else reply.headers.get("content-type")
    if "slow_body" in taken:
        pause = taken["slow_body"]["seconds"] / _PIECES
        headers["Content-Length"] = str(len(content))
        return StreamingResponse(_pieces(content, pause), reply.status_code, headers, media_type)
    if "chunked" in taken:
        return StreamingResponse(_pieces(content, 0), reply.status_code, headers, media_type)
    return Response(content, reply.status_code, headers, media_type)


def _content(reply: Response) -> bytes:
    return Path(reply.path).read_bytes() if isinstance(reply, FileResponse) else bytes(reply.body)


async def _pieces(content: bytes, pause: float) -> AsyncIterator[bytes]:
    size = max(1, -(-len(content) // _PIECES))
    for at in range(0, len(content), size):
        await asyncio.sleep(pause)
        yield content[at : at + size]
