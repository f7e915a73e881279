"""Serves the delivered files: whole or one range, with their hash as ETag, never executed by a browser."""

import re
from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import quote

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from smi_pipeline.core.errors import NotFound, SmiError
from smi_pipeline.core.models import Download
from smi_pipeline.core.vocabulary import ManualTaskKind, Status
from smi_pipeline.gateway.auth import is_token
from smi_pipeline.gateway.context import Gateway, gateway_of
from smi_pipeline.services.notify import delivered_name

log = structlog.get_logger("smi_pipeline.gateway")

CHUNK_BYTES = 256 * 1024
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,40})\s*-\s*(\d{0,40})\s*", re.ASCII | re.IGNORECASE)


async def download(request: Request) -> Response:
    """Serve GET /smi/v1/download/{token}: 404 unknown, 410 expired, revoked or deleted, 425 not ready."""
    gateway = gateway_of(request)
    token = request.path_params["token"]
    file = await gateway.threads.quick(_find, gateway, request)
    size, etag = file.result_bytes or 0, f'"{file.result_sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # a link can be revoked: browsers must ask each time
        "Content-Disposition": _attachment(file),
        "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
        "ETag": etag,
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    asked = _range(request, etag)
    span = _span(asked, size)
    if span is None:
        raise HTTPException(416, f"The file has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    first, last = span
    whole = (first, last) == (0, size - 1)
    if asked:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    media_type = MEDIA_TYPES.get(file.result_format or "", "application/octet-stream")
    status = 206 if asked else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    stream = await gateway.threads.file(_open, gateway, file, first)
    body = _chunks(gateway, stream, last - first + 1, token if whole else None)
    return StreamingResponse(body, status_code=status, headers=headers, media_type=media_type)


def _find(gateway: Gateway, request: Request) -> Download:
    token = request.path_params["token"]
    file = gateway.ctx.state.deliveries.find_download(token) if is_token(token) else None
    if file is None:
        gateway.wrong_secrets.note_wrong(request)
        raise HTTPException(404, "There is no such download; please check the address.")
    if file.revoked:
        raise HTTPException(410, "This link was replaced by a newer one; please use the link of the latest e-mail.")
    if file.expired or file.files_removed_at is not None:
        raise HTTPException(410, "This download link has expired.")
    if file.status in (Status.PENDING, Status.PROCESSING):  # a retry replaces the file
        raise HTTPException(425, "A new version of this image is being made.", {"Retry-After": "30"})
    if file.result_key is None:
        raise HTTPException(425, "This image is not ready yet.", {"Retry-After": "30"})
    return file


def _open(gateway: Gateway, file: Download, at: int) -> BinaryIO:
    try:
        stream = gateway.ctx.storage.open(file.result_key or "")
    except NotFound:
        # A valid link without a file: the customer can do nothing about it.
        log.error("a delivered file is missing", action="download", job_id=file.job_id)
        gateway.ctx.state.manual_tasks.open(
            kind=ManualTaskKind.FILE_MISSING,
            subject=file.job_id,
            job_id=file.job_id,
            message=f"The delivered file of job {file.job_id} is missing from the storage.",
            next_step=f"Restore it from a backup, or run `smi jobs retry {file.job_id} --admin-override`.",
        )
        raise HTTPException(
            503, "The file cannot be read right now; we have been told.", {"Retry-After": "600"}
        ) from None
    stream.seek(at)
    return stream


async def _chunks(gateway: Gateway, stream: BinaryIO, left: int, count_for: str | None) -> AsyncIterator[bytes]:
    """Yield the bytes, and count a download when the last one was sent."""
    try:
        while left > 0:
            block = await gateway.threads.file(stream.read, min(CHUNK_BYTES, left))
            if not block:
                raise OSError(
                    "the file is shorter than it was"
                )  # cuts the response, so that nobody takes it for complete
            left -= len(block)
            yield block
    finally:
        stream.close()
    if count_for:
        try:
            await gateway.threads.quick(gateway.ctx.state.deliveries.downloaded, count_for)
        except SmiError as error:
            gateway.note_unavailable(error)


def _range(request: Request, etag: str) -> re.Match[str] | None:
    """Return the range to send; None for the whole file.

    Several ranges, another unit than bytes, or an If-Range that does not match this file get the whole file, as
    RFC 9110 allows (13.1.5 and 14.2). A range that is none, such as 5-2, and one of a HEAD must be ignored.
    """
    if request.method != "GET" or request.headers.get("if-range") not in (None, etag):
        return None
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked.groups() == ("", ""):
        return None
    start, end = asked.groups()
    return None if start and end and int(end) < int(start) else asked


def _span(asked: re.Match[str] | None, size: int) -> tuple[int, int] | None:
    """Return the first and last byte to send; None when the range lies outside of the file."""
    if asked is None:
        return 0, size - 1
    start, end = asked.groups()
    if not start:  # the last `end` bytes
        return (max(0, size - int(end)), size - 1) if int(end) > 0 else None
    first, last = int(start), min(int(end), size - 1) if end else size - 1
    return (first, last) if first < size else None


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))


def _attachment(file: Download) -> str:
    """Return Content-Disposition by RFC 6266: an ASCII name for old browsers, and the real one in UTF-8."""
    name = delivered_name(file.file_name, file.resolution, file.result_format)
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
