"""Configure the demo's processes: the environment of the stack, and the command line of the sandbox."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

from smi_pipeline.core.errors import SmiError
from smi_pipeline.demo.judge import CREDIT_CENTS, FEE_FIXED_CENTS, FEE_PER_MILLE
from smi_pipeline.demo.orders import DemoState
from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.privileges.processes import Unprivileged
from smi_pipeline.stack.children import Child

OWNER = "owner@sell-my-images.example.com"
UI_USER = "demo"

# Minutes in production, seconds here, so that the demo shows what happens at a timeout.
MAX_PROCESSING_SECONDS = 30
POLL_SECONDS = 8
AMBIGUOUS_GRACE_SECONDS = 10

_SANDBOX_SECONDS = 20
_OURS = re.compile(r"^(SMI|UPSAMPLER|STRIPE|SMTP|DAGSTER)_")


class SandboxError(SmiError):
    """The sandbox did not start; the message says why."""


@contextlib.contextmanager
def isolated_environment(demo: DemoState) -> Iterator[None]:
    """Remove the settings of a real shop from the environment of this process and its children.

    The working folder becomes that of the demo, which has no `.env`."""
    before = {name: value for name, value in os.environ.items() if _OURS.match(name)}
    for name in before:
        del os.environ[name]
    try:
        with contextlib.chdir(demo.home):
            yield
    finally:
        os.environ.update(before)


def stack_environment(demo: DemoState, api_format: str) -> dict[str, str]:
    """Return the settings of the shop: all services are the sandbox, all secrets are random."""
    url, secret = demo.url, demo.secrets
    return {
        "SMI_HOME": str(demo.stack_folder),
        "SMI_GATEWAY_PORT": str(demo.ports["gateway"]),
        "SMI_DAGSTER_PORT": str(demo.ports["dagster"]),
        "SMI_PUBLIC_URL": url("gateway"),
        "SMI_API_KEY": secret["api_key"],
        "SMI_ADMIN_API_KEY": secret["admin_api_key"],
        "SMI_SECRET_KEY": secret["secret_key"],
        "SMI_UI_USER": UI_USER,
        "SMI_UI_PASSWORD": secret["ui_password"],
        "SMI_SHOP_ORIGIN": url("origin"),
        "UPSAMPLER_BASE_URL": f"{url('upsampler')}/api/v1",
        "UPSAMPLER_API_KEY": secret["upsampler_key"],
        "UPSAMPLER_WIRE": api_format,
        "STRIPE_API_KEY": secret["stripe_key"],
        "STRIPE_API_BASE": url("stripe"),
        "STRIPE_WEBHOOK_SECRET": secret["webhook_secret"],
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(demo.ports["smtp"]),
        "SMTP_STARTTLS": "false",
        "SMI_MAIL_FROM": "Sell My Images <shop@sell-my-images.example.com>",
        "SMI_SUPPORT_EMAIL": "help@sell-my-images.example.com",
        "SMI_ADMIN_EMAIL": OWNER,
        "SMI_ALLOWED_SOURCE_HOSTS": url("origin"),
        "SMI_ALLOWED_RESULT_HOSTS": url("upsampler"),
        "SMI_MAX_PROCESSING_SECONDS": str(MAX_PROCESSING_SECONDS),
        "SMI_POLL_SECONDS": str(POLL_SECONDS),
        "SMI_AMBIGUOUS_GRACE_SECONDS": str(AMBIGUOUS_GRACE_SECONDS),
        "SMI_CREDIT_CENTS": str(CREDIT_CENTS),
        "SMI_STRIPE_FEE_PERCENT": str(Decimal(FEE_PER_MILLE) / 10),
        "SMI_STRIPE_FEE_FIXED_CENTS": str(FEE_FIXED_CENTS),
    }


def sandbox_child(demo: DemoState, **more: object) -> Child:
    """Return the sandbox as a process, not started; its output goes to `sandbox.log`. `more`: further options."""
    options = {
        "state": demo.sandbox_folder,
        "ports-file": demo.sandbox_folder / "ports.json",
        "upsampler-key": demo.secrets["upsampler_key"],
        "stripe-key": demo.secrets["stripe_key"],
        "stripe-webhook-secret": demo.secrets["webhook_secret"],
        "stripe-webhook-url": f"{demo.url('gateway')}/smi-webhook/stripe",
        "fee-percent": Decimal(FEE_PER_MILLE) / 10,
        "fee-fixed-cents": FEE_FIXED_CENTS,
        **{f"{name}-port": demo.ports[name] for name in ("upsampler", "stripe", "smtp", "mail", "origin")},
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]  # with `=`: a secret may begin with a dash
    return Child(
        "sandbox",
        [sys.executable, "-m", "smi_pipeline.sandbox", *arguments],
        os.environ,
        demo.home / "sandbox.log",
        Unprivileged(demo.home),
    )


@contextlib.contextmanager
def running_sandbox(demo: DemoState, **more: object) -> Iterator[None]:
    """Run the sandbox, with further options if given; stop it after the stack, which needs it to its end.

    Raises SandboxError."""
    own_home(demo.home)
    with as_owner_of(demo.home):
        (demo.sandbox_folder / "ports.json").unlink(missing_ok=True)
    child = sandbox_child(demo, **more)
    child.start()
    try:
        ends = time.monotonic() + _SANDBOX_SECONDS
        while not (demo.sandbox_folder / "ports.json").exists():
            if child.keep_running() or time.monotonic() > ends:
                lines = child.log_file.read_text().strip().splitlines() or ["no message"]
                raise SandboxError(f"the sandbox did not start: {lines[-1]} (see {child.log_file})")
            time.sleep(0.05)
        yield
    finally:
        child.ask_to_stop()
        child.ensure_stopped(time.monotonic() + 1.5)
