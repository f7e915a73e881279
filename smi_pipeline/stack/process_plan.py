"""The processes of the running product: their command lines, order and environment."""

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


@dataclass(frozen=True)
class Plan:
    """Command lines by process name, in the order in which they start."""

    commands: dict[str, list[str]]
    environment: dict[str, str]
    code_server_ports: tuple[int, ...]


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    bin_folder = Path(sys.executable).parent
    ports = {name: free_port() for name in LOCATIONS}
    workspace = run_folder / "workspace.yaml"
    workspace.write_text(
        "load_from:\n"
        + "".join(
            f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {name}}}\n"
            for name, port in ports.items()
        )
    )
    commands: dict[str, list[str]] = {}
    for name, module in LOCATIONS.items():
        commands[f"code-{name}"] = [
            *(str(bin_folder / "dagster"), "api", "grpc", "--module-name", module, "--location-name", name),
            *("--host", "127.0.0.1", "--port", str(ports[name]), "--log-level", "warning"),
        ]
    commands["gateway"] = [sys.executable, "-m", "smi_pipeline.gateway"]
    commands["workers"] = [
        *(sys.executable, "-m", "smi_pipeline.dagster_instance.worker_processes"),
        *("--preload", ",".join(LOCATIONS.values())),
        *(f"{FULFILMENT_QUEUE}={workers}", f"{PRIORITY_QUEUE}=1", f"{REPORTS_QUEUE}=1"),
    ]
    webserver = [
        str(bin_folder / "dagster-webserver"),
        "-h",
        "127.0.0.1",
        "-w",
        str(workspace),
        "--log-level",
        "warning",
    ]
    commands["webserver"] = [*webserver, "-p", str(dagster_port)]
    if analysts_port is not None:
        commands["webserver-analysts"] = [*webserver, "-p", str(analysts_port), "--read-only"]
    commands["daemon"] = [str(bin_folder / "dagster-daemon"), "run", "-w", str(workspace), "--log-level", "warning"]
    return Plan(
        commands=commands,
        environment={**environment, **_no_proxy(environment), "SMI_GATEWAY_PORT": str(gateway_port)},
        code_server_ports=tuple(ports.values()),
    )
