"""Refunds: what Stripe's answers mean for ours and for external ones, in the caller's transaction."""

from dataclasses import asdict

from smi_pipeline.core import reasons
from smi_pipeline.core.models import StripeRefund
from smi_pipeline.core.vocabulary import (
    LIVE_REFUNDS,
    REFUNDS_OF_FAILURE,
    RETURNED,
    UNFINISHED_REFUNDS,
    UNSUCCESSFUL_REFUNDS,
    EmailKind,
    ManualTaskKind,
    PaymentRole,
    RefundKind,
    RefundState,
)
from smi_pipeline.state import transitions
from smi_pipeline.state.database import Row, Transaction, in_
from smi_pipeline.state.emails import queue_email
from smi_pipeline.state.manual_tasks import close_task, open_task
from smi_pipeline.state.payment_rows import lock_job_of, record_kept, reopen_unmatched, settle_unmatched
from smi_pipeline.state.pending_refunds import OURS_LIVE

_MAIL_KIND = {
    RefundKind.FAILURE: EmailKind.REFUND,
    RefundKind.WRONG_AMOUNT: EmailKind.REFUND,
    RefundKind.DUPLICATE_PAYMENT: EmailKind.DUPLICATE_PAYMENT,
    RefundKind.GOODWILL: EmailKind.GOODWILL,
}


REQUIRES_ACTION = "requires_action"
NO_BALANCE = "insufficient_funds"
_SETTLED = (RefundState.SUCCEEDED, *UNSUCCESSFUL_REFUNDS)
_KNOWN_WORDS = (RefundState.PENDING, REQUIRES_ACTION, *_SETTLED)


def _state_of(facts: StripeRefund) -> RefundState:
    """Return the state that a word of Stripe means. A word that is not known means that the money is on its way:
    nothing is returned twice, and nobody is told that it has arrived."""
    return RefundState(facts.status) if facts.status in _SETTLED else RefundState.PENDING


def name_unknown_word(tx: Transaction, facts: StripeRefund) -> None:
    """Open a manual task for a state of a refund that is not known here."""
    if facts.status in _KNOWN_WORDS:
        return
    open_task(
        tx,
        kind=ManualTaskKind.UNKNOWN_WORD,
        subject=f"refund {facts.status or 'without a status'}"[:100],
        message=f"Stripe says of the refund {facts.refund_id} that it is {facts.status or 'in no state'!r}, which is "
        "not known here. Refunds in this state count as on their way.",
        next_step="See in the Stripe dashboard what it means. If the money does not go back, return it another way.",
    )


def open_balance_task(tx: Transaction, why: str) -> None:
    """Open the manual task of a balance that is too small for a refund."""
    open_task(
        tx,
        kind=ManualTaskKind.BALANCE,
        subject="stripe",
        message=f"The balance at Stripe is too small for the refunds that are owed: {why.rstrip('.')}.",
        next_step="Add money to the balance in the Stripe dashboard, or pause payouts. The refunds are tried again by "
        "themselves every quarter of an hour.",
    )


def _close_balance_task(tx: Transaction) -> None:
    if not tx.value("SELECT 1 FROM smi.refunds WHERE waits_for_balance LIMIT 1"):
        close_task(tx, kind=ManualTaskKind.BALANCE, subject="stripe", actor="recovered")


def settle_refund(tx: Transaction, refund_id: int, facts: StripeRefund, actor: str, mail_domain: str) -> str:
    """Apply what Stripe says of a refund on record. Return its new state, or `known`."""
    state = _state_of(facts)
    before = tx.row("SELECT * FROM smi.refunds WHERE refund_row = :id FOR UPDATE", id=refund_id)
    if before is None:
        return "known"
    name_unknown_word(tx, facts)
    if before["state"] == state and before["stripe_refund_id"] == facts.refund_id:
        tx.run(
            """UPDATE smi.refunds SET lease_id = NULL, lease_until = NULL, stripe_status = :status,
                      next_attempt_at = smi.now() + interval '1 hour' WHERE refund_row = :id""",
            id=refund_id,
            status=facts.status,
        )
        if before["stripe_status"] != facts.status:
            _tell_customer(tx, before, facts, state, mail_domain)
        return "known"
    if before["state"] in UNSUCCESSFUL_REFUNDS:
        return "known"  # terminal at Stripe too: an older event arrived late
    if before["state"] == RefundState.SUCCEEDED and state is RefundState.PENDING:
        return "known"
    tx.run(
        f"""UPDATE smi.refunds SET state = :state, stripe_refund_id = :refund_id, amount_cents = :amount_cents,
               stripe_status = :status, waits_for_balance = coalesce(:pending_reason = '{NO_BALANCE}', false),
               failure = :failure_reason, lease_id = NULL, lease_until = NULL, attempts = 0,
               first_called_at = coalesce(first_called_at, smi.now()),
               settled_at = CASE WHEN :state = '{RefundState.PENDING}' THEN NULL ELSE smi.now() END,
               next_attempt_at = smi.now() + interval '1 hour'
           WHERE refund_row = :id""",
        id=refund_id,
        state=state,
        **asdict(facts),
    )
    tx.audit(
        before["job_id"],
        f"refund_{state}",
        actor=actor,
        refund=facts.refund_id,
        amount_cents=facts.amount_cents,
        currency=facts.currency,
        reason=before["reason_code"],
    )
    if facts.pending_reason == NO_BALANCE:
        open_balance_task(tx, f"the refund {facts.refund_id} waits for it")
    elif before["waits_for_balance"]:
        _close_balance_task(tx)
    if state in UNSUCCESSFUL_REFUNDS:
        if before["kind"] == RefundKind.EXTERNAL and _owed_again(tx, before["job_id"], facts, actor):
            return state
        refund_failed(tx, before, facts.failure_reason or f"Stripe says {facts.status}", actor)
        return state
    if before["kind"] == RefundKind.EXTERNAL:  # made by hand and on record since: who made it tells the customer
        return state
    if state is RefundState.SUCCEEDED and _kept_cents(tx, before["payment_intent_id"]) <= 0:
        close_task(tx, kind=ManualTaskKind.REFUND_FAILED, subject=before["payment_intent_id"], actor=actor)
    if state is RefundState.SUCCEEDED and before["kind"] in (*REFUNDS_OF_FAILURE, RefundKind.GOODWILL):
        transitions.mark_refunded(tx, before["job_id"], actor=actor)
    _tell_customer(tx, before, facts, state, mail_domain)
    return state


def _tell_customer(tx: Transaction, row: Row, facts: StripeRefund, state: RefundState, mail_domain: str) -> None:
    """Queue the mail about a refund of ours: that it is made, or what the customer must do for it."""
    if not row["job_id"] or row["kind"] not in _MAIL_KIND or state in UNSUCCESSFUL_REFUNDS:
        return
    kind = EmailKind.REFUND_ACTION if facts.status == REQUIRES_ACTION else _MAIL_KIND[row["kind"]]
    again = kind is EmailKind.REFUND_ACTION and row["stripe_status"] not in (None, REQUIRES_ACTION)
    queue_email(tx, row["job_id"], kind, mail_domain, context={"refund_row": row["refund_row"]}, again=again)


def _owed_again(tx: Transaction, job_id: str | None, facts: StripeRefund, actor: str) -> bool:
    """Owe our refund again that an external one had made unnecessary: that one failed. Return False without one."""
    owed = tx.run(
        f"""UPDATE smi.refunds r SET state = '{RefundState.OWED}', settled_at = NULL, failure = NULL, attempts = 0,
                  next_attempt_at = smi.now()
           WHERE payment_intent_id = :pi AND state = '{RefundState.NOT_NEEDED}' AND failure = :why AND NOT EXISTS (
               SELECT FROM smi.refunds o WHERE o.payment_intent_id = r.payment_intent_id
               AND o.kind <> '{RefundKind.EXTERNAL}' AND (o.refund_row > r.refund_row OR {OURS_LIVE}))""",
        pi=facts.payment_intent_id,
        why=reasons.REFUNDED_IN_FULL,
    )
    if owed:
        tx.audit(job_id, "refund_owed_again", actor=actor, external_refund=facts.refund_id)
    return bool(owed)


def _kept_cents(tx: Transaction, payment_intent_id: str) -> int:
    """Return what the shop still has of a payment, by the refunds on record."""
    kept = tx.value(
        f"""SELECT received_cents - (SELECT coalesce(sum(amount_cents), 0) FROM smi.refunds r
                                    WHERE r.payment_intent_id = p.payment_intent_id
                                      AND r.state IN {in_(RETURNED)})
           FROM smi.payments p WHERE payment_intent_id = :pi""",
        pi=payment_intent_id,
    )
    return int(kept or 0)


def _gave_up(tx: Transaction, payment_intent_id: str) -> bool:
    """Return whether our refund of a failed job has failed, and no other of ours follows."""
    return bool(
        tx.value(
            f"""SELECT bool_or(kind IN {in_(REFUNDS_OF_FAILURE)} AND state IN {in_(UNSUCCESSFUL_REFUNDS)})
                      AND NOT bool_or(state IN {in_(LIVE_REFUNDS)})
               FROM smi.refunds WHERE payment_intent_id = :pi AND kind <> '{RefundKind.EXTERNAL}'""",
            pi=payment_intent_id,
        )
    )


def refund_failed(tx: Transaction, row: Row, why: str, actor: str) -> None:
    """Open the manual task of a refund that failed for good."""
    tx.audit(row["job_id"], "refund_failed", actor=actor, why=why, payment_intent=row["payment_intent_id"])
    again = f"smi jobs refund {row['job_id']}"
    role = tx.value("SELECT role FROM smi.payments WHERE payment_intent_id = :pi", pi=row["payment_intent_id"])
    if role in (
        PaymentRole.DUPLICATE,
        PaymentRole.UNMATCHED,
    ):  # `refund` would return the payment that the job was delivered for
        again = f"smi jobs refund-payment {row['payment_intent_id']}"
    step = f"Run `{again}`, or return the money another way (Stripe dashboard or bank transfer)."
    if tx.value(
        f"SELECT 1 FROM smi.refunds WHERE payment_intent_id = :pi AND {OURS_LIVE}",
        pi=row["payment_intent_id"],
    ):  # ours returned the rest, or will: no command makes another
        step = "What the shop still keeps of it, return another way (Stripe dashboard or bank transfer)."
    elif role == PaymentRole.UNMATCHED:
        reopen_unmatched(tx, row["payment_intent_id"])
    open_task(
        tx,
        kind=ManualTaskKind.REFUND_FAILED,
        subject=row["payment_intent_id"],
        job_id=row["job_id"],
        message=f"The refund of {row['payment_intent_id']} failed: {why}.",
        next_step=step,
    )


def record_external_refund(tx: Transaction, facts: StripeRefund, actor: str, mail_domain: str) -> str:
    """Record a refund that was not made by us, for example in the Stripe dashboard. A full one before delivery ends the
    job. Return the effect: `external`, `ignored` or `owed again`."""
    lock_job_of(tx, facts.payment_intent_id)
    payment = tx.row("SELECT * FROM smi.payments WHERE payment_intent_id = :pi FOR UPDATE", pi=facts.payment_intent_id)
    if payment is None:
        return "ignored"
    name_unknown_word(tx, facts)
    if not facts.alive:
        return "owed again" if _owed_again(tx, payment["job_id"], facts, actor) else "ignored"
    tx.run(  # imported history knows it without its id
        f"""UPDATE smi.refunds SET stripe_refund_id = :refund_id WHERE refund_row = (
               SELECT min(refund_row) FROM smi.refunds
               WHERE payment_intent_id = :payment_intent_id AND kind = '{RefundKind.EXTERNAL}'
               AND stripe_refund_id IS NULL AND amount_cents = :amount_cents)""",
        **asdict(facts),
    )
    tx.run(
        f"""INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, state, amount_cents, currency,
                                    stripe_refund_id, stripe_status, reason_code, actor, settled_at)
           VALUES (:job_id, :payment_intent_id, '{RefundKind.EXTERNAL}', 0, :state, :amount_cents, :currency,
                   :refund_id, :status, :reason, :actor, smi.now())
           ON CONFLICT (stripe_refund_id) DO UPDATE SET state = excluded.state,
                   stripe_status = excluded.stripe_status""",
        **asdict(facts),
        job_id=payment["job_id"],
        state=_state_of(facts),
        reason=reasons.REFUNDED_OUTSIDE,
        actor=actor,
    )
    kept = _kept_cents(tx, facts.payment_intent_id)
    record_kept(tx, facts.payment_intent_id, kept)
    tx.audit(
        payment["job_id"], "refunded_outside", actor=actor, refund=facts.refund_id, amount_cents=facts.amount_cents
    )
    if kept > 0:
        return "external"
    close_task(tx, kind=ManualTaskKind.REFUND_FAILED, subject=facts.payment_intent_id, actor=actor)
    if payment["role"] == PaymentRole.UNMATCHED:
        settle_unmatched(tx, facts.payment_intent_id, actor)
        close_task(tx, kind=ManualTaskKind.UNMATCHED_PAYMENT, subject=facts.payment_intent_id, actor=actor)
    if payment["role"] not in (PaymentRole.ORDER, PaymentRole.WRONG_AMOUNT):
        return "external"
    job = transitions.locked(tx, payment["job_id"])
    decided = job is not None and transitions.fail_refunded(tx, job, actor=actor)
    # A refund of ours that failed was returned by hand: nothing else would close the job.
    if (decided or _gave_up(tx, facts.payment_intent_id)) and transitions.mark_refunded(
        tx, payment["job_id"], actor=actor
    ):
        external = tx.value("SELECT refund_row FROM smi.refunds WHERE stripe_refund_id = :id", id=facts.refund_id)
        queue_email(tx, payment["job_id"], EmailKind.REFUND, mail_domain, context={"refund_row": external})
    return "external"


def assign_refunds(tx: Transaction, payment_intent_id: str, job_id: str) -> None:
    """Assign the refunds on record of a payment to its job."""
    tx.run("UPDATE smi.refunds SET job_id = :job_id WHERE payment_intent_id = :pi", job_id=job_id, pi=payment_intent_id)


def resume_owed_refund(tx: Transaction, payment_intent_id: str) -> None:
    """Make an owed refund due now, after a dispute: won, it goes on; lost, it is not needed."""
    tx.run(
        f"""UPDATE smi.refunds SET next_attempt_at = smi.now()
           WHERE payment_intent_id = :pi AND state = '{RefundState.OWED}' AND lease_id IS NULL""",
        pi=payment_intent_id,
    )


def make_refunds_due(tx: Transaction, job_id: str) -> int:
    """Make the unfinished refunds of a job due now. Return their number."""
    return tx.run(
        f"""UPDATE smi.refunds SET next_attempt_at = smi.now()
           WHERE job_id = :id AND state IN {in_(UNFINISHED_REFUNDS)} AND lease_id IS NULL""",
        id=job_id,
    )
