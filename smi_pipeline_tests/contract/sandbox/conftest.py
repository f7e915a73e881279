"""One running sandbox for all tests of this folder, and a customer's side that receives webhooks."""

import http.server
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe

from smi_pipeline.sandbox.server import Sandbox

KEY = "upsampler-sandbox-key"


class Receiver:
    """A web server that keeps what is sent to it. A path answers the statuses put for it, one by one, then 200.

    A body that its sender, killed in between, did not send whole is no delivery: it is neither kept nor answered.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: dict[str, list[int]] = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                receiver.received.append((self.path, dict(self.headers), body))
                waiting = receiver.statuses.get(self.path, [])
                self.send_response(waiting.pop(0) if waiting else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                receiver.received.append((self.path, dict(self.headers), b""))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(body) for at, _, body in list(self.received) if at == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def until(question: Callable[[], Any], seconds: float = 5) -> Any:
    """Ask until the answer is truthy; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    options: dict[str, Any] = {"processing_seconds": 0.08, "rate_minute": 0, "rate_hour": 0, "rate_status": 0}
    options |= {"upsampler_webhook_retry_seconds": 0.02, "stripe_webhook_retry_seconds": 0.02}
    with Sandbox(tmp_path_factory.mktemp("sandbox"), **options) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The shared sandbox, without faults and with its settings put back afterwards."""
    names = ("upsampler", "stripe", "mail", "origin")
    settings = {name: shared_sandbox.configure(name) for name in names}
    yield shared_sandbox
    for name in names:
        shared_sandbox.clear_faults(name)
        shared_sandbox.configure(name, **settings[name])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Shop:
    """What the shop does with the upscaling service, in both API formats."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"Bearer {KEY}"

    def photo(self, name: str = "astronaut-200.jpg") -> str:
        return f"{self.sandbox.urls.origin}/photos/{name}"

    def submit(self, *, api_format: str = "documented", photo: str = "astronaut-200.jpg", scale: int = 4,
               job_id: str | None = None, webhook: str | None = None) -> requests.Response:  # fmt: skip
        if api_format == "documented":
            body: dict[str, Any] = {"image_url": self.photo(photo), "scale_factor": scale, "format": "auto"}
            body |= {"webhook_url": webhook, "metadata": {"job_id": job_id or uuid.uuid4().hex, "plugin": "test"}}
        else:
            settings = {"inputImageType": "universal", "globalCreativity": 7, "detail": 8}
            body = {"input": {"imageUrl": self.photo(photo), "upscaleFactor": scale, **settings}, "webhook": webhook}
        return self.http.post(f"{self.sandbox.urls.upsampler}/precise-upscale", json=body, timeout=10)

    def status(self, id: str) -> dict[str, Any]:
        return self.http.get(f"{self.sandbox.urls.upsampler}/status/{id}", timeout=10).json()

    def finished(self, id: str) -> dict[str, Any]:
        """The status answer once the submission is completed or failed, in the API format of the submission."""
        done = ("completed", "failed", "SUCCESS", "FAILED")
        return until(lambda: (answer := self.status(id))["status"] in done and answer)

    def result(self, **submission: Any) -> bytes:
        """Submit, wait, download."""
        answer = self.finished(self.submit(**submission).json()["job_id"])
        reply = self.http.get(answer["result_url"], timeout=10)
        reply.raise_for_status()
        return reply.content


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


@pytest.fixture
def client(sandbox: Sandbox) -> Any:  # the library types every field as optional, which tests need not prove
    return stripe.StripeClient("sk_test_sandbox", base_addresses={"api": sandbox.urls.stripe}, max_network_retries=2)


def new_session(
    client: Any, *, job_id: str = "job-1", cents: int = 500, email: str | None = "customer@example.com"
) -> Any:
    """An open Checkout session as the shop creates it."""
    metadata = {"job_id": job_id, "resolution": "4x", "source": "sell-my-images"}
    product = {"name": "Astronaut, 4x"}
    return client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "line_items": [
                {"price_data": {"currency": "usd", "unit_amount": cents, "product_data": product}, "quantity": 1}
            ],
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            **({"customer_email": email} if email else {}),
            "success_url": "https://shop.example/thanks?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://shop.example/",
        }
    )


def paid(sandbox: Sandbox, client: Any, *, job_id: str = "job-1", cents: int = 500) -> str:
    """A paid session; returns the id of its PaymentIntent."""
    return sandbox.pay(new_session(client, job_id=job_id, cents=cents).id)["id"]
