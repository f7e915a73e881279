"""The checks of `smi doctor` about this machine: files, ports, the broker of the workers, and Dagster's daemon."""

import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from smi_pipeline.commands.findings import Finding, note, ok, wrong
from smi_pipeline.settings import Settings

_SECONDS = 5


def files(settings: Settings) -> Iterator[Finding]:
    """Check who may read what holds secrets and customers' files."""
    home, secrets = settings.smi_home.absolute(), Path(".env")
    mode = _mode(home)
    if mode is None:
        yield ok("SMI_HOME", f"{home} is made at the first start")
    elif mode & 0o077:
        yield wrong("SMI_HOME", f"other users may look into {home} (mode {mode:o})", f"chmod 700 '{home}'")
    else:
        yield ok("SMI_HOME", f"{home}, mode {mode:o}")
    mode = _mode(secrets)
    if mode is not None and mode & 0o007:
        yield wrong(".env", f"every user of this machine may read its secrets (mode {mode:o})", "chmod 600 .env")
    else:
        yield ok(".env", "not here: the environment has the settings" if mode is None else f"mode {mode:o}")
    if (folder := _storage_elsewhere(settings)) and _open_to_all(folder):
        what = f"every user of this machine may read customers' files in {folder}"
        yield wrong("SMI_STORAGE_URL", what, f"chmod o-rwx '{folder}'")


def _storage_elsewhere(settings: Settings) -> Path | None:
    from smi_pipeline.adapters.storage import local_folder

    try:
        folder = settings.smi_storage_url and local_folder(settings.smi_storage_url)
    except Exception:  # the check of the storage names it
        return None
    return folder.absolute() if folder else None


def _open_to_all(folder: Path) -> bool:
    """Return whether users of other groups may look into a folder, and into all that it lies in."""
    return bool((_mode(folder) or 0) & 0o005) and all((_mode(each) or 0) & 0o001 for each in folder.parents)


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def ports(settings: Settings) -> Iterator[Finding]:
    """Check that the ports of `smi up` are free, or that our own processes have them."""
    used = {"SMI_GATEWAY_PORT": settings.smi_gateway_port, "SMI_DAGSTER_PORT": settings.smi_dagster_port}
    if settings.smi_analysts_url:
        used["SMI_ANALYSTS_PORT"] = settings.smi_analysts_port
    ours = {"SMI_GATEWAY_PORT": "/health"}
    for name, port in used.items():
        first = next(other for other, its in used.items() if its == port)
        if first != name:
            yield wrong(name, f"{port} is the port of {first}, too", "choose another one")
            continue
        why = _not_free(port)
        if why is None:
            yield ok(name, f"{port} is free")
        elif why == errno.EADDRINUSE and _answers(port, ours.get(name, "/server_info")):
            yield ok(name, f"{port}, in use by this product")
        elif why == errno.EADDRINUSE:
            yield wrong(name, f"{port} is taken by another program", f"end that program, or choose another {name}")
        else:
            yield wrong(name, f"{port} cannot be opened by this user", f"choose another {name}, above 1023")


def _not_free(port: int) -> int | None:
    """Return the error with which a port of 127.0.0.1 cannot be opened, None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: not for TIME_WAIT
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno
    return None


def _answers(port: int, path: str) -> bool:
    """Return whether our gateway, or Dagster's UI, is what listens on a port."""
    try:
        answer = _session().get(f"http://127.0.0.1:{port}{path}", timeout=_SECONDS).json()
    except (requests.RequestException, ValueError):
        return False
    return isinstance(answer, dict) and bool({"success", "dagster_webserver_version"} & answer.keys())


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy of the machine does not know our loopback
    return session


def broker(settings: Settings) -> str | Finding:
    """Check that the broker of the workers can be reached, and takes our login."""
    url = settings.smi_broker_url
    if url is None:
        return "PostgreSQL, beside Dagster's database"
    if url.startswith("sqla+postgresql"):  # kombu would connect to it when it is used
        from smi_pipeline.state.health import server_version

        return f"PostgreSQL {server_version(url.removeprefix('sqla+'))}"
    import kombu

    library: Any = kombu  # it has no types
    with library.Connection(url, connect_timeout=_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_SECONDS)
        found = f"{connection.transport.driver_type}, connected"
    if url.startswith("rediss:") and "ssl_cert_reqs=" not in url:
        to_do = "add ?ssl_cert_reqs=required to SMI_BROKER_URL, with &ssl_ca_certs=FILE for an authority of your own"
        return note("broker", f"{found}, but its certificate is not verified", to_do)
    return found


_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


def daemon(settings: Settings) -> str | Finding:
    """Check the heartbeats of Dagster's daemon, as Dagster judges them, if Dagster runs."""
    name, url = "Dagster daemon", f"{settings.dispatch_url}/graphql"
    try:
        answer = _session().post(url, json={"query": _DAEMONS}, timeout=_SECONDS).json()
        statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        to_do = "start it, or correct SMI_DISPATCH_URL" if settings.smi_dispatch_url else "`smi up` starts both"
        return note(name, f"not known: Dagster's UI does not answer at {settings.dispatch_url}", to_do)
    silent = [each["daemonType"].lower() for each in statuses if each["required"] and not each["healthy"]]
    if silent:
        what = f"no heartbeat of {', '.join(silent)}: no order is started, checked or refunded by a sensor"
        return wrong(name, what, "restart the daemon (`smi up` does it); see daemon.log in SMI_HOME/logs")
    return f"{sum(each['required'] for each in statuses)} daemons, with heartbeats"
