"""A whole shop for orchestration tests: real PostgreSQL, the sandbox, the real definitions, an ephemeral Dagster."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, RunRequest, build_sensor_context

from smi_pipeline.core.models import Queue, UpscaleJob
from smi_pipeline.fulfilment import resources, sensors
from smi_pipeline.fulfilment.definitions import build_defs
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.intake import JobRequest, RegisteredJob, register_job
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline.wiring import build_context

JOB_OF = {
    Queue.SUBMIT: "submit_upscales",
    Queue.FULFIL: "fulfil_upscales",
    Queue.REFUND: "refund_upscales",
    Queue.MAIL: "send_mails",
}
SENSOR_OF = {
    Queue.SUBMIT: sensors.paid_jobs,
    Queue.FULFIL: sensors.upsampler_completions,
    Queue.REFUND: sensors.refunds_owed,
    Queue.MAIL: sensors.mails_owed,
}


class Shop:
    """Orders, pays and runs the Dagster jobs in this process, as the sensors would start them."""

    def __init__(self, sandbox: Sandbox, ctx: ServiceContext, instance: DagsterInstance) -> None:
        self.sandbox = sandbox
        self.ctx = ctx
        self.instance = instance
        self.defs = build_defs()

    def order(self, photo: str = "coffee-200.png", resolution: str = "4x", *, pay: bool = True) -> str:
        """Registers a job and pays it; Stripe's events are found by reconciliation. Returns the job id."""
        url = f"{self.sandbox.urls.origin}/photos/{photo}"
        made: RegisteredJob = register_job(
            self.ctx, JobRequest(image_url=url, resolution=resolution, email="ann@customer.example")
        )
        if pay:
            self.pay(made.job_id)
        return made.job_id

    def pay(self, job_id: str, **rest: Any) -> None:
        """The customer pays at Checkout."""
        self.sandbox.pay(self.job(job_id).checkout_session_id or "", **rest)
        reconcile_events(self.ctx)

    def job(self, job_id: str) -> UpscaleJob:
        """The row as it is now."""
        job = self.ctx.state.queries.job(job_id)
        assert job is not None
        return job

    def tick(self, queue: Queue) -> list[RunRequest]:
        """One sensor tick: the runs it asks for."""
        context = build_sensor_context(instance=self.instance, resources={"smi": resources.SmiResource()})
        found: Any = SENSOR_OF[queue](context)
        return [item for item in found if isinstance(item, RunRequest)]

    def run(self, queue: Queue) -> list[ExecuteInProcessResult]:
        """One sensor tick, and the runs it asks for."""
        results = []
        for request in self.tick(queue):
            job = self.defs.resolve_job_def(JOB_OF[queue])
            results.append(
                job.execute_in_process(
                    run_config=request.run_config, instance=self.instance, raise_on_error=False, tags=request.tags
                )
            )
        return results

    def until_ready(self, job_id: str, seconds: float = 15) -> None:
        """Waits until the result of a submitted job is known, asking as the sensor does."""
        ends = time.monotonic() + seconds
        while self.job(job_id).queue is not Queue.FULFIL:
            assert time.monotonic() < ends, f"not ready: {self.job(job_id)}"
            self.ctx.state.jobs.check_now(job_id, actor="test")
            check_completions(self.ctx)
            time.sleep(0.1)

    def shift_clock(self, **duration: float) -> None:
        """Moves the state's clock."""
        from datetime import timedelta

        with Database(self.ctx.state.database.url).transaction() as tx:  # type: ignore[attr-defined]
            tx.run("UPDATE smi.clock SET shift = shift + CAST(:by AS interval)", by=timedelta(**duration))


@pytest.fixture
def environment(state_url: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a deployment against the sandbox, set for this test."""
    urls = sandbox.urls
    variables = {
        "SMI_MAX_RESUBMISSIONS": "0",
        "SMI_DATABASE_URL": state_url,
        "SMI_STORAGE_URL": str(tmp_path / "storage"),
        "SMI_HOME": str(tmp_path),
        "SMI_SECRET_KEY": "test-secret-" + "k" * 40,
        "SMI_API_KEY": "storefront-key",
        "SMI_PUBLIC_URL": "http://127.0.0.1:9",
        "UPSAMPLER_BASE_URL": f"{urls.upsampler}/api/v1",
        "UPSAMPLER_API_KEY": sandbox.options.upsampler_key,
        "UPSAMPLER_WIRE": "documented",
        "UPSAMPLER_REQUESTS_PER_MINUTE": "0",
        "UPSAMPLER_REQUESTS_PER_HOUR": "0",
        "UPSAMPLER_STATUS_CALLS_PER_MINUTE": "0",
        "STRIPE_API_KEY": sandbox.options.stripe_key,
        "STRIPE_API_BASE": urls.stripe,
        "STRIPE_WEBHOOK_SECRET": sandbox.options.stripe_webhook_secret,
        "SMTP_HOST": urls.smtp_host,
        "SMTP_PORT": str(urls.smtp_port),
        "SMTP_STARTTLS": "false",
        "SMI_MAIL_FROM": "Shop <shop@shop.example>",
        "SMI_SUPPORT_EMAIL": "help@shop.example",
        "SMI_ALLOWED_SOURCE_HOSTS": urls.origin,
        "SMI_ALLOWED_RESULT_HOSTS": urls.upsampler,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """The sandbox, with lifted rate limits and quick upscales."""
    with Sandbox(tmp_path / "sandbox", processing_seconds=0.1, rate_minute=0, rate_hour=0, rate_status=0) as running:
        yield running


@pytest.fixture
def shop(environment: dict[str, str], sandbox: Sandbox) -> Iterator[Shop]:
    """The shop of this test."""
    resources.forget_contexts()
    ctx = build_context(Settings(), actor="test")  # type: ignore[call-arg]
    with DagsterInstance.ephemeral() as instance:
        yield Shop(sandbox, ctx, instance)
    resources.forget_contexts()
    ctx.state.database.dispose()  # type: ignore[attr-defined]
