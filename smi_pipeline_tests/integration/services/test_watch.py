"""The gateway tells that the daemon, whose sensor sends all other alerts, or the workers of a queue have stopped."""

import pytest

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.runs import DAEMON, FULFILMENT_QUEUE, PRIORITY_QUEUE, workers_of
from smi_pipeline.services.alerts import send_alerts, send_resolved
from smi_pipeline.services.watch import SILENCE_SECONDS, Watch
from smi_pipeline_tests.integration.services.steps import Steps

OWNER = "owner@example.com"
FULFILMENT = workers_of(FULFILMENT_QUEUE)


class Gateway:
    """A gateway's watch, whose clock the test moves."""

    def __init__(self, shop: Steps) -> None:
        self.shop, self.seconds = shop, 1000.0
        self.posted: list[tuple[str, list[str]]] = []
        self.watch = Watch(shop.ctx, OWNER, lambda *alert: self.posted.append(alert), clock=lambda: self.seconds)

    def passes(self, seconds: float, *alive: str) -> list[str]:
        """Time passes, in which these parts give heartbeats. Return who is silent afterwards."""
        for _ in range(int(seconds) // 10):
            self.seconds += 10
            for part in alive:
                self.shop.state.process_heartbeats.record(part)
            self.watch.look()
        return self.watch.silent

    @property
    def subjects(self) -> list[str]:
        return [subject for subject, _ in self.posted]


@pytest.fixture
def gateway(shop: Steps) -> Gateway:
    return Gateway(shop)


def test_a_stopped_daemon_is_told_once_by_the_gateway_and_its_return_once(shop: Steps, gateway: Gateway) -> None:
    assert gateway.passes(600, DAEMON) == []
    assert gateway.passes(SILENCE_SECONDS - 10) == [] and gateway.posted == []
    assert gateway.passes(600) == [DAEMON]
    assert shop.tasks() == ["process_silent"]
    [(subject, [line])] = gateway.posted
    assert subject == (
        "Dagster runs no sensors: nothing was heard for 2 minutes. Deadlines are not enforced, refunds and mails may "
        "wait, and no other alert is sent."
    )
    assert "Next step: See whether the processes daemon and code-fulfilment run" in line
    assert gateway.passes(300, DAEMON) == []
    assert gateway.subjects[1:] == ["Resolved: Dagster runs no sensors"]
    assert shop.tasks() == []
    assert len(shop.mailer.taken) == 2, "by mail as well"
    gateway.passes(600)
    assert len(gateway.posted) == 3, "another silence is another alert"


def test_a_daemon_that_never_ran_is_told(gateway: Gateway) -> None:
    assert gateway.passes(SILENCE_SECONDS) == [DAEMON]


def test_a_pool_of_workers_without_a_worker_is_told_while_others_work(shop: Steps, gateway: Gateway) -> None:
    others = (DAEMON, workers_of(PRIORITY_QUEUE))
    assert gateway.passes(60, FULFILMENT, *others) == []
    assert gateway.passes(SILENCE_SECONDS, *others) == [FULFILMENT]
    assert gateway.subjects == [
        "No worker takes the runs of the queue fulfilment: nothing was heard for 2 minutes. Paid orders are neither "
        "submitted nor delivered."
    ]
    assert gateway.passes(60, FULFILMENT, *others) == []
    assert gateway.subjects[1:] == ["Resolved: No worker takes the runs of the queue fulfilment"]


def test_workers_that_are_not_used_are_not_missed(shop: Steps, gateway: Gateway) -> None:
    assert gateway.passes(600, DAEMON) == []
    shop.state.process_heartbeats.record(FULFILMENT)
    shop.later(days=8)
    assert Gateway(shop).passes(600, DAEMON) == [], "those of a launcher that was replaced long ago"


def test_a_moved_clock_a_restart_a_standstill_and_a_database_that_does_not_answer_are_no_silence(
    shop: Steps, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.passes(60, DAEMON)
    shop.later(hours=3)
    assert gateway.passes(10) == []
    assert Gateway(shop).passes(SILENCE_SECONDS - 10) == [], "a gateway that starts gives the others time to"
    gateway.passes(60, DAEMON)
    gateway.seconds += 3600
    assert gateway.passes(SILENCE_SECONDS - 10) == [], "all were stopped together, the gateway too"
    gateway.passes(10, DAEMON)
    gateway.passes(60)
    with monkeypatch.context() as broken:

        def fail() -> None:
            raise TransientError("the database did not answer")

        broken.setattr(shop.state.process_heartbeats, "all", fail)
        with pytest.raises(TransientError):
            gateway.passes(10)
    assert gateway.passes(SILENCE_SECONDS - 10) == []
    assert gateway.passes(10) == [DAEMON]


def test_a_gateway_that_restarts_meanwhile_tells_nothing_twice_and_what_was_not_told(
    shop: Steps, gateway: Gateway
) -> None:
    gateway.passes(60, DAEMON)
    gateway.passes(SILENCE_SECONDS)
    restarted = Gateway(shop)
    assert restarted.passes(300) == [DAEMON]
    assert restarted.posted == [] and len(gateway.posted) == 1
    assert Gateway(shop).passes(10, DAEMON) == []
    shop.state.manual_tasks.open(kind="process_silent", subject=FULFILMENT, message="thing.", next_step="look.")
    third = Gateway(shop)
    third.passes(10, DAEMON)
    assert third.subjects == ["thing."], "what the former could not send"


def test_of_two_gateways_one_tells(shop: Steps) -> None:
    gateways = [Gateway(shop), Gateway(shop)]
    for _ in range(30):
        for gateway in gateways:
            gateway.passes(10)
    for gateway in gateways:
        gateway.passes(10, DAEMON)
    assert sorted(subject.partition(":")[0] for gateway in gateways for subject in gateway.subjects) == [
        "Dagster runs no sensors",
        "Resolved",
    ]


def test_an_alert_that_reached_nobody_is_tried_again_and_one_that_is_over_by_then_is_one_message(shop: Steps) -> None:
    gateway = Gateway(shop)
    gateway.watch = Watch(shop.ctx, OWNER, None, clock=lambda: gateway.seconds)
    shop.mailer.faults += [TransientError("no connection")] * 3
    gateway.passes(SILENCE_SECONDS + 10)
    assert shop.mailer.taken == []
    gateway.passes(10, DAEMON)
    gateway.passes(60, DAEMON)
    [mail] = shop.mailer.taken
    assert b"Resolved: Dagster runs no sensors" in mail.content


def test_the_sensor_of_the_alerts_leaves_these_to_the_gateway(shop: Steps, gateway: Gateway) -> None:
    gateway.watch = Watch(shop.ctx, None, None, clock=lambda: gateway.seconds)
    gateway.passes(SILENCE_SECONDS)
    assert shop.tasks() == ["process_silent"]
    assert send_alerts(shop.ctx, OWNER, None) == send_resolved(shop.ctx, OWNER, None) == 0
    gateway.passes(10, DAEMON)
    assert send_alerts(shop.ctx, OWNER, None) == send_resolved(shop.ctx, OWNER, None) == 0
