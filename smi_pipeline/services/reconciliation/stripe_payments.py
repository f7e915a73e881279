"""Comparison of Stripe's payments and refunds with ours, in both directions and without any event.

A missed payment or refund is recorded. Every other difference becomes a manual task; no money is moved from here.
"""

import time
from collections import Counter
from datetime import datetime, timedelta

from pydantic import Field

from smi_pipeline.core.errors import NotFound, PermanentError, TransientError, UnreadableError
from smi_pipeline.core.models import StripePayment
from smi_pipeline.core.vocabulary import RETURNED, ManualTaskKind, PaymentRole
from smi_pipeline.formatting import told_money
from smi_pipeline.services import stripe_answers
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.services.intake import learn_of_payment
from smi_pipeline.services.reconciliation.progress import Progress
from smi_pipeline.services.reconciliation.time_windows import TimeWindowReader
from smi_pipeline.state.reconciliation import ComparedPayment

CURSOR = "stripe_payments_compared"

RECENT = timedelta(hours=24)
"""How far back each comparison goes ..."""

DEEP, DEEP_EVERY = timedelta(days=30), timedelta(hours=6)
"""... and how far a deep one goes, and how often: refunds fail up to 30 days later, and databases are restored."""

MAX_OLD = 500
"""At most so many older payments, those whose refunds are open, are compared by a deep comparison."""

REPORT_AFTER = timedelta(hours=1)
"""How long a payment may be unreadable until it becomes a manual task."""

ADDRESS_PATIENCE = timedelta(minutes=15)
"""How old a payment is recorded without the address that its Checkout session does not tell: it is worked on then."""

_MAX_UNANSWERED = 5
_PAID = "succeeded"


class _Place(Progress):
    """Up to where payments were compared (`at` None: no comparison is under way), when a deep one began, since when
    payments were not readable, which older ones are still to be compared, and how many were."""

    at: datetime | None = None
    width: timedelta | None = None
    deep: datetime | None = None
    unreadable: dict[str, datetime] = Field(default_factory=dict)
    open_refunds: list[str] = Field(default_factory=list)
    so_far: int = 0


def compare_payments(ctx: ServiceContext, *, seconds: float = 30.0) -> Counter[str]:
    """Compare for `seconds`, from where the last call has ended. Return the number of payments per result: known,
    missed (recorded now), differs, unanswered.

    Raise TransientError when Stripe does not answer; the progress is stored.
    """
    tally: Counter[str] = Counter()
    _name_unmatched(ctx)
    now = ctx.state.submissions.now()
    place = _Place.model_validate_json(ctx.state.reconciliation.cursor(CURSOR) or "{}")
    at = place.at
    if at is None:  # a new comparison
        if place.deep is None or now - place.deep >= DEEP_EVERY:
            place.deep, at = now, now - DEEP
        else:
            at = now - RECENT
        if place.deep == now:
            place.open_refunds = ctx.state.reconciliation.with_open_refunds(now - DEEP, MAX_OLD)
    comparison = _Comparison(ctx, tally, place, now, ends=time.monotonic() + seconds)
    walk = TimeWindowReader(
        ctx.payments.payments_since,
        at,
        now + timedelta(days=1),  # Stripe's clock may be ahead of ours
        ends=time.monotonic() + seconds,
        width=place.width,
    )
    try:
        with stripe_answers.counted(ctx):
            comparison.named(place.open_refunds)
            for start, end, listed in walk:
                if not comparison.slice(listed, start, end):
                    walk.shorten()
                    break
    finally:
        place.at, place.width = (None, None) if walk.finished else (walk.at, walk.width)
        place.so_far += tally["known"] + tally["missed"] + tally["differs"]
        if walk.finished:
            place.ended, place.compared, place.so_far = now, place.so_far, 0
        ctx.state.reconciliation.set_cursor(CURSOR, place.model_dump_json())
    return tally


def _name_unmatched(ctx: ServiceContext) -> None:
    """Open a manual task for each unmatched payment, and close those of settled ones."""
    named = [task.subject for task in ctx.state.manual_tasks.opened() if task.kind == ManualTaskKind.UNMATCHED_PAYMENT]
    for payment_intent, row in ctx.state.reconciliation.payments(named).items():
        if row.payment.role is not PaymentRole.UNMATCHED or row.payment.settled_by:  # settled while it was being named
            ctx.state.manual_tasks.close(ManualTaskKind.UNMATCHED_PAYMENT, payment_intent, actor=ctx.actor)
    for payment_intent in ctx.state.reconciliation.unnamed_unmatched(ctx.policy.unmatched_patience, limit=50):
        ctx.state.manual_tasks.open(
            kind=ManualTaskKind.UNMATCHED_PAYMENT,
            subject=payment_intent,
            message=f"The payment {payment_intent} belongs to no upscale job we know.",
            next_step=f"`smi jobs assign {payment_intent} JOB_ID` or `smi jobs refund-payment {payment_intent}`.",
        )


class _Comparison:
    def __init__(self, ctx: ServiceContext, tally: Counter[str], place: _Place, now: datetime, *, ends: float) -> None:
        self._ctx, self._tally, self._ends = ctx, tally, ends
        self._place, self._now = place, now
        self._differing = {
            task.subject for task in ctx.state.manual_tasks.opened() if task.kind == ManualTaskKind.PAYMENT_DIFFERS
        }

    def slice(self, listed: list[StripePayment], since: datetime, until: datetime) -> bool:
        """Compare what Stripe lists of a time window with our rows. Return False when time is up before the end."""
        theirs = {facts.payment_intent_id: facts for facts in listed}
        ours = set(self._ctx.state.reconciliation.paid_between(since, until))
        names = sorted(theirs.keys() | ours)
        for first in range(0, len(names), 100):
            part = names[first : first + 100]
            rows = self._ctx.state.reconciliation.payments(part)
            for name in part:
                if time.monotonic() > self._ends:
                    return False
                self._one(name, theirs.get(name), rows.get(name))
        return True

    def named(self, names: list[str]) -> None:
        """Compare payments by their ids, which are removed from the list."""
        while names and time.monotonic() < self._ends:
            name = names.pop()
            row = self._ctx.state.reconciliation.payments([name]).get(name)
            if row is not None:
                self._one(name, None, row)

    def _one(self, name: str, facts: StripePayment | None, row: ComparedPayment | None) -> None:
        """Compare one payment. What is wrong with it stays with it: the others are compared."""
        try:
            result = self._payment(name, facts, row)
            self._place.unreadable.pop(name, None)
        except UnreadableError as error:
            result = "unreadable"
            since = self._place.unreadable.setdefault(name, self._now)
            if self._now - since >= REPORT_AFTER:
                self._report(name, row, str(error))
        except TransientError:  # compared next time; the others now
            result = "unanswered"
            if self._tally["unanswered"] + 1 >= _MAX_UNANSWERED:
                raise
        except Exception as error:
            result = "failed"
            log.exception("the payment %s could not be compared", name)
            self._report(name, row, type(error).__name__)
        self._tally[result] += 1

    def _report(self, name: str, row: ComparedPayment | None, why: str) -> None:
        self._ctx.state.manual_tasks.open(
            kind=ManualTaskKind.PAYMENT_DIFFERS,
            subject=name,
            job_id=row.payment.job_id if row else None,
            message=f"The payment {name} could not be compared with Stripe's: {why}.",
            next_step="Look at it and at its refunds in the Stripe dashboard.",
        )

    def _payment(self, name: str, facts: StripePayment | None, row: ComparedPayment | None) -> str:
        if row is None:
            return self._missed(facts) if facts and facts.status == _PAID else "unpaid"
        if row.imported:
            return "imported"
        if facts is not None and not self._problems(facts, row):
            return self._agrees(name)
        # The list may be older than the row: only what differs in a fresh look is reported.
        problems, step = self._fresh_look(name)
        if not problems:
            return self._agrees(name)
        self._ctx.state.manual_tasks.open(
            kind=ManualTaskKind.PAYMENT_DIFFERS,
            subject=name,
            job_id=row.payment.job_id,
            message=f"The payment {name} of {'job ' + row.payment.job_id if row.payment.job_id else 'no job'} differs "
            f"from Stripe's: {'; '.join(problems)}.",
            next_step=step,
        )
        return "differs"

    def _agrees(self, name: str) -> str:
        if name in self._differing:
            self._ctx.state.manual_tasks.close(ManualTaskKind.PAYMENT_DIFFERS, name, actor=self._ctx.actor)
        return "known"

    def _missed(self, facts: StripePayment) -> str:
        job_id = str(facts.metadata.get("job_id", ""))
        paid_at = facts.charged_at or facts.created_at
        try:
            learn_of_payment(
                self._ctx,
                facts.payment_intent_id,
                job_id,
                event=None,
                source="stripe reconciliation",
                wait_for_address=paid_at is not None and self._now - paid_at < ADDRESS_PATIENCE,
            )
        except (NotFound, PermanentError):
            return "unreadable"
        return "missed"

    def _fresh_look(self, name: str) -> tuple[list[str], str]:
        """Return what differs now, after Stripe's refunds were applied, and what to do about it."""
        ctx = self._ctx
        try:
            facts = ctx.payments.payment(name)
        except NotFound:
            row = self._row(name)
            return (
                ["Stripe does not know it"],
                "Is STRIPE_API_KEY the key of the right account and mode (`smi doctor`), and was the database restored "
                f"or copied? {_keep_back(row)}",
            )
        refunds = ctx.payments.refunds_of(name)
        for refund in refunds:
            ctx.state.refunds.settle_by_facts(refund, event=None, actor="stripe reconciliation")
        row = self._row(name)
        problems = self._problems(facts, row, compare_refunds=False)
        if problems:
            return problems, f"Look at it in the Stripe dashboard. {_keep_back(row)}"
        known = {refund.refund_id: refund for refund in refunds}
        for ours in row.refunds:
            theirs = known.get(ours.stripe_refund_id or "")
            if theirs is None and ours.state in RETURNED:
                if not self._made_just_now(ours.stripe_refund_id):
                    problems.append(
                        f"Stripe does not know the refund {ours.stripe_refund_id} of "
                        f"{told_money(ours.amount_cents or 0, row.payment.currency)}"
                    )
            elif theirs is not None and theirs.alive != (ours.state in RETURNED):
                problems.append(f"the refund {theirs.refund_id} is {ours.state} here and {theirs.status} at Stripe")
        return problems, (
            "See in the Stripe dashboard whether the money was returned; if not, return it there: that is recorded "
            "automatically." + (f" `smi jobs show {row.payment.job_id}` shows our side." if row.payment.job_id else "")
        )

    def _row(self, name: str) -> ComparedPayment:
        return self._ctx.state.reconciliation.payments([name])[name]

    def _made_just_now(self, refund_id: str | None) -> bool:
        try:
            return bool(refund_id and self._ctx.payments.refund(refund_id).alive)
        except NotFound:
            return False

    @staticmethod
    def _problems(facts: StripePayment, row: ComparedPayment, *, compare_refunds: bool = True) -> list[str]:
        problems = []
        if facts.status != _PAID:
            problems.append(f"it is {facts.status} at Stripe, and paid here")
        elif (facts.amount_received_cents, facts.currency) != (row.payment.received_cents, row.payment.currency):
            problems.append(
                f"Stripe received {told_money(facts.amount_received_cents, facts.currency)}, "
                f"we recorded {told_money(row.payment.received_cents, row.payment.currency)}"
            )
        if facts.disputed and row.payment.dispute is None:
            problems.append("Stripe shows a dispute that is not on record")
        if compare_refunds and (facts.refunded_cents or row.refunds):
            problems.append("refunds")
        return problems


def _keep_back(row: ComparedPayment) -> str:
    job_id = row.payment.job_id
    if row.job_unfinished:
        return f'`smi jobs hold {job_id} "unlike Stripe"` keeps the job from being submitted meanwhile.'
    return f"`smi jobs show {job_id}` shows what was done for it." if job_id else ""
