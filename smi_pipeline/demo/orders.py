"""The persistent state of the demo: ports, secrets, and orders with their progress.

A demo that was stopped before all of its jobs were closed is continued by the next start, with the same databases,
ledgers, ports and secrets. Once all were closed and judged, the next start removes the old files and begins anew.
"""

import contextlib
import fcntl
import json
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from smi_pipeline.core.errors import Conflict
from smi_pipeline.demo.scenario import BY_NAME, Case, cases
from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.settings import Settings
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline.wiring import embedded_postgres

PORTS = ("gateway", "dagster", "upsampler", "stripe", "smtp", "mail", "origin")
_SECRETS = ("secret_key", "api_key", "admin_api_key", "stripe_key", "webhook_secret", "upsampler_key", "ui_password")


@dataclass(kw_only=True)
class Order:
    """A customer's order. What is empty or None has not happened yet; `paid_at` in unix seconds.

    `faults_added`: its faults are in the sandbox. `interrupted`: all processes were stopped while it was in progress,
    so that a second submission (the response to the first was lost) and a refund for lateness are correct as well."""

    number: int
    case_name: str
    email: str
    source_url: str
    job_id: str = ""
    price_cents: int = 0
    checkout_url: str = ""
    status_url: str = ""
    faults_added: bool = False
    paid_at: float | None = None
    interrupted: bool = False

    @property
    def case(self) -> Case:
        """The case that the order shows."""
        return BY_NAME[self.case_name]


@dataclass
class DemoState:
    """The demo's folder: `demo.json` (this state), `sandbox/`, and `stack/` (the SMI_HOME of the shop)."""

    home: Path
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    continued: bool = False

    def __post_init__(self) -> None:
        self._saving = threading.Lock()

    @property
    def sandbox_folder(self) -> Path:
        """Folder of the sandbox's state."""
        return self.home / "sandbox"

    @property
    def stack_folder(self) -> Path:
        """SMI_HOME of the shop."""
        return self.home / "stack"

    def url(self, name: str) -> str:
        """Return the address of a name of `PORTS`."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def save(self, *, closed: bool = False) -> None:
        """Write `demo.json` atomically. `closed`: there is nothing to continue."""
        with self._saving, as_owner_of(self.home):
            content = {
                "closed": closed,
                "ports": self.ports,
                "secrets": self.secrets,
                "orders": [asdict(order) for order in self.orders],
            }
            part = self.home / "demo.json.part"
            part.touch(mode=0o600)
            part.write_text(json.dumps(content, indent=1))
            part.replace(self.home / "demo.json")


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Lock the folder against a second demo. Raises Conflict when one runs there."""
    own_home(home)
    with as_owner_of(home):
        lock = (home / "demo.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"another demo runs in {home}; stop it first") from None
        yield


def load_or_create(home: Path, jobs: int) -> DemoState:
    """Return the state of an interrupted demo in the folder `home`, else a new one with `jobs` orders."""
    try:
        left = json.loads((home / "demo.json").read_text())
    except (OSError, ValueError):
        left = {"closed": True}
    if not left["closed"]:
        demo = DemoState(home, left["ports"], left["secrets"], [Order(**order) for order in left["orders"]], True)
        for order in demo.orders:
            order.interrupted = order.interrupted or order.paid_at is not None
        demo.save()
        return demo
    _clear(home)
    demo = new_state(home)
    demo.orders = [_order(number, case, demo) for number, case in enumerate(cases(jobs), start=1)]
    demo.save()
    return demo


def new_state(home: Path) -> DemoState:
    """Return a demo without orders: free ports and new secrets."""
    return DemoState(
        home,
        dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)),
        {name: secrets.token_urlsafe(32 if name == "secret_key" else 16) for name in _SECRETS},
    )


def _order(number: int, case: Case, demo: DemoState) -> Order:
    # Faults match by substrings of these values, so none may contain another's.
    return Order(
        number=number,
        case_name=case.name,
        email=f"customer-{number:05d}@example.com",
        source_url=f"{demo.url('origin')}/photos/{case.photo}?order={number:05d}",
    )


def _free_ports(count: int) -> list[int]:
    ports: tuple[int, ...] = ()
    while len(ports) < count:
        ports += (free_port(besides=ports),)
    return list(ports)


def _clear(home: Path) -> None:
    """Remove the files of an earlier demo, after its database server, which a killed demo leaves running."""
    demo = DemoState(home)
    if (demo.stack_folder / "postgres" / "postmaster.pid").exists():
        server = embedded_postgres(Settings.model_construct(smi_home=demo.stack_folder))
        server.start()
        server.stop()
    with as_owner_of(home):
        for folder in (demo.stack_folder, demo.sandbox_folder):
            if folder.exists():
                shutil.rmtree(folder)
        (home / "demo.json").unlink(missing_ok=True)
