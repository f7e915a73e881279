"""What a customer may know of an order, as plain values: the status API and the page both show exactly this."""

from datetime import datetime
from typing import Any

from smi_pipeline.core import formatting, reasons
from smi_pipeline.core.lifecycle import CUSTOMER_STAGE, progress_percent
from smi_pipeline.core.models import Refund, Stage, Status, UpscaleJob
from smi_pipeline.core.vocabulary import UNFINISHED_REFUNDS
from smi_pipeline.services import notify, submit
from smi_pipeline.services.context import ServiceContext

STEPS = ("awaiting_payment", "queued", "preparing", "upscaling", "checking", "completed")
ENDED = ("completed", "refunded", "abandoned", "failed")

CHECKING_PERCENT = 90
"""The estimate goes by time; a result that came early has come far all the same."""

POLL_SECONDS = 10
POLL_SECONDS_UNPAID = 3  # who comes back from Checkout waits for Stripe's webhook
POLL_SECONDS_REFUND = 60  # a pending refund takes days


def snapshot(ctx: ServiceContext, job: UpscaleJob, *, full: bool) -> dict[str, Any]:
    """The state of an order now. `full` adds what only its customer may see: the order, the link, the refunds."""
    now = ctx.state.submissions.now()
    step = step_of(job)
    eta = _eta_seconds(ctx, job, now)
    refunds = [_refund(ctx, job, r) for r in ctx.state.refunds.of_job(job.job_id)]
    pending = any(r["state"] in UNFINISHED_REFUNDS for r in refunds)
    poll_after = _poll_after(step, pending)
    progress = progress_percent(
        job.status, now=now, started_at=job.processing_at, expected_seconds=job.expected_seconds
    )
    data: dict[str, Any] = {
        "job_id": job.job_id,
        "status": CUSTOMER_STAGE[job.status].value,
        "step": step,
        "progress": max(progress, CHECKING_PERCENT) if step == "checking" else progress,
        "eta": eta,
        "eta_text": _eta_text(step, eta),
        "estimated_completion": _iso(job.estimated_completion),
        "updated_at": _iso(job.updated_at),
        "poll_after": poll_after,
    }
    if not full:
        # Also without the signed word a page must notice that something changed; what, it is not told.
        return data | {"revision": step}
    width, height = job.output_size
    download = _download(ctx, job, now) if job.status is Status.COMPLETED else None
    revision = "/".join([step, *(f"{r['kind']}:{r['state']}" for r in refunds), str(bool(download))])
    return data | {
        "revision": revision,
        "order": {
            "resolution": job.resolution,
            "file_name": job.file_name,
            "width": width,
            "height": height,
            "price_cents": job.price_cents,
            "currency": job.currency,
        },
        "reason": _reason(job),
        "download": download,
        "refunds": refunds,
    }


def step_of(job: UpscaleJob) -> str:
    """Where the order stands, finer than the four words of the status."""
    match job.status:
        case Status.PENDING:
            return "queued"
        case Status.PROCESSING if job.submitted_at is None:
            return "preparing"
        case Status.PROCESSING if job.stage in (Stage.COMPLETED, Stage.FAILED):
            return "checking"
        case Status.PROCESSING:
            return "upscaling"
        case _:
            return job.status.value


def _eta_seconds(ctx: ServiceContext, job: UpscaleJob, now: datetime) -> int | None:
    """Seconds until the image is probably ready; None when nobody can say."""
    if job.status is Status.PENDING:
        wait = ctx.state.queries.forecast_wait_seconds(ctx.policy.requests_per_minute)
        return round(wait + submit.expected_seconds(ctx, job))
    if job.status is not Status.PROCESSING or job.processing_at is None:
        return None
    left = (job.expected_seconds or 60.0) - (now - job.processing_at).total_seconds()
    return round(left) if left >= 1 else None


def _eta_text(step: str, eta: int | None) -> str:
    if step in ENDED or step == "awaiting_payment":
        return ""
    if eta is None:
        return "This takes a little longer than usual."
    if eta < 50:
        return "Less than a minute left."
    minutes = round(eta / 60)
    return f"About {minutes} minute{'' if minutes == 1 else 's'} left." if minutes < 90 else "A few hours left."


def _poll_after(step: str, refund_pending: bool) -> int | None:
    """Seconds until a page should ask again; None when nothing can change any more."""
    if step == "awaiting_payment":
        return POLL_SECONDS_UNPAID
    if refund_pending:
        return POLL_SECONDS_REFUND if step in ENDED else POLL_SECONDS
    return None if step in ENDED else POLL_SECONDS


def _reason(job: UpscaleJob) -> str | None:
    """Why there is no image, in words for a customer; the operators' words may name hosts."""
    if job.status not in (Status.FAILED, Status.REFUNDED):
        return None
    return reasons.FOR_CUSTOMER.get(job.reason_code or "", "The order could not be fulfilled.")


def _download(ctx: ServiceContext, job: UpscaleJob, now: datetime) -> dict[str, Any] | None:
    link = ctx.state.deliveries.current_token(job.job_id)
    if link is None:
        return None
    file = ctx.state.deliveries.find_download(link.token)
    available = not link.expired and bool(job.result_key) and (file is None or file.files_removed_at is None)
    return {
        "available": available,
        "url": f"{ctx.policy.public_url}/smi/v1/download/{link.token}" if available else None,
        "file_name": notify.delivered_name(job.file_name, job.resolution, job.result_format),
        "format": job.result_format,
        "bytes": job.result_bytes,
        "width": job.result_width,
        "height": job.result_height,
        "expires_at": _iso(link.expires_at),
        "expires_text": formatting.moment(link.expires_at),
        "time_left": formatting.time_left(link.expires_at, now),
    }


def _refund(ctx: ServiceContext, job: UpscaleJob, refund: Refund) -> dict[str, Any]:
    amount = refund.amount_cents
    if amount is None:  # not asked of Stripe yet, or returned by others: all that was paid
        payment = ctx.state.queries.payment(refund.payment_intent_id)
        amount = payment.received_cents if payment else job.price_cents
    return {
        "kind": refund.kind,
        "state": refund.state,
        "amount_cents": amount,
        "currency": refund.currency,
        "amount_text": formatting.money(amount, refund.currency),
        "reason": reasons.FOR_CUSTOMER.get(refund.reason_code, "The order could not be fulfilled."),
        "since": _iso(refund.settled_at or refund.first_called_at or refund.created_at),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
