"""Refunds: owed ones are made, and what Stripe says of refunds and disputes is applied."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from smi_pipeline.core import faults, reasons
from smi_pipeline.core.errors import AmbiguousError, AnsweredError, NotFound, PermanentError, TransientError
from smi_pipeline.core.faults import Failure
from smi_pipeline.core.models import Refund, StripeEvent, StripePayment, StripeRefund
from smi_pipeline.core.vocabulary import DisputeState, ManualTaskKind, Queue, RefundState, StepState
from smi_pipeline.formatting import told_money
from smi_pipeline.services import notify, stripe_answers
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.lease_renewal import renewed
from smi_pipeline.services.steps import StepResult, run_step, watched

INSUFFICIENT_BALANCE = "insufficient_balance"
"""Reason of the PermanentError for a refund that money on the account would make possible."""

DISPUTE_STATES = {
    "won": DisputeState.WON,
    "warning_closed": DisputeState.WON,
    "lost": DisputeState.LOST,
    "prevented": DisputeState.LOST,  # the customer has the money, and there is nothing to answer
    "needs_response": DisputeState.OPEN,
    "under_review": DisputeState.OPEN,
    "warning_needs_response": DisputeState.OPEN,
    "warning_under_review": DisputeState.OPEN,
    "appeal_needs_response": DisputeState.OPEN,
    "appeal_under_review": DisputeState.OPEN,
}
"""What the words of Stripe for a dispute mean; all others count as open."""

REFUND_SECONDS = 90
"""Time limit of the calls of one refund."""

LONGEST_PAUSE_SECONDS = 60.0
"""Between two attempts at a refund, however often it has failed: it is made soon after Stripe is back. Of many that
fail, the circuit breaker, which is open by then, lets one at a time try."""


def process(ctx: ServiceContext, work_key: str, lease_id: str) -> StepResult:
    """Make one leased refund, or ask for the state of a pending one. Raise PermanentError when a person must act."""
    row = ctx.state.refunds.get(int(work_key))
    if row is None:
        return StepResult(state=StepState.LOST, message="there is no such refund")

    def step() -> StepResult:
        try:
            done = _follow(ctx, row) if row.state is RefundState.PENDING else _call(ctx, row, lease_id)
        except PermanentError as error:
            _keep_if_all_are_refused(ctx, work_key, error)
            raise
        stripe_answers.note_success(ctx, of_refund=row.refund_id)
        return done

    try:
        return run_step(ctx, Queue.REFUND, work_key, lease_id, row.attempts, step, longest=LONGEST_PAUSE_SECONDS)
    except PermanentError as error:
        ctx.state.refunds.give_up(row.refund_id, lease_id, why=str(error), actor=ctx.actor)
        raise


def refund_now(ctx: ServiceContext, job_id: str) -> list[StepResult]:
    """Make the refunds owed to a job at once, except those that another worker has. Raise what has failed after all
    of them were tried."""
    results: list[StepResult] = []
    failed: Exception | None = None
    for row in ctx.state.refunds.of_job(job_id):
        if row.state is not RefundState.OWED:
            continue
        lease_id = ctx.state.leases.lease_one(Queue.REFUND, str(row.refund_id))
        if lease_id:
            try:
                with renewed(ctx, lease_id, seconds=REFUND_SECONDS):
                    results.append(process(ctx, str(row.refund_id), lease_id))
            except Exception as error:
                failed = failed or error
    if failed:
        raise failed
    return results


def refund_and_notify(ctx: ServiceContext, job_id: str) -> list[StepResult]:
    """Make the refunds owed to a job at once, then send its mails. Return the results of the refunds."""
    try:
        return refund_now(ctx, job_id)
    finally:
        notify.send_owed(ctx, job_id)


def process_and_notify(ctx: ServiceContext, work_key: str, lease_id: str) -> tuple[StepResult, list[StepResult]]:
    """Process one leased refund, then send the mails of its job. Return the results of the refund and of the mails."""
    result = process(ctx, work_key, lease_id)
    row = ctx.state.refunds.get(int(work_key))
    return result, notify.send_owed(ctx, row.job_id) if row and row.job_id else []


def refunds_made(ctx: ServiceContext, facts: StripePayment) -> list[StripeRefund]:
    """Return Stripe's refunds of a payment, whoever made them. Without a refund this costs no call."""
    return ctx.payments.refunds_of(facts.payment_intent_id) if facts.refunded_cents else []


def _call(ctx: ServiceContext, row: Refund, lease_id: str) -> StepResult:
    now = ctx.state.submissions.now()
    with watched(ctx, faults.STRIPE, str(row.refund_id)):
        facts = ctx.payments.payment(row.payment_intent_id)
        refunds = ctx.payments.refunds_of(row.payment_intent_id)
    ours = _ours(row, refunds)
    if ours is not None:  # an earlier call was carried out, its answer was lost
        return _settled(ctx, row, ours, "found at Stripe")
    rest = facts.amount_received_cents - sum(r.amount_cents for r in refunds if r.alive)
    if rest <= 0:
        ctx.state.refunds.not_needed(row.refund_id, lease_id, why=reasons.REFUNDED_IN_FULL, actor=ctx.actor)
        return StepResult(state=StepState.SETTLED, message="already refunded in full outside the pipeline")
    if not facts.refundable:
        stripe_answers.note_success(ctx, of_refund=row.refund_id)
        payment = ctx.state.queries.payment(row.payment_intent_id)
        if payment and payment.dispute is DisputeState.LOST:
            why = "the bank has returned the money (dispute lost)"
            ctx.state.refunds.not_needed(row.refund_id, lease_id, why=why, actor=ctx.actor)
            return StepResult(state=StepState.SETTLED, message=why)
        raise TransientError("an open dispute blocks the refund", retry_after=3600, counts=False)
    too_old = row.first_called_at is not None and now - row.first_called_at > ctx.policy.refund_key_life
    changed = row.amount_cents is not None and row.amount_cents != rest
    # Nothing was found of the earlier call, whose key would bring back its error for a day.
    renew = too_old or changed or row.key_spent
    intended = ctx.state.refunds.intend(row.refund_id, lease_id, rest, renew_key=renew)
    if intended is None or intended.idempotency_key is None:
        return StepResult(state=StepState.LOST, message="another worker has this refund")
    try:
        with watched(ctx, faults.STRIPE, str(row.refund_id)):
            answer = ctx.payments.create_refund(
                payment_intent_id=intended.payment_intent_id,
                amount_cents=rest,
                idempotency_key=intended.idempotency_key,
                metadata={
                    "job_id": intended.job_id or "",
                    "idempotency_key": intended.idempotency_key,
                    "reason": intended.reason_code,
                },
            )
    except AnsweredError:
        ctx.state.refunds.spend_key(row.refund_id, intended.idempotency_key)
        raise
    except PermanentError as error:
        ctx.state.refunds.spend_key(row.refund_id, intended.idempotency_key)
        if error.reason == INSUFFICIENT_BALANCE:
            ctx.state.breakers.note_success(faults.STRIPE, ctx.policy)  # it carries out our calls
            ctx.state.refunds.await_balance(row.refund_id, why=str(error))
            raise TransientError(str(error), retry_after=900, counts=False) from error
        if error.reason in ("charge_already_refunded", "charge_disputed"):  # changed since we read it: read it again
            raise AmbiguousError(str(error)) from error
        raise
    ctx.state.breakers.note_success(faults.STRIPE, ctx.policy)
    return _settled(ctx, intended, answer, "requested")


def _keep_if_all_are_refused(ctx: ServiceContext, work_key: str, error: PermanentError) -> None:
    """Raise TransientError when so many refunds in a row were refused that it is a fault of the shop."""
    failure = Failure(breaker=faults.STRIPE, work_key=work_key, message=str(error), scope=error.scope)
    if ctx.state.breakers.note(failure):
        raise TransientError(str(error), retry_after=LONGEST_PAUSE_SECONDS, counts=False) from error


def _ours(row: Refund, refunds: list[StripeRefund]) -> StripeRefund | None:
    for facts in refunds:
        if not facts.alive:
            continue
        if facts.refund_id == row.stripe_refund_id or facts.metadata.get("idempotency_key") == row.idempotency_key:
            return facts
    return None


def _settled(ctx: ServiceContext, row: Refund, facts: StripeRefund, how: str) -> StepResult:
    state = ctx.state.refunds.settle(row.refund_id, facts, actor=ctx.actor)
    return StepResult(
        state=StepState.DONE,
        message=f"refund {facts.refund_id} of {told_money(facts.amount_cents, facts.currency)} {how}: {facts.status}",
        details={
            "refund_id": facts.refund_id,
            "refund_state": facts.status,
            "amount_cents": facts.amount_cents,
            "recorded": str(state),  # Dagster serializes no enums of ours
        },
    )


def _follow(ctx: ServiceContext, row: Refund) -> StepResult:
    if row.stripe_refund_id is None:
        raise TransientError("the pending refund has no Stripe id yet")
    with watched(ctx, faults.STRIPE, str(row.refund_id)):
        facts = ctx.payments.refund(row.stripe_refund_id)
    return _settled(ctx, row, facts, "looked up")


def handle_refund_event(ctx: ServiceContext, event: StripeEvent, payment_intent: str, *, source: str) -> str:
    """Apply charge.refunded and refund.*: read the refunds again from Stripe, settle known ones, and record others as
    external."""
    if ctx.state.queries.payment(payment_intent) is None:
        return "not ours"
    if event.type == "charge.refunded":
        for facts in ctx.payments.refunds_of(payment_intent):
            ctx.state.refunds.settle_by_facts(facts, event=None, actor=source)
        ctx.state.webhook_inbox.note(event.event_id, event.type, "refund")
        return "refund"
    if ctx.state.webhook_inbox.seen([event.event_id]):
        return "repeated"
    try:
        facts = ctx.payments.refund(str(event.object.get("id")))
    except NotFound:
        return "not ours"
    return ctx.state.refunds.settle_by_facts(facts, event=(event.event_id, event.type), actor=source)


def handle_dispute_event(ctx: ServiceContext, event: StripeEvent, payment_intent: str, *, source: str) -> str:
    """Record a dispute on its payment and open a manual task. Refunds ask Stripe whether they are possible."""
    if ctx.state.queries.payment(payment_intent) is None:
        return "not ours"
    word = str(event.object.get("status") or "")
    state = DISPUTE_STATES.get(word, DisputeState.OPEN)
    if word not in DISPUTE_STATES and event.type != "charge.dispute.created":
        ctx.state.manual_tasks.open(
            kind=ManualTaskKind.UNKNOWN_WORD,
            subject=f"dispute {word or 'without a status'}"[:100],
            message=f"Stripe says of a dispute of {payment_intent} that it is {word or 'in no state'!r}, which is not "
            "known here. It counts as open: refunds of the payment wait where Stripe does not allow them.",
            next_step="See in the Stripe dashboard what it means.",
        )
    changed = ctx.state.payments.note_dispute(
        payment_intent,
        state,
        _began(event.object),
        event=(event.event_id, event.type),
        actor=source,
        appeal=word.startswith("appeal_"),
    )
    return f"dispute {state}" if changed else "repeated"


def handle_fraud_warning(ctx: ServiceContext, event: StripeEvent, payment_intent: str) -> str:
    """Open a manual task for an early fraud warning: many become disputes, which cost more than an order."""
    payment = ctx.state.queries.payment(payment_intent)
    if payment is None:
        return "not ours"
    if not ctx.state.webhook_inbox.note(event.event_id, event.type, "fraud warning"):
        return "repeated"
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.FRAUD_WARNING,
        subject=payment_intent,
        job_id=payment.job_id,
        message=f"The bank warns that the payment {payment_intent} may be fraud. Many of them are disputed, which "
        "costs more than the order.",
        next_step="Look at it in the Stripe dashboard. Returning the money now (`smi jobs refund`) avoids the dispute.",
    )
    return "fraud warning"


def _began(dispute: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromtimestamp(dispute["created"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
