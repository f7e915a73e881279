"""The Upsampler allowance and its circuit breaker, shared by every process through the database."""

from datetime import datetime

from smi_pipeline.core.errors import AccountError, RateLimited
from smi_pipeline.state.database import Database
from smi_pipeline.state.manual_tasks import open_task

_LOCK = 727_464_003  # pg_advisory_xact_lock key; the builds of the reports have their own

SLACK_SECONDS = 1.0
"""Calls reach the API a little later than they are granted, some more than others: the windows are this much longer."""

RESERVE = 2
"""Calls per minute that only a poll close to its deadline may take (design section 6 rule 6)."""

BREAKER_SECONDS = 60

HALF_OPEN_SECONDS = 900
"""So long after the last refusal orders are taken again, although no call has succeeded. While jobs wait, each minute
brings a call that closes the breaker or is refused again; when none are left, only a new order can try the account."""


class RateLimiter:
    """Implements `core.ports.LimiterPort` with exact rolling windows."""

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

    def acquire(self, purpose: str) -> None:
        with self._database.transaction() as tx:
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            gate = tx.row(
                """SELECT opened_at, extract(epoch FROM blocked_until - smi.now())::float AS wait, reason
                   FROM smi.gates WHERE name = 'upsampler'"""
            )
            if gate and gate["wait"] is not None and gate["wait"] > 0:
                if gate["opened_at"]:
                    raise AccountError(f"calls to Upsampler are stopped: {gate['reason']}")
                raise RateLimited(f"Upsampler asked to wait: {gate['reason']}", retry_after=gate["wait"])
            reserve = 0 if purpose == "urgent_poll" else min(RESERVE, max(0, self._per_minute - 1))
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
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.gates (name, blocked_until, reason) VALUES ('upsampler', :at, :reason)
                   ON CONFLICT (name) DO UPDATE SET reason = excluded.reason,
                       blocked_until = greatest(smi.gates.blocked_until, excluded.blocked_until)""",
                at=at,
                reason=reason[:300],
            )

    def open_breaker(self, reason: str) -> None:
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
                kind="account",
                subject="upsampler",
                job_id=None,
                message=f"Upsampler refuses our account: {reason}. No new orders are taken; paid ones wait.",
                next_step="Check the API key and the credits of the account; calls resume by themselves.",
            )

    def close_breaker(self) -> None:
        with self._database.transaction() as tx:
            closed = tx.run("UPDATE smi.gates SET opened_at = NULL WHERE name = 'upsampler' AND opened_at IS NOT NULL")
            if closed:
                tx.run(
                    """UPDATE smi.person_tasks SET closed_at = smi.now(), acknowledged_by = 'recovered'
                       WHERE kind = 'account' AND subject = 'upsampler' AND closed_at IS NULL"""
                )

    def breaker_reason(self) -> str | None:
        with self._database.transaction() as tx:
            return tx.value(
                """SELECT reason FROM smi.gates WHERE name = 'upsampler' AND opened_at IS NOT NULL
                   AND blocked_until > smi.now() - make_interval(secs => :seconds)""",
                seconds=HALF_OPEN_SECONDS,
            )
