"""The shop of one run: gateway, services and workers in this process, and a clock that is moved when all is quiet."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from smi_pipeline.adapters.fetching.fetcher import HttpFetcher
from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.runs import BATCH_LIMIT, DAEMON
from smi_pipeline.core.vocabulary import StepState
from smi_pipeline.fulfilment.sensors import MAX_LEASES
from smi_pipeline.gateway.app import create_app
from smi_pipeline.gateway.server import server_config
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services import fulfil, notify, refund, submit
from smi_pipeline.services.alerts import raise_alarms, send_alerts, send_resolved
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.dispatch import next_batches
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline.wiring import build_context

API_KEY = "storefront-key-of-the-harness"
OWNER = "owner@shop.example"
MAIL_PASSWORD = "mail-password-of-the-harness"
WORKERS = 4
ANSWER_SECONDS = 0.5
"""How long clients wait for an answer; the product waits longer, which would only take time here."""
LONGEST_SHIFT_SECONDS = 20.0
UPSCALE_SECONDS, LONGEST_UPSCALE_SECONDS = 0.35, 15.0
"""How long an upscale of the sandbox may take until the clock is moved without its webhook; the second while it still
works on one: on a loaded machine the moved clock would else overtake it."""

_DUE = """
SELECT extract(epoch FROM min(at) - smi.now())::float AS seconds FROM (
    SELECT next_attempt_at AS at FROM smi.upscale_jobs WHERE queue IS NOT NULL
    UNION ALL SELECT next_attempt_at FROM smi.refunds WHERE state IN ('owed', 'pending')
    UNION ALL SELECT next_attempt_at FROM smi.emails WHERE state IN ('claimed', 'handed_over')
    UNION ALL SELECT next_poll_at FROM smi.submissions WHERE next_poll_at IS NOT NULL AND state <> 'timed_out'
    UNION ALL SELECT next_probe_at FROM smi.breakers WHERE opened_at IS NOT NULL) AS due WHERE at > smi.now()
"""


class Shop:
    """`ctx` is what the services work with, `url` is where the gateway listens."""

    def __init__(self, state_url: str, folder: Path, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        urls = sandbox.urls
        values: dict[str, Any] = {
            "smi_database_url": state_url,
            "smi_home": folder,
            "smi_secret_key": "a-secret-key-of-the-harness-with-more-than-32-characters",
            "smi_api_key": API_KEY,
            "smi_public_url": self.url,
            "smi_mail_from": "shop@shop.example",
            "smi_support_email": "help@shop.example",
            "smi_max_in_flight": 15,
            "stripe_api_key": sandbox.options.stripe_key,
            "stripe_api_base": urls.stripe,
            "stripe_webhook_secret": sandbox.options.stripe_webhook_secret,
            "upsampler_api_key": sandbox.options.upsampler_key,
            "upsampler_base_url": urls.upsampler,
            "upsampler_requests_per_minute": 0,
            "upsampler_requests_per_hour": 0,
            "smi_allowed_source_hosts": (urls.origin,),
            "smi_allowed_result_hosts": (urls.upsampler,),
            "smtp_host": urls.smtp_host,
            "smtp_port": urls.smtp_port,
            "smtp_starttls": False,
            "smtp_user": "shop",
            "smtp_password": MAIL_PASSWORD,
        }
        settings = Settings(_env_file=None, **values)  # type: ignore[call-arg]
        built = build_context(settings, actor="harness", pool_size=WORKERS * 2 + 4)
        self._folder = folder
        upscaler = UpsamplerClient(
            urls.upsampler,
            settings.upsampler_api_key.get_secret_value(),
            settings.upsampler_wire,
            read_timeout=ANSWER_SECONDS,
        )
        self.ctx: ServiceContext = replace(built, upscaler=upscaler, fetcher=self._fetcher(urls.upsampler))
        # What is too slow for the workers is too slow for new orders: a good one closes the breaker of an image host.
        at_the_order = replace(built, fetcher=self._fetcher(urls.upsampler, seconds=2 * ANSWER_SECONDS))
        self.alerts: list[str] = []
        self.shifted = 0.0
        self._database: Database = self.ctx.state.database  # type: ignore[attr-defined]
        self._alerted_at = self._submitted_at = -1e9
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="worker")
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        app = create_app(at_the_order, settings, on_work=lambda queue: None)
        self._server = uvicorn.Server(server_config(app, host="127.0.0.1", port=0))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.002)
        sandbox.configure(
            "stripe", webhook_url=f"{self.url}/smi-webhook/stripe", clock_offset=0, signing_clock="machine"
        )
        sandbox.configure("upsampler", clock_offset=0)
        sandbox.configure("mail", smtp_user="shop", smtp_password=MAIL_PASSWORD)

    def close(self) -> None:
        """Stop the gateway and the workers."""
        self._server.should_exit = True
        self._thread.join(10)
        self._pool.shutdown()
        self.http.close()
        self._database.dispose()

    def _fetcher(self, *result_hosts: str, seconds: float = ANSWER_SECONDS) -> HttpFetcher:
        return HttpFetcher(
            (self.sandbox.urls.origin,),
            result_hosts,
            self._folder / "downloads",
            read_timeout=seconds,
            total_timeout=2 * ANSWER_SECONDS,
        )

    def allow_other_host(self) -> None:
        """An operator does what the task says: the new host of the results is allowed."""
        urls = self.sandbox.urls
        self.ctx = replace(self.ctx, fetcher=self._fetcher(urls.upsampler, urls.upsampler_other))

    # --- customers

    def order(self, image_url: str, email: str) -> httpx.Response:
        """POST an order."""
        body = {"image_url": image_url, "resolution": "4x", "email": email}
        return self.http.post("/smi/v1/jobs", json=body, headers={"Authorization": f"Bearer {API_KEY}"})

    def pay(self, job_id: str) -> str:
        """The customer pays. Return the PaymentIntent."""
        job = self.ctx.state.queries.job(job_id)
        assert job is not None and job.checkout_session_id
        return str(self.sandbox.pay(job.checkout_session_id)["id"])

    # --- the machinery

    def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Read what paces the run, or who may be open."""
        with self._database.transaction() as tx:
            return tx.rows(statement, **parameters)

    def turn(self) -> bool:
        """Let all sensors tick once and all workers end what they got. Return whether there was work."""
        polled = check_completions(self.ctx, threads=2)
        runs: list[Future[None]] = []
        for queue in (Queue.SUBMIT, Queue.FULFIL, Queue.REFUND, Queue.MAIL):
            for lease_id, keys in next_batches(self.ctx, queue, max_leases=MAX_LEASES[queue], limit=BATCH_LIMIT):
                runs.append(self._pool.submit(self._run, queue, lease_id))
                if queue is Queue.SUBMIT and keys:
                    self._submitted_at = time.monotonic()
        for run in runs:
            run.result()
        if self.shifted - self._alerted_at >= 30:
            self._alerted_at = self.shifted
            self.alert()
        return bool(runs) or sum(polled.values()) > 0

    def alert(self) -> None:
        """The sensor of alerts ticks."""
        raise_alarms(self.ctx)
        for send in (send_alerts, send_resolved):
            send(self.ctx, None, lambda subject, lines: self.alerts.extend(lines))
        self.ctx.state.process_heartbeats.record(DAEMON)

    def _run(self, queue: Queue, lease_id: str) -> None:
        keys = self.ctx.state.leases.start(queue, lease_id)
        first, second = {
            Queue.SUBMIT: (submit.prepare, submit.submit),
            Queue.FULFIL: (fulfil.verify_result, fulfil.deliver),
            Queue.REFUND: (refund.process, None),
            Queue.MAIL: (notify.send, None),
        }[queue]
        # As Dagster's in-process executor: all first steps before the second ones.
        ready = [key for key in keys if self._step(first, key, lease_id)]
        if second:
            for key in ready:
                self._step(second, key, lease_id)

    def _step(self, step: Callable[..., Any], key: str, lease_id: str) -> bool:
        try:
            return bool(step(self.ctx, key, lease_id).state is StepState.DONE)
        except PermanentError:
            return False

    def wait(self, until: float) -> None:
        """Nothing is left to do: let an upscale end, or move the clock to what is due next, at most to `until`."""
        since_last = time.monotonic() - self._submitted_at
        if since_last < UPSCALE_SECONDS or (since_last < LONGEST_UPSCALE_SECONDS and self._upscaling()):
            time.sleep(0.03)
            return
        due = self.sql(_DUE)[0]["seconds"]
        step = min(LONGEST_SHIFT_SECONDS, 5.0 if due is None else max(1.0, due + 0.1))
        if until > self.shifted:
            step = min(step, max(0.5, until - self.shifted))
        self.shifted += step
        self.sandbox.configure("upsampler", clock_offset=self.shifted)
        self.sandbox.configure("stripe", clock_offset=self.shifted)
        with self._database.transaction() as tx:
            tx.run("UPDATE smi.clock SET shift = make_interval(secs => :seconds)", seconds=self.shifted)

    def _upscaling(self) -> bool:
        submissions = self.sandbox.ledger("upsampler")["submissions"]
        return any(record["status"] in ("queued", "processing") for record in submissions[-100:])

    def open_breakers(self) -> dict[str, Any]:
        """Return when each open breaker was opened."""
        rows = self.sql("SELECT name, opened_at FROM smi.breakers WHERE opened_at IS NOT NULL")
        return {row["name"]: row["opened_at"] for row in rows}


@contextlib.contextmanager
def running(state_url: str, folder: Path, sandbox: Sandbox) -> Iterator[Shop]:
    """A shop that is stopped afterwards, in front of a sandbox without faults."""
    for service in ("upsampler", "stripe", "mail", "origin"):
        sandbox.clear_faults(service)
    shop = Shop(state_url, folder, sandbox)
    try:
        yield shop
    finally:
        for service in ("upsampler", "stripe", "mail", "origin"):
            sandbox.clear_faults(service)
        shop.close()
