"""What the picture of an order showed when it was ordered, to notice another one of the same size, and the question to
a person about that one.

Apart from the job's row, which would otherwise carry three kilobytes that only its preparation reads.
"""

from smi_pipeline.core.lifecycle import CLOSED
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.state.database import Database, Transaction, in_
from smi_pipeline.state.manual_tasks import close_task, open_task


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


def ask_about(tx: Transaction, job_id: str, source_url: str, seen: bytes) -> None:
    """Open the task about another picture that the source of a job on hold shows."""
    tx.run("UPDATE smi.ordered_pictures SET seen = :seen WHERE job_id = :id", id=job_id, seen=seen)
    open_task(
        tx,
        kind=ManualTaskKind.SOURCE_CHANGED,
        subject=job_id,
        job_id=job_id,
        message=f"Job {job_id} is on hold: another picture than the ordered one is at {source_url} now.",
        next_step=f"Look at it: `smi jobs release {job_id}` delivers that picture, `smi jobs cancel {job_id}` returns "
        "the payment. If it changes again, you are asked again. Without an answer the payment is returned after "
        "SMI_MAX_HOLD_HOURS.",
    )


def answer(tx: Transaction, job_id: str, *, release: bool, actor: str) -> None:
    """Close the task: the picture that it is about was released, or there is nothing left to decide."""
    tx.run(
        """UPDATE smi.ordered_pictures SET released = CASE WHEN :release THEN seen ELSE released END, seen = NULL
           WHERE job_id = :id AND seen IS NOT NULL""",
        id=job_id,
        release=release,
    )
    close_task(tx, kind=ManualTaskKind.SOURCE_CHANGED, subject=job_id, actor=actor)


def allowed_pictures(database: Database, job_id: str) -> list[bytes]:
    """Return the fingerprints that the source of a job may have: of the ordered picture and of one that a person has
    released; none when the ordered one is not known."""
    row = database.row("SELECT fingerprint, released FROM smi.ordered_pictures WHERE job_id = :id", id=job_id)
    return [bytes(picture) for picture in row.values() if picture] if row else []
