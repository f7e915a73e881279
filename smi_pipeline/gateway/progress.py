"""Describe an order for its customer: the values that both the status API and the page show."""

from datetime import datetime, timedelta
from typing import Any

from smi_pipeline import formatting
from smi_pipeline.core import reasons
from smi_pipeline.core.lifecycle import CUSTOMER_STAGE, progress_percent
from smi_pipeline.core.models import Refund, Stage, Status, UpscaleJob
from smi_pipeline.core.vocabulary import UNFINISHED_REFUNDS, EmailKind, EmailState, RefundState
from smi_pipeline.services import notify, submit
from smi_pipeline.services.context import ServiceContext

STEPS = (Status.AWAITING_PAYMENT, "queued", "preparing", "upscaling", "checking", Status.COMPLETED)
ENDED = (Status.COMPLETED, Status.REFUNDED, Status.ABANDONED, Status.FAILED)

CHECKING_PERCENT = 90
"""Lowest progress while the result is checked: the estimate by time is too low when it arrives early."""

WAITING_TEXT = (
    "A service that we use to make your image has a problem at the moment. Your order waits, and it continues "
    "automatically as soon as the problem is solved. Your money is safe: you get your image, or your money back."
)

MAIL_DELAY = timedelta(minutes=2)
"""How long the mail with the link may take until the page speaks of a delay."""

MAIL_TEXTS = {
    "delayed": "The e-mail with your link is delayed: it has not been accepted for delivery yet. We keep trying for at "
    "least a day. You do not have to wait for it: you can download your image here. Keep the address of this page.",
    "failed": "The e-mail with your link could not be delivered. You can download your image here. Keep the address of "
    "this page.",
}

POLL_SECONDS = 10
POLL_SECONDS_UNPAID = 3  # a customer back from Checkout waits for Stripe's webhook
POLL_SECONDS_REFUND = 60  # a pending refund takes days
POLL_SECONDS_MAIL = 60  # a mail that is delayed takes minutes or hours


def snapshot(ctx: ServiceContext, job: UpscaleJob, *, full: bool) -> dict[str, Any]:
    """Return the state of an order. `full` adds what only its customer may see: the order, the link, the refunds."""
    now = ctx.state.submissions.now()
    step = step_of(job)
    since = ctx.state.waiting.since(job.job_id) if job.queue else None
    eta = None if since or job.hold_reason else _eta_seconds(ctx, job, now)
    refunds = [_refund(ctx, job, r) for r in ctx.state.refunds.of_job(job.job_id)]
    pending = any(r["state"] in UNFINISHED_REFUNDS for r in refunds)
    on_its_way = job.status is Status.AWAITING_PAYMENT and job.paying_intent is not None
    poll_after = POLL_SECONDS_REFUND if on_its_way else _poll_after(step, pending)
    progress = progress_percent(
        job.status, now=now, started_at=job.processing_at, expected_seconds=job.expected_seconds
    )
    data: dict[str, Any] = {
        "job_id": job.job_id,
        "status": CUSTOMER_STAGE[job.status].value,
        "step": step,
        "payment_on_its_way": on_its_way,
        "progress": max(progress, CHECKING_PERCENT) if step == "checking" else progress,
        "eta": eta,
        "eta_text": "Waiting; it continues automatically." if since else _eta_text(step, eta),
        "estimated_completion": _iso(job.estimated_completion),
        "updated_at": _iso(job.updated_at),
        "waiting": {"since": _iso(since), "message": WAITING_TEXT} if since else None,
        "poll_after": poll_after,
    }
    if not full:
        # Without the signed token a page learns that something changed, but not what.
        return data | {"revision": f"{step}/waiting" if since else step + "!" * on_its_way}
    width, height = job.output_size
    download = _download(ctx, job, now) if job.status is Status.COMPLETED else None
    mail = _mail(ctx, job, now) if job.status is Status.COMPLETED else "none"
    # The promised time is over: now the page offers what the mail about the delay does.
    late = since is not None and job.paid_at is not None and now >= job.paid_at + ctx.policy.max_processing
    end_url = notify.end_waiting_url(ctx, job) if late and ctx.state.waiting.can_end(job.job_id) else None
    revision = "/".join(
        [
            step + "!" * on_its_way,
            *(["waiting"] if since else []),
            *(["late"] if end_url else []),
            *(f"{r['kind']}:{r['state']}{'!' * r['action_needed']}" for r in refunds),
            str(bool(download)),
            *([mail] if mail in MAIL_TEXTS else []),
        ]
    )
    return data | {
        "revision": revision,
        "poll_after": poll_after or (POLL_SECONDS_MAIL if mail in ("queued", "delayed") else None),
        "end_waiting_url": end_url,
        "mail": {"state": mail, "message": MAIL_TEXTS.get(mail)},
        "order": {
            "resolution": job.resolution,
            "file_name": job.file_name,
            "width": width,
            "height": height,
            "price_cents": job.price_cents,
            "currency": job.currency,
            "mailed": bool(job.customer_email),
        },
        "reason": _reason(job),
        "download": download,
        "refunds": refunds,
    }


def step_of(job: UpscaleJob) -> str:
    """Return the step of an order, more detailed than its status."""
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
    """Return the estimated seconds until the image is ready, None when unknown."""
    if job.status is Status.PENDING:
        wait = ctx.state.queries.forecast_wait_seconds(ctx.policy)
        return round(wait + submit.expected_seconds(ctx, job))
    if job.status is not Status.PROCESSING or job.processing_at is None:
        return None
    left = (job.expected_seconds or 60.0) - (now - job.processing_at).total_seconds()
    return round(left) if left >= 1 else None


def _eta_text(step: str, eta: int | None) -> str:
    if step in ENDED or step == Status.AWAITING_PAYMENT:
        return ""
    if eta is None:
        return "This takes a little longer than usual."
    if eta < 50:
        return "Less than a minute left."
    minutes = round(eta / 60)
    return f"About {minutes} minute{'' if minutes == 1 else 's'} left." if minutes < 90 else "A few hours left."


def _poll_after(step: str, refund_pending: bool) -> int | None:
    """Return the seconds until a page should poll again, None when nothing can change any more."""
    if step == Status.AWAITING_PAYMENT:
        return POLL_SECONDS_UNPAID
    if refund_pending:
        return POLL_SECONDS_REFUND if step in ENDED else POLL_SECONDS
    return None if step in ENDED else POLL_SECONDS


def _reason(job: UpscaleJob) -> str | None:
    """Return why there is no image, in words for customers: those for operators may name hosts."""
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


def _mail(ctx: ServiceContext, job: UpscaleJob, now: datetime) -> str:
    """Return the state of the newest mail with the link: queued, delayed, sent or failed; none without an address."""
    mails = [mail for mail in ctx.state.emails.of_job(job.job_id) if mail.kind is EmailKind.COMPLETION]
    if not mails or not job.customer_email:
        return "none"
    newest = max(mails, key=lambda mail: mail.sequence)
    if newest.state is EmailState.ACCEPTED:
        return "sent"
    if newest.state is EmailState.FAILED:
        return "failed"
    return "delayed" if now - newest.created_at >= MAIL_DELAY else "queued"


def _refund(ctx: ServiceContext, job: UpscaleJob, refund: Refund) -> dict[str, Any]:
    amount = refund.amount_cents
    if amount is None:  # not requested yet, or returned elsewhere: the whole payment
        payment = ctx.state.queries.payment(refund.payment_intent_id)
        amount = payment.received_cents if payment else job.price_cents
    return {
        "kind": refund.kind,
        "state": refund.state,
        "action_needed": refund.state is RefundState.PENDING and refund.stripe_status == "requires_action",
        "amount_cents": amount,
        "currency": refund.currency,
        "amount_text": formatting.money(amount, refund.currency),
        "reason": reasons.FOR_CUSTOMER.get(refund.reason_code, "The order could not be fulfilled."),
        "since": _iso(refund.settled_at or refund.first_called_at or refund.created_at),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
