"""Faults in general: matching, counting, chance, and requests that make no sense."""

import pytest
import requests

from smi_pipeline.sandbox.faults import FaultRegistry, Kind
from smi_pipeline.sandbox.ledger import Ledger
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.sandbox.conftest import Shop


@pytest.mark.parametrize(
    "fault",
    [{}, [], {"kind": "nonsense"}, {"kind": "latency", "minutes": 3}, {"kind": "drop", "match": {"colour": "red"}},
     {"kind": "drop", "times": 0}, {"kind": "random"}, {"kind": "random", "rates": {"nonsense": 0.5}}],
)  # fmt: skip
def test_a_fault_that_makes_no_sense_is_refused_with_a_reason(sandbox: Sandbox, fault: object) -> None:
    reply = requests.post(f"{sandbox.urls.upsampler}/_faults", json=fault, timeout=10)
    assert reply.status_code == 400
    assert reply.json()["error"]


def test_a_misspelled_choice_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="'at' is one of"):
        sandbox.fault("mail", "code", at="rcpt")


def test_the_nth_matching_request_is_hit(shop: Shop) -> None:
    shop.sandbox.fault("upsampler", "status", match={"endpoint": "submit", "nth": 2}, times=None)
    assert [shop.submit().status_code for _ in range(3)] == [200, 500, 200]


def test_faults_are_counted_and_cleared(shop: Shop) -> None:
    before = shop.sandbox.faults("upsampler")["injected"].get("garbage", 0)
    shop.sandbox.fault("upsampler", "garbage", times=2)
    for _ in range(3):
        shop.submit()
    report = shop.sandbox.faults("upsampler")
    assert report["injected"]["garbage"] == before + 2
    assert report["faults"][0]["applied"] == 2
    shop.sandbox.clear_faults("upsampler")
    assert shop.sandbox.faults("upsampler")["faults"] == []


def test_every_injected_fault_is_listed_with_whom_it_struck(sandbox: Sandbox, shop: Shop) -> None:
    sandbox.fault("upsampler", "status", match={"endpoint": "submit"}, code=503)
    shop.submit(photo="coins-200.jpg?order=00007")
    listed = requests.get(f"{sandbox.urls.upsampler}/_injections", timeout=10).json()["injections"][-1]
    assert (listed["kind"], listed["endpoint"], listed["params"]["code"]) == ("status", "submit", 503)
    assert listed["subject"] == "/photos/coins-200.jpg?order=00007"


def test_random_faults_replay_by_seed_in_whatever_order_requests_come(tmp_path) -> None:
    def outcome(name: str, seed: int, jobs: list[int]) -> set[int]:
        book = FaultRegistry(Ledger(tmp_path / name), {"drop": Kind(), "latency": Kind(defaults={"seconds": 1})})
        book.add({"kind": "random", "seed": seed, "rates": {"drop": 0.3}, "params": {"latency": {"seconds": 2}}})
        return {job for job in jobs if book.take({"drop"}, {"endpoint": "submit", "job_id": str(job)})}

    jobs = list(range(300))
    first = outcome("a", 1, jobs)
    assert 60 < len(first) < 120
    assert outcome("b", 1, jobs[::-1]) == first
    assert outcome("c", 2, jobs) != first


def test_settings_change_at_run_time_and_unknown_ones_are_refused(sandbox: Sandbox) -> None:
    assert sandbox.configure("upsampler", processing_seconds=0.05)["processing_seconds"] == 0.05
    with pytest.raises(ValueError, match="unknown"):
        sandbox.configure("upsampler", colour="red")


@pytest.mark.parametrize("name", ["upsampler", "stripe", "mail", "origin"])
def test_every_sandbox_service_reports_that_it_is_healthy(sandbox: Sandbox, name: str) -> None:
    reply = requests.get(f"{sandbox.url_of(name)}/_health", timeout=10)
    assert reply.json() == {"status": "ok", "service": name}
