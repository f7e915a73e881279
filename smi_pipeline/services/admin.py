"""What an operator may do by hand (W16): the CLI and the admin jobs of Dagster call only this."""

import re
from datetime import timedelta
from typing import Any

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import Conflict, NotFound, PermanentError, RefusedError
from smi_pipeline.core.models import RecordedPayment, UpscaleJob
from smi_pipeline.core.vocabulary import (
    OPEN_CALLS,
    RETURNED,
    EmailKind,
    ManualTaskKind,
    PaymentRole,
    RefundKind,
    RefundState,
    Status,
)
from smi_pipeline.services import notify, refund
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.intake import require_known


def retry(ctx: ServiceContext, job_id: str, *, admin_override: bool = False) -> str:
    """Starts a job again. A closed job gets a new round, which delivers or ends without money.

    Raises NotFound; Conflict for an unpaid or closed job without `admin_override`, and while a submission is open.
    """
    job = require_known(ctx, job_id)
    if job.payment_intent_id is None and not admin_override:
        raise Conflict(f"job {job.job_id} is not paid: say --admin-override to upscale it all the same")
    open_calls = [s for s in ctx.state.submissions.of_job(job.job_id) if s.state in OPEN_CALLS]
    if open_calls:
        raise Conflict(f"job {job.job_id} is at Upsampler now: use `check` to ask for its state")
    if job.status in (Status.PENDING, Status.PROCESSING):
        ctx.state.jobs.check_now(job.job_id, actor=ctx.actor)
        return "it is in the queue already; its next attempt is due now"
    if not admin_override and job.status in (Status.COMPLETED, Status.REFUNDED):
        raise Conflict(f"job {job.job_id} is {job.status}: say --admin-override to upscale it once more")
    if not admin_override and job.status is Status.FAILED:
        raise Conflict(f"job {job.job_id} failed and its refund is owed: say --admin-override to upscale it as a gift")
    if job.status is Status.AWAITING_PAYMENT and job.checkout_session_id:
        ctx.payments.expire_checkout(job.checkout_session_id)  # what is a gift can no longer be paid
    number = ctx.state.jobs.retry(job.job_id, max_wait=ctx.policy.max_wait, actor=ctx.actor)
    if number is None:
        raise Conflict(f"job {job.job_id} was started just now: look again")
    return f"round {number} was started; it delivers or ends without money"


def check(ctx: ServiceContext, job_id: str) -> str:
    """Asks Upsampler now, and makes whatever the job waits for due now."""
    job = require_known(ctx, job_id)
    due = ctx.state.jobs.check_now(job.job_id, actor=ctx.actor)
    check_completions(ctx, limit=20)
    after = require_known(ctx, job_id)
    return f"{due} thing(s) were made due; the job is {after.status}, upscale {after.stage or 'not started'}"


def extend(ctx: ServiceContext, job_id: str, minutes: float) -> str:
    """Moves the job's deadline. Raises RefusedError for a length out of (0, 24 h], Conflict when it is closed."""
    if not 0 < minutes <= 24 * 60:
        raise RefusedError("minutes must be between 0 and 1440")
    job = require_known(ctx, job_id)
    if not ctx.state.jobs.extend(job.job_id, timedelta(minutes=minutes), actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: there is no deadline to extend")
    return f"deadline extended by {minutes:g} minutes"


def refund_job(ctx: ServiceContext, job_id: str) -> str:
    """Returns the payment: ends an open job, is goodwill after delivery, and repeats a refund that failed."""
    job = require_known(ctx, job_id)
    payment_intent_id = job.payment_intent_id
    if payment_intent_id is None:
        raise Conflict(f"job {job.job_id} was not paid: there is nothing to refund")
    if job.status in (Status.PENDING, Status.PROCESSING):
        done = cancel(ctx, job_id)
        if job.fulfilment_round == 1:
            return done
        job = require_known(ctx, job_id)  # a later round ended without money: the payment is still to be returned
    alive = [r for r in ctx.state.refunds.of_job(job.job_id) if r.state in RETURNED]
    if any(r.payment_intent_id == payment_intent_id and r.kind is not RefundKind.EXTERNAL for r in alive):
        raise Conflict(f"job {job.job_id} is refunded already ({alive[0].stripe_refund_id}, {alive[0].state})")
    goodwill = job.status is Status.COMPLETED
    ctx.state.refunds.owe(
        job_id=job.job_id,
        payment_intent_id=payment_intent_id,
        kind=RefundKind.GOODWILL if goodwill else RefundKind.FAILURE,
        currency=job.currency,
        reason=reasons.GOODWILL if goodwill else job.reason_code or reasons.CANCELLED,
        actor=ctx.actor,
    )
    return _refund_now(ctx, job.job_id)


def cancel(ctx: ServiceContext, job_id: str) -> str:
    """Ends an open job: a paid one is refunded, an unpaid one can no longer be paid."""
    job = require_known(ctx, job_id)
    if job.status is Status.AWAITING_PAYMENT:
        if job.checkout_session_id:
            ctx.payments.expire_checkout(job.checkout_session_id)
        if not ctx.state.jobs.abandon(job.job_id, actor=ctx.actor):
            raise Conflict(f"job {job.job_id} was paid or closed just now: look again")
        return "closed; it was not paid"
    words = reasons.FOR_CUSTOMER[reasons.CANCELLED]
    if not ctx.state.jobs.cancel(job.job_id, reason=reasons.CANCELLED, message=words, actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be cancelled any more")
    if job.fulfilment_round > 1:
        return "cancelled; this round ends without money"
    return "cancelled; " + _refund_now(ctx, job.job_id)


def resend(ctx: ServiceContext, job_id: str) -> str:
    """Sends the closing mail once more, as a new mail."""
    job = require_known(ctx, job_id)
    if job.status is Status.COMPLETED:
        link = ctx.state.deliveries.current_token(job.job_id)
        if link is None or link.expired or job.result_key is None:
            raise Conflict(f"the link of job {job.job_id} has expired: `smi jobs token {job.job_id}` makes a new one")
        kind, context = EmailKind.COMPLETION, {}
    else:
        settled = [r for r in ctx.state.refunds.of_job(job.job_id) if r.state in (*RETURNED, RefundState.NOT_NEEDED)]
        if not settled:
            raise Conflict(f"job {job.job_id} is {job.status}: there is no closing mail to send")
        kind, context = EmailKind.REFUND, {"refund_row": settled[-1].refund_id}
    serial = ctx.state.emails.resend(job.job_id, kind, context=context, actor=ctx.actor)
    reports = notify.send_owed(ctx, job.job_id)
    said = reports[-1].message if reports else "it is queued"
    return f"{kind} mail {serial}: {said}"


def new_token(ctx: ServiceContext, job_id: str, *, revoke: bool = True) -> str:
    """Makes a new download link, which is returned; `revoke` ends the older ones."""
    job = require_known(ctx, job_id)
    if job.status is not Status.COMPLETED or job.result_key is None:
        raise Conflict(f"job {job.job_id} is {job.status}: there is no file to link to (any more)")
    serial = ctx.state.deliveries.new_token(job.job_id, ttl=ctx.policy.download_ttl, revoke=revoke, actor=ctx.actor)
    return notify.download_url(ctx, job, serial)


def hold(ctx: ServiceContext, job_id: str, reason: str) -> str:
    """Keeps a job from being submitted until it is released (for at most SMI_MAX_HOLD_HOURS)."""
    if not reason.strip():
        raise RefusedError("say why the job is held")
    job = require_known(ctx, job_id)
    if not ctx.state.jobs.hold(job.job_id, reason.strip()[:200], actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be held")
    return "held"


def release(ctx: ServiceContext, job_id: str) -> str:
    """Ends a hold; the time on hold does not count against the promise."""
    job = require_known(ctx, job_id)
    if job.hold_reason is None:
        raise Conflict(f"job {job.job_id} is not on hold")
    ctx.state.jobs.hold(job.job_id, None, actor=ctx.actor)
    return "released"


def adopt(ctx: ServiceContext, payment_intent_id: str, job_id: str) -> str:
    """Settles a payment without a job by giving it to one (rule 8)."""
    job = require_known(ctx, job_id)
    _require_unmatched(ctx, payment_intent_id)
    facts = ctx.payments.payment(payment_intent_id)
    for made in refund.refunds_made(ctx, facts):  # one that went back unnoticed pays for nothing
        ctx.state.refunds.settle_by_facts(made, event=None, actor=ctx.actor)
    role = ctx.state.payments.record_payment(
        facts, job.job_id, event=None, source=ctx.actor, policy=ctx.policy, assign=True
    )
    if role == "known":
        raise Conflict(f"{payment_intent_id} was settled by somebody else just now")
    if role is PaymentRole.UNMATCHED:
        raise Conflict(f"job {job.job_id} was imported from another system: its payment cannot be replaced")
    ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_PAYMENT, payment_intent_id, actor=ctx.actor)
    return f"adopted as {role} payment of job {job.job_id}"


def refund_payment(ctx: ServiceContext, payment_intent_id: str) -> str:
    """Settles a payment without a job by returning it (rule 8); repeats the refund of a second payment that failed."""
    payment = _known_payment(ctx, payment_intent_id)
    if payment.role is PaymentRole.DUPLICATE:
        owed = ctx.state.refunds.owe(
            job_id=payment.job_id,
            payment_intent_id=payment_intent_id,
            kind=RefundKind.DUPLICATE_PAYMENT,
            currency=payment.currency,
            reason=reasons.DUPLICATE_PAYMENT,
            actor=ctx.actor,
        )
        if not owed:
            raise Conflict(f"{payment_intent_id} is returned already, or its refund is under way")
        return "the refund is owed; it is carried out within seconds"
    _require_unmatched(ctx, payment_intent_id)
    owed = ctx.state.refunds.owe(
        job_id=None,
        payment_intent_id=payment_intent_id,
        kind=RefundKind.UNMATCHED,
        currency=payment.currency,
        reason=reasons.CANCELLED,
        actor=ctx.actor,
    )
    if not owed:
        raise Conflict(f"{payment_intent_id} was settled by somebody else just now")
    ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_PAYMENT, payment_intent_id, actor=ctx.actor)
    return "the refund is owed; it is carried out within seconds"


def details(ctx: ServiceContext, job_id: str) -> dict[str, Any]:
    """All that is known of one job, for `smi jobs show` and the ops page. Holds the customer's address."""
    job = require_known(ctx, job_id)
    return {
        "job": job,
        "payments": ctx.state.dashboard.payments(job.job_id),
        "submissions": ctx.state.submissions.of_job(job.job_id),
        "refunds": ctx.state.refunds.of_job(job.job_id),
        "emails": ctx.state.emails.of_job(job.job_id),
        "events": ctx.state.queries.events(job.job_id),
    }


def next_step(job: UpscaleJob) -> str:
    """What an operator would do next with a job in this state, in one sentence."""
    match job.status:
        case Status.AWAITING_PAYMENT:
            return "Nothing: the customer has not paid yet."
        case Status.ABANDONED:
            return "Nothing: nobody paid; a late payment brings the job back."
        case Status.PENDING | Status.PROCESSING if job.hold_reason:
            return f"Release it (`smi jobs release {job.job_id}`) or refund it; it is held: {job.hold_reason}."
        case Status.PENDING | Status.PROCESSING:
            return f"Nothing: it is on its way. `smi jobs check {job.job_id}` asks at once."
        case Status.COMPLETED:
            return f"Nothing. `smi jobs resend {job.job_id}` mails the link again."
        case Status.FAILED:
            return f"The refund is on its way. If it stays so, `smi jobs refund {job.job_id}`."
        case _:
            return f"Nothing: the money is back. `smi jobs retry {job.job_id} --admin-override` upscales it as a gift."


def _known_payment(ctx: ServiceContext, payment_intent_id: str) -> RecordedPayment:
    plausible = re.fullmatch(r"\w{3,255}", payment_intent_id, re.ASCII)
    payment = ctx.state.queries.payment(payment_intent_id) if plausible else None
    if payment is None:
        raise NotFound(f"there is no payment {payment_intent_id[:64]!r} on record")
    return payment


def _require_unmatched(ctx: ServiceContext, payment_intent_id: str) -> None:
    payment = _known_payment(ctx, payment_intent_id)
    if payment.role is not PaymentRole.UNMATCHED or payment.settled_by:
        raise Conflict(f"{payment_intent_id} belongs to a job or was settled")


def _refund_now(ctx: ServiceContext, job_id: str) -> str:
    try:
        reports = refund.refund_and_notify(ctx, job_id)
    except PermanentError as error:
        return f"the refund failed and is a person's task now: {error}"
    return reports[-1].message if reports else "the refund is owed; it is carried out within seconds"


def new_link_by_mail(ctx: ServiceContext, job_id: str) -> str:
    """Makes a new download link, ends the older ones and mails it to the customer."""
    new_token(ctx, job_id)
    return resend(ctx, job_id)


def acknowledge_task(ctx: ServiceContext, task_id: int) -> str:
    """A person has taken a task on (rule 11). Raises NotFound when no such task is open."""
    if not ctx.state.manual_tasks.acknowledge(task_id, actor=ctx.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} is yours"


def close_task(ctx: ServiceContext, task_id: int) -> str:
    """A person has settled a task. Raises NotFound when no such task is open."""
    if not ctx.state.manual_tasks.close_by_id(task_id, actor=ctx.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} is closed"
