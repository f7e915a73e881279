"""Paid jobs start in the order of their payments, when Upsampler allows another call."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import RateLimited, TransientError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.services import submit
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline_tests.integration.services.steps import Steps


@pytest.fixture
def shop(empty_url: str) -> Iterator[Steps]:
    """A shop with an allowance of six calls a minute."""
    shop = Steps(empty_url, per_minute=6)
    yield shop
    shop.close()


def lease(shop: Steps, limit: int = 25) -> list[str]:
    return (shop.state.leases.lease(Queue.SUBMIT, limit, policy=shop.ctx.policy) or ("", []))[1]


def used(shop: Steps, calls: int) -> None:
    for _ in range(calls):
        shop.limiter.acquire(CallPurpose.SUBMIT)


def test_jobs_are_leased_and_started_in_the_order_of_their_payments_not_of_their_due_times(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(4)]
    shop.change(
        "UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() - interval '1 hour' WHERE job_id = ANY(:last)",
        last=jobs[2:],
    )
    shop.change("UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() WHERE job_id = :first", first=jobs[0])
    leased = shop.state.leases.lease(Queue.SUBMIT, 25, policy=shop.ctx.policy)
    assert leased is not None
    assert leased[1] == jobs
    assert shop.state.leases.start(Queue.SUBMIT, leased[0]) == jobs


def test_no_more_jobs_are_leased_than_calls_are_free(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(4)]
    used(shop, 4)
    assert lease(shop) == jobs[:2]
    assert lease(shop) == [], "the calls of those leased are spoken for"
    shop.change("UPDATE smi.api_calls SET at = at - interval '62 seconds'")
    assert lease(shop) == jobs[2:]


def test_a_job_that_was_told_to_wait_by_a_429_is_the_next_to_start(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(3)]
    shop.upscaler.faults.append(RateLimited("429", retry_after=30))
    shop.submit_due()
    assert lease(shop) == [], "nothing is leased while Upsampler asks to wait"
    shop.later(seconds=31)
    assert lease(shop) == jobs[:2], "the first ones, no more at once than twice the pace of the allowance"
    assert shop.job(jobs[0]).attempts == 0


def test_calls_in_one_window_are_spread_over_two_processes_without_one_too_many(shop: Steps) -> None:
    for _ in range(10):
        shop.paid()
    used(shop, 3)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(lease(shop, 2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3


def test_no_job_is_overtaken_by_more_than_three(shop: Steps) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, submissions=Allowance(per_minute=60)))
    jobs = [shop.paid() for _ in range(12)]
    slow = lease(shop, 1)
    started: list[str] = []
    while leased := shop.state.leases.lease(Queue.SUBMIT, 2, policy=shop.ctx.policy):
        for key in shop.state.leases.start(Queue.SUBMIT, leased[0]):
            submit.prepare(shop.ctx, key, leased[0])
            submit.submit(shop.ctx, key, leased[0])
            started.append(key)
    assert slow == jobs[:1]
    assert started == jobs[1:4]


def test_a_job_whose_worker_died_holds_the_others_up_for_seconds_only(shop: Steps) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, submissions=Allowance(per_minute=60)))
    jobs = [shop.paid() for _ in range(8)]
    assert lease(shop) == jobs[:4]
    assert lease(shop) == []
    shop.later(seconds=16)
    assert lease(shop) == jobs[4:]


def test_places_in_flight_are_given_out_in_the_order_of_payment(shop: Steps) -> None:
    shop.ctx = replace(shop.ctx, policy=replace(shop.ctx.policy, max_in_flight=1))
    first, second, third = (shop.paid() for _ in range(3))
    shop.submit_due()
    assert shop.job(first).submitted_at
    shop.change("UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() WHERE job_id = :id", id=second)
    assert lease(shop) == [], "one is in flight"
    shop.upscaler.finish(shop.external_id(first))
    shop.poll()
    assert lease(shop) == [second]
    assert shop.job(third).lease_id is None


def test_a_transient_fault_costs_only_the_job_that_it_hits_its_place(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(3)]
    shop.upscaler.faults.append(TransientError("503", retry_after=20, counts=False))
    shop.submit_due()
    assert [bool(shop.job(job).submitted_at) for job in jobs] == [False, True, True]
    fourth = shop.paid()
    shop.later(seconds=25)
    assert lease(shop) == [jobs[0], fourth]


def test_a_tick_waits_a_little_for_the_end_of_a_pause(shop: Steps) -> None:
    job = shop.paid()
    shop.limiter.refused(CallPurpose.SUBMIT, retry_after=0.6, reason="429")
    assert not list(next_batches(shop.ctx, Queue.SUBMIT, max_leases=4, limit=25))
    found = list(next_batches(shop.ctx, Queue.SUBMIT, max_leases=4, limit=25, patience=3))
    assert [keys for _, keys in found] == [[job]]


def test_a_long_pause_is_not_waited_for(shop: Steps) -> None:
    shop.paid()
    shop.limiter.refused(CallPurpose.SUBMIT, retry_after=60, reason="429")
    began = shop.state.submissions.now()
    assert not list(next_batches(shop.ctx, Queue.SUBMIT, max_leases=4, limit=25, patience=30))
    assert shop.state.submissions.now() - began < timedelta(seconds=20)


def test_the_wait_is_forecast_by_one_call_for_each_job_ahead(shop: Steps) -> None:
    for _ in range(3):
        shop.paid()
    forecast = shop.state.queries.forecast_wait_seconds
    assert forecast(shop.ctx.policy) == pytest.approx(30)
    assert forecast(replace(shop.ctx.policy, submissions=Allowance())) == 0
    few = replace(shop.ctx.policy, submissions=Allowance(per_minute=6, per_hour=1))
    assert forecast(few) == pytest.approx(2 * 3600)


def test_the_forecast_follows_what_a_429_has_taught(shop: Steps) -> None:
    for _ in range(3):
        shop.paid()
    used(shop, 4)
    shop.limiter.refused(CallPurpose.SUBMIT, retry_after=30, reason="429")
    assert shop.state.queries.forecast_wait_seconds(shop.ctx.policy) == pytest.approx(30 + 3 / 3 * 60, abs=1)
