"""Columns of `upscale_jobs` that change beside the life cycle, in the caller's transaction."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from smi_pipeline.core.errors import LeaseLost
from smi_pipeline.core.models import Verdict
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import Queue, Stage, Status
from smi_pipeline.state.database import Row, Transaction
from smi_pipeline.state.ordered_pictures import forget_picture


def touch(tx: Transaction, job_id: str | None) -> None:
    """Note that something that belongs to the job has changed."""
    tx.run("UPDATE smi.upscale_jobs SET updated_at = smi.now() WHERE job_id = :id", id=job_id)


def record_progress(tx: Transaction, job_id: str, round_: int, stage: Stage, eta: datetime | None) -> None:
    """Store the progress that Upsampler reports."""
    tx.run(
        f"""UPDATE smi.upscale_jobs SET stage = :stage, estimated_completion = coalesce(:eta, estimated_completion)
           WHERE job_id = :job_id AND round = :round AND status = '{Status.PROCESSING}'
             AND stage IS DISTINCT FROM :stage""",
        job_id=job_id,
        round=round_,
        stage=stage,
        eta=eta,
    )


def record_result(tx: Transaction, job_id: str, lease_id: str, verdict: Verdict, *, result_key: str) -> None:
    """Store what was checked of a result. Raise LeaseLost."""
    facts = verdict.facts
    if facts is None:
        raise ValueError("a verified result has facts")
    width, height = facts.display_size
    changed = tx.run(
        """UPDATE smi.upscale_jobs SET result_key = :result_key, result_sha256 = :sha256, result_bytes = :bytes,
               result_width = :width, result_height = :height, result_format = :format,
               min_ssim = :min_ssim, mean_colour_shift = :mean_colour_shift
           WHERE job_id = :id AND lease_id = :lease""",
        id=job_id,
        lease=lease_id,
        result_key=result_key,
        **{**asdict(verdict), **asdict(facts), "width": width, "height": height},
    )
    if not changed:
        raise LeaseLost(f"job {job_id} was leased to another run")


def revoke_pages(tx: Transaction, job_id: str) -> Row:
    """Revoke the links to the pages of a job, and return its row, locked."""
    return tx.one(
        "UPDATE smi.upscale_jobs SET links_revoked = links_revoked + 1 WHERE job_id = :id RETURNING *", id=job_id
    )


def forget_files(tx: Transaction, job_id: str) -> None:
    """Note that the files of a job are removed."""
    tx.run(
        """UPDATE smi.upscale_jobs SET files_removed_at = smi.now(), source_key = NULL, result_key = NULL
           WHERE job_id = :id""",
        id=job_id,
    )
    forget_picture(tx, job_id)


def take_address(tx: Transaction, job_id: str, address: str, *, actor: str) -> bool:
    """Store the address of a customer who has none yet. Return False for an empty one, and when one is known."""
    taken = address != "" and tx.changes(
        "UPDATE smi.upscale_jobs SET customer_email = :address WHERE job_id = :id AND customer_email = ''",
        id=job_id,
        address=address,
    )
    if taken:
        tx.audit(job_id, "address_known", actor=actor)
    return taken


def give_outage_time_back(tx: Transaction, stopped: str, *, since: datetime, now: datetime, policy: Policy) -> int:
    """Move the clocks of waiting jobs by an outage, at most by `max_outage` per job and round. Return the number of
    jobs.

    The clock of a job on hold stands still already, and so does that of a job that waits for a circuit breaker.
    `stopped`: for how long breakers have stopped the clock of the job `j`; they give it back when they close.
    """
    return tx.run(
        f"""UPDATE smi.upscale_jobs j SET start_by = start_by + given, deadline_at = deadline_at + given,
                  outage = outage + given
           FROM (SELECT job_id, least(:now - greatest(waits_since, CAST(:since AS timestamptz)) - {stopped},
                                      CAST(:limit AS interval) - outage) AS given
                 FROM smi.upscale_jobs j WHERE queue = '{Queue.SUBMIT}' AND hold_reason IS NULL) AS waiting
           WHERE j.job_id = waiting.job_id AND given > interval '0'""",
        now=now,
        since=since,
        limit=policy.max_outage,
        max_hold=policy.max_hold,
    )


def give_waiting_time_back(
    tx: Transaction, waits_for_it: str, *, since: datetime, limit: timedelta, **parameters: Any
) -> None:
    """Make the jobs that waited for a circuit breaker due, and move their clocks by the time they have waited since
    `since`, at most by `limit` per job and round. `waits_for_it`: condition on `smi.upscale_jobs`, with its parameters.
    """
    tx.run(
        f"""UPDATE smi.upscale_jobs j SET start_by = start_by + given, deadline_at = deadline_at + given,
                   outage = outage + given, waits_since = smi.now()
           FROM (SELECT job_id, least(smi.now() - greatest(waits_since, CAST(:since AS timestamptz)),
                                      greatest(interval '0', CAST(:limit AS interval) - outage)) AS given
                 FROM smi.upscale_jobs
                 WHERE queue = '{Queue.SUBMIT}' AND hold_reason IS NULL AND {waits_for_it}) AS waiting
           WHERE j.job_id = waiting.job_id""",
        since=since,
        limit=limit,
        **parameters,
    )
    tx.run(
        f"""UPDATE smi.upscale_jobs SET next_attempt_at = smi.now()
            WHERE queue IS NOT NULL AND next_attempt_at > smi.now() AND lease_id IS NULL AND {waits_for_it}""",
        **parameters,
    )
