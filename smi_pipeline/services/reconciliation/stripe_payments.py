"""Stripe's payments and refunds against ours, both ways (section 6 rules 3 and 8), without trusting any event.

What the rules settle is settled: a payment that was missed is learned of, a refund that was missed is recorded. All
else is named to a person, and no money is moved from here.
"""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from smi_pipeline.core.errors import NotFound, PermanentError, TransientError
from smi_pipeline.core.models import StripePayment
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.intake import learn_of_payment
from smi_pipeline.services.reconciliation.time_windows import TimeWindowReader

CURSOR = "stripe_payments_compared"

RECENT = timedelta(hours=24)
"""How far back each round goes ..."""

DEEP, DEEP_EVERY = timedelta(days=30), timedelta(hours=6)
"""... and how far one of them goes, how often: refunds fail up to 30 days later, and databases are restored."""

_MAX_UNANSWERED = 5
_PAID = "succeeded"


def compare_payments(ctx: ServiceContext, *, seconds: float = 30.0) -> Counter[str]:
    """Goes on comparing for so many seconds, from where the last call has ended. Returns how many payments had which
    result: known, missed (learned of now), differs, unanswered.

    Raises TransientError when Stripe does not answer; where it went on to is kept.
    """
    tally: Counter[str] = Counter()
    _name_orphans(ctx)
    now = ctx.state.submissions.now()
    stored = json.loads(ctx.state.intake.cursor(CURSOR) or "{}")
    deep = _moment(stored.get("deep"))
    at = _moment(stored.get("at"))
    if at is None:  # a new round
        if deep is None or now - deep >= DEEP_EVERY:
            deep, at = now, now - DEEP
        else:
            at = now - RECENT
    comparison = _Comparison(ctx, tally, ends=time.monotonic() + seconds)
    walk = TimeWindowReader(
        ctx.payments.payments_since,
        at,
        now + timedelta(days=1),  # Stripe's clock may be ahead of ours
        ends=time.monotonic() + seconds,
        width=timedelta(seconds=stored["width"]) if stored.get("width") else None,
    )
    try:
        for start, end, listed in walk:
            if not comparison.slice(listed, start, end):
                walk.shorten()
                break
    finally:
        ended = now if walk.finished else _moment(stored.get("ended"))
        place = {
            "at": None if walk.finished else walk.at.isoformat(),
            "width": None if walk.finished else walk.width.total_seconds(),
            "deep": deep.astimezone(UTC).isoformat() if deep else None,
            "ended": ended.astimezone(UTC).isoformat() if ended else None,
        }
        ctx.state.intake.set_cursor(CURSOR, json.dumps(place))
    return tally


def _name_orphans(ctx: ServiceContext) -> None:
    named = [task.subject for task in ctx.state.manual_tasks.opened() if task.kind == "orphan_payment"]
    for payment_intent, row in ctx.state.reconciliation.payments(named).items():
        if row["role"] != "orphan" or row["settled_by"]:  # settled while it was being named
            ctx.state.manual_tasks.close("orphan_payment", payment_intent, actor=ctx.actor)
    for payment_intent in ctx.state.reconciliation.unnamed_orphans(ctx.policy.orphan_patience, limit=50):
        ctx.state.manual_tasks.open(
            kind="orphan_payment",
            subject=payment_intent,
            job_id=None,
            message=f"The payment {payment_intent} belongs to no upscale job we know.",
            next_step=f"`smi jobs assign {payment_intent} JOB_ID` or `smi jobs refund-payment {payment_intent}`.",
        )


class _Comparison:
    def __init__(self, ctx: ServiceContext, tally: Counter[str], *, ends: float) -> None:
        self._ctx, self._tally, self._ends = ctx, tally, ends
        self._told = {task.subject for task in ctx.state.manual_tasks.opened() if task.kind == "payment_differs"}

    def slice(self, listed: list[StripePayment], since: datetime, until: datetime) -> bool:
        """Compares what Stripe lists of a time, and what we have of it. False when time is up before the end."""
        theirs = {facts.payment_intent_id: facts for facts in listed}
        ours = set(self._ctx.state.reconciliation.paid_between(since, until))
        names = sorted(theirs.keys() | ours)
        for first in range(0, len(names), 100):
            part = names[first : first + 100]
            rows = self._ctx.state.reconciliation.payments(part)
            for name in part:
                if time.monotonic() > self._ends:
                    return False
                try:
                    self._tally[self._payment(name, theirs.get(name), rows.get(name))] += 1
                except TransientError:  # compared in the next round; the others now
                    self._tally["unanswered"] += 1
                    if self._tally["unanswered"] >= _MAX_UNANSWERED:
                        raise
        return True

    def _payment(self, name: str, facts: StripePayment | None, row: dict[str, Any] | None) -> str:
        if row is None:
            return self._missed(facts) if facts and facts.status == _PAID else "unpaid"
        if row["imported_from"]:
            return "imported"
        if facts is not None and not self._problems(facts, row):
            return self._agrees(name)
        # Listed before, or recorded since: only what differs in a fresh look is said.
        problems, step = self._fresh_look(name)
        if not problems:
            return self._agrees(name)
        self._ctx.state.manual_tasks.open(
            kind="payment_differs",
            subject=name,
            job_id=row["job_id"],
            message=f"The payment {name} of {'job ' + row['job_id'] if row['job_id'] else 'no job'} differs from "
            f"Stripe's: {'; '.join(problems)}.",
            next_step=step,
        )
        return "differs"

    def _agrees(self, name: str) -> str:
        if name in self._told:
            self._ctx.state.manual_tasks.close("payment_differs", name, actor=self._ctx.actor)
        return "known"

    def _missed(self, facts: StripePayment) -> str:
        job_id = str(facts.metadata.get("job_id", ""))
        try:
            learn_of_payment(self._ctx, facts.payment_intent_id, job_id, event=None, source="stripe reconciliation")
        except (NotFound, PermanentError):
            return "unreadable"
        return "missed"

    def _fresh_look(self, name: str) -> tuple[list[str], str]:
        """What differs now, after Stripe's refunds were taken in; and what to do about it."""
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
        for ours in row["refunds"]:
            theirs = known.get(ours["stripe_refund_id"])
            if theirs is None and ours["state"] in ("pending", "succeeded"):
                if not self._made_just_now(ours["stripe_refund_id"]):
                    problems.append(
                        f"Stripe does not know the refund {ours['stripe_refund_id']} of {ours['amount_cents']} cents"
                    )
            elif theirs is not None and theirs.alive != (ours["state"] in ("pending", "succeeded")):
                problems.append(f"the refund {theirs.refund_id} is {ours['state']} here and {theirs.status} at Stripe")
        return problems, (
            "See in the Stripe dashboard whether the money went back; if it did not, return it there: that is recorded "
            f"by itself. {'`smi jobs show ' + row['job_id'] + '` says what we know.' if row['job_id'] else ''}"
        )

    def _row(self, name: str) -> dict[str, Any]:
        return self._ctx.state.reconciliation.payments([name])[name]

    def _made_just_now(self, refund_id: str | None) -> bool:
        try:
            return bool(refund_id and self._ctx.payments.refund(refund_id).alive)
        except NotFound:
            return False

    @staticmethod
    def _problems(facts: StripePayment, row: dict[str, Any], *, compare_refunds: bool = True) -> list[str]:
        problems = []
        if facts.status != _PAID:
            problems.append(f"it is {facts.status} at Stripe, and paid here")
        elif (facts.amount_received_cents, facts.currency) != (row["received_cents"], row["currency"]):
            problems.append(
                f"Stripe received {facts.amount_received_cents} {facts.currency} cents, "
                f"we recorded {row['received_cents']} {row['currency']} cents"
            )
        if facts.disputed and row["dispute"] is None:
            problems.append("Stripe shows a dispute that we have not heard of")
        if compare_refunds and (facts.refunded_cents or row["refunds"]):
            problems.append("refunds")
        return problems


def _keep_back(row: dict[str, Any]) -> str:
    if row["status"] in ("pending", "processing"):
        return f'`smi jobs hold {row["job_id"]} "unlike Stripe"` keeps the job from being submitted meanwhile.'
    return f"`smi jobs show {row['job_id']}` says what was done for it." if row["job_id"] else ""


def _moment(stored: str | None) -> datetime | None:
    return datetime.fromisoformat(stored) if stored else None
