"""The allowance of the API is kept by all processes together: judged at the sandbox, which saw the calls arrive.

SMI_FULL=1 takes a real minute, and for the hour ten minutes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from smi_pipeline.core.allowance import SLACK_SECONDS
from smi_pipeline.sandbox.server import Sandbox

FULL = os.environ.get("SMI_FULL") == "1"
MINUTE, HOUR, PER_MINUTE, PER_HOUR = (60.0, 600.0, 60, 300) if FULL else (1.0, 3.0, 60, 90)
PROCESSES = 4

pytestmark = pytest.mark.timeout(1500 if FULL else 90)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """Its own limit is lifted: it only looks."""
    with Sandbox(tmp_path / "sandbox", only=("upsampler",), rate_minute=0, rate_hour=0, rate_status=0) as sandbox:
        yield sandbox


def caller(state_url: str, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    limits = [str(number) for number in (MINUTE, HOUR, PER_MINUTE, PER_HOUR)]
    base = f"{sandbox.urls.upsampler}/api/v1"
    module = "smi_pipeline_tests.integration.state.caller"
    return subprocess.Popen([sys.executable, "-m", module, state_url, base, sandbox.options.upsampler_key, *limits])


def arrivals(sandbox: Sandbox) -> list[float]:
    return sorted(line["at"] for line in sandbox.ledger("upsampler")["requests"])


def most_in(window: float, times: Sequence[float]) -> int:
    """The largest number of calls in any rolling window."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_four_processes_and_a_restart_stay_within_the_minute_and_the_hour_and_use_nearly_all_of_it(
    state_url: str, sandbox: Sandbox
) -> None:
    callers = [caller(state_url, sandbox) for _ in range(PROCESSES)]
    try:
        while len(arrivals(sandbox)) < PER_MINUTE:
            time.sleep(0.1)
        callers[0].kill()
        callers[0].wait()
        callers[0] = caller(state_url, sandbox)
        began = arrivals(sandbox)[0]
        ends = time.monotonic() + 1.2 * (HOUR + SLACK_SECONDS) + 60  # a loaded machine starts and sends late
        while len(arrivals(sandbox)) <= PER_HOUR or time.time() < began + 1.2 * HOUR:
            assert time.monotonic() < ends, "calls go on when the first ones leave the window"
            time.sleep(0.1)
        assert all(process.poll() is None for process in callers)
    finally:
        for process in callers:
            process.kill()
            process.wait()
    times = arrivals(sandbox)
    assert most_in(MINUTE, times) <= PER_MINUTE
    assert most_in(HOUR, times) <= PER_HOUR
    if FULL:  # within seconds, a loaded machine's own pauses weigh more than the limiter
        used = sum(began <= at < began + HOUR for at in times)
        assert used >= 0.95 * PER_HOUR, f"{used} of {PER_HOUR} calls in the first hour"
        first_minutes = sum(began <= at < began + 3 * (MINUTE + SLACK_SECONDS) for at in times)
        assert first_minutes >= 0.95 * 3 * PER_MINUTE
