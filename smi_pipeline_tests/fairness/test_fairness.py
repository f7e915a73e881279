"""Order of payment and use of the allowance, judged at the sandbox: workers that lease and submit as runs do.

A minute lasts four seconds here; `make fairness` measures the running product with real ones, on a quiet machine.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.allowance import PLACES, Allowance
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.models import ApiFormat, Queue
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services import submit
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline.state.rate_limiter import RateLimiter
from smi_pipeline_tests.fairness.judge import Starts, judge
from smi_pipeline_tests.integration.services.steps import Steps

MINUTE, PER_MINUTE = 4.0, 20
WORKERS = 3

PLACES_UNDER_LOAD = 2 * PLACES
"""The API sees a call a little after it was made. Where other tests keep the machine busy, further calls are made in
between; a lost order shows as dozens of places."""

USED_PERCENT_UNDER_LOAD = 90


class Fairness(Steps):
    """A shop with workers, on the sandbox's Upsampler."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        super().__init__(url)
        self.sandbox = sandbox
        submissions = Allowance(per_minute=PER_MINUTE, windows=(MINUTE, 60 * MINUTE), slack=0.2)
        policy = replace(self.policy, submissions=submissions, poll_every=timedelta(seconds=0.5))
        client = UpsamplerClient(f"{sandbox.urls.upsampler}/api/v1", sandbox.options.upsampler_key, ApiFormat.LIVE)
        limiter = RateLimiter(self.database, submissions=submissions, status_calls=policy.status_calls)
        self.ctx = replace(self.ctx, upscaler=client, limiter=limiter, policy=policy)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.broken: list[BaseException] = []

    def order_and_pay(self) -> None:
        number = self.sql("SELECT count(*) AS n FROM smi.upscale_jobs")[0]["n"]
        self.pay(self.register(url=f"https://images.example/{number}.png").job_id)

    def start(self) -> None:
        """The workers begin, and who makes the status calls."""
        for step in [self._submit] * WORKERS + [self._poll]:
            thread = threading.Thread(target=self._until_stopped, args=(step,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self.close()

    def started(self, count: int, seconds: float) -> Starts:
        """What the ledger says once so many were started."""
        ends = time.monotonic() + seconds
        while len(self.sandbox.ledger("upsampler")["submissions"]) < count and time.monotonic() < ends:
            time.sleep(0.1)
        assert not self.broken
        paid = [row["source_url"] for row in self.sql("SELECT source_url FROM smi.upscale_jobs ORDER BY learned_at")]
        limit = self.sandbox.configure("upsampler")["rate_minute"]
        return judge(self.sandbox.ledger("upsampler"), paid, per_minute=limit, minute=MINUTE)

    def _until_stopped(self, step: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                step()
            except BaseException as error:
                self.broken.append(error)
                raise

    def _submit(self) -> None:
        leased = next(next_batches(self.ctx, Queue.SUBMIT, max_leases=4, limit=25, patience=1.0), None)
        if leased is None:
            time.sleep(0.05)
            return
        for key in self.state.leases.start(Queue.SUBMIT, leased[0]):
            try:
                if submit.prepare(self.ctx, key, leased[0]).state == "done":
                    submit.submit(self.ctx, key, leased[0])
            except PermanentError:  # the sandbox cannot fetch these images, which it says later
                continue

    def _poll(self) -> None:
        check_completions(self.ctx)
        time.sleep(0.1)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    limits: dict[str, Any] = {"rate_minute": PER_MINUTE, "rate_hour": 0, "rate_minute_seconds": MINUTE}
    with Sandbox(tmp_path / "sandbox", only=("upsampler",), processing_seconds=0.2, **limits) as sandbox:
        yield sandbox


@pytest.fixture
def shop(state_url: str, sandbox: Sandbox) -> Iterator[Fairness]:
    shop = Fairness(state_url, sandbox)
    yield shop
    shop.stop()


def test_jobs_paid_before_the_first_start_start_in_order_and_use_the_allowance(shop: Fairness) -> None:
    for _ in range(50):
        shop.order_and_pay()
    shop.start()
    found = shop.started(50, 40)
    assert found.started == 50
    assert found.most_places_off <= PLACES_UNDER_LOAD
    assert found.used_percent >= USED_PERCENT_UNDER_LOAD
    assert found.refused == 0


def test_an_allowance_smaller_than_the_setting_is_learned_from_one_429(shop: Fairness) -> None:
    shop.sandbox.configure("upsampler", rate_minute=12)
    for _ in range(36):
        shop.order_and_pay()
    shop.start()
    found = shop.started(36, 40)
    assert found.started == 36
    assert found.most_places_off <= PLACES_UNDER_LOAD
    assert found.refused >= 1
    assert found.refused_later == 0


def test_a_pause_named_as_a_date_is_kept_and_work_goes_on_when_it_ends(shop: Fairness) -> None:
    shop.sandbox.configure("upsampler", rate_minute=1, retry_after="date")
    shop.order_and_pay()
    shop.order_and_pay()
    shop.start()
    assert shop.started(1, 10).started == 1
    found = shop.started(2, 15)
    first, second = sorted(line["at"] for line in shop.sandbox.ledger("upsampler")["submissions"])
    assert found.refused == 1
    assert MINUTE <= second - first <= MINUTE + 8, "a date has whole seconds"


def test_a_steady_stream_at_the_pace_of_the_allowance_refunds_nobody_and_starts_in_order(shop: Fairness) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, max_wait=timedelta(seconds=10)))
    for _ in range(20):  # four seconds of the allowance wait
        shop.order_and_pay()
    shop.start()
    began = time.monotonic()
    for number in range(50):
        time.sleep(max(0.0, began + number * MINUTE / PER_MINUTE - time.monotonic()))
        shop.order_and_pay()
    found = shop.started(70, 30)
    assert found.started == 70
    assert found.most_places_off <= PLACES_UNDER_LOAD
    assert found.refused == 0
    assert shop.sql("SELECT reason FROM smi.outcomes WHERE reason = 'not_started_in_time'") == []
