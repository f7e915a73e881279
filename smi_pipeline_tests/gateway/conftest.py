"""The shop of a test, the sandbox they share, and an empty state."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import stripe
from sqlalchemy import create_engine, text

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline_tests.gateway.shop import Shop


@pytest.fixture(scope="session")
def gateway_database(postgres: EmbeddedPostgres) -> str:
    url = postgres.url("smi_gateway")
    ensure_database(url)
    migrate(url)
    return url


@pytest.fixture
def state_url(gateway_database: str) -> str:
    """One database for these many short tests, emptied before each: a fifth of the time of a new one."""
    engine = create_engine(gateway_database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'smi'")).scalars()
        connection.execute(text(f"TRUNCATE {', '.join(f'smi.{name}' for name in tables)} RESTART IDENTITY CASCADE"))
        connection.execute(text("INSERT INTO smi.clock DEFAULT VALUES"))
    engine.dispose()
    return gateway_database


@pytest.fixture(scope="session")
def running_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Sandbox(folder, rate_minute=0, rate_hour=0, rate_status=0, processing_seconds=0.05) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    yield running_sandbox
    for service in ("upsampler", "stripe", "mail", "origin"):
        running_sandbox.clear_faults(service)
    running_sandbox.configure("stripe", webhook_url="")


MakeShop = Callable[..., Shop]


@pytest.fixture
def make_shop(state_url: str, tmp_path: Path) -> Iterator[MakeShop]:
    """Builds a shop on this test's database; keyword arguments change settings."""
    made: list[Shop] = []

    def make(sandbox: Sandbox | None = None, **changes: Any) -> Shop:
        made.append(Shop(changes.pop("smi_database_url", state_url), tmp_path, sandbox, **changes))
        return made[-1]

    yield make
    for shop in made:
        shop.close()


@pytest.fixture
def shop(make_shop: MakeShop) -> Shop:
    """A shop without Stripe, Upsampler and image host."""
    return make_shop()


@pytest.fixture
def whole_shop(make_shop: MakeShop, sandbox: Sandbox) -> Shop:
    """A shop with everything, on the sandbox."""
    return make_shop(sandbox)


@pytest.fixture
def dead_shop(make_shop: MakeShop) -> Shop:
    """A shop whose database does not answer."""
    return make_shop(smi_database_url="postgresql://nobody@127.0.0.1:1/none")


@pytest.fixture
def serve_files() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Serves these bytes by path on loopback; returns the address."""
    servers: list[ThreadingHTTPServer] = []

    def start(files: dict[str, bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(files[self.path])))
                self.end_headers()
                self.wfile.write(files[self.path])

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
