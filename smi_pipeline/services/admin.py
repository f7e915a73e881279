"""What an operator may do by hand (W16): the CLI and the admin jobs of Dagster call only this."""

import re
from datetime import timedelta
from typing import Any

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import Conflict, NotFound, PermanentError, RefusedError
from smi_pipeline.core.models import Status, UpscaleJob
from smi_pipeline.services import notify, refund
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.intake import require_known
from smi_pipeline.services.world import World


def retry(world: World, job_id: str, *, admin_override: bool = False) -> str:
    """Starts a job again. A closed job gets a new round, which delivers or ends without money.

    Raises NotFound; Conflict for an unpaid or closed job without `admin_override`, and while a submission is open.
    """
    job = require_known(world, job_id)
    if job.payment_intent_id is None and not admin_override:
        raise Conflict(f"job {job.job_id} is not paid: say --admin-override to upscale it all the same")
    open_calls = [s for s in world.state.submissions.of_job(job.job_id) if s.state in ("sending", "accepted")]
    if open_calls:
        raise Conflict(f"job {job.job_id} is at Upsampler now: use `check` to ask for its state")
    if job.status in (Status.PENDING, Status.PROCESSING):
        world.state.deliveries.check_now(job.job_id, actor=world.actor)
        return "it is in the queue already; its next attempt is due now"
    if not admin_override and job.status in (Status.COMPLETED, Status.REFUNDED):
        raise Conflict(f"job {job.job_id} is {job.status}: say --admin-override to upscale it once more")
    if not admin_override and job.status is Status.FAILED:
        raise Conflict(f"job {job.job_id} failed and its refund is owed: say --admin-override to upscale it as a gift")
    if job.status is Status.AWAITING_PAYMENT and job.checkout_session_id:
        world.payments.expire_checkout(job.checkout_session_id)  # what is a gift can no longer be paid
    number = world.state.deliveries.retry(
        job.job_id,
        new_round=True,
        admin_override=True,
        max_wait=world.policy.max_wait,
        actor=world.actor,
    )
    return f"round {number} was started; it delivers or ends without money"


def check(world: World, job_id: str) -> str:
    """Asks Upsampler now, and makes whatever the job waits for due now."""
    job = require_known(world, job_id)
    due = world.state.deliveries.check_now(job.job_id, actor=world.actor)
    check_completions(world, limit=20)
    after = require_known(world, job_id)
    return f"{due} thing(s) were made due; the job is {after.status}, upscale {after.stage or 'not started'}"


def extend(world: World, job_id: str, minutes: float) -> str:
    """Moves the job's deadline. Raises RefusedError for a length out of (0, 24 h], Conflict when it is closed."""
    if not 0 < minutes <= 24 * 60:
        raise RefusedError("minutes must be between 0 and 1440")
    job = require_known(world, job_id)
    if not world.state.deliveries.extend(job.job_id, timedelta(minutes=minutes), actor=world.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: there is no deadline to extend")
    return f"deadline extended by {minutes:g} minutes"


def refund_job(world: World, job_id: str) -> str:
    """Returns the payment: ends an open job, is goodwill after delivery, and repeats a refund that failed."""
    job = require_known(world, job_id)
    payment_intent_id = job.payment_intent_id
    if payment_intent_id is None:
        raise Conflict(f"job {job.job_id} was not paid: there is nothing to refund")
    if job.status in (Status.PENDING, Status.PROCESSING):
        done = cancel(world, job_id)
        if job.round == 1:
            return done
        job = require_known(world, job_id)  # a later round ended without money: the payment is still to be returned
    alive = [r for r in world.state.refunds.of_job(job.job_id) if r.state in ("pending", "succeeded")]
    if any(r.payment_intent_id == payment_intent_id and r.kind != "outside" for r in alive):
        raise Conflict(f"job {job.job_id} is refunded already ({alive[0].stripe_refund_id}, {alive[0].state})")
    goodwill = job.status is Status.COMPLETED
    world.state.refunds.owe(
        job_id=job.job_id,
        payment_intent_id=payment_intent_id,
        kind="goodwill" if goodwill else "failure",
        currency=job.currency,
        reason=reasons.GOODWILL if goodwill else job.reason_code or reasons.CANCELLED,
        actor=world.actor,
    )
    return _refund_now(world, job.job_id)


def cancel(world: World, job_id: str) -> str:
    """Ends an open job: a paid one is refunded, an unpaid one can no longer be paid."""
    job = require_known(world, job_id)
    if job.status is Status.AWAITING_PAYMENT:
        if job.checkout_session_id:
            world.payments.expire_checkout(job.checkout_session_id)
        if not world.state.intake.abandon(job.job_id, actor=world.actor):
            raise Conflict(f"job {job.job_id} was paid or closed just now: look again")
        return "closed; it was not paid"
    words = reasons.FOR_CUSTOMER[reasons.CANCELLED]
    if not world.state.deliveries.cancel(job.job_id, reason=reasons.CANCELLED, words=words, actor=world.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be cancelled any more")
    if job.round > 1:
        return "cancelled; this round ends without money"
    return "cancelled; " + _refund_now(world, job.job_id)


def resend(world: World, job_id: str) -> str:
    """Sends the closing mail once more, as a new mail."""
    job = require_known(world, job_id)
    if job.status is Status.COMPLETED:
        link = world.state.deliveries.current_token(job.job_id)
        if link is None or link["expired"] or job.result_key is None:
            raise Conflict(f"the link of job {job.job_id} has expired: `smi jobs token {job.job_id}` makes a new one")
        kind, context = "completion", {}
    else:
        settled = [
            r for r in world.state.refunds.of_job(job.job_id) if r.state in ("pending", "succeeded", "not_needed")
        ]
        if not settled:
            raise Conflict(f"job {job.job_id} is {job.status}: there is no closing mail to send")
        kind, context = "refund", {"refund_row": settled[-1].refund_row}
    serial = world.state.emails.resend(job.job_id, kind, context=context, actor=world.actor)
    reports = notify.send_owed(world, job.job_id)
    said = reports[-1].message if reports else "it is queued"
    return f"{kind} mail {serial}: {said}"


def new_token(world: World, job_id: str, *, revoke: bool = True) -> str:
    """Makes a new download link, which is returned; `revoke` ends the older ones."""
    job = require_known(world, job_id)
    if job.status is not Status.COMPLETED or job.result_key is None:
        raise Conflict(f"job {job.job_id} is {job.status}: there is no file to link to (any more)")
    serial = world.state.deliveries.new_token(
        job.job_id, ttl=world.policy.download_ttl, revoke=revoke, actor=world.actor
    )
    return notify.download_url(world, job, serial)


def hold(world: World, job_id: str, reason: str) -> str:
    """Keeps a job from being submitted until it is released (for at most SMI_MAX_HOLD_HOURS)."""
    if not reason.strip():
        raise RefusedError("say why the job is held")
    job = require_known(world, job_id)
    if not world.state.deliveries.hold(job.job_id, reason.strip()[:200], actor=world.actor):
        raise Conflict(f"job {job.job_id} is {job.status}: it cannot be held")
    return "held"


def release(world: World, job_id: str) -> str:
    """Ends a hold; the time on hold does not count against the promise."""
    job = require_known(world, job_id)
    if job.hold_reason is None:
        raise Conflict(f"job {job.job_id} is not on hold")
    world.state.deliveries.hold(job.job_id, None, actor=world.actor)
    return "released"


def adopt(world: World, payment_intent_id: str, job_id: str) -> str:
    """Settles a payment without a job by giving it to one (rule 8)."""
    job = require_known(world, job_id)
    _require_orphan(world, payment_intent_id)
    facts = world.payments.payment(payment_intent_id)
    for made in refund.refunds_made(world, facts):  # one that went back unnoticed pays for nothing
        world.state.refunds.settle_by_facts(made, event=None, actor=world.actor)
    role = world.state.intake.record_payment(
        facts, job.job_id, event=None, source=world.actor, policy=world.policy, adopt=True
    )
    if role == "known":
        raise Conflict(f"{payment_intent_id} was settled by somebody else just now")
    if role == "orphan":
        raise Conflict(f"job {job.job_id} was imported from another system: its payment cannot be replaced")
    world.state.tasks.close("orphan_payment", payment_intent_id, actor=world.actor)
    return f"adopted as {role} payment of job {job.job_id}"


def refund_payment(world: World, payment_intent_id: str) -> str:
    """Settles a payment without a job by returning it (rule 8); repeats the refund of a second payment that failed."""
    payment = _known_payment(world, payment_intent_id)
    if payment["role"] == "duplicate":
        owed = world.state.refunds.owe(
            job_id=payment["job_id"],
            payment_intent_id=payment_intent_id,
            kind="duplicate_payment",
            currency=payment["currency"],
            reason=reasons.DUPLICATE_PAYMENT,
            actor=world.actor,
        )
        if not owed:
            raise Conflict(f"{payment_intent_id} is returned already, or its refund is under way")
        return "the refund is owed; it is carried out within seconds"
    _require_orphan(world, payment_intent_id)
    owed = world.state.refunds.owe(
        job_id=None,
        payment_intent_id=payment_intent_id,
        kind="unmatched",
        currency=payment["currency"],
        reason=reasons.CANCELLED,
        actor=world.actor,
    )
    if not owed:
        raise Conflict(f"{payment_intent_id} was settled by somebody else just now")
    world.state.tasks.close("orphan_payment", payment_intent_id, actor=world.actor)
    return "the refund is owed; it is carried out within seconds"


def details(world: World, job_id: str) -> dict[str, Any]:
    """All that is known of one job, for `smi jobs show` and the ops page. Holds the customer's address."""
    job = require_known(world, job_id)
    return {
        "job": job,
        "payments": world.state.operations.payments(job.job_id),
        "submissions": world.state.submissions.of_job(job.job_id),
        "refunds": world.state.refunds.of_job(job.job_id),
        "emails": world.state.emails.of_job(job.job_id),
        "events": world.state.views.events(job.job_id),
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


def _known_payment(world: World, payment_intent_id: str) -> dict[str, Any]:
    plausible = re.fullmatch(r"\w{3,255}", payment_intent_id, re.ASCII)
    payment = world.state.views.payment(payment_intent_id) if plausible else None
    if payment is None:
        raise NotFound(f"there is no payment {payment_intent_id[:64]!r} on record")
    return payment


def _require_orphan(world: World, payment_intent_id: str) -> None:
    payment = _known_payment(world, payment_intent_id)
    if payment["role"] != "orphan" or payment["settled_by"]:
        raise Conflict(f"{payment_intent_id} belongs to a job or was settled")


def _refund_now(world: World, job_id: str) -> str:
    try:
        reports = refund.refund_now(world, job_id)
    except PermanentError as error:
        return f"the refund failed and is a person's task now: {error}"
    notify.send_owed(world, job_id)
    return reports[-1].message if reports else "the refund is owed; it is carried out within seconds"


def new_link_by_mail(world: World, job_id: str) -> str:
    """Makes a new download link, ends the older ones and mails it to the customer."""
    new_token(world, job_id)
    return resend(world, job_id)


def acknowledge_task(world: World, task_id: int) -> str:
    """A person has taken a task on (rule 11). Raises NotFound when no such task is open."""
    if not world.state.tasks.acknowledge(task_id, actor=world.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} is yours"


def close_task(world: World, task_id: int) -> str:
    """A person has settled a task. Raises NotFound when no such task is open."""
    if not world.state.tasks.close_by_id(task_id, actor=world.actor):
        raise NotFound(f"there is no open task {task_id}")
    return f"task {task_id} is closed"
