"""The allowances of Upsampler, shared by every process through the database."""

from smi_pipeline.core.allowance import (
    RESERVE,
    Allowance,
    Calls,
    Room,
    Taught,
    after_refusal,
    limits,
    windows,
)
from smi_pipeline.core.errors import RateLimited
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.state.database import Database, Row, Transaction

_LOCK = 727_464_003  # pg_advisory_xact_lock key; the builds of the reports have their own

UNLIMITED = 1_000_000
"""Free calls without a limit."""

_COUNTED = {
    Calls.SUBMISSIONS: f"purpose = '{CallPurpose.SUBMIT}'",
    Calls.STATUS_CALLS: f"purpose <> '{CallPurpose.SUBMIT}'",
}


class RateLimiter:
    """`core.ports.LimiterPort` with exact rolling windows."""

    def __init__(self, database: Database, *, submissions: Allowance, status_calls: Allowance) -> None:
        self._database = database
        self._allowances = {Calls.SUBMISSIONS: submissions, Calls.STATUS_CALLS: status_calls}

    def acquire(self, purpose: CallPurpose) -> None:
        """Take one call. Raise RateLimited without room."""
        calls = Calls.of(purpose)
        allowance = self._allowances[calls]
        with self._database.transaction() as tx:
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            room = free_calls(tx, calls, allowance, urgent=purpose is CallPurpose.URGENT_POLL)
            if room.free <= 0:
                raise RateLimited(room.reason, retry_after=room.seconds or 0.0)
            tx.run("INSERT INTO smi.api_calls (at, purpose) VALUES (smi.now(), :purpose)", purpose=purpose)
            tx.run("DELETE FROM smi.api_calls WHERE at < smi.now() - interval '2 hours'")

    def refused(self, purpose: CallPurpose, *, retry_after: float, reason: str) -> None:
        """Note a 429 for every process: no call of this kind before `retry_after` seconds, and then what
        `core.allowance` concludes."""
        calls = Calls.of(purpose)
        allowance = self._allowances[calls]
        with self._database.transaction() as tx:
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            # The refused call has used nothing; which of those on their way it was makes no difference.
            tx.run(
                f"""DELETE FROM smi.api_calls WHERE call_id = (
                        SELECT call_id FROM smi.api_calls WHERE {_COUNTED[calls]} ORDER BY at DESC LIMIT 1)"""
            )
            minute, hour = (_used(tx, calls, seconds) for seconds in allowance.windows)
            before = _taught(_gate(tx, calls))
            taught = after_refusal(
                allowance,
                before,
                granted=(minute, hour),
                since_pause=tx.value(
                    f"SELECT count(*) FROM smi.api_calls WHERE {_COUNTED[calls]} AND at >= :ended",
                    ended=before.blocked_until,
                ),
                retry_after=retry_after,
                now=tx.value("SELECT smi.now()"),
            )
            tx.run(
                """INSERT INTO smi.gates (name, blocked_until, reason, per_minute, per_hour, minute_since, hour_since,
                                          lowered_at)
                   VALUES (:name, :until, :reason, :per_minute, :per_hour, :minute_since, :hour_since, :at)
                   ON CONFLICT (name) DO UPDATE SET
                       blocked_until = excluded.blocked_until, reason = excluded.reason,
                       per_minute = excluded.per_minute, per_hour = excluded.per_hour,
                       minute_since = excluded.minute_since, hour_since = excluded.hour_since,
                       lowered_at = excluded.lowered_at""",
                name=calls,
                until=taught.blocked_until,
                reason=f"{reason} ({calls.words})"[:300],
                per_minute=taught.per_minute,
                per_hour=taught.per_hour,
                minute_since=taught.minute_since,
                hour_since=taught.hour_since,
                at=taught.refused_at,
            )


def free_calls(tx: Transaction, calls: Calls, allowance: Allowance, *, urgent: bool = False) -> Room:
    """Return how many calls may be made now."""
    gate = _gate(tx, calls)
    if gate and gate["pause"] > 0:
        reason = f"Upsampler asked to wait for {gate['pause']:.0f} s more before further {calls.words}"
        return Room(free=0, seconds=gate["pause"], reason=reason)
    reserve = RESERVE if calls is Calls.STATUS_CALLS and not urgent else 0
    room = Room(free=UNLIMITED)
    for window in windows(allowance, _taught(gate), tx.value("SELECT smi.now()")):
        if not window.limit:
            continue
        usable = window.limit - min(reserve, window.limit - 1)
        free = usable - _used(tx, calls, window.seconds)
        if free < room.free:
            room = Room(free=free)
        if free <= 0:
            wait = _seconds_until_free(tx, calls, window.seconds, usable)
            used = f"the allowance of {window.limit:,} {calls.words} {window.words} is used"
            reason = f"{used}, the next is free in {wait:.0f} s"
            return Room(free=0, seconds=wait, reason=reason)
    return room


def allowed(tx: Transaction, calls: Calls, allowance: Allowance) -> tuple[int, int]:
    """Return the calls per minute and per hour that are allowed now; 0: no limit."""
    return limits(allowance, _taught(_gate(tx, calls)), tx.value("SELECT smi.now()"))


def seconds_for(tx: Transaction, calls: Calls, allowance: Allowance, count: int) -> float:
    """Return in about how many seconds so many further calls can have been made: at the pace of the minute, and that
    of the hour for those beyond what is left of it."""
    gate = _gate(tx, calls)
    pause = max(0.0, gate["pause"]) if gate else 0.0
    per_minute, per_hour = allowed(tx, calls, allowance)
    minute, hour = allowance.windows
    paced = count / per_minute * minute if per_minute else 0.0
    if per_hour:
        beyond = max(0, count - max(0, per_hour - _used(tx, calls, hour)))
        paced = max(paced, beyond / per_hour * hour)
    return pause + paced


def _gate(tx: Transaction, calls: Calls) -> Row | None:
    return tx.row(
        """SELECT *, coalesce(extract(epoch FROM blocked_until - smi.now()), 0)::float AS pause FROM smi.gates
           WHERE name = :name""",
        name=calls,
    )


def _taught(gate: Row | None) -> Taught:
    if gate is None:
        return Taught()
    return Taught(
        per_minute=gate["per_minute"],
        per_hour=gate["per_hour"],
        minute_since=gate["minute_since"],
        hour_since=gate["hour_since"],
        refused_at=gate["lowered_at"],
        blocked_until=gate["blocked_until"],
    )


def _used(tx: Transaction, calls: Calls, seconds: float) -> int:
    used: int = tx.value(
        f"""SELECT count(*) FROM smi.api_calls
            WHERE {_COUNTED[calls]} AND at > smi.now() - make_interval(secs => :seconds)""",
        seconds=seconds,
    )
    return used


def _seconds_until_free(tx: Transaction, calls: Calls, seconds: float, limit: int) -> float:
    """Return when the call leaves the window that must leave it before there is room again."""
    wait = tx.value(
        f"""SELECT extract(epoch FROM at + make_interval(secs => :seconds) - smi.now())::float FROM smi.api_calls
            WHERE {_COUNTED[calls]} AND at > smi.now() - make_interval(secs => :seconds)
            ORDER BY at DESC OFFSET :before LIMIT 1""",
        seconds=seconds,
        before=limit - 1,
    )
    return max(0.0, wait or 0.0)
