"""The admin actions: what an operator may do by hand, over the CLI, the admin jobs of Dagster and the HTTP admin API.

A new action is a function here with `@actions.register`; all interfaces offer it then.
"""

import re
from datetime import timedelta
from typing import Annotated, Any

from smi_pipeline.core import faults, reasons
from smi_pipeline.core.errors import Conflict, NotFound, PermanentError, RefusedError
from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.models import RecordedPayment, UpscaleJob
from smi_pipeline.core.vocabulary import (
    OPEN_CALLS,
    RETURNED,
    UNSENT,
    EmailKind,
    ManualTaskKind,
    PaymentRole,
    RefundKind,
    RefundState,
    Status,
)
from smi_pipeline.formatting import one_line
from smi_pipeline.services import notify, refund
from smi_pipeline.services.admin_actions import Interface, Registry, Target
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.intake import address_of, reachable_email, require_known

actions = Registry()

JobId = Annotated[str, "Upscale job, 32 characters with or without hyphens"]
_REFUND_QUEUED = "the refund is queued; it is made within seconds"
PaymentIntentId = Annotated[str, "Stripe's id of the payment (pi_…)"]
BREAKERS = (faults.SUBMISSIONS, faults.STATUS, faults.RESULTS, faults.STRIPE, faults.CHECKOUT, faults.MAIL)
"""The circuit breakers of every shop; each image host has one besides."""

BreakerName = Annotated[
    str, "Breaker: submissions, status, results, stripe, checkout, mail, or source: and an image host"
]
TaskId = Annotated[int, "Number of the manual task, from the ops page or `smi tasks list`"]


@actions.register("retry", Target.JOB)
def retry(
    ctx: ServiceContext,
    job_id: JobId,
    *,
    admin_override: Annotated[
        bool, "Also if it is unpaid, failed, refunded or delivered: the new upscale is free of charge"
    ] = False,
) -> str:
    """Start a job again. A closed job gets a new round, which delivers the file or ends without any payment or refund.

    Raise NotFound; Conflict for an unpaid or closed job without `admin_override`, and while a submission is open.
    """
    job = require_known(ctx, job_id)
    if job.payment_intent_id is None and not admin_override:
        raise Conflict(f"job {job.job_id} is not paid: set admin_override to upscale it free of charge")
    open_calls = [s for s in ctx.state.submissions.of_job(job.job_id) if s.state in OPEN_CALLS]
    if open_calls:
        raise Conflict(f"job {job.job_id} is at Upsampler now: use `check` to ask for its state")
    if job.status in UNFINISHED:
        ctx.state.jobs.check_now(job.job_id, actor=ctx.actor)
        return "already in the queue; its next attempt is due now"
    if not admin_override and job.status in (Status.COMPLETED, Status.REFUNDED, Status.FAILED):
        raise Conflict(f"job {job.job_id} is {job.status}: set admin_override to upscale it once more, free of charge")
    if job.status is Status.AWAITING_PAYMENT and job.checkout_session_id:
        ctx.payments.expire_checkout(job.checkout_session_id)  # a free upscale can no longer be paid
    number = ctx.state.jobs.retry(job.job_id, max_wait=ctx.policy.max_wait, actor=ctx.actor)
    if number is None:
        raise Conflict(f"job {job.job_id} was started in the meantime: look again")
    return f"round {number} started; it delivers the file or ends without any payment or refund"


@actions.register("check", Target.JOB)
def check(ctx: ServiceContext, job_id: JobId) -> str:
    """Ask Upsampler now instead of at the next poll, and make the job's next step due now."""
    job = require_known(ctx, job_id)
    due = ctx.state.jobs.check_now(job.job_id, actor=ctx.actor)
    check_completions(ctx, limit=20)
    after = require_known(ctx, job_id)
    return f"{due} step(s) made due; the job is {after.status}, its upscale is {after.stage or 'not started'}"


@actions.register("extend", Target.JOB)
def extend(
    ctx: ServiceContext, job_id: JobId, minutes: Annotated[float, "Minutes to add to the deadline, up to 1440"]
) -> str:
    """Move the deadline of an open job by MINUTES.

    Raise RefusedError for a length outside of (0, 24 h], Conflict when the job is closed.
    """
    if not 0 < minutes <= 24 * 60:
        raise RefusedError("minutes must be between 0 and 1440")
    job = require_known(ctx, job_id)
    if not ctx.state.jobs.extend(job.job_id, timedelta(minutes=minutes), actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: there is no deadline to extend")
    return f"deadline extended by {minutes:g} minutes"


@actions.register("refund", Target.JOB)
def refund_job(ctx: ServiceContext, job_id: JobId) -> str:
    """Refund the payment. This ends an open job, is goodwill after a delivery, and repeats a refund that failed."""
    job = require_known(ctx, job_id)
    payment_intent_id = job.payment_intent_id
    if payment_intent_id is None:
        raise Conflict(f"job {job.job_id} was not paid: there is nothing to refund")
    if job.status in UNFINISHED:
        done = cancel(ctx, job_id)
        if job.fulfilment_round == 1:
            return done
        job = require_known(ctx, job_id)  # a later round ends without a refund: the payment is still to be returned
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


@actions.register("cancel", Target.JOB)
def cancel(ctx: ServiceContext, job_id: JobId) -> str:
    """End an open job. A paid one is refunded, an unpaid one can no longer be paid."""
    job = require_known(ctx, job_id)
    if job.status is Status.AWAITING_PAYMENT:
        if job.checkout_session_id:
            ctx.payments.expire_checkout(job.checkout_session_id)
        if not ctx.state.jobs.abandon(job.job_id, actor=ctx.actor):
            raise Conflict(f"job {job.job_id} was paid or closed in the meantime: look again")
        return "closed; it was not paid"
    words = reasons.FOR_CUSTOMER[reasons.CANCELLED]
    if not ctx.state.jobs.cancel(job.job_id, reason=reasons.CANCELLED, message=words, actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be cancelled any more")
    if job.fulfilment_round > 1:
        return "cancelled; this round ends without any payment or refund"
    return "cancelled; " + _refund_now(ctx, job.job_id)


@actions.register("resend", Target.JOB)
def resend(ctx: ServiceContext, job_id: JobId) -> str:
    """Send the closing mail (the download link, or the refund) once more, as a new mail."""
    job = require_known(ctx, job_id)
    kind, context = _closing_mail(ctx, job)
    serial = ctx.state.emails.resend(job.job_id, kind, context=context, actor=ctx.actor)
    return _sent(ctx, job, f"{kind} mail {serial}")


def _closing_mail(ctx: ServiceContext, job: UpscaleJob) -> tuple[EmailKind, dict[str, Any]]:
    """Return kind and context of a job's closing mail. Raise Conflict when there is none to send."""
    if job.status is Status.COMPLETED:
        link = ctx.state.deliveries.current_token(job.job_id)
        if link is None or link.expired or job.result_key is None:
            raise Conflict(f"the link of job {job.job_id} has expired: `smi jobs token {job.job_id}` makes a new one")
        return EmailKind.COMPLETION, {}
    settled = [r for r in ctx.state.refunds.of_job(job.job_id) if r.state in (*RETURNED, RefundState.NOT_NEEDED)]
    if not settled:
        raise Conflict(f"job {job.job_id} is {job.status}: there is no closing mail to send")
    return EmailKind.REFUND, {"refund_row": settled[-1].refund_id}


def _sent(ctx: ServiceContext, job: UpscaleJob, mail: str) -> str:
    """Send the queued mails of a job at once. Return what came of the last one."""
    reports = notify.send_owed(ctx, job.job_id)
    return f"{mail}: {reports[-1].message if reports else 'queued'}"


@actions.register(
    "address", Target.JOB, not_offered={Interface.DAGSTER: "the address would show in the configuration of the run"}
)
def set_address(ctx: ServiceContext, job_id: JobId, address: Annotated[str, "The customer's e-mail address"]) -> str:
    """Set the customer's e-mail address, and send unsent mails and the closing mail to it."""
    job = require_known(ctx, job_id)
    ctx.state.jobs.set_address(job.job_id, reachable_email(ctx, address), actor=ctx.actor)
    unsent = {mail.kind for mail in ctx.state.emails.of_job(job.job_id) if mail.state in UNSENT}
    try:
        kind, _ = _closing_mail(ctx, job)
        return f"set; {_sent(ctx, job, f'{kind} mail') if kind in unsent else resend(ctx, job.job_id)}"
    except Conflict as nothing_to_send:
        notify.send_owed(ctx, job.job_id)
        return f"set; {nothing_to_send}"


@actions.register("token", Target.JOB, not_offered={Interface.DAGSTER: "the link would show in the log of the run"})
def new_token(
    ctx: ServiceContext, job_id: JobId, *, keep_others: Annotated[bool, "Keep older links valid"] = False
) -> str:
    """Make and return a new download link, and revoke the older ones."""
    job = require_known(ctx, job_id)
    if job.status is not Status.COMPLETED or job.result_key is None:
        raise Conflict(f"job {job.job_id} is {job.status}: it has no file to link to")
    serial = ctx.state.deliveries.new_token(
        job.job_id, ttl=ctx.policy.download_ttl, revoke=not keep_others, actor=ctx.actor
    )
    return notify.download_url(ctx, job, serial)


@actions.register(
    "token", Target.JOB, not_offered=dict.fromkeys((Interface.CLI, Interface.HTTP), "`token` shows the link there")
)
def new_link_by_mail(ctx: ServiceContext, job_id: JobId) -> str:
    """Make a new download link, revoke the older ones, and mail it to the customer. No log shows the link."""
    new_token(ctx, job_id)
    return resend(ctx, job_id)


@actions.register(
    "revoke_links",
    Target.JOB,
    verb="revoke",
    not_offered={Interface.DAGSTER: "the link would show in the log of the run"},
)
def revoke_links(ctx: ServiceContext, job_id: JobId) -> str:
    """Revoke all links of an order (page, file, rating, end of waiting), and return the new address of its page."""
    job = require_known(ctx, job_id)
    ctx.state.deliveries.revoke_links(job.job_id, ttl=ctx.policy.download_ttl, actor=ctx.actor)
    job = require_known(ctx, job_id)
    return notify.status_url(ctx, job.job_id, job.links_revoked)


@actions.register(
    "revoke_links",
    Target.JOB,
    not_offered=dict.fromkeys((Interface.CLI, Interface.HTTP), "`revoke` shows the new address of the page there"),
)
def new_links_by_mail(ctx: ServiceContext, job_id: JobId) -> str:
    """Revoke all links of an order (page, file, rating, end of waiting), and mail new ones. No log shows them."""
    revoke_links(ctx, job_id)
    try:
        return f"revoked; {resend(ctx, job_id)}"
    except Conflict as nothing_to_send:
        return f"revoked; {nothing_to_send}"


@actions.register("hold", Target.JOB)
def hold(ctx: ServiceContext, job_id: JobId, reason: Annotated[str, "Why it is held; shown on the ops page"]) -> str:
    """Keep a job from being submitted until it is released, for at most SMI_MAX_HOLD_HOURS."""
    reason = one_line(reason, 200)
    if not reason:
        raise RefusedError("give a reason for the hold")
    job = require_known(ctx, job_id)
    if not ctx.state.jobs.hold(job.job_id, reason, policy=ctx.policy, actor=ctx.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be held")
    return "held"


@actions.register("release", Target.JOB)
def release(ctx: ServiceContext, job_id: JobId) -> str:
    """End a hold. The time on hold does not count against the promised time."""
    job = require_known(ctx, job_id)
    if job.hold_reason is None:
        raise Conflict(f"job {job.job_id} is not on hold")
    ctx.state.jobs.release(job.job_id, actor=ctx.actor)
    return "released"


@actions.register("assign_payment", Target.PAYMENT, verb="assign", former=("adopt_payment", "adopt"))
def assign_payment(
    ctx: ServiceContext,
    payment_intent_id: PaymentIntentId,
    job_id: Annotated[str, "Upscale job that the payment is for"],
) -> str:
    """Settle an unmatched payment by assigning it to the upscale job JOB_ID."""
    job = require_known(ctx, job_id)
    _require_unmatched(ctx, payment_intent_id)
    facts = ctx.payments.payment(payment_intent_id)
    for made in refund.refunds_made(ctx, facts):  # a payment that was returned outside of the shop pays for nothing
        ctx.state.refunds.settle_by_facts(made, event=None, actor=ctx.actor)
    role = ctx.state.payments.record_payment(
        facts,
        job.job_id,
        event=None,
        source=ctx.actor,
        policy=ctx.policy,
        assign=True,
        address=address_of(ctx, job.job_id, payment_intent_id),
    )
    if role == "known":
        raise Conflict(f"{payment_intent_id} was settled by somebody else in the meantime")
    if role is PaymentRole.UNMATCHED:
        raise Conflict(f"job {job.job_id} was imported from another system: its payment cannot be replaced")
    ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_PAYMENT, payment_intent_id, actor=ctx.actor)
    return f"assigned to job {job.job_id} as its {role} payment"


@actions.register("refund_payment", Target.PAYMENT, verb="refund-payment")
def refund_payment(ctx: ServiceContext, payment_intent_id: PaymentIntentId) -> str:
    """Refund an unmatched payment, or repeat the failed refund of a duplicate one."""
    payment = _known_payment(ctx, payment_intent_id)
    duplicate = payment.role is PaymentRole.DUPLICATE
    if not duplicate:
        _require_unmatched(ctx, payment_intent_id)
    owed = ctx.state.refunds.owe(
        job_id=payment.job_id if duplicate else None,
        payment_intent_id=payment_intent_id,
        kind=RefundKind.DUPLICATE_PAYMENT if duplicate else RefundKind.UNMATCHED,
        currency=payment.currency,
        reason=reasons.DUPLICATE_PAYMENT if duplicate else reasons.CANCELLED,
        actor=ctx.actor,
    )
    if not owed:
        raise Conflict(f"{payment_intent_id} was settled in the meantime, or its refund is under way")
    if not duplicate:
        ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_PAYMENT, payment_intent_id, actor=ctx.actor)
    return _REFUND_QUEUED


def details(ctx: ServiceContext, job_id: str) -> dict[str, Any]:
    """Return all that is known of one job, the customer's address included, for `smi jobs show`."""
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
    """Return in one sentence what an operator should do next with this job."""
    match job.status:
        case Status.AWAITING_PAYMENT:
            return "Nothing: the customer has not paid yet."
        case Status.ABANDONED:
            return "Nothing: it was never paid; a late payment reopens it."
        case Status.PENDING | Status.PROCESSING if job.hold_reason:
            return f"Release it (`smi jobs release {job.job_id}`) or refund it; it is held: {job.hold_reason}."
        case Status.PENDING | Status.PROCESSING:
            return f"Nothing: it is in progress. `smi jobs check {job.job_id}` asks Upsampler now."
        case Status.COMPLETED:
            return f"Nothing: it is delivered. `smi jobs resend {job.job_id}` mails the link again."
        case Status.FAILED:
            return f"Wait for the refund, which is under way. If it does not arrive, `smi jobs refund {job.job_id}`."
        case _:
            return (
                f"Nothing: it is refunded. `smi jobs retry {job.job_id} --admin-override` upscales it free of charge."
            )


def _known_payment(ctx: ServiceContext, payment_intent_id: str) -> RecordedPayment:
    plausible = re.fullmatch(r"\w{3,255}", payment_intent_id, re.ASCII)
    payment = ctx.state.queries.payment(payment_intent_id) if plausible else None
    if payment is None:
        raise NotFound(f"there is no payment {payment_intent_id[:64]!r} on record")
    return payment


def _require_unmatched(ctx: ServiceContext, payment_intent_id: str) -> None:
    payment = _known_payment(ctx, payment_intent_id)
    if payment.role is not PaymentRole.UNMATCHED or payment.settled_by:
        raise Conflict(f"{payment_intent_id} belongs to a job or is already settled")


def _refund_now(ctx: ServiceContext, job_id: str) -> str:
    try:
        reports = refund.refund_and_notify(ctx, job_id)
    except PermanentError as error:
        return f"the refund failed and is now a manual task: {error}"
    return reports[-1].message if reports else _REFUND_QUEUED


@actions.register("acknowledge_task", Target.TASK, verb="acknowledge")
def acknowledge_task(ctx: ServiceContext, task_id: TaskId) -> str:
    """Say that somebody works on a manual task. Its upscale job no longer counts as overdue.

    Raise NotFound when no such task is open.
    """
    if not ctx.state.manual_tasks.acknowledge(task_id, actor=ctx.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} acknowledged"


@actions.register("close_task", Target.TASK, verb="close")
def close_task(ctx: ServiceContext, task_id: TaskId) -> str:
    """Close a manual task that is settled.

    Raise NotFound when no such task is open.
    """
    if not ctx.state.manual_tasks.close_by_id(task_id, actor=ctx.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} closed"


@actions.register("open_breaker", Target.BREAKER, verb="open")
def open_breaker(
    ctx: ServiceContext, name: BreakerName, reason: Annotated[str, "Why it is opened; shown on the ops page"]
) -> str:
    """Open a circuit breaker by hand: orders that need this part wait, and new ones are refused, until it is closed.

    Raise RefusedError for an unknown name and without a reason.
    """
    name, reason = _known_breaker(name), one_line(reason, 200)
    if not reason:
        raise RefusedError("give a reason for opening the breaker")
    ctx.state.breakers.open_by_hand(name, message=reason, actor=ctx.actor)
    return f"breaker {name} is open until it is closed by hand"


@actions.register("close_breaker", Target.BREAKER, verb="close")
def close_breaker(
    ctx: ServiceContext, name: BreakerName, reason: Annotated[str, "What has changed; kept in the audit trail"]
) -> str:
    """Close a circuit breaker by hand: what waited for it goes on at once. It opens again if the fault is still there.

    Raise RefusedError for an unknown name and without a reason, Conflict when it is not open.
    """
    name, reason = _known_breaker(name), one_line(reason, 200)
    if not reason:
        raise RefusedError("give a reason for closing the breaker")
    if not ctx.state.breakers.close_by_hand(name, policy=ctx.policy, actor=f"{ctx.actor}: {reason}"):
        raise Conflict(f"breaker {name} is not open")
    return f"breaker {name} is closed; what waited for it goes on"


def _known_breaker(name: str) -> str:
    name = name.strip().lower()
    if name in BREAKERS or (faults.is_source(name) and re.fullmatch(r"source:[\w.\-\[\]:]{1,255}", name)):
        return name
    known = ", ".join(BREAKERS)
    raise RefusedError(f"there is no breaker {name[:64]!r}; known are {known}, and source: with an image host")


@actions.register("lift_unsold", Target.PROPERTY, verb="lift")
def lift_unsold(
    ctx: ServiceContext,
    name: Annotated[str, "Property as the ops page and `smi unsold list` name it, such as alpha"],
    reason: Annotated[str, "What has changed; kept in the audit trail"],
) -> str:
    """Sell images with a property again for which orders have failed. Two more that fail stop it again.

    Raise RefusedError without a reason, NotFound when nothing has failed for this property.
    """
    reason = one_line(reason, 200)
    if not reason:
        raise RefusedError("give a reason for selling it again")
    if not ctx.state.unsold.lift(name, reason=reason, actor=ctx.actor):
        raise NotFound(f"nothing has failed for the property {name[:64]!r}")
    return f"{name} is sold again"
