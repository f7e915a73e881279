"""The processes of the running product: their command lines, order and environment."""

import random
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from smi_pipeline.core.runs import FULFILMENT_QUEUE, PRIORITY_QUEUE, REPORTS_QUEUE

LOCATIONS = {
    "fulfilment": "smi_pipeline.fulfilment.definitions",
    "reporting": "smi_pipeline.reporting.definitions",
}


READERS = ("webserver", "webserver-analysts", "daemon")
"""Processes that read the workspace when they start."""

_CODE = "code-"
_BIN = Path(sys.executable).parent
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT, _TRIES = 20_000, 100


class CodeServers:
    """The code servers, their ports on loopback, and the workspace file that tells the others of them."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._ports: dict[str, int] = {}
        for name in LOCATIONS:
            self._choose_port(name)

    @property
    def ports(self) -> tuple[int, ...]:
        """Their ports now."""
        return tuple(self._ports.values())

    def command(self, process: str) -> list[str]:
        """Return the command line of the process `code-LOCATION`."""
        name = process.removeprefix(_CODE)
        return [
            *(str(_BIN / "dagster"), "api", "grpc", "--module-name", LOCATIONS[name], "--location-name", name),
            *("--host", "127.0.0.1", "--port", str(self._ports[name]), "--log-level", "warning"),
        ]

    def moved(self, process: str) -> bool:
        """Give a code server that has ended another port if its own was taken meanwhile. Return whether it was: then
        who has read the workspace has to read it again."""
        name = process.removeprefix(_CODE)
        if name not in self._ports or is_free(self._ports[name]):
            return False
        self._choose_port(name)
        return True

    def _choose_port(self, name: str) -> None:
        self._ports[name] = free_port(besides=self.ports)
        entries = (
            f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {location}}}\n"
            for location, port in self._ports.items()
        )
        part = self.workspace.with_suffix(".part")
        part.write_text("load_from:\n" + "".join(entries))
        part.replace(self.workspace)


@dataclass(frozen=True)
class Plan:
    """Command lines by process name, in the order in which they start. `ports`: those that are configured."""

    commands: dict[str, list[str]]
    environment: dict[str, str]
    code_servers: CodeServers
    ports: dict[str, int]


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(besides: tuple[int, ...] = ()) -> int:
    """Return a free port on loopback, if possible one that the system gives to no connection by itself: such a port
    would soon be taken while its server restarts."""
    try:
        lowest = int(_EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 0
    for _ in range(_TRIES if lowest > _LOWEST_PORT else 0):
        port = random.randrange(_LOWEST_PORT, lowest)
        if port not in besides and is_free(port):
            return port
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if (port := int(probe.getsockname()[1])) not in besides:
                return port


def dagster_environment(state_url: str, dagster_url: str, dagster_home: Path, broker_url: str | None) -> dict[str, str]:
    """Return the variables of Dagster's processes and the workers. Without `broker_url`, PostgreSQL is the broker."""
    plain = make_url(dagster_url).difference_update_query(["plugin"])
    database = plain.render_as_string(hide_password=False)
    return {
        "SMI_DATABASE_URL": state_url,
        "DAGSTER_POSTGRES_URL": dagster_url,
        "DAGSTER_HOME": str(dagster_home),
        "SMI_BROKER_URL": broker_url or f"sqla+{database}",
        "SMI_CELERY_BACKEND_URL": f"db+{database}",
        "VIPS_CONCURRENCY": "1",  # parallelism comes from several runs at once
        "PYTHONUNBUFFERED": "1",
    }


def _no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that exempt loopback from the machine's proxy: gRPC would ask it for 127.0.0.1."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = ",".join(part for part in (given, "127.0.0.1,localhost") if part)
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def plan(
    environment: Mapping[str, str],
    run_folder: Path,
    *,
    dagster_port: int,
    gateway_port: int,
    workers: int,
    analysts_port: int | None = None,
) -> Plan:
    """Return the command lines of all processes; write the workspace of the code servers into `run_folder`.

    `workers`: processes for fulfilment runs. `analysts_port`: port of a second, read-only UI, if there is one."""
    code_servers = CodeServers(run_folder / "workspace.yaml")
    commands = {f"{_CODE}{name}": code_servers.command(f"{_CODE}{name}") for name in LOCATIONS}
    commands["gateway"] = [sys.executable, "-m", "smi_pipeline.gateway"]
    commands["workers"] = [
        *(sys.executable, "-m", "smi_pipeline.dagster_instance.worker_processes"),
        *("--preload", ",".join(LOCATIONS.values())),
        *(f"{FULFILMENT_QUEUE}={workers}", f"{PRIORITY_QUEUE}=1", f"{REPORTS_QUEUE}=1"),
    ]
    webserver = [
        *(str(_BIN / "dagster-webserver"), "-h", "127.0.0.1"),
        *("-w", str(code_servers.workspace), "--log-level", "warning"),
    ]
    commands["webserver"] = [*webserver, "-p", str(dagster_port)]
    if analysts_port is not None:
        commands["webserver-analysts"] = [*webserver, "-p", str(analysts_port), "--read-only"]
    commands["daemon"] = [
        *(str(_BIN / "dagster-daemon"), "run", "-w", str(code_servers.workspace), "--log-level", "warning")
    ]
    return Plan(
        commands=commands,
        environment={**environment, **_no_proxy(environment), "SMI_GATEWAY_PORT": str(gateway_port)},
        code_servers=code_servers,
        ports={"gateway": gateway_port, "webserver": dagster_port}
        | ({} if analysts_port is None else {"webserver-analysts": analysts_port}),
    )
