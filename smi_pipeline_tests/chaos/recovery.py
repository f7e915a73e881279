"""How long the jobs of a dead worker wait until they are leased and running again, on the real clock."""

import time

from smi_pipeline.demo.evidence import collect
from smi_pipeline_tests.chaos.arena import Arena
from smi_pipeline_tests.chaos.cases import Wave
from smi_pipeline_tests.chaos.recipes import WORKER
from smi_pipeline_tests.chaos.verdict import judge
from smi_pipeline_tests.chaos.waves import Result, drain

ORDERS = 14
LONGEST_SECONDS = 120.0
_POINTS = (
    "submissions.begin.before",
    "submissions.prepared.before",
    "deliveries.verified.before",
    "deliveries.deliver.before",
)
_HELD = """SELECT job_id, lease_id, attempts, queue FROM smi.upscale_jobs
           WHERE lease_id IS NOT NULL AND lease_until > smi.now() AND attempts > 0"""


def measure(arena: Arena, round_: int) -> tuple[Result, list[float]]:
    """Kills worker-fulfilment with all its runs in mid-work. Returns the seconds of each job that a run had taken up,
    `LONGEST_SECONDS` for one that was not running again by then. Odd rounds kill while runs wait, so that several are
    at work; even ones in the thick of it."""
    result = Result(wave=Wave(number=0, victim="recovery", kills=()))
    started = time.monotonic()
    for point in _POINTS if round_ % 2 else ():
        arena.arm(f"{point}@{WORKER}", "hang")
    result.guests += [arena.place("good") for _ in range(ORDERS)]
    ends = time.monotonic() + 30
    enough = len(_POINTS) if round_ % 2 else 2
    held: dict[str, dict] = {}
    while time.monotonic() < ends:
        held = {row["job_id"]: row for row in arena.sql(_HELD)}
        if len({row["lease_id"] for row in held.values()}) >= enough:
            break
        time.sleep(0.05)
    arena.kill(WORKER)
    died = time.monotonic()
    held = {row["job_id"]: row for row in arena.sql(_HELD) if row["job_id"] in held or round_ % 2}
    arena.disarm()
    again: dict[str, float] = {}
    while len(again) < len(held) and time.monotonic() - died < LONGEST_SECONDS:
        rows = arena.sql(
            "SELECT job_id, lease_id, attempts, queue FROM smi.upscale_jobs WHERE job_id = ANY(:ids)", ids=list(held)
        )
        for row in rows:
            before = held[row["job_id"]]
            moved = row["attempts"] != before["attempts"] or row["queue"] != before["queue"]
            if row["job_id"] not in again and row["lease_id"] != before["lease_id"] and moved:
                again[row["job_id"]] = time.monotonic() - died
        time.sleep(0.1)
    drain(arena, result.guests)
    result.seconds = time.monotonic() - started
    verdict = judge(result.guests, collect(arena.shop, arena.memory), arena.now(), ambiguous=None)
    result.violations, result.resubmitted = verdict.violations, verdict.resubmitted
    return result, [again.get(job_id, LONGEST_SECONDS) for job_id in held]
