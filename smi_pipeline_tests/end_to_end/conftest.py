"""A deployment against the sandbox, and what its customers do."""

import time
from collections.abc import Callable
from typing import Any

import requests

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.stack.process_plan import free_port

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
        self.api_key = API_KEY

    def order(self, photo: str, resolution: str = "4x", email: str = "ann@customer.example") -> dict[str, Any]:
        answer = requests.post(
            f"{self.gateway}/smi/v1/jobs",
            json={
                "image_url": f"{self.sandbox.urls.origin}/photos/{photo}",
                "resolution": resolution,
                "email": email,
                "customer_name": "Ann Example",
            },
            headers={"Authorization": f"Bearer {self.api_key}"},
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
