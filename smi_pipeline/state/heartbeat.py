"""Signs of life of the service. A gap between two is an outage: no job loses time of its promise by it (rule 5)."""

from datetime import timedelta

from smi_pipeline.state.database import Transaction

OUTAGE = timedelta(minutes=1)
"""A longer gap between two signs of life, which come every few seconds, is an outage."""

UP_SINCE = f"""(SELECT CASE WHEN at < smi.now() - interval '{OUTAGE.total_seconds()} seconds' THEN smi.now()
                            ELSE up_since END FROM smi.heartbeat)"""
"""Since when the service has been alive without an outage: now, while there is one. NULL before the first sign."""


def beat(tx: Transaction, *, limit: timedelta) -> None:
    """Notes a sign of life. After an outage each job that waited for its submission gets that time back: here alone
    is `start_by` moved for it, by at most `limit` per job and round."""
    last = tx.row("SELECT at, smi.now() AS now FROM smi.heartbeat FOR UPDATE")
    if last is None:
        tx.run("INSERT INTO smi.heartbeat (at, up_since) VALUES (smi.now(), smi.now()) ON CONFLICT DO NOTHING")
        return
    down = last["now"] - last["at"]
    if down <= OUTAGE:
        tx.run("UPDATE smi.heartbeat SET at = :now", now=last["now"])
        return
    tx.run("UPDATE smi.heartbeat SET at = :now, up_since = :now", now=last["now"])
    waited = tx.run(  # not those on hold: their clock stands still already
        """UPDATE smi.upscale_jobs j SET start_by = start_by + given, outage = outage + given
           FROM (SELECT job_id, least(:now - greatest(waits_since, CAST(:since AS timestamptz)),
                                      CAST(:limit AS interval) - outage) AS given
                 FROM smi.upscale_jobs WHERE queue = 'submit' AND hold_reason IS NULL) AS waiting
           WHERE j.job_id = waiting.job_id AND given > interval '0'""",
        now=last["now"],
        since=last["at"],
        limit=limit,
    )
    tx.event(None, "outage", actor="clock", seconds=round(down.total_seconds()), jobs_waiting=waited)
