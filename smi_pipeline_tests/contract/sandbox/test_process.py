"""The sandbox as a process: ports file, clean stop, going on after a stop and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe

from smi_pipeline.sandbox.ledger import Ledger
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.sandbox.stripe import objects
from smi_pipeline_tests.contract.sandbox.conftest import KEY, Receiver, new_session, until

HEADERS = {"Authorization": f"Bearer {KEY}"}


def start(folder: Path, *flags: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    ports = folder / "ports.json"
    ports.unlink(missing_ok=True)
    command = [sys.executable, "-m", "smi_pipeline.sandbox", "--state", str(folder), "--ports-file", str(ports)]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    until(lambda: ports.exists() or process.poll() is not None, 15)
    assert process.poll() is None
    return process, json.loads(ports.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_one_line_each_and_stops_while_a_request_hangs(tmp_path: Path, number: int) -> None:
    process, ports = start(tmp_path)
    assert requests.get(f"{ports['upsampler']}/_health", timeout=5).status_code == 200
    # a request that hangs must not hold up the stop
    if number == signal.SIGTERM:
        requests.post(f"{ports['stripe']}/_faults", json={"kind": "latency", "seconds": 60}, timeout=5)
        with pytest.raises(requests.Timeout):
            requests.get(f"{ports['stripe']}/v1/balance", timeout=0.2)
    os.kill(process.pid, number)
    assert process.wait(20) == 0
    names = [line.split()[0] for line in process.communicate()[0].splitlines()]
    assert names == list(ports)


def test_a_taken_port_is_one_clear_line(tmp_path: Path, sandbox: Sandbox) -> None:
    port = sandbox.urls.origin.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "smi_pipeline.sandbox", "--state", str(tmp_path), "--origin-port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert port in done.stderr


def test_after_a_kill_it_goes_on_with_what_was_in_flight(tmp_path: Path, sandbox: Sandbox, receiver: Receiver) -> None:
    flags = ["--only", "upsampler,stripe", "--processing-seconds", "1.0", "--stripe-webhook-url", f"{receiver.url}/s"]
    process, ports = start(tmp_path, *flags)
    photo = f"{sandbox.urls.origin}/photos/astronaut-200.jpg"
    body = {"image_url": photo, "scale_factor": 4, "webhook_url": f"{receiver.url}/u", "metadata": {"job_id": "k"}}
    reply = requests.post(f"{ports['upsampler']}/precise-upscale", json=body, headers=HEADERS, timeout=5)
    client: Any = stripe.StripeClient("sk_test_sandbox", base_addresses={"api": ports["stripe"]})
    receiver.statuses["/s"] = [500] * 3
    session = new_session(client)
    requests.post(f"{ports['stripe']}/_pay", json={"session": session.id}, timeout=5)
    refund = client.v1.refunds.create(
        {"payment_intent": client.v1.checkout.sessions.retrieve(session.id).payment_intent},
        {"idempotency_key": "over-the-kill"},
    )
    process.kill()
    process.communicate()
    process, ports = start(tmp_path, *flags)
    try:
        assert until(lambda: receiver.bodies("/u"), 8)[0]["metadata"] == {"job_id": "k"}
        id = reply.json()["job_id"]
        answer = requests.get(f"{ports['upsampler']}/status/{id}", headers=HEADERS, timeout=5).json()
        assert requests.get(answer["result_url"], timeout=5).status_code == 200
        client = stripe.StripeClient("sk_test_sandbox", base_addresses={"api": ports["stripe"]})
        again = client.v1.refunds.create(
            {"payment_intent": refund.payment_intent}, {"idempotency_key": "over-the-kill"}
        )
        assert again.id == refund.id
        until(lambda: len({event["id"] for event in receiver.bodies("/s")}) == 5)
    finally:
        process.terminate()
        process.communicate()


def test_ledgers_mails_and_faults_survive_a_restart(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as first:
        requests.get(f"{first.urls.origin}/photos/coffee-200.jpg", timeout=5)
        intent = first.control("stripe", "/_pay", amount=700, currency="usd", metadata={"job_id": "x"})
        first.fault("upsampler", "fail", match={"job_id": "later"})
        before = {name: first.ledger(name) for name in ("upsampler", "stripe", "mail", "origin")}
    with Sandbox(tmp_path) as second:
        assert {name: second.ledger(name) for name in before} == before
        assert second.ledger("stripe")["intents"][0]["id"] == intent["id"]
        assert second.faults("upsampler")["faults"][0]["match"] == {"job_id": "later"}


def test_one_sandbox_service_runs_alone(tmp_path: Path) -> None:
    with Sandbox(tmp_path, only=["origin"]) as sandbox:
        assert sandbox.urls.origin
        assert (sandbox.urls.upsampler, sandbox.urls.smtp_port) == ("", 0)


def test_the_ledger_stays_quick_at_ten_thousand_jobs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "stripe" / "stripe.sqlite")
    with ledger.transaction():
        for number in range(10_000):
            intent = objects.intent(now=number, amount=500, currency="usd", metadata={}, email=None)
            ledger.put("intents", intent["id"], intent)
    started = time.process_time()
    for number in range(1_000):
        ledger.append("events", {"id": f"evt_{number}", "type": "charge.succeeded", "created": number})
    ledger.close()
    assert time.process_time() - started < 1
    with Sandbox(tmp_path, only=["stripe"]) as sandbox:
        started = time.process_time()
        assert len(sandbox.ledger("stripe")["intents"]) == 10_000
        assert time.process_time() - started < 2
