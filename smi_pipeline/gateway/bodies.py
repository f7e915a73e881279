"""Reading request bodies: never more than a limit, never longer than a few seconds, and JSON without surprises."""

import asyncio
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MEGABYTE = 1_000_000
WEBHOOK_BYTES = MEGABYTE
FORM_BYTES = ORDER_BYTES = 64_000
BODY_SECONDS = 10.0
_DRAINED_BYTES = 16 * MEGABYTE
_DRAIN_SECONDS = 2.0


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises HTTPException: 413 over `limit` bytes, whatever Content-Length said; 408 when the sender
    takes more than ten seconds."""
    announced = request.headers.get("content-length", "")
    chunks: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if (announced.isdigit() and len(announced) < 19 and int(announced) <= limit) or not announced:
                async for chunk in stream:
                    size += len(chunk)
                    if size > limit:
                        break
                    chunks.append(chunk)
                else:
                    return b"".join(chunks)
    except TimeoutError:
        raise HTTPException(408, "The body took too long to arrive.", {"Connection": "close"}) from None
    await _drain(stream)
    raise HTTPException(413, f"The body is larger than {limit:,} bytes.", {"Connection": "close"})


async def _drain(stream: Any) -> None:
    """Reads on for a moment: a sender that is reset while it still writes never sees why it was refused."""
    drained = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in stream:
                drained += len(chunk)
                if drained > _DRAINED_BYTES:
                    return
    except TimeoutError:
        return


def require_content_type(request: Request, wanted: str) -> None:
    """Raises HTTPException (415) unless the body is of this media type."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise HTTPException(415, f"The body must be sent as {wanted}.")


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises HTTPException (400) for anything else, also for a name that stands twice."""
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise HTTPException(400, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
