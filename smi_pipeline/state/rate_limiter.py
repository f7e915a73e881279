"""The Upsampler allowance, shared by every process through the database."""

from datetime import datetime

from smi_pipeline.core.errors import RateLimited
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.state.database import Database

_LOCK = 727_464_003  # pg_advisory_xact_lock key; the builds of the reports have their own

SLACK_SECONDS = 1.0
"""Calls reach the API a little after they are granted: the windows are longer by this."""

RESERVE = 2
"""Calls per minute that only a poll close to its deadline may take."""


class RateLimiter:
    """`core.ports.LimiterPort` with exact rolling windows."""

    def __init__(
        self,
        database: Database,
        *,
        per_minute: int,
        per_hour: int,
        windows: tuple[float, float] = (60, 3600),
    ) -> None:
        """`windows`: seconds of what is called a minute and an hour here; tests take shorter ones."""
        self._database = database
        self._per_minute = per_minute
        self._per_hour = per_hour
        self._minute, self._hour = windows

    def acquire(self, purpose: CallPurpose) -> None:
        """Take one call. Raise RateLimited without room."""
        with self._database.transaction() as tx:
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            pause = tx.row(
                """SELECT extract(epoch FROM blocked_until - smi.now())::float AS seconds, reason FROM smi.gates
                   WHERE name = 'upsampler' AND blocked_until > smi.now()"""
            )
            if pause:
                raise RateLimited(f"Upsampler asked to wait: {pause['reason']}", retry_after=pause["seconds"])
            reserve = 0 if purpose == CallPurpose.URGENT_POLL else min(RESERVE, max(0, self._per_minute - 1))
            for limit, seconds in ((self._per_minute - reserve, self._minute), (self._per_hour, self._hour)):
                if limit <= 0:
                    continue
                # The call that must leave the window before there is room again.
                wait = tx.value(
                    """SELECT extract(epoch FROM at + make_interval(secs => :window) - smi.now())::float
                       FROM smi.api_calls WHERE at > smi.now() - make_interval(secs => :window)
                       ORDER BY at DESC OFFSET :before LIMIT 1""",
                    window=seconds + SLACK_SECONDS,
                    before=limit - 1,
                )
                if wait is not None:
                    raise RateLimited(
                        f"our allowance of {limit} calls in {seconds:g} s is used", retry_after=max(0.0, wait)
                    )
            if self._per_minute or self._per_hour:
                tx.run("INSERT INTO smi.api_calls (at, purpose) VALUES (smi.now(), :purpose)", purpose=purpose)
                tx.run("DELETE FROM smi.api_calls WHERE at < smi.now() - interval '2 hours'")

    def blocked_until(self, at: datetime, reason: str) -> None:
        """Note a 429's Retry-After for every process."""
        self._database.run(
            """INSERT INTO smi.gates (name, blocked_until, reason) VALUES ('upsampler', :at, :reason)
               ON CONFLICT (name) DO UPDATE SET reason = excluded.reason,
                   blocked_until = greatest(smi.gates.blocked_until, excluded.blocked_until)""",
            at=at,
            reason=reason[:300],
        )
