"""What a caller is told when something is refused or does not work: one JSON form, and one page for browsers."""

import http
import traceback

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smi_pipeline.core.errors import RefusedError, SmiError, TransientError, Unavailable
from smi_pipeline.gateway.context import gateway_of

log = structlog.get_logger("smi_pipeline.gateway")

RETRY_SECONDS = 30
"""What senders are told when no better number is known."""

_CODES = {
    408: "timeout",
    413: "too_large",
    416: "range_not_satisfiable",
    422: "invalid",
    500: "internal",
    503: "unavailable",
}
"""Codes of errors that are shorter than the standard's phrase."""

_PAGES = {
    404: ("This page does not exist", "Please check the address: it must be exactly as it stands in the e-mail."),
    410: ("This link is no longer valid", ""),
    425: ("Your image is not ready yet", "Please come back in a moment."),
    429: ("Please wait a minute", ""),
    500: ("Something went wrong", "That is our fault. Please try again in a moment."),
    503: ("Please try again in a moment", "The shop cannot answer right now. Nothing is lost."),
}


def refused(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The answer for `status`: a page for a browser, else `{"success": false, "error": {"code", "message"}}`."""
    words = " ".join(message.split())[:400]
    if "text/html" in request.headers.get("accept", ""):
        title, lead = _PAGES.get(status, ("This did not work", ""))
        page = {"title": title, "lead": lead, "message": words if words != lead else "", "status": status}
        return gateway_of(request).pages.response("error.html", page, status=status, headers=headers)
    error = {"code": _CODES.get(status, http.HTTPStatus(status).name.lower()), "message": words}
    return JSONResponse({"success": False, "error": error}, status_code=status, headers=headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Errors of this layer: bodies, authentication, unknown paths."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if message == http.HTTPStatus(error.status_code).phrase:  # the framework's own, for paths and methods
        message = {
            404: "There is nothing at this address.",
            405: f"Only {dict(error.headers or {}).get('Allow', 'another method')} is possible here.",
        }.get(error.status_code, message)
    return refused(request, error.status_code, message, dict(error.headers or {}))


async def on_smi_error(request: Request, error: Exception) -> Response:
    """Errors that the services raise on purpose. Only refusals are told in their own words."""
    assert isinstance(error, SmiError)
    if isinstance(error, Unavailable):
        return refused(request, error.status, str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, RefusedError):
        return refused(request, error.status, str(error))
    if isinstance(error, TransientError):
        return unavailable(request, error)
    return internal(request, error)


def unavailable(request: Request, error: SmiError) -> Response:
    """Something we need does not answer: 503, so that the sender comes again."""
    gateway_of(request).note_unavailable(error)
    seconds = max(1, round(getattr(error, "retry_after", None) or RETRY_SECONDS))
    words = "The service cannot answer right now; please try again."
    return refused(request, 503, words, {"Retry-After": str(seconds)})


def internal(request: Request, error: Exception) -> Response:
    """A bug. Logged without the error's own words, which may hold addresses."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "smi_pipeline" in frame.filename]
    where = [f"{frame.filename.rpartition('smi_pipeline')[2]}:{frame.lineno} {frame.name}" for frame in frames[-5:]]
    log.error("unexpected error", action="error", error=type(error).__name__, where=where)
    return refused(request, 500, "That did not work because of an error on our side.")


EXCEPTION_HANDLERS = {HTTPException: on_http_exception, SmiError: on_smi_error}
