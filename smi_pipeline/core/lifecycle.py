"""Life of an upscale job: which steps are allowed, what the customer is told, and the signed words we hand out."""

import hashlib
import hmac
from datetime import datetime

from smi_pipeline.core.models import Stage, Status

STEPS: dict[Status, frozenset[Status]] = {
    Status.AWAITING_PAYMENT: frozenset({Status.PENDING, Status.ABANDONED, Status.FAILED}),
    Status.ABANDONED: frozenset({Status.PENDING}),
    Status.PENDING: frozenset({Status.PROCESSING, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.COMPLETED, Status.FAILED, Status.PENDING}),
    Status.COMPLETED: frozenset({Status.PENDING}),
    Status.FAILED: frozenset({Status.REFUNDED, Status.PENDING}),
    Status.REFUNDED: frozenset({Status.PENDING}),
}
"""Allowed changes of status; the steps back to `pending` are an admin's retry (a new round), and a payment that
arrives after `abandoned`. The database checks the same table in a trigger."""

CUSTOMER_STAGE: dict[Status, Stage] = {
    Status.AWAITING_PAYMENT: Stage.QUEUED,
    Status.ABANDONED: Stage.FAILED,
    Status.PENDING: Stage.QUEUED,
    Status.PROCESSING: Stage.PROCESSING,
    Status.COMPLETED: Stage.COMPLETED,
    Status.FAILED: Stage.FAILED,
    Status.REFUNDED: Stage.FAILED,
}

TOKEN_LENGTH = 64


def _mac(secret_key: str, *parts: object) -> str:
    message = "\x1f".join(str(part) for part in parts).encode()
    return hmac.new(secret_key.encode(), message, hashlib.sha256).hexdigest()


def download_token(secret_key: str, job_id: str, round: int, serial: int) -> str:
    """The 64-character token of a download link; derived, so that it can be shown again, and only its hash is kept."""
    return _mac(secret_key, "download", job_id, round, serial)


def callback_token(secret_key: str, submission_id: int) -> str:
    """The secret part of one submission's webhook URL (Upsampler does not sign its webhooks)."""
    return _mac(secret_key, "callback", submission_id)


def view_token(secret_key: str, job_id: str) -> str:
    """What lets a customer see the link and the refund of a job, not only its progress (W10)."""
    return _mac(secret_key, "view", job_id)[:32]


def rating_token(secret_key: str, job_id: str) -> str:
    """What lets a customer rate a job."""
    return _mac(secret_key, "rate", job_id)[:32]


def token_hash(token: str) -> str:
    """What the database keeps of a token: SHA-256, hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def progress_percent(
    status: Status, *, now: datetime, started_at: datetime | None, expected_seconds: float | None
) -> int:
    """Percent to show a customer: honest at both ends, an estimate between (5 to 95 while processing)."""
    if status is Status.COMPLETED:
        return 100
    if status is not Status.PROCESSING or started_at is None:
        return 0
    elapsed = max(0.0, (now - started_at).total_seconds())
    return max(5, min(95, round(100 * elapsed / max(1.0, expected_seconds or 60.0))))
