"""The decision to return a payment, in the caller's transaction."""

from smi_pipeline.core.vocabulary import LIVE_REFUNDS, RefundKind
from smi_pipeline.state.database import Transaction, in_

OURS_LIVE = f"kind <> '{RefundKind.EXTERNAL}' AND state IN {in_(LIVE_REFUNDS)}"
"""A refund of ours that returns a payment, or did: at most one per payment, by a unique index with this predicate."""


def create_pending_refund(
    tx: Transaction,
    *,
    job_id: str | None,
    payment_intent_id: str,
    kind: RefundKind,
    currency: str,
    reason: str,
    actor: str,
) -> bool:
    """Commit the intent to return the rest of a payment, with its idempotency key. Return False when one exists."""
    return tx.changes(
        f"""INSERT INTO smi.refunds (job_id, payment_intent_id, kind, n, idempotency_key, currency, reason_code,
                                    actor, next_attempt_at)
           SELECT :job_id, :pi, :kind, n, concat_ws(':', 'refund', coalesce(:job_id, :pi), n::text), :currency,
                  :reason, :actor, smi.now()
           FROM (SELECT coalesce(max(n), 0) + 1 AS n FROM smi.refunds
                 WHERE coalesce(job_id, payment_intent_id) = coalesce(:job_id, :pi)) AS next
           ON CONFLICT (payment_intent_id) WHERE {OURS_LIVE} DO NOTHING""",
        job_id=job_id,
        pi=payment_intent_id,
        kind=kind,
        currency=currency,
        reason=reason,
        actor=actor,
    )
