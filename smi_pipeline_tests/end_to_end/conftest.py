"""The whole product, running: the sandbox, `Stack` with its real daemon, webserver, gateway and warm workers."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.settings import Settings
from smi_pipeline.stack import Stack
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline_tests.gateway.nginx import front, site_variables

API_KEY = "storefront-key-of-the-tests"


def environment(sandbox: Sandbox, gateway_port: int, api_format: str) -> dict[str, str]:
    """Variables of a deployment against the sandbox."""
    urls = sandbox.urls
    return {
        "SMI_SECRET_KEY": "end-to-end-" + "k" * 40,
        "SMI_API_KEY": API_KEY,
        "SMI_ADMIN_API_KEY": "admin-key-of-the-tests",
        "SMI_UI_USER": "ops",
        "SMI_UI_PASSWORD": "ops-password",
        "SMI_GATEWAY_PORT": str(gateway_port),
        "SMI_DAGSTER_PORT": str(free_port()),
        "SMI_POLL_SECONDS": "5",
        "UPSAMPLER_BASE_URL": f"{urls.upsampler}/api/v1",
        "UPSAMPLER_API_KEY": sandbox.options.upsampler_key,
        "UPSAMPLER_WIRE": api_format,
        "STRIPE_API_KEY": sandbox.options.stripe_key,
        "STRIPE_API_BASE": urls.stripe,
        "STRIPE_WEBHOOK_SECRET": sandbox.options.stripe_webhook_secret,
        "SMTP_HOST": urls.smtp_host,
        "SMTP_PORT": str(urls.smtp_port),
        "SMTP_STARTTLS": "false",
        "SMI_MAIL_FROM": "Sell My Images <shop@shop.example>",
        "SMI_SUPPORT_EMAIL": "help@shop.example",
        "SMI_ALLOWED_SOURCE_HOSTS": urls.origin,
        "SMI_ALLOWED_RESULT_HOSTS": urls.upsampler,
    }


def wait_until(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits for a condition and returns its value; fails naming what did not happen."""
    ends = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < ends, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.2)


class Storefront:
    """What the shop does over HTTP: order, pay at Checkout, look at the status."""

    def __init__(self, sandbox: Sandbox, gateway: str) -> None:
        self.sandbox = sandbox
        self.gateway = gateway

    def order(self, photo: str, resolution: str = "4x", email: str = "ann@customer.example") -> dict[str, Any]:
        answer = requests.post(
            f"{self.gateway}/smi/v1/jobs",
            json={
                "image_url": f"{self.sandbox.urls.origin}/photos/{photo}",
                "resolution": resolution,
                "email": email,
                "customer_name": "Ann Example",
            },
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=30,
        )
        assert answer.status_code == 201, answer.text
        body = answer.json()
        return body.get("data", body)

    def pay(self, order: dict[str, Any]) -> None:
        self.sandbox.pay(order["checkout_url"].rstrip("/").rpartition("/")[2])

    def status(self, order: dict[str, Any]) -> str:
        answer = requests.get(f"{self.gateway}/smi/v1/job-status/{order['job_id']}", timeout=10)
        return answer.json()["data"]["status"]

    def mails(self, to: str) -> list[dict[str, Any]]:
        return [m for m in self.sandbox.ledger("mail")["messages"] if to in m["to"]]


class RunningShop:
    """The stack with its sandbox, and the variables it was started with."""

    def __init__(self, sandbox: Sandbox, stack: Stack, variables: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.stack = stack
        self.variables = variables
        self.storefront = Storefront(sandbox, stack.addresses["gateway"])

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = requests.post(
            f"{self.stack.addresses['dagster']}/graphql", json={"query": query, "variables": variables}, timeout=20
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's are not always: as root the product runs as another."""
    with tempfile.TemporaryDirectory(prefix="smi-end-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def running_shop(folder: Path) -> Iterator[RunningShop]:
    """One running product for a module of tests, on the live API format."""
    port = free_port()
    webhook = f"http://127.0.0.1:{port}/smi-webhook/stripe"
    planted: dict[str, Any] = {
        "upsampler_key": "upsampler-key-planted",
        "stripe_key": "sk_test_planted",
        "stripe_webhook_secret": "whsec_planted",
        "smtp_user": "mailer",
        "smtp_password": "smtp-password-planted",
    }
    with Sandbox(folder / "sandbox", processing_seconds=0.5, stripe_webhook_url=webhook, **planted) as sandbox:
        login = {"SMTP_USER": planted["smtp_user"], "SMTP_PASSWORD": planted["smtp_password"]}
        of_sites = {name: value for name, value in site_variables().items() if name != "SMI_PUBLIC_URL"}
        variables = environment(sandbox, port, "live") | login | of_sites
        with Stack(variables, folder / "home") as stack:
            stack.wait_ready(90)
            yield RunningShop(sandbox, stack, variables)


@pytest.fixture(scope="module")
def front_folder(running_shop: RunningShop) -> Iterator[Path]:
    """The folder of an nginx before that product."""
    values = {name.lower(): value for name, value in running_shop.variables.items()}
    settings = Settings(_env_file=None, **values, smi_public_url=site_variables()["SMI_PUBLIC_URL"])  # type: ignore[call-arg, arg-type]
    with front(settings) as folder:
        yield folder
