"""One outcome for a job and round: who inserts its row has decided."""

from typing import Any

from smi_pipeline.state.database import Transaction


def decide(tx: Transaction, job: dict[str, Any], outcome: str, reason: str | None, actor: str) -> bool:
    """Decides how the round of a job ends: deliver, refund or none. False when it is decided already."""
    return bool(
        tx.run(
            """INSERT INTO smi.outcomes (job_id, round, outcome, reason, actor)
               VALUES (:id, :round, :outcome, :reason, :actor) ON CONFLICT DO NOTHING""",
            id=job["job_id"],
            round=job["round"],
            outcome=outcome,
            reason=reason,
            actor=actor,
        )
    )
