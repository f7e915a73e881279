"""Heartbeats of the service, where a gap between two is an outage, which does not count against the promise of any job;
and of its processes, which the gateway watches."""

from datetime import datetime, timedelta

from smi_pipeline.core.policy import Policy
from smi_pipeline.state.breakers import STOPPED
from smi_pipeline.state.database import Aggregate, Transaction
from smi_pipeline.state.job_rows import give_outage_time_back

OUTAGE = timedelta(minutes=1)
"""A longer gap between two heartbeats, which come every few seconds, is an outage."""

UP_SINCE = f"""(SELECT CASE WHEN at < smi.now() - interval '{OUTAGE.total_seconds()} seconds' THEN smi.now()
                            ELSE up_since END FROM smi.heartbeat)"""
"""SQL: since when the service runs without an outage; now, during one; NULL before the first heartbeat."""


def record_heartbeat(tx: Transaction, policy: Policy) -> None:
    """Record a heartbeat. After an outage, give each job that waited for its submission that time back."""
    last = tx.row("SELECT at, smi.now() AS now FROM smi.heartbeat FOR UPDATE")
    if last is None:
        tx.run("INSERT INTO smi.heartbeat (at, up_since) VALUES (smi.now(), smi.now()) ON CONFLICT DO NOTHING")
        return
    down = last["now"] - last["at"]
    if down <= OUTAGE:
        tx.run("UPDATE smi.heartbeat SET at = :now", now=last["now"])
        return
    tx.run("UPDATE smi.heartbeat SET at = :now, up_since = :now", now=last["now"])
    waited = give_outage_time_back(tx, STOPPED, since=last["at"], now=last["now"], policy=policy)
    tx.audit(None, "outage", actor="clock", seconds=round(down.total_seconds()), jobs_waiting=waited)


class ProcessHeartbeats(Aggregate):
    """When each part of the service has last shown that it works."""

    def record(self, part: str) -> None:
        """Record a heartbeat of a part."""
        self._database.run(
            """INSERT INTO smi.process_heartbeats (part, at) VALUES (:part, smi.now())
               ON CONFLICT (part) DO UPDATE SET at = excluded.at""",
            part=part,
        )

    def all(self) -> dict[str, datetime]:
        """Return the newest heartbeat of each part. A part that was silent for a week is not used any more."""
        rows = self._database.rows(
            "SELECT part, at FROM smi.process_heartbeats WHERE at > smi.now() - interval '7 days'"
        )
        return {row["part"]: row["at"] for row in rows}
