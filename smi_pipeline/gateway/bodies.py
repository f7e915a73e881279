"""Read request bodies within limits of size and time, and validate JSON against models."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

MEGABYTE = 1_000_000
WEBHOOK_BYTES = MEGABYTE
FORM_BYTES = ORDER_BYTES = 64_000
BODY_SECONDS = 10.0
_DRAINED_BYTES = 16 * MEGABYTE
_DRAIN_SECONDS = 2.0

# pydantic's types of errors that callers of these endpoints can make, in our words
_PROBLEMS = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_unicode": "has characters that cannot be printed",
    "string_too_long": "is longer than {max_length} characters",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "value_error": "{error}",
}


class Body(BaseModel):
    """Base of the models of JSON bodies: types are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnyBody = TypeVar("AnyBody", bound=Body)


def validated(model: type[AnyBody], body: Mapping[str, Any]) -> AnyBody:
    """Return `body` as a `model`. Raise HTTPException (422) with one line that names the first wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    unknown = [str(problem["loc"][0]) for problem in problems if problem["type"] == "extra_forbidden"]
    if unknown:
        fields = ", ".join(model.model_fields)
        known = f"known are {fields}" if fields else "none is known here"
        raise HTTPException(422, f"unknown field {min(unknown)[:60]!r}; {known}")
    first = problems[0]
    kind = "missing" if first["input"] is None else first["type"]
    message = _PROBLEMS.get(kind, first["msg"]).format(**first.get("ctx", {}))
    raise HTTPException(422, f"{first['loc'][0]} {message}")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body.

    Raise HTTPException: 413 for more than `limit` bytes, whatever Content-Length said; 408 when the sender takes more
    than ten seconds.
    """
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


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read on for a moment: a sender whose connection is reset while it writes never sees why it was refused."""
    drained = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in stream:
                drained += len(chunk)
                if drained > _DRAINED_BYTES:
                    return


def require_content_type(request: Request, wanted: str) -> None:
    """Raise HTTPException (415) unless the body is of this media type."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise HTTPException(415, f"The body must be sent as {wanted}.")


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raise HTTPException (400) for anything else, also for a duplicate name."""
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
        raise ValueError("duplicate name")
    return value


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
