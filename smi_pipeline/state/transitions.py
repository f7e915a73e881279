"""The life cycle of an upscale job: one function per transition, in the caller's transaction.

Only this module changes `upscale_jobs.status`, decides outcomes, or ends the lease of a job whose step is done
(`leases` hands rows out and takes them back without deciding anything; `imported_jobs` inserts closed jobs and
completes their rows).
`core.lifecycle.TRANSITIONS` lists what is allowed, and the database refuses everything else.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.lifecycle import UNFINISHED
from smi_pipeline.core.models import ImageInfo, StripePayment
from smi_pipeline.core.vocabulary import Outcome, Queue, RefundKind, Stage, Status
from smi_pipeline.state.database import Row, Transaction, in_
from smi_pipeline.state.ordered_pictures import answer
from smi_pipeline.state.pending_refunds import create_pending_refund

_END_LEASE = "lease_id = NULL, lease_until = NULL"
_LEAVE_QUEUE = f"queue = NULL, {_END_LEASE}"
_END_HOLD = "hold_reason = NULL, held_at = NULL"
_PAID = """payment_intent_id = :payment_intent, learned_at = smi.now(),
    paid_at = least(coalesce(CAST(:paid_at AS timestamptz), smi.now()), smi.now())"""
"""Stripe's clock may be ahead of ours."""

_BEFORE = {
    Status.COMPLETED: (Status.PENDING, Status.PROCESSING),
    Status.FAILED: (Status.PENDING,),
    Status.REFUNDED: (Status.PENDING, Status.FAILED),
}
"""The steps between an abandoned job and a closed one."""

_UNDECIDED = f"""status IN {in_(UNFINISHED)} AND NOT EXISTS (
    SELECT FROM smi.outcomes o WHERE o.job_id = j.job_id AND o.round = j.round)"""


def locked(tx: Transaction, job_id: str | None) -> Row | None:
    """Return the row of a job, locked until the end of the transaction."""
    return tx.row("SELECT * FROM smi.upscale_jobs WHERE job_id = :id FOR UPDATE", id=job_id)


def leased(tx: Transaction, job_id: str, lease_id: str) -> Row:
    """Return the row of a leased job, locked until the end of the transaction. Raise LeaseLost."""
    job = tx.row(
        "SELECT * FROM smi.upscale_jobs WHERE job_id = :id AND lease_id = :lease FOR UPDATE", id=job_id, lease=lease_id
    )
    if job is None:
        raise LeaseLost(f"job {job_id} was leased to another run")
    return job


def decide(tx: Transaction, job: Row, outcome: Outcome, reason: str | None, actor: str) -> bool:
    """Decide how this round of a job ends. Return False when it is decided already."""
    return tx.changes(
        """INSERT INTO smi.outcomes (job_id, round, outcome, reason, actor)
           VALUES (:id, :round, :outcome, :reason, :actor) ON CONFLICT DO NOTHING""",
        id=job["job_id"],
        round=job["round"],
        outcome=outcome,
        reason=reason,
        actor=actor,
    )


def _enter(
    tx: Transaction, job: Row, status: Status, changes: str, event: str, actor: str, details: Row, **parameters: Any
) -> None:
    """Change the status with the columns that belong to it, and audit it."""
    tx.run(
        f"UPDATE smi.upscale_jobs SET status = '{status}', {changes} WHERE job_id = :job_id",
        job_id=job["job_id"],
        **parameters,
    )
    tx.audit(job["job_id"], event, actor=actor, from_status=job["status"], to_status=status, **details)


def start_paid(tx: Transaction, job: Row, payment: StripePayment, *, max_wait: timedelta, actor: str) -> None:
    """Queue a job whose payment succeeded for submission."""
    _enter(
        tx,
        job,
        Status.PENDING,
        f"""{_PAID}, queue = '{Queue.SUBMIT}', stage = '{Stage.QUEUED}', attempts = 0, next_attempt_at = smi.now(),
            waits_since = smi.now(), start_by = smi.now() + CAST(:max_wait AS interval)""",
        "paid",
        actor,
        {
            "payment_intent": payment.payment_intent_id,
            "amount_cents": payment.amount_received_cents,
            "currency": payment.currency,
        },
        payment_intent=payment.payment_intent_id,
        paid_at=payment.paid_at,
        max_wait=max_wait,
    )


def refuse_amount(tx: Transaction, job: Row, payment: StripePayment, *, message: str, actor: str) -> None:
    """Fail a job that was paid with another amount than its price, and create the refund."""
    decide(tx, job, Outcome.REFUND, reasons.WRONG_AMOUNT, actor)
    _enter(
        tx,
        job,
        Status.FAILED,
        f"{_PAID}, queue = NULL, failed_at = smi.now(), reason_code = :reason, reason_text = :message",
        "wrong_amount",
        actor,
        {"message": message},
        payment_intent=payment.payment_intent_id,
        paid_at=payment.paid_at,
        reason=reasons.WRONG_AMOUNT,
        message=message,
    )
    create_pending_refund(
        tx,
        job_id=job["job_id"],
        payment_intent_id=payment.payment_intent_id,
        kind=RefundKind.WRONG_AMOUNT,
        currency=payment.currency,
        reason=reasons.WRONG_AMOUNT,
        actor=actor,
    )


def abandon(tx: Transaction, job_id: str, *, actor: str) -> bool:
    """Close an unpaid job. Return False when it is no longer unpaid."""
    return _enter_from(tx, job_id, Status.AWAITING_PAYMENT, Status.ABANDONED, "abandoned", actor)


def begin_processing(
    tx: Transaction, job: Row, *, source: ImageInfo, source_key: str, expected_seconds: float, actor: str
) -> None:
    """Set a job to `processing` with its stored source. A repeated preparation only replaces the source."""
    changes = """source_key = :source_key, source_sha256 = :sha256, source_bytes = :bytes,
        expected_seconds = :expected, processing_at = coalesce(processing_at, smi.now())"""
    parameters = {**asdict(source), "source_key": source_key, "expected": expected_seconds}
    if job["status"] == Status.PROCESSING:
        tx.run(f"UPDATE smi.upscale_jobs SET {changes} WHERE job_id = :job_id", job_id=job["job_id"], **parameters)
        return
    # Another file of the same size: what is stored and delivered is what the shop shows now.
    details = {
        "expected_seconds": round(expected_seconds, 1),
        "source_changed": job["source_sha256"] != source.sha256,
    }
    _enter(tx, job, Status.PROCESSING, changes, "prepared", actor, details, **parameters)


def mark_submitted(
    tx: Transaction,
    job_id: str,
    round_: int,
    *,
    deadline: datetime,
    stage: Stage,
    estimated_completion: datetime | None,
) -> None:
    """Take a job out of the submit queue: Upsampler has accepted it."""
    tx.run(
        f"""UPDATE smi.upscale_jobs SET {_LEAVE_QUEUE}, attempts = 0, last_error = NULL, deadline_at = :deadline,
                  submitted_at = coalesce(submitted_at, smi.now()), stage = :stage, estimated_completion = :eta
           WHERE job_id = :job_id AND round = :round AND queue = '{Queue.SUBMIT}'""",
        job_id=job_id,
        round=round_,
        deadline=deadline,
        stage=stage,
        eta=estimated_completion,
    )


def hand_to_fulfilment(tx: Transaction, job_id: str, round_: int, *, completed: bool) -> bool:
    """Queue a job for fulfilment, which delivers or fails it. Return False when it is there or decided already."""
    return tx.changes(
        f"""UPDATE smi.upscale_jobs j SET queue = '{Queue.FULFIL}', next_attempt_at = smi.now(), attempts = 0,
                stage = :stage, {_END_LEASE},
                result_ready_at = CASE WHEN :completed THEN smi.now() ELSE result_ready_at END
            WHERE job_id = :job_id AND round = :round AND queue IS DISTINCT FROM '{Queue.FULFIL}'
              AND {_UNDECIDED}""",
        job_id=job_id,
        round=round_,
        stage=Stage.COMPLETED if completed else Stage.FAILED,
        completed=completed,
    )


def postpone(tx: Transaction, job: Row, *, seconds: float, error: str, uncounted: int = 1) -> None:
    """End the lease of a job whose failure is not believed yet: it is due again in `seconds`. `uncounted`: so many of
    its attempts do not count."""
    tx.run(
        f"""UPDATE smi.upscale_jobs SET {_END_LEASE}, last_error = :error,
                  attempts = greatest(attempts - :uncounted, 0),
                  next_attempt_at = smi.now() + make_interval(secs => :seconds)
            WHERE job_id = :job_id""",
        job_id=job["job_id"],
        seconds=seconds,
        error=error[:500],
        uncounted=uncounted,
    )


def hold_for_a_person(tx: Transaction, job: Row, *, reason: str, error: str, actor: str) -> None:
    """End the lease of a job and hold it: a person decides how it goes on. Its clock stands still as for any hold."""
    tx.run(
        f"""UPDATE smi.upscale_jobs SET {_END_LEASE}, last_error = :error, attempts = greatest(attempts - 1, 0),
                  hold_reason = :reason, held_at = coalesce(held_at, smi.now())
            WHERE job_id = :job_id""",
        job_id=job["job_id"],
        reason=reason,
        error=error[:500],
    )
    tx.audit(job["job_id"], "hold", actor=actor, reason=reason)


def hand_back_to_submission(
    tx: Transaction,
    job: Row,
    *,
    seconds: float,
    error: str,
    stopped: timedelta,
    max_hold: timedelta,
    new_deadline: bool = False,
) -> None:
    """Queue a job whose upscale came to nothing for another submission. Its deadline stays unless it gets a new one,
    but for the time for which its clocks have `stopped`."""
    tx.run(
        f"""UPDATE smi.upscale_jobs SET queue = '{Queue.SUBMIT}', stage = '{Stage.QUEUED}', {_END_LEASE}, attempts = 0,
                  result_ready_at = NULL, last_error = :error, waits_since = smi.now(),
                  deadline_at = CASE WHEN NOT :new_deadline THEN deadline_at + given END,
                  start_by = start_by + given, outage = outage + given,
                  next_attempt_at = smi.now() + make_interval(secs => :seconds)
            FROM (SELECT least(CAST(:stopped AS interval),
                               greatest(interval '0', CAST(:max_hold AS interval) - :outage)) AS given) AS time
            WHERE job_id = :job_id""",
        job_id=job["job_id"],
        seconds=seconds,
        error=error[:500],
        stopped=stopped,
        max_hold=max_hold,
        outage=job["outage"],
        new_deadline=new_deadline,
    )


def hand_unstarted_to_fulfilment(tx: Transaction, *, max_hold: timedelta, open_call: str, stopped: str) -> int:
    """Queue jobs past `start_by`, or past their deadline before they are submitted again, for fulfilment, which fails
    them. Return their number.

    `open_call`: condition on `smi.submissions s` of a call that may still succeed; a job with such a call waits.
    `stopped`: for how long circuit breakers have stopped the clock of the job `j`.
    """
    return tx.run(
        f"""UPDATE smi.upscale_jobs j SET queue = '{Queue.FULFIL}', next_attempt_at = smi.now(), attempts = 0,
                  {_END_HOLD}, {_END_LEASE}
           WHERE queue = '{Queue.SUBMIT}' AND (lease_id IS NULL OR lease_until <= smi.now())
             AND coalesce(deadline_at, start_by)
                 + CASE WHEN hold_reason IS NULL THEN {stopped}
                        ELSE least(smi.now() - held_at, CAST(:max_hold AS interval)) END <= smi.now()
             AND NOT EXISTS (SELECT FROM smi.submissions s
                             WHERE s.job_id = j.job_id AND s.round = j.round AND {open_call})""",
        max_hold=max_hold,
    )


def complete(tx: Transaction, job: Row, *, actor: str) -> bool:
    """Decide for delivery and complete the job. Return False when the round was decided before."""
    if not decide(tx, job, Outcome.DELIVER, None, actor):
        _release(tx, job)
        return False
    _enter(
        tx,
        job,
        Status.COMPLETED,
        f"""{_LEAVE_QUEUE}, {_END_HOLD}, completed_at = smi.now(), reason_code = NULL, reason_text = NULL,
            last_error = NULL""",
        "delivered",
        actor,
        {"bytes": job["result_bytes"]},
    )
    return True


def fail(tx: Transaction, job: Row, *, reason: str, message: str, actor: str) -> bool:
    """Decide against delivery and fail the job, with the refund of a paid first round. Return False when the round was
    decided before."""
    refund = job["round"] == 1 and job["payment_intent_id"] is not None
    if not decide(tx, job, Outcome.REFUND if refund else Outcome.NONE, reason, actor):
        _release(tx, job)
        return False
    if job["round"] > 1 and _delivered_before(tx, job):
        keep_delivered(tx, job, reason=reason, message=message, actor=actor)
        return True
    _enter_failed(tx, job, reason, message, actor)
    if refund:
        create_pending_refund(
            tx,
            job_id=job["job_id"],
            payment_intent_id=job["payment_intent_id"],
            kind=RefundKind.FAILURE,
            currency=job["currency"],
            reason=reason,
            actor=actor,
        )
    return True


def keep_delivered(tx: Transaction, job: Row, *, reason: str, message: str, actor: str) -> None:
    """Return a job to `completed` after a free retry failed: the customer's link leads to the same file as before."""
    _ask_no_longer(tx, job, actor)
    _enter(
        tx,
        job,
        Status.COMPLETED,
        f"{_LEAVE_QUEUE}, {_END_HOLD}, stage = '{Stage.COMPLETED}'",
        "free_retry_failed",
        actor,
        {"reason": reason, "message": message[:500]},
    )


def fail_refunded(tx: Transaction, job: Row, *, actor: str) -> bool:
    """Fail a job whose payment was returned outside the pipeline. Return False when the round was decided before.

    A free retry ends without money, whatever happens to the payment.
    """
    if job["round"] > 1 or not decide(tx, job, Outcome.REFUND, reasons.REFUNDED_OUTSIDE, actor):
        return False
    _enter_failed(tx, job, reasons.REFUNDED_OUTSIDE, reasons.FOR_CUSTOMER[reasons.REFUNDED_OUTSIDE], actor)
    return True


def mark_refunded(tx: Transaction, job_id: str | None, *, actor: str) -> bool:
    """Close a failed job whose money is returned. Return False when it is not `failed`."""
    return _enter_from(tx, job_id, Status.FAILED, Status.REFUNDED, "refunded", actor)


def close_imported(tx: Transaction, job_id: str, target: Status) -> None:
    """Bring an abandoned imported job to the end that its order has come to in the other system, by allowed steps. The
    import audits it."""
    for status in (*_BEFORE[target], target):
        tx.run(f"UPDATE smi.upscale_jobs SET status = '{status}' WHERE job_id = :job_id", job_id=job_id)


def retry(tx: Transaction, job: Row, *, max_wait: timedelta, actor: str) -> int:
    """Start a new round of a closed or unpaid job by order of an admin. Return its number."""
    _enter(
        tx,
        job,
        Status.PENDING,
        f"""queue = '{Queue.SUBMIT}', stage = '{Stage.QUEUED}', round = round + 1, attempts = 0,
            next_attempt_at = smi.now(), {_END_LEASE}, last_error = NULL, {_END_HOLD}, reason_code = NULL,
            reason_text = NULL, deadline_at = NULL, processing_at = NULL, submitted_at = NULL, admin_override = true,
            files_removed_at = NULL, learned_at = coalesce(learned_at, smi.now()),
            start_by = smi.now() + CAST(:max_wait AS interval), waits_since = smi.now(), outage = '0'""",
        "retry",
        actor,
        {"round": job["round"] + 1},
        max_wait=max_wait,
    )
    return int(job["round"]) + 1


def _enter_from(tx: Transaction, job_id: str | None, source: Status, target: Status, event: str, actor: str) -> bool:
    """Change the status of a job that is in `source`. Return False when it is not."""
    moved = tx.run(
        f"UPDATE smi.upscale_jobs SET status = '{target}' WHERE job_id = :id AND status = '{source}'", id=job_id
    )
    if moved:
        tx.audit(job_id, event, actor=actor, from_status=source, to_status=target)
    return bool(moved)


def _ask_no_longer(tx: Transaction, job: Row, actor: str) -> None:
    """Close the question about a job on hold (`hold_for_a_person`): there is nothing left to decide."""
    answer(tx, job["job_id"], release=False, actor=actor)


def _enter_failed(tx: Transaction, job: Row, reason: str, message: str, actor: str) -> None:
    _ask_no_longer(tx, job, actor)
    _enter(
        tx,
        job,
        Status.FAILED,
        f"""{_LEAVE_QUEUE}, {_END_HOLD}, stage = '{Stage.FAILED}', failed_at = smi.now(), reason_code = :reason,
            reason_text = :message""",
        "failed",
        actor,
        {"reason": reason, "message": message[:500]},
        reason=reason,
        message=message[:500],
    )


def _release(tx: Transaction, job: Row) -> None:
    """Take a decided job out of its queue."""
    tx.run(f"UPDATE smi.upscale_jobs SET {_LEAVE_QUEUE} WHERE job_id = :id", id=job["job_id"])


def _delivered_before(tx: Transaction, job: Row) -> bool:
    """Return whether an earlier round was delivered and its file is still there."""
    return job["result_key"] is not None and bool(
        tx.value(
            f"SELECT 1 FROM smi.outcomes WHERE job_id = :id AND outcome = '{Outcome.DELIVER}' LIMIT 1",
            id=job["job_id"],
        )
    )
