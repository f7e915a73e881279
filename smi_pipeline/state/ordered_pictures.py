"""What the picture of an order showed when it was ordered, to notice another one of the same size.

Apart from the job's row, which would otherwise carry three kilobytes that only its preparation reads.
"""

from smi_pipeline.core.lifecycle import CLOSED
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.state.database import Database, Transaction, in_


def remember_picture(tx: Transaction, job_id: str, fingerprint: bytes) -> None:
    """Keep the fingerprint of an ordered picture; an empty one is not known."""
    if fingerprint:
        tx.run(
            "INSERT INTO smi.ordered_pictures (job_id, fingerprint) VALUES (:id, :fingerprint)",
            id=job_id,
            fingerprint=fingerprint,
        )


def forget_picture(tx: Transaction, job_id: str) -> None:
    """Forget it: the job has ended."""
    tx.run("DELETE FROM smi.ordered_pictures WHERE job_id = :id", id=job_id)


def forget_closed(tx: Transaction) -> None:
    """Forget those of orders that have ended a week ago without a stored source: no late payment brings them back any
    more. The others are forgotten with their files."""
    tx.run(
        f"""DELETE FROM smi.ordered_pictures p USING smi.upscale_jobs j
            WHERE j.job_id = p.job_id AND j.status IN {in_(CLOSED)} AND j.source_key IS NULL
              AND j.updated_at < smi.now() - interval '7 days'"""
    )


def required_picture(database: Database, job_id: str) -> bytes:
    """Return the fingerprint that the source of a job must have; empty when none is known, or when a person was asked
    about another one and has released the job."""
    found = database.value(
        f"""SELECT fingerprint FROM smi.ordered_pictures WHERE job_id = :id
            AND NOT EXISTS (SELECT FROM smi.person_tasks
                            WHERE kind = '{ManualTaskKind.SOURCE_CHANGED}' AND subject = :id)""",
        id=job_id,
    )
    return bytes(found) if found else b""
