"""A shop for the tests: a real state, real storage, the real application behind a real socket, and short ways to bring
a job anywhere."""

import hashlib
import hmac
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.lifecycle import rating_token, view_token
from smi_pipeline.core.models import (
    ImageInfo,
    NewJob,
    Queue,
    Stage,
    StripePayment,
    StripeRefund,
    UpscaleJob,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.gateway.app import create_app
from smi_pipeline.gateway.server import server_config
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.settings import Settings
from smi_pipeline.wiring import build_context

API_KEY = "storefront-key-for-tests"
STRIPE_SECRET = "whsec_sandbox"
SECRET_KEY = "a-secret-key-of-the-tests-with-more-than-32-characters"
CONTENT = bytes(range(256)) * 40


class Shop:
    """`client` speaks HTTP to the application at `url`; `settings` and `ctx` are what it was built from."""

    def __init__(self, state_url: str, folder: Path, sandbox: Sandbox | None = None, **changes: Any) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        values: dict[str, Any] = {
            "smi_database_url": state_url,
            "smi_home": folder,
            "smi_secret_key": SECRET_KEY,
            "smi_api_key": API_KEY,
            "smi_shop_origin": "https://shop.example",
            "smi_public_url": self.url,
            "smi_ui_user": "operator",
            "smi_ui_password": "correct horse",
            "smi_support_email": "help@shop.example",
            "smi_mail_from": "shop@shop.example",
            "stripe_api_key": "sk_test_sandbox",
            "stripe_webhook_secret": STRIPE_SECRET,
            "upsampler_api_key": "upsampler-sandbox-key",
            "upsampler_wire": "documented",
        }
        if sandbox is not None:
            urls = sandbox.urls
            values |= {
                "stripe_api_base": urls.stripe,
                "upsampler_base_url": urls.upsampler,
                "smi_allowed_source_hosts": (urls.origin,),
                "smi_allowed_result_hosts": (urls.upsampler,),
                "smtp_host": urls.smtp_host,
                "smtp_port": urls.smtp_port,
                "smtp_starttls": False,
            }
        self.sandbox = sandbox
        self.settings = Settings(_env_file=None, **(values | changes))
        self.ctx = build_context(self.settings, actor="gateway", pool_size=10)
        self.state = self.ctx.state
        self.dispatched: list[Queue] = []
        self.app = create_app(self.ctx, self.settings, on_work=self.dispatched.append)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        proxies = self.settings.smi_trusted_proxies
        self._server = uvicorn.Server(server_config(self.app, host="127.0.0.1", port=0, proxies=proxies))
        threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        ends = time.monotonic() + 10
        while not self._server.started and time.monotonic() < ends:
            time.sleep(0.002)

    # --- bringing a job somewhere

    def ordered(self, **changes: Any) -> str:
        """An unpaid job."""
        values: dict[str, Any] = {
            "job_id": uuid.uuid4().hex,
            "source_url": "https://shop.example/photos/sunset.png?key=of-the-shop",
            "file_name": "sunset",
            "resolution": "4x",
            "scale": 4,
            "customer_email": "anna.smith@example.com",
            "customer_name": "Anna Smith",
            "source": ImageInfo(format="PNG", width=640, height=480, bytes=123_456, sha256="0" * 64),
            "price_cents": 249,
            "currency": "usd",
            "expected_credits": 2,
            "credit_cents": Decimal(4),
        }
        job = NewJob(**(values | changes))
        self.state.jobs.register(job, actor="test")
        return job.job_id

    def paid(self, job_id: str = "", *, cents: int | None = None, **changes: Any) -> str:
        """A job whose payment is recorded."""
        job_id = job_id or self.ordered(**changes)
        job = self.job(job_id)
        amount = job.price_cents if cents is None else cents
        facts = StripePayment(
            payment_intent_id=f"pi_{uuid.uuid4().hex}",
            status="succeeded",
            amount_received_cents=amount,
            currency=job.currency,
        )
        self.state.payments.record_payment(facts, job_id, event=None, source="test", policy=self.ctx.policy)
        return job_id

    def preparing(self, **changes: Any) -> str:
        """A job that a worker has prepared and not submitted yet."""
        job_id = self.paid(**changes)
        self.lease_id = self.state.leases.lease_one(Queue.SUBMIT, job_id) or ""
        self.state.submissions.prepared(
            job_id,
            self.lease_id,
            source=ImageInfo(format="PNG", width=640, height=480, bytes=123_456, sha256="0" * 64),
            source_key="sources/x.png",
            source_url=self.job(job_id).source_url,
            expected_seconds=60,
            policy=self.ctx.policy,
            actor="test",
        )
        return job_id

    def submitted(self, **changes: Any) -> str:
        """A job at Upsampler; `callback` is the token of its webhook, `submission_id` its call."""
        job_id = self.preparing(**changes)
        begun = self.state.submissions.begin(job_id, self.lease_id, actor="test")
        assert begun
        self.submission_id, self.callback = begun
        reply = UpscaleReply(external_id=f"up-{job_id}", stage=Stage.PROCESSING)
        self.state.submissions.accepted(self.submission_id, reply, policy=self.ctx.policy, actor="test")
        return job_id

    def checking(self, **changes: Any) -> str:
        """A job whose result is known and not delivered yet."""
        job_id = self.submitted(**changes)
        reply = UpscaleReply(
            external_id=f"up-{job_id}", stage=Stage.COMPLETED, result_url="https://cdn.example/x.png", credits=2
        )
        self.state.submissions.poll_answered(self.submission_id, reply, policy=self.ctx.policy, actor="test")
        self.lease_id = self.state.leases.lease_one(Queue.FULFIL, job_id) or ""
        return job_id

    def delivered(self, content: bytes = CONTENT, *, ttl_hours: float = 24, **changes: Any) -> str:
        """A completed job with `content` as its file."""
        job_id = self.checking(**changes)
        key = f"results/{job_id}.png"
        self.ctx.storage.put_bytes(key, content)
        facts = ImageInfo(
            format="PNG", width=2560, height=1920, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
        verdict = Verdict(ok=True, facts=facts, min_ssim=0.97, mean_colour_shift=0.4)
        self.state.deliveries.verified(
            job_id, self.lease_id, verdict, result_key=key, policy=self.ctx.policy, actor="test"
        )
        assert self.state.deliveries.deliver(job_id, self.lease_id, ttl=timedelta(hours=ttl_hours), actor="test")
        return job_id

    def failed(self, reason: str = reasons.UPSCALE_FAILED, **changes: Any) -> str:
        """A failed job whose refund is owed."""
        job_id = self.checking(**changes)
        error = PermanentError(reason, "Upsampler said: cuda error at node-7")
        self.state.deliveries.fail(job_id, self.lease_id, error, policy=self.ctx.policy, actor="test")
        return job_id

    def refunded(self, status: str = "succeeded", **changes: Any) -> str:
        """A failed job whose refund is `status` at Stripe."""
        job_id = self.failed(**changes)
        self.settle_refund(job_id, status)
        return job_id

    def settle_refund(self, job_id: str, status: str) -> None:
        refund = self.state.refunds.of_job(job_id)[-1]
        facts = StripeRefund(
            refund_id=refund.stripe_refund_id or f"re_{uuid.uuid4().hex}",
            payment_intent_id=refund.payment_intent_id,
            amount_cents=self.job(job_id).price_cents,
            currency="usd",
            status=status,
        )
        self.state.refunds.settle(refund.refund_id, facts, actor="test")

    # --- asking

    def job(self, job_id: str) -> UpscaleJob:
        found = self.state.queries.job(job_id)
        assert found
        return found

    def token(self, job_id: str) -> str:
        link = self.state.deliveries.current_token(job_id)
        assert link
        return link.token

    def view(self, job_id: str) -> str:
        return view_token(self.ctx.secret_key, job_id)

    def rating_key(self, job_id: str) -> str:
        return rating_token(self.ctx.secret_key, job_id)

    def status(self, job_id: str, *, view: bool = False) -> dict[str, Any]:
        query = f"?view={self.view(job_id)}" if view else ""
        reply = self.client.get(f"/smi/v1/job-status/{job_id}{query}")
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def page(self, job_id: str, *, view: bool = True) -> str:
        query = f"?view={self.view(job_id)}" if view else ""
        reply = self.client.get(f"/smi/v1/jobs/{job_id}{query}")
        assert reply.status_code == 200, reply.text
        return reply.text

    def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        with self.state.database.transaction() as tx:  # type: ignore[attr-defined]
            result = tx._connection.exec_driver_sql(statement, parameters or None)
            return [dict(row) for row in result.mappings()] if result.returns_rows else []

    def everything(self) -> dict[str, list[str]]:
        """Every row of the state, by table."""
        tables = self.sql("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'smi' ORDER BY 1")
        return {
            table["name"]: [
                row["row"] for row in self.sql(f"SELECT t::text AS row FROM smi.{table['name']} t ORDER BY 1")
            ]
            for table in tables
        }

    # --- speaking as others

    def order_body(self, **changes: Any) -> dict[str, Any]:
        origin = self.sandbox.urls.origin if self.sandbox else "https://shop.example"
        body = {"image_url": f"{origin}/photos/coffee-200.jpg", "resolution": "4x", "email": "anna@example.com"}
        return {name: value for name, value in (body | changes).items() if value is not ...}

    def register(self, **changes: Any) -> Any:
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
        content = json.dumps(self.order_body(**changes))  # httpx would not escape a lone surrogate
        return self.client.post("/smi/v1/jobs", content=content, headers=headers)

    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True  # it leaves by itself within a tick, nobody need wait for it
        self.state.database.dispose()  # type: ignore[attr-defined]


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits up to five seconds for what another thread does."""
    ends = time.monotonic() + 5
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    assert condition()


def stripe_event(type_: str, obj: dict[str, Any], event_id: str = "") -> bytes:
    """An event as Stripe words it."""
    return json.dumps(
        {
            "id": event_id or f"evt_{uuid.uuid4().hex}",
            "object": "event",
            "api_version": "2025-01-01",
            "created": int(time.time()),
            "type": type_,
            "data": {"object": obj},
        }
    ).encode()


def signed(body: bytes, *, secret: str = STRIPE_SECRET, age: float = 0) -> dict[str, str]:
    """The header Stripe signs `body` with."""
    at = int(time.time() - age)
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={mac}", "Content-Type": "application/json"}
