"""The Upsampler allowance and its circuit breaker, shared by every process through the database."""

from datetime import datetime

from smi_pipeline.core.errors import AccountError, RateLimited
from smi_pipeline.core.vocabulary import CallPurpose, ManualTaskKind
from smi_pipeline.state.database import Database
from smi_pipeline.state.manual_tasks import close_task, open_task

_LOCK = 727_464_003  # pg_advisory_xact_lock key; the builds of the reports have their own

SLACK_SECONDS = 1.0
"""Calls reach the API a little after they are granted: the windows are longer by this."""

RESERVE = 2
"""Calls per minute that only a poll close to its deadline may take."""

BREAKER_SECONDS = 60

HALF_OPEN_SECONDS = 900
"""How long after the last refusal orders are taken again, although no call has succeeded: without waiting jobs, only a
new order can try the account."""


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
        """Take one call. Raise RateLimited without room, AccountError while the circuit breaker is open."""
        with self._database.transaction() as tx:
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            breaker = tx.row(
                """SELECT opened_at, extract(epoch FROM blocked_until - smi.now())::float AS wait, reason
                   FROM smi.gates WHERE name = 'upsampler'"""
            )
            if breaker and breaker["wait"] is not None and breaker["wait"] > 0:
                if breaker["opened_at"]:
                    raise AccountError(f"calls to Upsampler are stopped: {breaker['reason']}")
                raise RateLimited(f"Upsampler asked to wait: {breaker['reason']}", retry_after=breaker["wait"])
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

    def open_breaker(self, reason: str) -> None:
        """Stop all calls for a minute: the account was refused. Open a manual task."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.gates (name, opened_at, blocked_until, reason)
                   VALUES ('upsampler', smi.now(), smi.now() + make_interval(secs => :seconds), :reason)
                   ON CONFLICT (name) DO UPDATE SET opened_at = coalesce(smi.gates.opened_at, excluded.opened_at),
                       blocked_until = excluded.blocked_until, reason = excluded.reason""",
                seconds=BREAKER_SECONDS,
                reason=reason[:300],
            )
            open_task(
                tx,
                kind=ManualTaskKind.ACCOUNT,
                subject="upsampler",
                message=f"Upsampler refuses our account: {reason}. No new orders are taken; paid ones wait.",
                next_step="Check the API key and the credits of the account; calls resume by themselves.",
            )

    def close_breaker(self) -> None:
        """Note a call that succeeded, and close the manual task of the breaker."""
        with self._database.transaction() as tx:
            closed = tx.run("UPDATE smi.gates SET opened_at = NULL WHERE name = 'upsampler' AND opened_at IS NOT NULL")
            if closed:
                close_task(tx, kind=ManualTaskKind.ACCOUNT, subject="upsampler", actor="recovered")

    def breaker_reason(self) -> str | None:
        """Return why no orders are taken, or None."""
        reason: str | None = self._database.value(
            """SELECT reason FROM smi.gates WHERE name = 'upsampler' AND opened_at IS NOT NULL
               AND blocked_until > smi.now() - make_interval(secs => :seconds)""",
            seconds=HALF_OPEN_SECONDS,
        )
        return reason
