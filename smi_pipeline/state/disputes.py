"""Disputes of payments on record, in the caller's transaction."""

from datetime import datetime

from smi_pipeline.core.vocabulary import DisputeState, ManualTaskKind
from smi_pipeline.state.database import Transaction
from smi_pipeline.state.job_rows import touch
from smi_pipeline.state.manual_tasks import close_task, open_task
from smi_pipeline.state.payment_rows import record_dispute
from smi_pipeline.state.refund_updates import resume_owed_refund


def apply_dispute(
    tx: Transaction,
    payment_intent_id: str,
    state: DisputeState,
    began: datetime | None,
    *,
    actor: str,
    appeal: bool = False,
) -> bool:
    """Record the state of a dispute, with the manual task that an open one is. Return False for an unknown payment."""
    row = record_dispute(tx, payment_intent_id, state, began, appeal=appeal)
    if row is None:
        return False
    job_id = row["job_id"]
    tx.audit(job_id, f"dispute_{state}", actor=actor, payment_intent=payment_intent_id)
    resume_owed_refund(tx, payment_intent_id)
    touch(tx, job_id)
    if row["dispute"] != DisputeState.OPEN:
        close_task(tx, kind=ManualTaskKind.DISPUTE, subject=payment_intent_id, actor=actor)
    else:
        whose = f"The customer of job {job_id}" if job_id else "A customer of no job we know"
        open_task(
            tx,
            kind=ManualTaskKind.DISPUTE,
            subject=payment_intent_id,
            job_id=job_id,
            message=f"{whose} disputes the payment {payment_intent_id}.",
            next_step="Answer it in the Stripe dashboard before its due date.",
        )
    return True
