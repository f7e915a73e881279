"""Payments: what a succeeded payment is to its job, and disputes."""

from datetime import datetime
from typing import Literal

from smi_pipeline.core import reasons
from smi_pipeline.core.lifecycle import UNPAID
from smi_pipeline.core.models import StripePayment
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import DisputeState, ManualTaskKind, PaymentRole, RefundKind, Status
from smi_pipeline.formatting import money, told_money
from smi_pipeline.state import transitions
from smi_pipeline.state.database import Aggregate, Row, Transaction
from smi_pipeline.state.disputes import apply_dispute
from smi_pipeline.state.emails import claim_unaddressed
from smi_pipeline.state.imported_jobs import take_payment
from smi_pipeline.state.job_rows import take_address
from smi_pipeline.state.manual_tasks import close_task, open_task
from smi_pipeline.state.payment_rows import (
    assign_unmatched,
    insert_payment,
    lock_job_of,
    update_payment,
)
from smi_pipeline.state.pending_refunds import create_pending_refund
from smi_pipeline.state.refund_updates import assign_refunds
from smi_pipeline.state.webhook_inbox import record_event_once


class Payments(Aggregate):
    """Payments as Stripe reports them."""

    def record_payment(
        self,
        facts: StripePayment,
        job_id: str,
        *,
        event: tuple[str, str] | None,
        source: str,
        policy: Policy,
        assign: bool = False,
        address: str = "",
    ) -> PaymentRole | Literal["known", "repeated"]:
        """Record a succeeded payment with the event that reported it, and start, fail or leave its job accordingly.

        Return its role (see `_role`), `known` when it is on record, `repeated` when the event is. `assign` makes an
        unsettled unmatched payment the payment of this job. `address` is the customer's, entered at Checkout.
        """
        with self._database.transaction() as tx:
            if event and not record_event_once(tx, event[0], event[1], "payment"):
                return "repeated"
            job = transitions.locked(tx, job_id)
            role = _role(job, facts)
            if assign:
                fresh = role is not PaymentRole.UNMATCHED and _assign(tx, facts.payment_intent_id, job_id, role, source)
            else:
                fresh = insert_payment(tx, facts, None if role is PaymentRole.UNMATCHED else job_id, role, source)
            if assign or not fresh:
                update_payment(tx, facts)
            if job is None or role is PaymentRole.UNMATCHED:
                return role if fresh or assign else "known"
            if not fresh:
                if take_address(tx, job_id, address, actor=source):  # told late
                    close_task(tx, kind=ManualTaskKind.NO_ADDRESS, subject=job_id, actor=source)
                    claim_unaddressed(tx, job_id)
                return "known"
            if job["imported_from"]:
                take_payment(tx, job_id, facts.payment_intent_id, actor=source)
                return role
            _apply(tx, job, facts, role, source, policy)
            if not job["customer_email"] and not take_address(tx, job_id, address, actor=source):
                _name_missing_address(tx, job_id)
            return role

    def note_dispute(
        self,
        payment_intent_id: str,
        state: DisputeState,
        began: datetime | None,
        *,
        event: tuple[str, str],
        actor: str,
        appeal: bool = False,
    ) -> bool:
        """Record the state of a dispute once per event; an appeal opens a lost one again. Return False when the event
        or the payment changes nothing."""
        with self._database.transaction() as tx:
            if not record_event_once(tx, *event, "dispute"):
                return False
            lock_job_of(tx, payment_intent_id)
            return apply_dispute(tx, payment_intent_id, state, began, actor=actor, appeal=appeal)


def _role(job: Row | None, facts: StripePayment) -> PaymentRole:
    """Return what a payment is to its job: an order starts it, a duplicate or a wrong amount is refunded, an unmatched
    payment waits for an admin."""
    if job is None:
        return PaymentRole.UNMATCHED
    if job["imported_from"]:  # another system took that order: never refunded automatically
        return PaymentRole.ORDER if _is_missing(job, facts) else PaymentRole.UNMATCHED
    if job["status"] not in UNPAID:
        return PaymentRole.DUPLICATE  # paid already, or closed before it was paid
    if (facts.amount_received_cents, facts.currency) != (job["price_cents"], job["currency"]):
        return PaymentRole.WRONG_AMOUNT
    return PaymentRole.ORDER


def _is_missing(job: Row, facts: StripePayment) -> bool:
    """Return whether this is the payment of an imported order that the other system has called paid without its id. One
    that failed there has nothing to show for it, nor has one that was refunded there if the money is not back: a person
    must see its payment."""
    price = (job["price_cents"], job["currency"])
    back = facts.refunded_cents >= facts.amount_received_cents
    return (
        bool(job["paid_at"])
        and (job["status"] == Status.COMPLETED or (job["status"] == Status.REFUNDED and back))
        and not job["payment_intent_id"]
        and price == (facts.amount_received_cents, facts.currency)
    )


def _name_missing_address(tx: Transaction, job_id: str) -> None:
    open_task(
        tx,
        kind=ManualTaskKind.NO_ADDRESS,
        subject=job_id,
        job_id=job_id,
        message=f"The paid job {job_id} has no e-mail address: Stripe has none that mails can be sent to, or does not "
        "tell it. The customer gets no mail; the status page, to which Checkout leads, shows the download.",
        next_step=f"Find the customer in the Stripe dashboard, then `smi jobs address {job_id} ADDRESS`.",
    )


def _assign(tx: Transaction, payment_intent_id: str, job_id: str, role: PaymentRole, actor: str) -> bool:
    """Assign an unmatched payment to a job, with the refunds on record of it."""
    assigned = assign_unmatched(tx, payment_intent_id, job_id, role, actor)
    if assigned:
        assign_refunds(tx, payment_intent_id, job_id)
        tx.audit(None, "unmatched_payment_assigned", actor=actor, payment_intent=payment_intent_id)
    return assigned


def _apply(tx: Transaction, job: Row, facts: StripePayment, role: PaymentRole, source: str, policy: Policy) -> None:
    """Do what a new payment means for its job."""
    if role is PaymentRole.ORDER:
        transitions.start_paid(tx, job, facts, max_wait=policy.max_wait, actor=source)
    elif role is PaymentRole.DUPLICATE:
        create_pending_refund(
            tx,
            job_id=job["job_id"],
            payment_intent_id=facts.payment_intent_id,
            kind=RefundKind.DUPLICATE_PAYMENT,
            currency=facts.currency,
            reason=reasons.DUPLICATE_PAYMENT,
            actor=source,
        )
        tx.audit(job["job_id"], "second_payment", actor=source, payment_intent=facts.payment_intent_id)
    else:
        paid, price = (
            told_money(facts.amount_received_cents, facts.currency),
            money(job["price_cents"], job["currency"]),
        )
        message = f"paid {paid} instead of {price}"
        transitions.refuse_amount(tx, job, facts, message=message, actor=source)
        open_task(
            tx,
            kind=ManualTaskKind.WRONG_AMOUNT,
            subject=facts.payment_intent_id,
            job_id=job["job_id"],
            message=f"Job {job['job_id']} was {message}; the payment is being returned.",
            next_step="Find out why the shop charged another amount; acknowledge the task when understood.",
        )
