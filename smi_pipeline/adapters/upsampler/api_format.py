"""Read and write the JSON of the Upsampler API in both of its formats.

Answers are accepted in either format whatever is configured, and made storable: printable text of bounded length, whole
credits, times in UTC.
"""

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from smi_pipeline.adapters.fetching.allowed_hosts import as_requested
from smi_pipeline.core.models import ApiFormat, Stage, SubmitRequest, UpscaleReply
from smi_pipeline.formatting import one_line

log = logging.getLogger(__name__)

MAX_MESSAGE = 300  # characters of an error message that are kept
MAX_ID = 200
MAX_URL = 4096
MAX_CREDITS = 1_000_000

STAGES: dict[str, Stage] = {
    **{stage.value: stage for stage in Stage},  # the documented words
    "in_queue": Stage.QUEUED,
    "in_progress": Stage.PROCESSING,
    "success": Stage.COMPLETED,
    **dict.fromkeys(("canceled", "cancelled", "error", "timeout", "expired", "nsfw"), Stage.FAILED),
}
"""Status words of both API formats, and those that other APIs of this kind use, in lower case."""


def submission(request: SubmitRequest, api_format: ApiFormat) -> dict[str, Any]:
    """Return the JSON body of POST /precise-upscale. The image has the address at which it was checked."""
    image_url = as_requested(request.image_url)
    if api_format is ApiFormat.DOCUMENTED:
        return {
            "image_url": image_url,
            "scale_factor": request.scale,
            "format": "auto",
            "webhook_url": request.webhook_url,
            "metadata": {"job_id": request.job_id, "plugin": "sell-my-images"},
        }
    return {
        "webhook": request.webhook_url,
        "input": {
            "imageUrl": image_url,
            "inputImageType": "universal",
            "upscaleFactor": request.scale,
            "globalCreativity": 7,
            "detail": 8,
        },
    }


def json_object(body: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object, None when it is anything else."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def reply(data: Mapping[str, Any], *, missing: Stage) -> UpscaleReply:
    """Read a reply, status answer or webhook of either API format.

    `missing` is the stage when no status is given; an unknown status counts as still processing. A completed upscale
    may have no URL: the caller decides. The result is `result_url` or `imageUrl`, never `compressedImageUrl`, which is
    a copy of lower quality.
    """
    external_id = _external_id(data.get("job_id") or data.get("id"))
    error = one_line(_words(data.get("error")), MAX_MESSAGE) or None
    refused = data.get("success") is False
    if refused and error is None:
        error = one_line(_words(data.get("message")), MAX_MESSAGE) or None
    stage = _stage(data.get("status"), Stage.FAILED if refused and external_id else missing)
    if stage is Stage.FAILED and error is None and str(data.get("status", "failed")).lower() != Stage.FAILED:
        error = f"status {data['status']}"
    url = data.get("result_url") or data.get("imageUrl")
    cost = data.get("credits_used")
    return UpscaleReply(
        external_id=external_id,
        stage=stage,
        result_url=url if isinstance(url, str) and url.isprintable() and len(url) <= MAX_URL else None,
        credits=_credits(data.get("creditCost") if cost is None else cost),
        error=error,
        estimated_completion=_moment(data.get("estimated_completion")),
    )


def is_page(media_type: str, body: bytes) -> bool:
    """Return whether an answer is an HTML page, which the API never sends: something in front of it does."""
    return media_type.lower().startswith("text/html") or body[:200].lstrip().lower().startswith(
        (b"<!doctype", b"<html")
    )


def error_words(body: bytes) -> str:
    """Return the message of an error answer on one line; empty when it is not the API's JSON."""
    data = json_object(body) or {}
    texts = (_words(data.get(name)) for name in ("error", "message", "detail"))
    return one_line(next(filter(None, texts), ""), MAX_MESSAGE)


def _stage(word: Any, missing: Stage) -> Stage:
    if word is None:
        return missing
    stage = STAGES.get(word.lower()) if isinstance(word, str) else None
    if stage is None:
        log.warning(
            "Upsampler's status is unknown, taken as processing: %s",
            one_line(str(word), MAX_MESSAGE),
            extra={"action": "upsampler_unknown_status"},
        )
    return stage or Stage.PROCESSING


def _external_id(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if text.isprintable() and 0 < len(text) <= MAX_ID else None


def _words(value: Any) -> str:
    """The words in an error field: a string, an object with a message, or anything else as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("message"), str):
        value = value["message"]
    if isinstance(value, Mapping | list):
        value = json.dumps(value)
    return value if isinstance(value, str) else ""


def _credits(value: Any) -> int | None:
    """Credits as an integer, a fraction counted as a whole one; None for anything that is not a sensible number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return math.ceil(number) if 0 <= number <= MAX_CREDITS else None


def _moment(value: Any) -> datetime | None:
    """An ISO 8601 time, UTC when it names no zone; None for anything else."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC) if at else None
    except (ValueError, OverflowError):
        return None
