"""The command line in the process of the test: `smi(...)` returns exit code, stdout and stderr."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smi_pipeline import cli
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.integration.services.databases import empty, shared_database
from smi_pipeline_tests.integration.services.steps import Steps
from smi_pipeline_tests.integration.services.stripe import FakePayments


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Smi = Callable[..., Ran]


@pytest.fixture
def smi(capsys: pytest.CaptureFixture[str]) -> Smi:
    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return run


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No setting of this machine, and a working folder without .env."""
    for name in os.environ:
        if name.startswith(("SMI_", "SMTP_", "STRIPE_", "UPSAMPLER_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="package")
def cli_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    with shared_database(postgres) as url:
        yield url


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, cli_url: str) -> str:
    """A migrated and empty database, configured."""
    empty(cli_url)
    monkeypatch.setenv("SMI_DATABASE_URL", cli_url)
    return cli_url


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, database: str) -> Iterator[Steps]:
    """The service context of the services' tests, behind the command line."""
    shop = Steps(database)
    monkeypatch.setattr("smi_pipeline.wiring.build_context", lambda settings, **_: shop.ctx)
    yield shop
    shop.close()


@pytest.fixture
def stripe(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> FakePayments:
    """A Stripe account that the commands ask."""
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_1")
    return shop.payments


@pytest.fixture(scope="package")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, database: str, sandbox: Sandbox) -> Sandbox:
    """A whole configuration against the sandbox."""
    urls = sandbox.urls
    for name, value in {
        "SMI_SECRET_KEY": "s" * 40,
        "SMI_API_KEY": "storefront-key-1",
        "SMI_ADMIN_API_KEY": "administrator-key",
        "SMI_GATEWAY_PORT": str(free_port()),
        "SMI_DAGSTER_PORT": str(free_port()),
        "UPSAMPLER_BASE_URL": urls.upsampler,
        "UPSAMPLER_API_KEY": "upsampler-sandbox-key",
        "UPSAMPLER_WIRE": "documented",
        "STRIPE_API_KEY": "sk_test_sandbox",
        "STRIPE_API_BASE": urls.stripe,
        "STRIPE_WEBHOOK_SECRET": "whsec_sandbox",
        "SMTP_HOST": urls.smtp_host,
        "SMTP_PORT": str(urls.smtp_port),
        "SMTP_STARTTLS": "false",
        "SMI_MAIL_FROM": "Shop <shop@example.com>",
        "SMI_SUPPORT_EMAIL": "help@example.com",
        "SMI_ADMIN_EMAIL": "owner@example.com",
        "SMI_ALLOWED_SOURCE_HOSTS": urls.origin,
        "SMI_ALLOWED_RESULT_HOSTS": urls.upsampler_cdn.removesuffix("/cdn"),
    }.items():
        monkeypatch.setenv(name, value)
    return sandbox
