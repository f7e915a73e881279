"""What the demo remembers between two starts: ports, secrets, and the orders with how far each one is.

A demo that was stopped before all of its jobs were closed is continued by the next start, with the same databases,
ledgers, ports and secrets. Once all were closed and judged, the next start begins anew and removes what the last left.
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
    """One customer's order. What is None has not happened yet; `paid_at` in unix seconds; `faults_planted`: what goes
    wrong with it is arranged; `interrupted`: the demo was stopped while it was under way."""

    number: int
    case_name: str
    email: str
    source_url: str
    job_id: str | None = None
    price_cents: int = 0
    checkout_url: str = ""
    status_url: str = ""
    faults_planted: bool = False
    paid_at: float | None = None
    interrupted: bool = False

    @property
    def case(self) -> Case:
        """What is to happen to it."""
        return BY_NAME[self.case_name]


@dataclass
class Memory:
    """The demo's folder: `demo.json`, beside it `sandbox/` (the stand-ins) and `stack/` (everything of `smi up`)."""

    home: Path
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    continued: bool = False

    def __post_init__(self) -> None:
        self._saving = threading.Lock()

    @property
    def sandbox_folder(self) -> Path:
        """State of the stand-ins."""
        return self.home / "sandbox"

    @property
    def stack_folder(self) -> Path:
        """SMI_HOME of the demo."""
        return self.home / "stack"

    def url(self, name: str) -> str:
        """Where something of `PORTS` listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def save(self, *, closed: bool = False) -> None:
        """Writes everything down, whole or not at all. `closed`: there is nothing to continue."""
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
def in_use(home: Path) -> Iterator[None]:
    """Keeps a second demo out of the folder. Raises Conflict when one runs there."""
    own_home(home)
    with as_owner_of(home):
        lock = (home / "demo.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"a demo runs in {home} already") from None
        yield


def remember(home: Path, jobs: int) -> Memory:
    """What an interrupted demo left in the folder `home`, else a fresh start with `jobs` orders."""
    try:
        left = json.loads((home / "demo.json").read_text())
    except (OSError, ValueError):
        left = {"closed": True}
    if not left["closed"]:
        memory = Memory(home, left["ports"], left["secrets"], [Order(**order) for order in left["orders"]], True)
        for order in memory.orders:
            order.interrupted = order.interrupted or order.paid_at is not None
        memory.save()
        return memory
    _clear(home)
    memory = fresh(home)
    memory.orders = [_order(number, case, memory) for number, case in enumerate(cases(jobs), start=1)]
    memory.save()
    return memory


def fresh(home: Path) -> Memory:
    """A memory without orders: free ports and new secrets."""
    return Memory(
        home,
        dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)),
        {name: secrets.token_urlsafe(32 if name == "secret_key" else 16) for name in _SECRETS},
    )


def _order(number: int, case: Case, memory: Memory) -> Order:
    # Faults find their order by parts of these texts, so none may be a part of another's.
    return Order(
        number=number,
        case_name=case.name,
        email=f"customer-{number:05d}@example.com",
        source_url=f"{memory.url('origin')}/photos/{case.photo}?order={number:05d}",
    )


def _free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def _clear(home: Path) -> None:
    """Removes what an earlier demo left, its database server first, which a killed demo leaves running."""
    memory = Memory(home)
    if (memory.stack_folder / "postgres" / "postmaster.pid").exists():
        server = embedded_postgres(Settings.model_construct(smi_home=memory.stack_folder))
        server.start()
        server.stop()
    for folder in (memory.stack_folder, memory.sandbox_folder):
        if folder.exists():
            shutil.rmtree(folder)
    (home / "demo.json").unlink(missing_ok=True)
