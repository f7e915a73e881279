"""The whole product, running once for this folder: the sandbox, `Stack` with its real daemon, webserver, gateway and
warm workers, orders that are paid and closed, and a browser.

The files run in the order of their names. What a test changes about the money of an order is seen by the reports, and
is in the last file.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, sync_playwright

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.settings import Settings
from smi_pipeline.stack import Stack
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline_tests.end_to_end.conftest import Storefront, environment, wait_until
from smi_pipeline_tests.gateway.nginx import front, site_variables

CHROMIUM = shutil.which("chromium") or ""
KEY_OF_THE_SHOP = "planted-key-of-the-images-host"
WANTED = "wanted"


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


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's are not always: as root the product runs as another."""
    with tempfile.TemporaryDirectory(prefix="smi-end-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(scope="package")
def running_shop(folder: Path) -> Iterator[RunningShop]:
    """The product, on the live API format."""
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
        home = folder / "a home"  # with a space, also for the local storage and PostgreSQL as the broker
        with Stack(variables, home) as stack:
            stack.wait_ready(90)
            yield RunningShop(sandbox, stack, variables)


@pytest.fixture(scope="package")
def front_folder(running_shop: RunningShop) -> Iterator[Path]:
    """The folder of an nginx before that product."""
    values = {name.lower(): value for name, value in running_shop.variables.items()}
    settings = Settings(_env_file=None, **values, smi_public_url=site_variables()["SMI_PUBLIC_URL"])  # type: ignore[call-arg, arg-type]
    with front(settings) as folder:
        yield folder


@pytest.fixture(scope="package")
def orders(running_shop: RunningShop) -> dict[str, dict[str, Any]]:
    """Three orders, paid and closed, that nobody acts upon: two good ones, one whose upscale fails."""
    front = running_shop.storefront
    placed = {
        "good": front.order(f"coffee-400.png?key={KEY_OF_THE_SHOP}", "4x", "good@customer.example"),
        "large": front.order("rocket-200.jpg", "8x", "large@customer.example"),
        "failed": front.order("chelsea-200.webp", "4x", "failed@customer.example"),
    }
    running_shop.sandbox.fault(
        "upsampler", "fail", match={"image_url": "chelsea-200.webp"}, error="The image has no recognisable content"
    )
    for order in placed.values():
        front.pay(order)
    for name, order in placed.items():
        _closed(running_shop, name, order, "failed" if name == "failed" else "completed")
    return placed


@pytest.fixture(scope="package")
def wanted(running_shop: RunningShop, orders: dict[str, Any]) -> dict[str, Any]:
    """The order that operators and hostile pages act upon, delivered."""
    order = running_shop.storefront.order("coffee-200.png", "4x", f"{WANTED}@customer.example")
    running_shop.storefront.pay(order)
    _closed(running_shop, WANTED, order, "completed")
    return order


@pytest.fixture(scope="package")
def all_orders(orders: dict[str, Any], wanted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All that there are."""
    return {**orders, WANTED: wanted}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _closed(running_shop: RunningShop, name: str, order: dict[str, Any], status: str) -> None:
    front = running_shop.storefront
    wait_until(f"the order {name}", lambda: front.status(order) == status)
    wait_until(f"the mail of the order {name}", lambda: front.mails(f"{name}@customer.example"))
