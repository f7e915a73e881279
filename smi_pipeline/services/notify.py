"""Mails: one stable Message-ID and the same content on every attempt."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from smi_pipeline.core import faults, reasons
from smi_pipeline.core.errors import AmbiguousError, PermanentError, RefusedError, TransientError
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.lifecycle import download_token, end_waiting_token, key_id, rating_token, view_token
from smi_pipeline.core.models import DownloadLink, Email, RenderedMail, UpscaleJob
from smi_pipeline.core.vocabulary import UNSENT, EmailKind, Queue, RefundState, StepState
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.services.lease_renewal import renewed
from smi_pipeline.services.steps import StepResult, run_step, watched

SEND_SECONDS = 60
"""Time limit of one mail; the mailer does not begin to send its content later than this."""

MAX_HAND_OVERS = 2
"""An unanswered hand-over is repeated once; after that only a person can find out whether the mail arrived."""

MAX_TRIES = 12
"""After this many attempts that ended without an answer of the server a mail becomes a manual task: it may kill its
workers. What the server refuses for the time being is tried for a day, whatever the number."""


def send(ctx: ServiceContext, work_key: str, lease_id: str) -> StepResult:
    """Send one leased mail. Raise PermanentError when a person must act; the delivery is not affected."""
    email = ctx.state.emails.get(work_key)
    job = ctx.state.queries.job(email.job_id) if email else None
    if email is None or email.state not in UNSENT:
        return StepResult(state=StepState.SETTLED, message="this mail was sent")
    if job is not None and not job.customer_email:  # a task names it since the payment
        why = "the order has no e-mail address"
        ctx.state.emails.give_up(email, lease_id, why=why, actor=ctx.actor, told=True)
        return StepResult(state=StepState.SETTLED, message=why)
    try:
        return run_step(ctx, Queue.MAIL, work_key, lease_id, email.attempts, lambda: _send(ctx, email, lease_id))
    except PermanentError as error:
        ctx.state.emails.give_up(email, lease_id, why=str(error), actor=ctx.actor)
        raise


def send_owed(ctx: ServiceContext, job_id: str) -> list[StepResult]:
    """Send the queued mails of a job at once, except those that another worker has.

    A mail that fails stays queued or becomes a manual task: it never undoes what it reports.
    """
    results = []
    for email in ctx.state.emails.of_job(job_id):
        if email.state not in UNSENT:
            continue
        lease_id = ctx.state.leases.lease_one(Queue.MAIL, email.work_key)
        if lease_id:
            try:
                with renewed(ctx, lease_id, seconds=SEND_SECONDS):
                    results.append(send(ctx, email.work_key, lease_id))
            except PermanentError as error:
                results.append(StepResult(state=StepState.SETTLED, message=f"the mail could not be sent: {error}"))
            except Exception as error:  # it is due again, like one that was not answered; the others are sent
                log.exception("the mail %s could not be sent", email.work_key)
                results.append(StepResult(state=StepState.LATER, message=f"the mail could not be sent: {error}"))
    return results


def _send(ctx: ServiceContext, email: Email, lease_id: str) -> StepResult:
    job = ctx.state.queries.job(email.job_id)
    if job is None:
        raise PermanentError("mail_refused", "the job of this mail does not exist")
    if email.attempts - email.refusals > MAX_TRIES:
        raise PermanentError(
            "mail_refused", f"not sent in {MAX_TRIES} attempts: {email.last_error or 'no reason known'}"
        )
    if email.hand_overs >= MAX_HAND_OVERS:
        raise PermanentError("mail_refused", "the mail server twice gave no answer; the mail may have arrived")
    over = email.kind is EmailKind.DELAY and ctx.state.waiting.since(job.job_id) is None
    if over and ctx.state.emails.withdraw(email, lease_id, why="the order goes on", actor=ctx.actor):
        return StepResult(state=StepState.SETTLED, message="not needed any more: the order goes on")
    now = ctx.state.submissions.now()
    if _is_late(ctx, email, now):
        ctx.state.deliveries.renew_links(ctx.policy.download_ttl, job.job_id)
    mail = _rendered(ctx, job, email, now)
    signed_by = email.signed_by if mail.content == email.content else key_id(ctx.secret_key)
    with watched(ctx, faults.MAIL, email.work_key):
        if not ctx.state.emails.hand_over(email, lease_id, mail.content, to=job.customer_email, signed_by=signed_by):
            return StepResult(state=StepState.LOST, message="another worker has this mail")
        refusal = _refusal(ctx, mail)
        if isinstance(refusal, TransientError) and not refusal.counts:  # the server refuses us, not this mail
            seconds = refusal.retry_after or 30.0
            anew = refusal.scope is Scope.SHOP
            ctx.state.emails.postpone(email, lease_id, seconds=seconds, error=str(refusal), anew=anew)
            raise refusal
    if refusal is not None:
        return _refused(ctx, email, lease_id, refusal)
    ctx.state.emails.accepted(email, actor=ctx.actor)
    ctx.state.breakers.note_success(faults.MAIL, ctx.policy)
    return StepResult(state=StepState.DONE, message=f"{email.kind} mail accepted by the mail server")


def _refusal(ctx: ServiceContext, mail: RenderedMail) -> TransientError | PermanentError | None:
    """Hand over a mail. Return why it was certainly not taken, None if it was."""
    try:
        ctx.mailer.send(mail)
    except AmbiguousError:
        raise
    except (TransientError, PermanentError) as error:
        return error
    return None


def _refused(ctx: ServiceContext, email: Email, lease_id: str, refusal: TransientError | PermanentError) -> StepResult:
    """Record a refusal of this mail. Raise PermanentError when it is given up."""
    failure = Failure(
        breaker=faults.MAIL,
        work_key=email.work_key,
        message=str(refusal),
        scope=refusal.scope,
        costly=refusal.scope is Scope.SHOP,
    )
    final = isinstance(refusal, PermanentError)
    seconds = ctx.state.emails.refused(email, lease_id, failure, final=final, actor=ctx.actor)
    if seconds is None:
        raise PermanentError("mail_refused", str(refusal)) from refusal
    return StepResult(state=StepState.LATER, message=str(refusal), retry_seconds=round(seconds, 1))


def _rendered(ctx: ServiceContext, job: UpscaleJob, email: Email, now: datetime) -> RenderedMail:
    """Return the mail. The text of an earlier attempt is kept while its links work, and tell of enough time."""
    keys = {key_id(key) for key in ctx.secret_keys}
    kept = email.content if email.signed_by in keys and not _is_late(ctx, email, now) else None
    link = None
    if email.kind is EmailKind.COMPLETION:
        link = ctx.state.deliveries.current_token(job.job_id)
        if link is None or link.expired or (kept is None and not link.newest_key):
            kept, link = None, _new_link(ctx, job)
    context = _context(ctx, job, email, link)
    try:
        mail = ctx.mailer.render(
            email.kind, to=job.customer_email, message_id=email.message_id, context=context, at=now
        )
    except RefusedError as error:
        raise PermanentError("mail_refused", f"it cannot be written: {error}") from error
    return mail if kept is None else replace(mail, content=bytes(kept))


def _new_link(ctx: ServiceContext, job: UpscaleJob) -> DownloadLink:
    """Make and return a download link for a mail, beside the older ones."""
    if job.result_key is not None:
        ctx.state.deliveries.new_token(job.job_id, ttl=ctx.policy.download_ttl, revoke=False, actor=ctx.actor)
    link = ctx.state.deliveries.current_token(job.job_id)
    if link is None:
        raise PermanentError("mail_refused", "the job has no valid download link")
    return link


def _is_late(ctx: ServiceContext, email: Email, now: datetime) -> bool:
    """Return whether a mail with a link has waited so long that it would tell of too little time. No server has it."""
    waited = now - email.created_at
    return email.kind is EmailKind.COMPLETION and email.hand_overs == 0 and waited >= ctx.policy.download_ttl / 2


def _context(ctx: ServiceContext, job: UpscaleJob, email: Email, link: DownloadLink | None) -> Mapping[str, Any]:
    context: dict[str, Any] = {
        "job_id": job.job_id,
        "customer_name": job.customer_name,
        "status_url": status_url(ctx, job.job_id, job.links_revoked),
    }
    if link is not None:
        rating = rating_url(ctx, job)
        return context | {
            "resolution": job.resolution,
            "width": job.result_width,
            "height": job.result_height,
            "file_bytes": job.result_bytes,
            "format": job.result_format,
            "file_name": delivered_name(job.file_name, job.resolution, job.result_format),
            "download_url": f"{ctx.policy.public_url}/smi/v1/download/{link.token}",
            "expires_at": link.expires_at,
            "price_cents": job.price_cents,
            "currency": job.currency,
            "rating_urls": {stars: f"{rating}&stars={stars}" for stars in range(1, 6)},
        }
    if email.kind is EmailKind.DELAY:
        return context | {
            "resolution": job.resolution,
            "file_name": job.file_name,
            "price_cents": job.price_cents,
            "currency": job.currency,
            "end_waiting_url": end_waiting_url(ctx, job),
        }
    if email.kind is EmailKind.PAYMENT_STARTED:
        return context | {"price_cents": job.price_cents, "currency": job.currency}
    wanted = email.context.get("refund_row")
    refund = next(r for r in ctx.state.refunds.of_job(job.job_id) if r.refund_id == wanted)
    amount = refund.amount_cents
    if amount is None:  # returned by the bank or by hand: all that was paid
        amount = job.price_cents
    return context | {
        "amount_cents": amount,
        "currency": refund.currency,
        "reason": reasons.FOR_CUSTOMER.get(
            job.reason_code or refund.reason_code if email.kind is EmailKind.REFUND else refund.reason_code,
            "The order could not be fulfilled.",
        ),
        "refund_state": "requires_action"
        if email.kind is EmailKind.REFUND_ACTION
        else RefundState.PENDING
        if refund.state is RefundState.PENDING
        else RefundState.SUCCEEDED,
    }


def status_url(ctx: ServiceContext, job_id: str, links_revoked: int = 0) -> str:
    """Return the address of the customer's page with link and refund details."""
    return f"{ctx.policy.public_url}/smi/v1/jobs/{job_id}?view={view_token(ctx.secret_key, job_id, links_revoked)}"


def rating_url(ctx: ServiceContext, job: UpscaleJob) -> str:
    """Return the address of the page on which a customer rates a job, without the stars."""
    key = rating_token(ctx.secret_key, job.job_id, job.links_revoked)
    return f"{ctx.policy.public_url}/smi/v1/rate/{job.job_id}?key={key}"


def end_waiting_url(ctx: ServiceContext, job: UpscaleJob) -> str:
    """Return the address of the page on which a customer ends the waiting and gets the money back."""
    key = end_waiting_token(ctx.secret_key, job.job_id, job.links_revoked)
    return f"{ctx.policy.public_url}/smi/v1/end-waiting/{job.job_id}?key={key}"


def download_url(ctx: ServiceContext, job: UpscaleJob, sequence: int) -> str:
    """Return the address of one download link."""
    token = download_token(ctx.secret_key, job.job_id, job.fulfilment_round, sequence)
    return f"{ctx.policy.public_url}/smi/v1/download/{token}"


def delivered_name(file_name: str, resolution: str, format_: str | None) -> str:
    """Return the name of the file a customer saves, such as `sunset-4x.png`."""
    suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}.get(format_ or "", "img")
    return f"{file_name}-{resolution}.{suffix}"
