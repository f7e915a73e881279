"""The two API formats of Upsampler: detect the format of a submission, and write responses and webhooks in it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

ApiFormat = Literal["documented", "live"]

_LIVE_WORDS = {"queued": "IN_QUEUE", "processing": "IN_PROGRESS", "completed": "SUCCESS", "failed": "FAILED"}
MAX_SCALE = 16


class BadRequest(ValueError):
    """The submission is invalid; the message is sent to the client."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission, in either format."""

    api_format: ApiFormat
    image_url: str
    scale: int
    webhook: str | None
    job_id: str | None
    metadata: dict[str, Any]


def recognise(body: Any, default: ApiFormat) -> ApiFormat:
    """Return the API format of a submission, by its field names."""
    if isinstance(body, dict):
        if "input" in body or "webhook" in body:
            return "live"
        if {"image_url", "scale_factor", "webhook_url"} & set(body):
            return "documented"
    return default


def parse(body: Any, api_format: ApiFormat) -> Submission:
    """Return the parsed submission. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object")
    metadata: dict[str, Any] = {}
    if api_format == "live":
        fields, prefix, (image_url, scale, webhook) = (
            body.get("input"),
            "input.",
            ("imageUrl", "upscaleFactor", "webhook"),
        )
        if not isinstance(fields, dict):
            raise BadRequest("input is required")
    else:
        fields, prefix, (image_url, scale, webhook) = body, "", ("image_url", "scale_factor", "webhook_url")
        metadata = body.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise BadRequest("metadata must be an object")
        if body.get("format", "auto") not in ("auto", "png", "jpg", "jpeg", "webp"):
            raise BadRequest("format must be auto, png, jpg or webp")
    job_id = metadata.get("job_id")
    return Submission(
        api_format=api_format,
        image_url=_url(fields.get(image_url), prefix + image_url),
        scale=_scale(fields.get(scale), prefix + scale),
        webhook=_url(body[webhook], webhook) if body.get(webhook) else None,
        job_id=str(job_id) if job_id is not None else None,
        metadata=metadata,
    )


def _url(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise BadRequest(f"{name} must be an http(s) URL")
    return value


def _scale(value: Any, name: str) -> int:
    if isinstance(value, bool) or value not in range(1, MAX_SCALE + 1):
        raise BadRequest(f"{name} must be a whole number from 1 to {MAX_SCALE}")
    return int(value)


def _word(record: dict[str, Any]) -> str:
    """Return the status word of a record: its own, or that of the API format."""
    word = _LIVE_WORDS[record["status"]] if record["api_format"] == "live" else record["status"]
    return str(record.get("word") or word)


def accepted(record: dict[str, Any]) -> dict[str, Any]:
    """Return the response to a submission."""
    if record["api_format"] == "live":
        reply = {"id": record["id"], "status": _word(record)}
    else:
        reply = {
            "success": record["status"] != "failed",
            "job_id": record["id"],
            "status": _word(record),
            "estimated_completion": _iso(record["estimated_completion"]),
        }
    if record["status"] == "failed":
        reply["error"] = record["error"]
    return reply


def status(record: dict[str, Any], result_url: str | None) -> dict[str, Any]:
    """Return the response to a status call."""
    if record["api_format"] == "live":
        return {
            "id": record["id"],
            "status": _word(record),
            "imageUrl": result_url,
            "compressedImageUrl": result_url,
            "creditCost": record["credits"],
            "error": record["error"],
        }
    return {
        "job_id": record["id"],
        "status": _word(record),
        "result_url": result_url,
        "credits_used": record["credits"],
        "error": record["error"],
        "estimated_completion": _iso(record["estimated_completion"]),
    }


def webhook(record: dict[str, Any], result_url: str | None) -> dict[str, Any]:
    """Return the body of a webhook."""
    if record["api_format"] == "live":
        answer = status(record, result_url)
        del answer["compressedImageUrl"]
        return answer
    return {
        "job_id": record["id"],
        "status": _word(record),
        "result_url": result_url,
        "error": record["error"],
        "metadata": record["metadata"],
    }


def error(api_format: ApiFormat, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"success": False, "error": message} if api_format == "documented" else {"error": message}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
