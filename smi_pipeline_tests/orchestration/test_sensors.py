"""What a sensor says when it starts no run: whether nothing is due, or who works is busy, and with how much. And that
the one that sends the alerts shows to the gateway that it works."""

from typing import Any

import pytest
from dagster import SkipReason, build_sensor_context

from smi_pipeline.core.faults import MAIL, RESULTS, STRIPE, SUBMISSIONS, headline, source
from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.fulfilment import resources
from smi_pipeline.fulfilment.alerts import alerts
from smi_pipeline.fulfilment.sensors import MAX_LEASES
from smi_pipeline_tests.orchestration.conftest import SENSOR_OF, Shop


def skipped(shop: Shop, queue: Queue) -> str | None:
    """Why the next tick of this queue's sensor starts nothing."""
    context = build_sensor_context(instance=shop.instance, resources={"smi": resources.SmiResource()})
    found: Any = SENSOR_OF[queue](context)
    first = next(found)
    return first.skip_message if isinstance(first, SkipReason) else None


@pytest.mark.parametrize(
    ("queue", "reason"),
    [
        (Queue.SUBMIT, "no paid jobs are due"),
        (Queue.FULFIL, "no results are due"),
        (Queue.REFUND, "no refunds are due"),
        (Queue.MAIL, "no mails are due"),
    ],
)
def test_a_sensor_says_that_nothing_is_due(shop: Shop, queue: Queue, reason: str):
    assert skipped(shop, queue) == reason


def test_a_sensor_says_how_many_jobs_wait_for_a_busy_slot(shop: Shop):
    slots = MAX_LEASES[Queue.SUBMIT]
    for _ in range(slots + 2):
        shop.order()
    for _ in range(slots):
        assert shop.ctx.state.leases.lease(Queue.SUBMIT, 1)
    assert skipped(shop, Queue.SUBMIT) == f"all {slots} slots are busy; 2 paid jobs are due"


def test_a_sensor_says_that_upsampler_has_as_many_upscales_as_it_may(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMI_MAX_IN_FLIGHT", "1")
    monkeypatch.setattr("smi_pipeline.fulfilment.sensors.PATIENCE_SECONDS", 0.0)
    shop.order()
    shop.run(Queue.SUBMIT)
    shop.order()
    assert skipped(shop, Queue.SUBMIT) == "Upsampler already works on 1 upscale(s), the limit; 1 paid jobs are due"


def test_a_sensor_says_that_the_allowance_is_used(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPSAMPLER_REQUESTS_PER_MINUTE", "1")
    shop.order()
    shop.run(Queue.SUBMIT)
    shop.order()
    reason = skipped(shop, Queue.SUBMIT)
    assert reason is not None
    assert reason.startswith("the allowance of 1 submissions a minute is used, the next is free in ")
    assert reason.endswith(" s; 1 paid jobs are due")


def test_a_sensor_says_that_upsampler_asked_to_wait(shop: Shop):
    shop.order()
    shop.ctx.limiter.refused(CallPurpose.SUBMIT, retry_after=50, reason="429")
    reason = skipped(shop, Queue.SUBMIT)
    assert reason is not None
    assert reason.startswith("Upsampler asked to wait for ")


@pytest.mark.parametrize("name", [SUBMISSIONS, RESULTS, "source"])
def test_a_sensor_names_the_circuit_breaker_that_paid_jobs_wait_for(shop: Shop, name: str):
    job = shop.job(shop.order())
    breaker = source(job.source_url) if name == "source" else name
    for unconcerned in (MAIL, STRIPE):
        shop.ctx.state.breakers.open_by_hand(unconcerned, message="test", actor="test")
    shop.ctx.state.breakers.open_by_hand(breaker, message="test", actor="test")
    assert skipped(shop, Queue.SUBMIT) == f"{headline(breaker)}; 1 paid jobs are due"


def test_the_sensor_of_the_alerts_gives_a_heartbeat_when_it_has_done_its_work(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    def tick() -> None:
        context = build_sensor_context(instance=shop.instance, resources={"smi": resources.SmiResource()})
        found: Any = alerts(context)
        next(found)

    with monkeypatch.context() as broken:
        broken.setattr("smi_pipeline.fulfilment.alerts.send_alerts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tick()
    assert shop.ctx.state.process_heartbeats.all() == {}
    tick()
    assert list(shop.ctx.state.process_heartbeats.all()) == ["daemon"]
