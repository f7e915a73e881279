"""`smi up` as a process: it delivers on both API formats, Ctrl-C leaves nothing behind, and the next start goes on,
also with other keys."""

import email
import email.policy
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline_tests.end_to_end.conftest import Storefront, environment, wait_until
from smi_pipeline_tests.soak.evidence import links_of, opens

pytestmark = [pytest.mark.timeout(240)]


@contextmanager
def smi_up(variables: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `smi up` until the block ends, then presses Ctrl-C and looks for what is left."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SMI_", "SMTP_", "STRIPE_"))}
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "smi_pipeline.cli", "up"],
        env={**clean, **variables, "SMI_HOME": str(home)},
        cwd=home,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 8, "the topology runs"
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 0
        _, left = psutil.wait_procs(family, timeout=max(0.0, 10 - (time.monotonic() - pressed)))
        assert left == [], "Ctrl-C leaves no process behind within 10 s"
        assert not [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]
    finally:
        process.kill()


def test_smi_up_delivers_on_either_api_format_and_goes_on_after_a_restart_with_all_keys_replaced():
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="smi-up-", ignore_cleanup_errors=True) as path,
        Sandbox(
            Path(path) / "sandbox",
            processing_seconds=0.5,
            stripe_webhook_url=f"http://127.0.0.1:{port}/smi-webhook/stripe",
        ) as sandbox,
    ):
        Path(path).chmod(0o755)  # as root the product runs as another user
        front = Storefront(sandbox, f"http://127.0.0.1:{port}")
        with smi_up(environment(sandbox, port, "live"), Path(path) / "home"):
            wait_until("the gateway", lambda: _answers(front.gateway), seconds=60)
            first = front.order("coffee-200.png", email="first@customer.example")
            front.pay(first)
            wait_until("the first delivery", lambda: front.mails("first@customer.example"))
            sandbox.fault("upsampler", "slow", seconds=10, match={"image_url": "rocket-200.jpg"})
            second = front.order("rocket-200.jpg", email="second@customer.example")
            front.pay(second)
            wait_until("the second submission", lambda: len(sandbox.ledger("upsampler")["submissions"]) == 2)
        assert front.mails("second@customer.example") == []
        old = environment(sandbox, port, "documented")
        new = {name: f"{name.lower()}-that-is-new-{'n' * 32}" for name in KEYS}
        sandbox.configure(
            "stripe", api_key=new["STRIPE_API_KEY"], webhook_secret=both("STRIPE_WEBHOOK_SECRET", new, old)
        )
        sandbox.configure("upsampler", api_key=new["UPSAMPLER_API_KEY"])
        several = {name: both(name, new, old) for name in SEVERAL}
        with smi_up({**old, **new, **several}, Path(path) / "home"):
            wait_until("the second delivery", lambda: front.mails("second@customer.example"), seconds=90)
            assert front.status(second) == "completed"
            front.api_key = new["SMI_API_KEY"]
            sandbox.configure("stripe", webhook_secret=new["STRIPE_WEBHOOK_SECRET"])
            third = front.order("coffee-200.png", email="third@customer.example")
            front.pay(third)
            wait_until("the third delivery", lambda: front.mails("third@customer.example"), seconds=90)
            links = [link for n in (1, 2, 3) for link in links_of(mail_text(sandbox, n))]
            assert len(links) > 6
            assert [link for link in links if not opens(requests.Session(), link)] == [], "of both keys"
        assert [s["job_id"] for s in sandbox.ledger("upsampler")["submissions"]] == [None, None, third["job_id"]]
        assert sandbox.ledger("stripe")["refunds"] == []
        assert [len(front.mails(f"{who}@customer.example")) for who in ("first", "second", "third")] == [1, 1, 1]


KEYS = (
    *("SMI_SECRET_KEY", "SMI_API_KEY", "SMI_ADMIN_API_KEY", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"),
    "UPSAMPLER_API_KEY",
)
SEVERAL = ("SMI_SECRET_KEY", "SMI_API_KEY", "SMI_ADMIN_API_KEY", "STRIPE_WEBHOOK_SECRET")


def both(name: str, new: dict[str, str], old: dict[str, str]) -> str:
    """The value of a setting while one key is being replaced."""
    return f"{new[name]},{old[name]}"


def mail_text(sandbox: Sandbox, number: int) -> str:
    """The text of a mail that the server took."""
    message = email.message_from_string(
        requests.get(f"{sandbox.urls.mail}/messages/{number}.eml", timeout=10).text, policy=email.policy.default
    )
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def _answers(gateway: str) -> bool:
    try:
        return requests.get(f"{gateway}/health", timeout=2).status_code == 200
    except requests.RequestException:
        return False
