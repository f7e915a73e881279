"""Run a soak: sandbox, stack, customers, faults, skewed clocks, and the verdict."""

import contextlib
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from smi_pipeline.demo.environment import isolated_environment, running_sandbox, stack_environment
from smi_pipeline.demo.orders import DemoState
from smi_pipeline.privileges.accounts import own_home
from smi_pipeline.stack import Stack
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline_tests.soak.customers import Customers
from smi_pipeline_tests.soak.evidence import STAFF, Collector
from smi_pipeline_tests.soak.faults import FAULTS
from smi_pipeline_tests.soak.orders import soak_state
from smi_pipeline_tests.soak.report import Report, make_report
from smi_pipeline_tests.soak.verdict import Verdict, judge

WEBHOOKS_PER_SECOND = 20
SKEW_SECONDS = 600
OPEN_LIMIT = 200
LAST_LOOK_SECONDS = 7.0
"""A clean verdict is repeated after this time, in case anything comes twice: every sensor has ticked again."""
_LOOK_SECONDS = 1.0

_OWN_PORTS = ("SMI_GATEWAY_PORT", "SMI_DAGSTER_PORT")

ENVIRONMENT = {
    "UPSAMPLER_REQUESTS_PER_MINUTE": "0",
    "UPSAMPLER_REQUESTS_PER_HOUR": "0",
    "UPSAMPLER_STATUS_CALLS_PER_MINUTE": "0",
    "SMI_MAX_IN_FLIGHT": "200",
    "SMI_MAX_PROCESSING_SECONDS": "20",
    "SMI_POLL_SECONDS": "4",
    "SMI_WORKERS": "4",
    "SMI_AMBIGUOUS_GRACE_SECONDS": "4",
}


@dataclass(kw_only=True)
class Plan:
    """What to do. `home` is a folder that is not there yet; `patience` in seconds after the last payment; `events` run
    in a thread each, once that share of the orders is paid; `interrupted` says that they stop processes. `open_links`:
    all links of all mails are opened at the end. `second` is what the environment of a second stack has of its own;
    empty: there is none. `orders_per_minute` 0: as fast as the shop takes them. `webhooks_per_second`: Stripe repeats
    old events until it sends so many."""

    home: Path
    jobs: int
    seed: int
    patience: float = 240.0
    webhooks_per_second: int = WEBHOOKS_PER_SECOND
    orders_per_minute: float = 0.0
    skew: bool = True
    interrupted: bool = False
    open_links: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    second: dict[str, str] = field(default_factory=dict)
    events: Sequence[tuple[float, Callable[["Soak"], None]]] = ()


class Soak:
    """A running soak."""

    def __init__(self, plan: Plan, demo: DemoState, stacks: list[Stack], environment: Mapping[str, str]) -> None:
        self.plan = plan
        self.demo = demo
        self.stacks = stacks
        self._environment = dict(environment)
        self.notes: list[str] = []
        self.violations: list[str] = []  # of events
        self._restarts: queue.SimpleQueue[tuple[int, Mapping[str, str], threading.Event]] = queue.SimpleQueue()
        self.paused: set[int] = set()  # numbers of stacks that must not be restarted now
        self.watch: Callable[[], object] | None = None  # called at each look during an outage
        self.collector = Collector(demo, stacks[0].state_url)
        self.customers = Customers(demo, max(25, min(OPEN_LIMIT, plan.jobs // 5)), plan.orders_per_minute)
        self.most_closed_after = 0.0
        """Seconds until 95 % of the orders were closed: the last ones wait for retries, not for capacity."""
        self._printed: list[str] = []
        self._began = time.monotonic()

    def note(self, line: str) -> None:
        """Print a line and keep it for the report."""
        self.notes.append(f"{time.monotonic() - self._began:6.1f} s  {line}")
        sys.stdout.write(f"\n{self.notes[-1]}\n")
        sys.stdout.flush()

    def postgres_pid(self) -> int:
        """Return the process id of the first stack's embedded PostgreSQL."""
        return int((self.stacks[0].home / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    def owner_subjects(self) -> list[str]:
        """Return the subjects of all mails to the owner alone."""
        return [mail["subject"] for mail in self.collector.mails() if set(mail["to"]) <= STAFF]

    def configure(self, service: str, **settings: object) -> None:
        """Change settings of a service of the sandbox."""
        requests.post(f"{self.demo.url(service)}/_config", json=settings, timeout=30).raise_for_status()

    def restart(self, number: int, settings: Mapping[str, str]) -> None:
        """Have the main thread stop a stack as by Ctrl-C and start it again with changed settings; for events, as
        processes end with the thread that has started them."""
        done = threading.Event()
        self._restarts.put((number, settings, done))
        done.wait()

    def _restart(self, number: int, settings: Mapping[str, str], done: threading.Event) -> None:
        self.note(f"stack {number} is started again with other {', '.join(settings)}")
        self._environment |= settings
        self.stacks[number].stop()
        self.stacks[number] = Stack(self._environment, self.stacks[number].home, say=print)
        self.stacks[number].start()
        self.stacks[number].wait_ready(120)
        self.note(f"stack {number} is ready")
        done.set()

    def run(self) -> Report:
        """Run until every order has ended correctly, or until `patience` is over; return the report."""
        self.configure("stripe", webhooks_per_second=self.plan.webhooks_per_second)
        self.customers.send()
        events = sorted(self.plan.events, key=lambda event: event[0])
        skews = self._skews() if self.plan.skew else []
        threads = []
        try:
            while not self.customers.done or skews:
                self._look()
                share = self.customers.paid / len(self.demo.orders)
                if skews and share >= skews[0][0]:  # one per look, so that each lasts for a while
                    self._skew(*skews.pop(0)[1:])
                while events and share >= events[0][0]:
                    thread = threading.Thread(target=events.pop(0)[1], args=(self,), daemon=True)
                    thread.start()
                    threads.append(thread)
            for thread in threads:
                while thread.is_alive():
                    self._look()
            paid_by = time.monotonic()
            verdict = self._settle(paid_by + self.plan.patience)
        finally:
            self.customers.stop()
        verdict.violations[:0] = self.customers.given_up + self.violations
        if self.plan.open_links:
            opened, dead = self.collector.open_links()
            self.note(f"{opened} links of all mails opened, {len(dead)} dead")
            verdict.violations += dead
        return make_report(self, verdict, seconds=time.monotonic() - self._began)

    def _settle(self, ends: float) -> Verdict:
        """Wait until everyone has a mail and nothing is in progress, then judge until the verdict is clean."""
        while self.customers.closed < self.customers.paid and time.monotonic() < ends:
            self._look()
            if self._quiet():
                break  # whoever has no mail by now has a manual task, or is a violation
        self.configure("stripe", webhooks_per_second=0)
        clean_since: float | None = None
        while True:
            self._look()
            verdict = judge(
                self.demo.orders, self.collector.collect(self.demo.orders), interrupted=self.plan.interrupted
            )
            now = time.monotonic()
            if verdict.violations:
                self._print_once(verdict.violations)
                clean_since = None
                if now > ends:
                    return verdict
            elif clean_since is not None and now >= clean_since + LAST_LOOK_SECONDS:
                return verdict
            else:
                clean_since = clean_since or now
            time.sleep(_LOOK_SECONDS)

    def _print_once(self, violations: list[str]) -> None:
        """Print the current violations if they have changed."""
        if violations != self._printed:
            self._printed = violations
            sys.stdout.write("\n" + "".join(f"not yet correct: {line}\n" for line in violations[:5]))

    def _quiet(self) -> bool:
        """Return whether so few lack a mail that they may be those whose mail or refund failed."""
        missing = self.customers.paid - self.customers.closed
        return missing <= max(5, self.customers.paid // 25)

    def _look(self) -> None:
        """Keep everything running, and print a line."""
        while not self._restarts.empty():
            self._restart(*self._restarts.get())
        for number, stack in enumerate(self.stacks):
            if number not in self.paused:
                stack.keep_running()
        if self.watch:
            self.watch()
        try:
            mailed = self.collector.mailed()
            self.customers.closed = sum(1 for order in self.demo.orders if order.email in mailed)
        except requests.RequestException as error:
            self.note(f"the mail sandbox does not respond: {type(error).__name__}")
        seconds = time.monotonic() - self._began
        pace = self.customers.closed / seconds * 60
        if not self.most_closed_after and self.customers.closed >= 0.95 * len(self.demo.orders):
            self.most_closed_after = seconds
        sys.stdout.write(
            f"\r{seconds:6.0f} s  paid {self.customers.paid} of {len(self.demo.orders)}, mailed "
            f"{self.customers.closed}, {pace:.0f} a minute "
        )
        sys.stdout.flush()
        time.sleep(_LOOK_SECONDS)

    def _skews(self) -> list[tuple[float, str, int]]:
        """Return from which share of the orders on which clock is off by how many seconds."""
        first = random.Random(self.plan.seed).choice((SKEW_SECONDS, -SKEW_SECONDS))
        return [
            (0.2, "stripe", first),
            (0.35, "stripe", 0),
            (0.45, "upsampler", -first),
            (0.6, "upsampler", 0),
            (0.65, "stripe", -first),
            (0.8, "stripe", 0),
        ]

    def _skew(self, service: str, seconds: int) -> None:
        self.configure(service, clock_offset=seconds)
        self.note(f"the clock of {service} is off by {seconds} s")


def _stop(stacks: list[Stack]) -> None:
    """Stop also those that have replaced the first ones."""
    for stack in stacks:
        stack.stop()


def soak(plan: Plan) -> Report:
    """Run a soak. Raises StackError or SandboxError when something cannot be started."""
    home = plan.home.absolute()
    own_home(home)
    demo = soak_state(home, plan.jobs, plan.seed)
    api_format = "live" if plan.seed % 2 else "documented"
    login = {"smtp_user": "shop", "smtp_password": demo.secrets["smtp_password"]}
    environment = {
        **stack_environment(demo, api_format),
        **{name.upper(): value for name, value in login.items()},
        **ENVIRONMENT,
        **plan.environment,
    }
    sandbox = {"rate_minute": 0, "rate_hour": 0, "rate_status": 0, "processing_seconds": 0.3, **login}
    with isolated_environment(demo), running_sandbox(demo, **sandbox), contextlib.ExitStack() as running:
        stacks = [running.enter_context(Stack(environment, demo.stack_folder, say=print))]
        if plan.second:
            other = {**environment, **plan.second, **{name: str(free_port()) for name in _OWN_PORTS}}
            stacks.append(running.enter_context(Stack(other, home / "stack-2", say=print)))
        for stack in stacks:
            stack.wait_ready(120)
        for service, faults in FAULTS.items():
            for number, fault in enumerate(faults):
                body = {**fault, "seed": plan.seed * 1000 + number}
                requests.post(f"{demo.url(service)}/_faults", json=body, timeout=30).raise_for_status()
        running.callback(_stop, stacks)
        return Soak(plan, demo, stacks, environment).run()
