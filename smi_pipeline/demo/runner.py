"""`smi demo`: start sandbox and stack, send customers, show progress, judge, print the result, stop everything."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import requests
from rich.console import Console

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.demo import report
from smi_pipeline.demo.environment import OWNER, UI_USER, isolated_environment, running_sandbox, stack_environment
from smi_pipeline.demo.evidence import collect
from smi_pipeline.demo.judge import examine, told_to_team, untold_fault
from smi_pipeline.demo.orders import DemoState, Order, load_or_create, locked
from smi_pipeline.demo.progress import ProgressDisplay
from smi_pipeline.demo.scenario import MINIMUM_JOBS
from smi_pipeline.demo.shop import Shop
from smi_pipeline.stack.stack import Stack, signals_handled

DEFAULT_HOME = Path(".smi/demo")
INTERRUPTED = 130  # exit code of what Ctrl-C ended
CUSTOMERS_AT_ONCE = 4
PATIENCE_SECONDS, PATIENCE_PER_JOB = 180.0, 2.5
"""How long after the last payment jobs may stay open; Upsampler accepts 60 requests a minute."""
SETTLE_SECONDS = 6.0
"""Wait after the last outcome for a second mail or refund: every sensor ticks once more."""
ALERT_SECONDS = 40.0
"""Wait after the last outcome for the alert about the fault of the shop: alerts are sent every 30 seconds."""
_STATUS_CALLS = 100  # at once


def run_demo(
    jobs: int, once: bool, json_path: Path | None, home: Path | None, settings: Mapping[str, str] | None = None
) -> int:
    """Run the demo with `jobs` orders in the folder `home` (default `.smi/demo`); return the exit code.

    It is 0 without violations, 1 with some, 130 if Ctrl-C came before the end. With `once` everything is stopped after
    the verdict, else at Ctrl-C. `settings` are added to those of the shop. An interrupted demo is continued, with its
    own number of orders; see `orders`.
    Raises RefusedError for too few jobs, Conflict when a demo runs in the folder, other SmiErrors when it cannot run.
    """
    if jobs < MINIMUM_JOBS:
        raise RefusedError(f"the demo needs at least {MINIMUM_JOBS} jobs to show every case, not {jobs}")
    api_format = os.environ.get("UPSAMPLER_WIRE", "documented")
    console, folder = _console(), (home or DEFAULT_HOME).absolute()
    json_path = json_path.absolute() if json_path else None
    started = _process_started()
    with ctrl_c(), locked(folder):
        try:
            demo = load_or_create(folder, jobs)
            with isolated_environment(demo):
                environment = stack_environment(demo, api_format) | dict(settings or {})
                return _run(console, demo, environment, once, json_path, started)
        except KeyboardInterrupt:
            console.print("Stopped. The next `smi demo` continues this one.")
            return INTERRUPTED


@contextlib.contextmanager
def ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt once at Ctrl-C, SIGTERM or SIGHUP, also where a shell's background ignores SIGINT.

    Later signals are ignored, because everything is being stopped."""
    asked = False

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    with signals_handled(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


def _run(
    console: Console,
    demo: DemoState,
    environment: Mapping[str, str],
    once: bool,
    json_path: Path | None,
    started: float,
) -> int:
    if demo.continued:
        console.print(
            f"Continuing the interrupted demo with {len(demo.orders)} jobs; to start over, remove {demo.home}",
            soft_wrap=True,
            highlight=False,
        )
    console.print("Starting PostgreSQL, the sandbox, the gateway, Dagster and its workers …")
    say = console.print
    with running_sandbox(demo), Stack(environment, demo.stack_folder, say=say) as stack:
        stack.wait_ready()
        console.print(f"Ready after {time.time() - started:.1f} seconds: Dagster at {stack.addresses['dagster']}")
        shop = Shop(demo)
        monitor = OrderMonitor(shop, demo, stack)
        monitor.until_closed(console)
        evidence = collect(shop, demo)
        findings, violations = examine(demo.orders, evidence)
        violations = monitor.violations + violations + untold_fault(evidence)
        seconds = max((f.closed_at for f in findings if f.closed_at), default=time.time()) - started
        rows = report.job_rows(findings, monitor.reasons())
        addresses = _addresses(demo, stack)
        alerts = told_to_team(evidence)
        report.show(console, rows, violations, seconds, alerts)
        if json_path:
            report.write_json(json_path, rows, violations, seconds, addresses, [mail.subject for mail in alerts])
        demo.save(closed=True)
        if not once:
            report.show_addresses(console, addresses, f"(user {UI_USER}, password {demo.secrets['ui_password']})")
            console.print("Running until Ctrl-C.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    stack.keep_running()
                    time.sleep(0.5)
        console.print("Stopping …")
    return 1 if violations else 0


@dataclass
class OrderMonitor:
    """Sends the customers and follows all jobs by public status and mailbox until each is closed."""

    shop: Shop
    demo: DemoState
    stack: Stack
    violations: list[str] = field(default_factory=list)
    _seen: dict[int, dict[str, Any]] = field(default_factory=dict)
    _mailed: set[str] = field(default_factory=set)

    def until_closed(self, console: Console) -> None:
        """Return when all jobs are closed and nothing more comes, or add a violation when it takes too long.

        Raises CustomerError when a customer cannot order or pay."""
        orders = self.demo.orders
        pool = ThreadPoolExecutor(CUSTOMERS_AT_ONCE, thread_name_prefix="customer")
        try:
            customers = [pool.submit(self.shop.order_and_pay, order) for order in orders]
            with ProgressDisplay(console, len(orders)) as display:
                self._follow(display, customers)
                ends = time.monotonic() + SETTLE_SECONDS
                while time.monotonic() < ends or (not self._alerted() and time.monotonic() < ends + ALERT_SECONDS):
                    self.stack.keep_running()
                    display.show(self._counts(), "all closed; checking that nothing comes twice, and the team is told")
                    time.sleep(0.25)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def reasons(self) -> dict[str, str]:
        """Return why jobs have no image, by job id, as the customer's page says it."""
        return {
            order.job_id: self._seen.get(order.number, {}).get("reason") or ""
            for order in self.demo.orders
            if order.job_id
        }

    def _follow(self, display: ProgressDisplay, customers: list[Future[None]]) -> None:
        orders = self.demo.orders
        patience = PATIENCE_SECONDS + PATIENCE_PER_JOB * len(orders)
        last_payment = time.monotonic()
        while True:
            self.stack.keep_running()
            for customer in customers:
                if customer.done():
                    customer.result()  # raises what stopped this customer
            if not all(customer.done() for customer in customers):
                last_payment = time.monotonic()
            self._look()
            counts = self._counts()
            display.show(counts)
            if counts["completed"] + counts["refunded"] == len(orders):
                return
            if time.monotonic() - last_payment > patience:
                still = ", ".join(order.case_name for order in orders if not self._closed(order))
                self.violations.append(f"not closed {patience:.0f} seconds after the last payment: {still}")
                return
            time.sleep(0.5)

    def _look(self) -> None:
        with contextlib.suppress(requests.RequestException):
            self._mailed = {to for mail in self.shop.ledger("mail")["messages"] for to in mail["to"]}
        open_ones = [order for order in self.demo.orders if order.job_id and not self._closed(order)]
        open_ones.sort(key=lambda order: self._seen.get(order.number, {}).get("looked_at", 0.0))
        for order in open_ones[:_STATUS_CALLS]:
            if status := self.shop.status(order):
                self._seen[order.number] = {**status, "looked_at": time.monotonic()}

    def _alerted(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return any(OWNER in mail["to"] for mail in self.shop.ledger("mail")["messages"])
        return False

    def _stage(self, order: Order) -> str:
        step = self._seen.get(order.number, {}).get("step", "ordering")
        ended = step in ("completed", "refunded")
        return "mailing" if ended and order.email not in self._mailed else step

    def _closed(self, order: Order) -> bool:
        return self._stage(order) in ("completed", "refunded")

    def _counts(self) -> Counter[str]:
        return Counter(self._stage(order) for order in self.demo.orders)


def _console() -> Console:
    """Return a console as wide as the terminal, or as the table if there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _addresses(demo: DemoState, stack: Stack) -> dict[str, str]:
    """Return the addresses to open, by name."""
    by_outcome = {order.case.expected: order.status_url for order in demo.orders}
    return {
        "dagster": stack.addresses["dagster"],
        "ops": stack.addresses["ops"],
        "customer_page": by_outcome["delivered"],
        "refunded_customer_page": by_outcome["refunded"],
        "mails": demo.url("mail"),
        "gateway": stack.addresses["gateway"],
        "upsampler": demo.url("upsampler"),
        "stripe": demo.url("stripe"),
        "origin": demo.url("origin"),
    }


def _process_started() -> float:
    """Return the start of this process in unix seconds, so that imports count; now, if the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time()
    return time.time() - age
