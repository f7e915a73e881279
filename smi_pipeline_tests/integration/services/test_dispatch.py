"""The gateway's dispatch goes on with paid jobs by itself: when a pause ends, and when a place at Upsampler is free."""

import time
from dataclasses import replace

import pytest

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.services import dispatch
from smi_pipeline.services.dispatch import Dispatcher
from smi_pipeline_tests.integration.services.steps import Steps


class Runs:
    """Notes the runs that are to be started."""

    def __init__(self) -> None:
        self.started: list[tuple[Queue, int, float]] = []
        self.failing = False

    def launch(self, queue: Queue, lease_id: str, size: int) -> str:
        if self.failing:
            raise TransientError("no webserver")
        self.started.append((queue, size, time.monotonic()))
        return "run"


@pytest.fixture
def runs() -> Runs:
    return Runs()


def test_a_paid_job_gets_its_run_at_once(shop: Steps, runs: Runs) -> None:
    shop.paid()
    Dispatcher(shop.ctx, runs)(Queue.SUBMIT)
    assert [(queue, size) for queue, size, _ in runs.started] == [(Queue.SUBMIT, 1)]


def test_when_a_pause_ends_work_goes_on_at_once(shop: Steps, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 1.0)  # shorter than the pause
    shop.paid()
    shop.limiter.refused(CallPurpose.SUBMIT, retry_after=2, reason="429")
    ends = time.monotonic() + 2
    Dispatcher(shop.ctx, runs)(Queue.SUBMIT)
    ((_, _, at),) = runs.started
    assert 0 <= at - ends < 5


def test_a_pause_of_many_minutes_is_left_to_the_sensor(shop: Steps, runs: Runs) -> None:
    shop.paid()
    shop.limiter.refused(CallPurpose.SUBMIT, retry_after=600, reason="429")
    began = time.monotonic()
    Dispatcher(shop.ctx, runs)(Queue.SUBMIT)
    assert runs.started == []
    assert time.monotonic() - began < 30


def test_a_result_starts_the_job_that_waited_for_its_place(shop: Steps, runs: Runs) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, max_in_flight=1))
    first, second = shop.paid(), shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(first))
    shop.change("UPDATE smi.submissions SET next_poll_at = smi.now()")
    Dispatcher(shop.ctx, runs)(Queue.FULFIL)
    assert sorted(queue for queue, _, _ in runs.started) == [Queue.FULFIL, Queue.SUBMIT]
    assert shop.job(second).lease_id is not None


def test_a_job_whose_run_cannot_be_started_is_given_back_and_not_tried_for_ever(
    shop: Steps, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 0.5)
    job_id = shop.paid()
    runs.failing = True
    Dispatcher(shop.ctx, runs)(Queue.SUBMIT)
    assert shop.job(job_id).lease_id is None
