"""Life cycle of an upscale job: the allowed transitions, the customer's view of it, and derived tokens."""

import hashlib
import hmac
from datetime import datetime
from typing import NamedTuple

from smi_pipeline.core.vocabulary import Stage, Status


class Transition(NamedTuple):
    """One allowed change of status and its name: the function of `state.transitions` that makes it."""

    source: Status
    target: Status
    name: str


UNFINISHED = (Status.PENDING, Status.PROCESSING)
"""Paid, and neither delivered nor failed yet."""

UNPAID = (Status.AWAITING_PAYMENT, Status.ABANDONED)

CLOSED = (Status.COMPLETED, Status.FAILED, Status.REFUNDED, Status.ABANDONED)
"""Nothing is left to do for such a job, except the refund of a failed one."""

TRANSITIONS = tuple(
    Transition(source, target, name)
    for name, sources, target in (
        ("start_paid", UNPAID, Status.PENDING),
        ("refuse_amount", UNPAID, Status.FAILED),
        ("abandon", (Status.AWAITING_PAYMENT,), Status.ABANDONED),
        ("begin_processing", (Status.PENDING,), Status.PROCESSING),
        ("complete", (Status.PROCESSING,), Status.COMPLETED),
        ("fail", UNFINISHED, Status.FAILED),
        ("keep_delivered", UNFINISHED, Status.COMPLETED),
        ("fail_refunded", UNFINISHED, Status.FAILED),
        ("mark_refunded", (Status.FAILED,), Status.REFUNDED),
        ("retry", (Status.AWAITING_PAYMENT, *CLOSED), Status.PENDING),
    )
    for source in sources
)
"""All allowed changes of status. A trigger of the database enforces the same table; a test compares the two.

`keep_delivered`: a free retry failed, the file delivered before stays. `fail_refunded`: the payment was returned
outside the pipeline before the job ended. `retry`: an admin starts a new round."""

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


def download_token(secret_key: str, job_id: str, fulfilment_round: int, sequence: int) -> str:
    """Return the 64-character token of a download link. It is derived, so it can be shown again; only its hash is
    stored."""
    return _mac(secret_key, "download", job_id, fulfilment_round, sequence)


def callback_token(secret_key: str, submission_id: int) -> str:
    """Return the secret part of a submission's webhook URL (Upsampler does not sign its webhooks)."""
    return _mac(secret_key, "callback", submission_id)


def view_token(secret_key: str, job_id: str, links_revoked: int = 0) -> str:
    """Return the key that lets a customer see the link and the refund of a job, not only its progress.

    `links_revoked` counts how often the links of the job were revoked: each time they become others."""
    return _mac(secret_key, "view", job_id, *_generation(links_revoked))[:32]


def rating_token(secret_key: str, job_id: str, links_revoked: int = 0) -> str:
    """Return the key that lets a customer rate a job; `links_revoked` as for `view_token`."""
    return _mac(secret_key, "rate", job_id, *_generation(links_revoked))[:32]


def end_waiting_token(secret_key: str, job_id: str, links_revoked: int = 0) -> str:
    """Return the key that lets a customer end the waiting for a job and have the money back; `links_revoked` as for
    `view_token`."""
    return _mac(secret_key, "end waiting", job_id, *_generation(links_revoked))[:32]


def _generation(links_revoked: int) -> tuple[int, ...]:
    return (links_revoked,) if links_revoked else ()


def key_id(secret_key: str) -> str:
    """Return a name of a secret key that tells nothing about it, to note by which one something was signed."""
    return _mac(secret_key, "id")[:16]


def token_hash(token: str) -> str:
    """Return what the database stores of a token: its SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def progress_percent(
    status: Status, *, now: datetime, started_at: datetime | None, expected_seconds: float | None
) -> int:
    """Return the progress to show a customer: 100 when completed, an estimate of 5 to 95 while processing, else 0."""
    if status is Status.COMPLETED:
        return 100
    if status is not Status.PROCESSING or started_at is None:
        return 0
    elapsed = max(0.0, (now - started_at).total_seconds())
    return max(5, min(95, round(100 * elapsed / max(1.0, expected_seconds or 60.0))))
