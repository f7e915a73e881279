"""Starts databases and children, waits until they answer, keeps them running, stops them within ten seconds."""

import contextlib
import importlib.resources
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import requests
import yaml  # dagster's own format and dependency
from sqlalchemy import make_url

from smi_pipeline.adapters.storage import local_folder
from smi_pipeline.core.errors import RefusedError, SmiError
from smi_pipeline.failpoints import PROCESS_VARIABLE
from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.privileges.processes import REFUSED, Unprivileged
from smi_pipeline.settings import Settings
from smi_pipeline.stack.children import Child
from smi_pipeline.stack.process_plan import READERS, Plan, dagster_environment, is_free, plan
from smi_pipeline.state.embedded import STATE_DATABASE, EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline.wiring import dagster_url

STOP_SECONDS = 6.0
"""How long children may take to finish what they are at; then they are killed. Leases make that harmless."""

_LOCATIONS_QUERY = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    __typename ... on PythonError { message } } } } } }"""


class StackError(SmiError):
    """The stack could not be started; the message says what to do."""


class Stack:
    """All processes of `smi up`, for one environment, with their files below `home`."""

    def __init__(self, environment: Mapping[str, str], home: Path, *, say: Callable[[str], None] | None = None) -> None:
        self._environment = dict(environment)
        self.home = home.absolute()
        self._settings = Settings(**{k.lower(): v for k, v in environment.items() if v}, _env_file=None)  # type: ignore[arg-type]
        self._say = say or (lambda line: None)
        self._postgres: EmbeddedPostgres | None = None
        self._postgres_joined = True  # False after a restart that went wrong, whatever runs now
        self.children: list[Child] = []
        self._plan: Plan | None = None
        self.state_url = ""
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy of the machine does not know our loopback

    @property
    def addresses(self) -> dict[str, str]:
        """What a person opens."""
        gateway = f"http://127.0.0.1:{self._settings.smi_gateway_port}"
        return {
            "gateway": gateway,
            "ops": f"{gateway}/ops",
            "dagster": f"http://127.0.0.1:{self._settings.smi_dagster_port}",
        }

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts PostgreSQL if it is ours, migrates, starts all children. Raises StackError or database errors."""
        settings = self._settings
        own_home(self.home)
        dagster_home = self.home / "dagster"
        instance = _instance()
        with as_owner_of(self.home):
            dagster_home.mkdir(exist_ok=True)
            (dagster_home / "dagster.yaml").write_text(instance)
        state_url = settings.smi_database_url
        if state_url is None:
            self._postgres = EmbeddedPostgres(self.home / "postgres")
            self._postgres.start()
            state_url = self._postgres.url(STATE_DATABASE)
        ensure_database(state_url)
        migrate(state_url)
        self.state_url = state_url
        dagster_database = dagster_url(settings, state_url)
        folders = self._folders_elsewhere()
        files = {"SMTP_CA_FILE": settings.smtp_ca_file} if settings.smtp_ca_file else {}
        readable = [*_socket_folders(state_url, dagster_database), *files.values()]
        run_as = Unprivileged(self.home, writable=folders.values(), readable=readable)
        own = dagster_environment(state_url, dagster_database, dagster_home, settings.smi_broker_url)
        own |= {"SMI_HOME": str(self.home)} | {name: str(path) for name, path in (folders | files).items()}
        with as_owner_of(self.home):
            planned = self._plan = plan(
                {**os.environ, **self._environment, **own},
                self.home,
                dagster_port=settings.smi_dagster_port,
                gateway_port=settings.smi_gateway_port,
                workers=settings.smi_workers,
                analysts_port=settings.smi_analysts_port if settings.smi_analysts_url else None,
            )
        self._clean_up(planned.environment, run_as)
        for name, argv in planned.commands.items():
            if name == "daemon":
                _wait_for_ports(planned.code_servers.ports)
            environment = {**planned.environment, PROCESS_VARIABLE: name}
            child = Child(name, argv, environment, self.home / "logs" / f"{name}.log", run_as)
            child.start()
            self.children.append(child)

    def _folders_elsewhere(self) -> dict[str, Path]:
        """Configured folders that the children write in, by variable. They are made absolute: a relative one means our
        working folder, and that of the children is SMI_HOME."""
        url = self._settings.smi_storage_url
        folders = {"SMI_STORAGE_URL": url and local_folder(url), "SMI_FAILPOINTS": self._settings.smi_failpoints}
        return {name: folder.absolute() for name, folder in folders.items() if folder}

    def _clean_up(self, environment: Mapping[str, str], run_as: Unprivileged) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "smi_pipeline.dagster_instance.startup_cleanup"],
            env=run_as.environment(environment),
            preexec_fn=run_as.enter,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode == REFUSED:
            raise RefusedError(done.stderr.strip())
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise StackError(f"the clean-up before the start failed: {last}")

    def wait_ready(self, seconds: float = 60) -> None:
        """Waits until the gateway answers and both code locations are loaded. Raises StackError after `seconds`."""
        waiting: dict[str, Callable[[], bool]] = {"gateway": self._gateway_ready, "dagster": self._dagster_ready}
        ends = time.monotonic() + seconds
        while waiting:
            self.keep_running()
            for name in [name for name, ready in waiting.items() if ready()]:
                del waiting[name]
            if waiting and time.monotonic() > ends:
                raise StackError(
                    f"not ready after {seconds:g} s: {', '.join(waiting)}; the logs are in {self.home / 'logs'}"
                )
            time.sleep(0.2)

    def keep_running(self) -> None:
        """Restarts what has ended, PostgreSQL first if it is ours, and says so."""
        if self._postgres is not None and not (self._postgres_joined and self._postgres.running()):
            self._restart_postgres(self._postgres)
        for child in self.children:
            if line := child.keep_running(lambda name=child.name: self._renewed(name)):  # type: ignore[misc]
                self._say(line + self._taken(child.name))

    def _renewed(self, name: str) -> Sequence[str] | None:
        """Return the new command line of a code server whose port was taken; who has read of the old one is started
        again."""
        if self._plan is None:
            return None
        with as_owner_of(self.home):
            if not self._plan.code_servers.moved(name):
                return None
        self._say(f"the port of {name} is taken by another process; it gets another one, and its clients start again")
        for child in self.children:
            if child.name in READERS:
                child.start_again()
        return self._plan.code_servers.command(name)

    def _taken(self, name: str) -> str:
        port = self._plan.ports.get(name) if self._plan else None
        return f"; its port {port} is taken by another process" if port and not is_free(port) else ""

    def _restart_postgres(self, postgres: EmbeddedPostgres) -> None:
        self._say("PostgreSQL ended; it is started again")
        self._postgres_joined = False
        try:
            postgres.start()
            self._postgres_joined = True
        except (OSError, SmiError) as error:
            # Backends of the dead one may still hold its memory, or it recovers for longer than it is waited for:
            # then the next try joins it, so that it is stopped with us.
            self._say(f"PostgreSQL did not start ({error}); retrying now")

    def stop(self) -> None:
        """Stop all children and an embedded PostgreSQL; nothing is left after ten seconds."""
        for child in self.children:
            child.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children:
            child.ensure_stopped(deadline)
        self.children.clear()
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None

    def _gateway_ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return self._http.get(f"{self.addresses['gateway']}/health", timeout=2).status_code == 200
        return False

    def _dagster_ready(self) -> bool:
        with contextlib.suppress(requests.RequestException, ValueError, KeyError):
            answer = self._http.post(
                f"{self.addresses['dagster']}/graphql", json={"query": _LOCATIONS_QUERY}, timeout=5
            ).json()
            entries = answer["data"]["workspaceOrError"]["locationEntries"]
            loaded = [entry["locationOrLoadError"] or {} for entry in entries]
            return bool(loaded) and all(entry.get("__typename") == "RepositoryLocation" for entry in loaded)
        return False


def _wait_for_ports(ports: Iterable[int], seconds: float = 20) -> None:
    """Wait until something listens on all ports, or for `seconds`: whoever needs a server reports that it is missing.

    A daemon that is up before the code servers misses their sensors for up to a minute.
    """
    ends = time.monotonic() + seconds
    for port in ports:
        while time.monotonic() < ends:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)


def run_up(settings: Settings, say: Callable[[str], None]) -> int:
    """Runs the stack against the configured services until Ctrl-C or SIGTERM. Returns the exit code."""
    environment = {**_env_file(), **os.environ}
    asked = threading.Event()
    handled = signals_handled(lambda *_: asked.set(), signal.SIGINT, signal.SIGTERM)
    with handled, Stack(environment, settings.smi_home, say=say) as stack:
        stack.wait_ready()
        for name, address in stack.addresses.items():
            say(f"{name}: {address}")
        say("running; Ctrl-C stops everything")
        while not asked.is_set():
            stack.keep_running()
            time.sleep(0.5)
        say("stopping")
    return 0


@contextlib.contextmanager
def signals_handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals while in use."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _instance() -> str:
    """Return the text of dagster.yaml with the sections for warm workers in place of its own."""
    files = importlib.resources.files("smi_pipeline.dagster_instance")
    instance: dict[str, Any] = {}
    for name in ("dagster.yaml", "dagster-workers.yaml"):
        instance |= yaml.safe_load((files / name).read_text())
    text: str = yaml.safe_dump(instance, sort_keys=False)
    return text


def _socket_folders(*urls: str) -> Iterator[Path]:
    """Where the sockets of servers on this machine lie."""
    for url in urls:
        host = make_url(url).query.get("host", "")
        if isinstance(host, str) and host.startswith("/"):
            yield Path(host)


def _env_file() -> dict[str, str]:
    """Variables of `.env`, which children started elsewhere would not find."""
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(".env").items() if value is not None}
