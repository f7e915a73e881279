"""Money goes back: owed refunds are called, Stripe's words about refunds and disputes are taken in (rule 3)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import AmbiguousError, NotFound, PermanentError, TransientError
from smi_pipeline.core.models import Queue, Refund, StripeEvent, StripePayment, StripeRefund
from smi_pipeline.services.context import ServiceContext, StepResult, run_step
from smi_pipeline.services.lease_renewal import kept

REFUND_SECONDS = 90
"""So long the calls of one refund may take."""


def process(ctx: ServiceContext, work_key: str, lease_id: str) -> StepResult:
    """Carries out one leased refund, or asks how a pending one stands. Raises PermanentError when a person must act."""
    row = ctx.state.refunds.get(int(work_key))
    if row is None:
        return StepResult(state="lost", message="there is no such refund")

    def step() -> StepResult:
        return _follow(ctx, row) if row.state == "pending" else _call(ctx, row, lease_id)

    try:
        return run_step(ctx, Queue.REFUND, work_key, lease_id, row.attempts, step)
    except PermanentError as error:
        ctx.state.refunds.give_up(row.refund_row, lease_id, why=str(error), actor=ctx.actor)
        raise


def refund_now(ctx: ServiceContext, job_id: str) -> list[StepResult]:
    """Carries out what is owed to this job at once (failure hook, CLI); what another worker has is left to it."""
    reports = []
    for row in ctx.state.refunds.of_job(job_id):
        if row.state != "owed":
            continue
        lease_id = ctx.state.leases.lease_one(Queue.REFUND, str(row.refund_row))
        if lease_id:
            with kept(ctx, lease_id, seconds=REFUND_SECONDS):
                reports.append(process(ctx, str(row.refund_row), lease_id))
    return reports


def refunds_made(ctx: ServiceContext, facts: StripePayment) -> list[StripeRefund]:
    """Stripe's refunds of a payment, by whomever; costs no call where nothing went back."""
    return ctx.payments.refunds_of(facts.payment_intent_id) if facts.refunded_cents else []


def _call(ctx: ServiceContext, row: Refund, lease_id: str) -> StepResult:
    facts = ctx.payments.payment(row.payment_intent_id)
    now = ctx.state.submissions.now()
    refunds = ctx.payments.refunds_of(row.payment_intent_id)
    ours = _ours(row, refunds)
    if ours is not None:  # an earlier call was carried out, its answer was lost
        return _settled(ctx, row, ours, "found at Stripe")
    rest = facts.amount_received_cents - sum(r.amount_cents for r in refunds if r.alive)
    if rest <= 0:
        ctx.state.refunds.not_needed(row.refund_row, lease_id, why=reasons.REFUNDED_IN_FULL, actor=ctx.actor)
        return StepResult(state="settled", message="already refunded in full outside the pipeline")
    if not facts.refundable:
        payment = ctx.state.queries.payment(row.payment_intent_id)
        if payment and payment["dispute"] == "lost":
            why = "the bank has returned the money (dispute lost)"
            ctx.state.refunds.not_needed(row.refund_row, lease_id, why=why, actor=ctx.actor)
            return StepResult(state="settled", message=why)
        raise TransientError("an open dispute blocks the refund", retry_after=3600, counts=False)
    too_old = row.first_called_at is not None and now - row.first_called_at > ctx.policy.refund_key_life
    changed = row.amount_cents is not None and row.amount_cents != rest
    intended = ctx.state.refunds.intend(row.refund_row, lease_id, rest, renew_key=too_old or changed)
    if intended is None or intended.idempotency_key is None:
        return StepResult(state="lost", message="another worker has this refund")
    try:
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
    except PermanentError as error:
        if error.reason in ("charge_already_refunded", "charge_disputed"):  # changed since our look: look again
            raise AmbiguousError(str(error)) from error
        raise
    return _settled(ctx, intended, answer, "asked of Stripe")


def _ours(row: Refund, refunds: list[StripeRefund]) -> StripeRefund | None:
    for facts in refunds:
        if not facts.alive:
            continue
        if facts.refund_id == row.stripe_refund_id or facts.metadata.get("idempotency_key") == row.idempotency_key:
            return facts
    return None


def _settled(ctx: ServiceContext, row: Refund, facts: StripeRefund, how: str) -> StepResult:
    state = ctx.state.refunds.settle(row.refund_row, facts, actor=ctx.actor)
    return StepResult(
        state="done",
        message=f"refund {facts.refund_id} of {facts.amount_cents} {facts.currency} cents {how}: {facts.status}",
        details={
            "refund_id": facts.refund_id,
            "refund_state": facts.status,
            "amount_cents": facts.amount_cents,
            "recorded": state,
        },
    )


def _follow(ctx: ServiceContext, row: Refund) -> StepResult:
    if row.stripe_refund_id is None:
        raise TransientError("a pending refund without id")
    return _settled(ctx, row, ctx.payments.refund(row.stripe_refund_id), "looked up")


def handle_refund_event(ctx: ServiceContext, event: StripeEvent, payment_intent: str, *, source: str) -> str:
    """Takes in charge.refunded and refund.*: every refund of the intent is read again from Stripe, known ones are
    settled, others recorded as made outside."""
    if ctx.state.queries.payment(payment_intent) is None:
        return "not ours"
    if event.type == "charge.refunded":
        for facts in ctx.payments.refunds_of(payment_intent):
            ctx.state.refunds.settle_by_facts(facts, event=None, actor=source)
        ctx.state.intake.note_event(event.event_id, event.type, "refund")
        return "refund"
    if ctx.state.intake.seen_events([event.event_id]):
        return "repeated"
    try:
        facts = ctx.payments.refund(str(event.object.get("id")))
    except NotFound:
        return "not ours"
    return ctx.state.refunds.settle_by_facts(facts, event=(event.event_id, event.type), actor=source)


def handle_dispute_event(ctx: ServiceContext, event: StripeEvent, payment_intent: str, *, source: str) -> str:
    """Notes a dispute on its payment and tells a person; whether a refund may go on is read from Stripe each time."""
    if ctx.state.queries.payment(payment_intent) is None:
        return "not ours"
    state = "open"
    if event.type == "charge.dispute.closed":
        state = "won" if event.object.get("status") in ("won", "warning_closed") else "lost"
    changed = ctx.state.refunds.note_dispute(
        payment_intent, state, _began(event.object), event=(event.event_id, event.type), actor=source
    )
    return f"dispute {state}" if changed else "repeated"


def _began(dispute: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromtimestamp(dispute["created"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
