"""How many paid jobs may start now: no job is leased only to be told to wait, and each keeps its place."""

from smi_pipeline.core.allowance import Calls, Room
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.vocabulary import OPEN_CALLS, Queue
from smi_pipeline.state.database import Transaction, in_
from smi_pipeline.state.rate_limiter import UNLIMITED, free_calls

STUCK_SECONDS = 15
"""A job leased for longer without a call holds nobody up: its worker may be dead."""

_ABOUT_TO_CALL = f"""queue = '{Queue.SUBMIT}' AND lease_until > smi.now() AND NOT EXISTS (
    SELECT FROM smi.submissions s WHERE s.job_id = j.job_id AND s.state IN {in_(OPEN_CALLS)})"""
"""SQL: the job `j` is leased and has not made its call yet."""

IN_FLIGHT = f"""(SELECT count(*) FROM smi.submissions WHERE state IN {in_(OPEN_CALLS)})
    + (SELECT count(*) FROM smi.upscale_jobs j WHERE {_ABOUT_TO_CALL})"""
"""SQL: open calls, and leased jobs that are about to make one."""


def room_to_start(tx: Transaction, policy: Policy) -> Room:
    """Return how many jobs may be leased for submission now. `seconds` is None when that depends on an event: a result,
    or the call of a job that is leased already."""
    in_flight = tx.value(f"SELECT {IN_FLIGHT}")
    room = Room(free=policy.max_in_flight - in_flight)
    if room.free <= 0:
        return Room(free=0, seconds=None, reason=f"Upsampler already works on {in_flight} upscale(s), the limit")
    # In this order: a call made between the two statements is counted twice, not missed.
    leased = tx.value(f"SELECT count(*) FROM smi.upscale_jobs j WHERE {_ABOUT_TO_CALL}")
    calls = free_calls(tx, Calls.SUBMISSIONS, policy.submissions)
    if calls.free <= 0:
        return calls
    places = _places(tx, policy)
    free = min(room.free, calls.free - leased, places)
    if free <= 0:
        return Room(free=0, seconds=None, reason=f"{leased} job(s) paid before are about to be submitted")
    return Room(free=free)


def _places(tx: Transaction, policy: Policy) -> int:
    """Return how many jobs may be leased so that none of those leased before starts too far behind its place."""
    places = policy.submissions.places
    if places is None:
        return UNLIMITED
    overtaken = tx.value(
        f"""WITH waiting AS (
                SELECT learned_at, leased_at FROM smi.upscale_jobs j
                WHERE {_ABOUT_TO_CALL} AND leased_at > smi.now() - make_interval(secs => :stuck))
            SELECT max((SELECT count(*) FROM waiting later WHERE later.learned_at > w.learned_at)
                     + (SELECT count(*) FROM smi.upscale_jobs started
                        WHERE started.updated_at >= w.leased_at -- has an index, and is never the earlier
                          AND started.submitted_at > w.leased_at AND started.learned_at > w.learned_at))
            FROM waiting w""",
        stuck=STUCK_SECONDS,
    )
    return places + 1 if overtaken is None else places - int(overtaken)
