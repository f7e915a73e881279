"""The running product in front of The sandbox, with its failpoints, its clock, and a hand that kills.

Belongs here: what can be done to the product. Does not belong here: when (waves.py), and what was right (verdict.py).
The state's tables are read for pacing only: how far the clock may be moved, who may be killed, and what a person is
asked to do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from smi_pipeline.demo.environment import isolated_environment, running_sandbox, stack_environment
from smi_pipeline.demo.orders import DemoState, Order, new_state
from smi_pipeline.demo.scenario import Case
from smi_pipeline.demo.shop import CustomerError, Shop
from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.stack import Stack, children
from smi_pipeline_tests.chaos.recipes import AHEAD, RECIPES

WORKERS = "4"
"""Processes for fulfilment runs: so many orders can wait at a point at once."""
CUSTOMERS = 6
LEASE_SECONDS, RENEWED_EVERY = 45, 10
_LEASES = "(SELECT {what} FROM smi.{table} WHERE lease_id IS NOT NULL)"

_PACE = """
WITH leases AS (
    SELECT lease_until FROM smi.upscale_jobs WHERE lease_id IS NOT NULL
    UNION ALL SELECT lease_until FROM smi.refunds WHERE lease_id IS NOT NULL
    UNION ALL SELECT lease_until FROM smi.emails WHERE lease_id IS NOT NULL),
due AS (
    SELECT next_attempt_at AS at FROM smi.upscale_jobs WHERE queue IS NOT NULL AND lease_id IS NULL
    UNION ALL SELECT next_attempt_at FROM smi.refunds WHERE state IN ('owed', 'pending') AND lease_id IS NULL
    UNION ALL SELECT next_attempt_at FROM smi.emails WHERE state IN ('claimed', 'handed_over') AND lease_id IS NULL
    UNION ALL SELECT next_poll_at FROM smi.submissions WHERE state IN ('sending', 'accepted'))
SELECT extract(epoch FROM (SELECT max(lease_until) FROM leases) - smi.now())::float AS longest_lease,
       extract(epoch FROM (SELECT min(at) FROM due) - smi.now())::float AS next_due
"""


@dataclass(kw_only=True)
class Guest(Order):
    """An order of the chaos. `pays`: its customer means to; `ended_at`: when its closing mail was seen, on the moved
    clock."""

    pays: bool = True
    paid_by_clock: float = 0.0
    ended_at: float | None = None

    @property
    def case(self) -> Case:
        return RECIPES[self.case_name]


class Notebook(DemoState):
    """A demo's memory that nobody continues."""

    def save(self, *, closed: bool = False) -> None:
        """Nothing is kept."""


@dataclass
class Arena:
    """See the module. Times in unix seconds; `now()` is the moved clock."""

    memory: DemoState
    stack: Stack
    shop: Shop
    said: Callable[[str], None]
    shifted: float = 0.0
    deaths: list[str] = field(default_factory=list)
    sent_anew: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engine: Engine = create_engine(self.stack.state_url, pool_pre_ping=True)
        self._customers = ThreadPoolExecutor(CUSTOMERS)
        self._number = 0
        self._lock = threading.Lock()

    @property
    def failpoints(self) -> Path:
        """The folder that steers them."""
        return self.memory.home / "failpoints"

    # --- orders

    def place(self, recipe: str, *, pay: bool = True) -> Guest:
        """An order that will be placed and paid as soon as a customer is free. Its `paid_at` tells when it was."""
        with self._lock:
            self._number += 1
            guest = Guest(
                number=self._number,
                case_name=recipe,
                email=f"guest-{self._number:05d}@example.com",
                source_url=f"{self.memory.url('origin')}/photos/{RECIPES[recipe].photo}?order={self._number:05d}",
                pays=pay,
                interrupted=True,  # a death may cost a second submission; how many may be is judged over all
            )
            self.memory.orders.append(guest)
        self._customers.submit(self._order, guest)
        return guest

    def _order(self, guest: Guest) -> None:
        if ahead := AHEAD.get(guest.case_name):
            service, kind, match, parameters = ahead
            self.control(service, "/_faults", {"kind": kind, "match": {**match, "email": guest.email}, **parameters})
        ends = time.monotonic() + 120
        while guest.paid_at is None and time.monotonic() < ends:
            try:
                if guest.pays:
                    self.shop.order_and_pay(guest)
                elif not guest.job_id:
                    self.shop.order(guest)
                    return
            except CustomerError:  # the gateway is down just now: customers come back
                time.sleep(0.5)
        guest.paid_by_clock = self.now()

    def control(self, service: str, path: str, body: dict[str, Any]) -> None:
        """Call a control endpoint of the sandbox."""
        reply = self.shop.http.post(f"{self.memory.url(service)}{path}", json=body, timeout=20)
        reply.raise_for_status()

    # --- failpoints

    def arm(self, armed: str, action: str) -> None:
        """Arms a point, `POINT` or `POINT@PROCESS`."""
        folder = self.failpoints
        draft = folder / f"draft-{armed}"
        draft.write_text(action)
        draft.rename(folder / "armed" / armed)

    def disarm(self) -> None:
        """Forgets what is armed and lets go what waits."""
        for folder in ("armed", "hit"):
            for path in (self.failpoints / folder).iterdir():
                path.unlink(missing_ok=True)

    def armed(self) -> set[str]:
        """What still waits for somebody to pass."""
        return {path.name for path in (self.failpoints / "armed").iterdir()}

    def claims(self) -> dict[str, Path]:
        """What was hit, by the name under which it was armed, with the file that holds a waiting process."""
        return {path.name.rpartition(".")[0]: path for path in (self.failpoints / "hit").iterdir()}

    # --- deaths

    def kill(self, victim: str) -> None:
        """SIGKILL, to PostgreSQL's main process or to a child of the stack with all that it started."""
        self.deaths.append(victim)
        if victim == "postgres":
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.stack.home / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            return
        for pid in self.pids(victim):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if victim.startswith("worker-") else os.killpg(pid, signal.SIGKILL)

    def kill_a_run(self, choose: Callable[[list[int]], int]) -> None:
        """SIGKILL to one of the processes that execute fulfilment runs, whether it is at one or not."""
        if pids := self.pids("worker-fulfilment"):
            self.deaths.append("run of worker-fulfilment")
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose(pids), signal.SIGKILL)

    def pids(self, name: str) -> list[int]:
        """Process ids of a child of the stack, or of the workers of a queue (`worker-QUEUE`)."""
        queue = name.removeprefix("worker-")
        pid = next(child.pid for child in self.stack.children if child.name == ("workers" if queue != name else name))
        if queue == name:
            return [pid] if pid else []
        with contextlib.suppress(psutil.Error):  # it may be dead just now
            return [child.pid for child in psutil.Process(pid).children() if child.name() == f"smi-{queue}"]
        return []

    # --- the clock

    def now(self) -> float:
        """The state's clock, and Stripe's."""
        return time.time() + self.shifted

    def shift(self, seconds: float) -> None:
        """Moves the clock of the state and of Stripe on."""
        self.shifted += seconds
        self.control("stripe", "/_config", {"clock_offset": self.shifted})
        self.sql("UPDATE smi.clock SET shift = make_interval(secs => :seconds)", seconds=self.shifted)

    def pace(self) -> tuple[float | None, float | None]:
        """Seconds until the last lease ends, and until the next row is due; None where there is none."""
        row = self.sql(_PACE)[0]
        return row["longest_lease"], row["next_due"]

    def refuses_orders(self) -> bool:
        """Whether an open circuit breaker keeps customers from ordering."""
        return bool(self.sql("SELECT 1 FROM smi.breakers WHERE opened_at IS NOT NULL AND name <> 'mail' LIMIT 1"))

    def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """One statement, tried again for a while: PostgreSQL may be down just now."""
        ends = time.monotonic() + 60
        while True:
            try:
                with self._engine.begin() as connection:
                    result = connection.execute(text(statement), parameters)
                    return [dict(row) for row in result.mappings()] if result.returns_rows else []
            except SQLAlchemyError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.3)

    def launch(self, job: str) -> bool:
        """Starts a run of a Dagster job with the configuration it has by itself. Whether it was started."""
        selector = {
            "repositoryLocationName": "fulfilment",
            "repositoryName": "__repository__",
            "jobName": job,
        }
        query = (
            "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) "
            "{ __typename ... on PythonError { message } } }"
        )
        with contextlib.suppress(requests.RequestException, ValueError, KeyError, TypeError):
            answer = self.shop.http.post(
                f"{self.stack.addresses['dagster']}/graphql",
                json={"query": query, "variables": {"p": {"selector": selector, "runConfigData": {}}}},
                timeout=20,
            ).json()
            return answer["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
        return False

    def send_anew(self, unmailed: Collection[str]) -> list[str]:
        """A person's part: of these jobs, whose mail is in no mailbox, those whose mail was in doubt twice, which no
        program sends a third time (rule 7). `smi jobs resend` is what their task says; the jobs it was said of."""
        found = self.sql(
            """SELECT DISTINCT job_id FROM smi.person_tasks WHERE kind = 'mail_failed' AND closed_at IS NULL
               AND message LIKE '%may have arrived%'"""
        )
        asked = [row["job_id"] for row in found if row["job_id"] in unmailed and row["job_id"] not in self.sent_anew]
        environment = {**os.environ, **_environment(self.memory), "SMI_DATABASE_URL": self.stack.state_url}
        del environment["SMI_FAILPOINTS"]  # persons do not die here
        for job_id in asked:
            command = [sys.executable, "-m", "smi_pipeline.cli", "jobs", "resend", job_id]
            if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
                self.sent_anew.append(job_id)
        return asked

    def close(self) -> None:
        """Customers go home."""
        self.disarm()
        self._customers.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()


@contextlib.contextmanager
def arena(home: Path | None, say: Callable[[str], None]) -> Iterator[Arena]:
    """A running product with its sandbox, in the folder `home` or a temporary one."""
    with contextlib.ExitStack() as stack:
        if home is None:
            home = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="smi-chaos-", ignore_cleanup_errors=True))
            )
        memory = Notebook(home, **{name: getattr(new_state(home), name) for name in ("ports", "secrets")})
        own_home(home)
        with as_owner_of(home):
            for folder in ("armed", "hit", "passed"):
                (home / "failpoints" / folder).mkdir(parents=True, exist_ok=True)
        stack.enter_context(isolated_environment(memory))
        stack.enter_context(_many_deaths())
        stack.enter_context(running_sandbox(memory))
        product = stack.enter_context(Stack(_environment(memory), memory.stack_folder, say=say))
        product.wait_ready(300)
        stack.enter_context(_supervised(product))
        place = Arena(memory, product, Shop(memory), say)
        stack.callback(place.close)
        place.control("stripe", "/_config", {"signing_clock": "machine"})
        place.control(
            "upsampler", "/_config", {"rate_minute": 0, "rate_hour": 0, "rate_status": 0, "processing_seconds": 0.4}
        )
        yield place


def _environment(memory: DemoState) -> dict[str, str]:
    return stack_environment(memory, "documented") | {
        "SMI_WORKERS": WORKERS,
        "SMI_FAILPOINTS": str(memory.home / "failpoints"),
        "SMI_POLL_SECONDS": "5",
        "SMI_AMBIGUOUS_GRACE_SECONDS": "120",
        "SMI_MAX_PROCESSING_SECONDS": "900",
        "SMI_DOWNLOAD_TTL_HOURS": "720",  # the links are tried at the very end, after a day of the moved clock
        "UPSAMPLER_REQUESTS_PER_MINUTE": "6000",
        "UPSAMPLER_REQUESTS_PER_HOUR": "100000",
        "UPSAMPLER_STATUS_CALLS_PER_MINUTE": "6000",
    }


@contextlib.contextmanager
def _many_deaths() -> Iterator[None]:
    """A supervisor that stays patient with children who die every few seconds."""
    before = children.LONGEST_PAUSE_SECONDS
    children.LONGEST_PAUSE_SECONDS = 0.5
    try:
        yield
    finally:
        children.LONGEST_PAUSE_SECONDS = before


@contextlib.contextmanager
def _supervised(stack: Stack) -> Iterator[None]:
    """The stack restarts what has ended, as `smi up` does."""
    ended = threading.Event()

    def supervise() -> None:
        while not ended.wait(0.2):
            stack.keep_running()

    thread = threading.Thread(target=supervise, name="supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
