"""Which processes `smi up` starts."""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from smi_pipeline.privileges.processes import Unprivileged
from smi_pipeline.stack import children, process_plan
from smi_pipeline.stack.children import Child
from smi_pipeline.stack.process_plan import LOCATIONS, CodeServers, free_port, is_free, plan
from smi_pipeline.stack.stack import Stack


def test_as_many_workers_are_started_as_are_asked_for(tmp_path: Path) -> None:
    commands = plan({}, tmp_path, dagster_port=1, gateway_port=2, workers=7).commands
    assert "fulfilment=7" in commands["workers"]


def test_the_analysts_ui_is_started_read_only_and_only_when_it_has_a_door(tmp_path: Path) -> None:
    ports = {"dagster_port": 1, "gateway_port": 2, "workers": 2}
    without = plan({}, tmp_path, **ports).commands
    commands = plan({}, tmp_path, **ports, analysts_port=3).commands
    (more,) = commands.keys() - without.keys()
    assert "--read-only" in commands[more]


def ports_of(workspace: Path) -> dict[str, int]:
    entries = [entry["grpc_server"] for entry in yaml.safe_load(workspace.read_text())["load_from"]]
    return {entry["location_name"]: entry["port"] for entry in entries}


def test_a_code_server_keeps_its_port_unless_it_was_taken_and_then_the_workspace_tells_the_new_one(
    tmp_path: Path,
) -> None:
    servers = CodeServers(tmp_path / "workspace.yaml")
    before = ports_of(servers.workspace)
    assert set(before) == set(LOCATIONS) and len(set(before.values())) == 2
    assert not servers.moved("code-reporting") and not servers.moved("gateway")
    with socket.create_server(("127.0.0.1", before["reporting"])):
        assert servers.moved("code-reporting")
    after = ports_of(servers.workspace)
    assert after["fulfilment"] == before["fulfilment"]
    assert after["reporting"] not in before.values() and is_free(after["reporting"])
    command = servers.command("code-reporting")
    assert command[command.index("--port") + 1] == str(after["reporting"])
    assert not servers.moved("code-reporting")


def test_a_free_port_is_none_that_the_system_gives_to_connections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    range_ = tmp_path / "range"
    range_.write_text("32768\t60999\n")
    monkeypatch.setattr(process_plan, "_EPHEMERAL_PORTS", range_)
    assert all(20_000 <= free_port() < 32_768 for _ in range(50))
    for narrow in ("1024 65535", "", "x"):
        range_.write_text(narrow)
        assert is_free(free_port())


def test_a_port_of_another_process_of_ours_is_not_given_twice_where_the_system_gives_all_ports_to_connections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "range").write_text("1024 65535\n")
    monkeypatch.setattr(process_plan, "_EPHEMERAL_PORTS", tmp_path / "range")
    almost_all = tuple(port for port in range(1024, 65536) if port % 50 != 1)
    assert {free_port(besides=almost_all) % 50 for _ in range(5)} == {1}


def test_a_port_counts_as_taken_while_somebody_listens_and_not_for_connections_that_have_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0] as accepted:
            accepted.close()  # the server's side closes first, and waits
    assert is_free(port)


class AsWeAre(Unprivileged):
    """No other account: as root, that could not enter pytest's folders."""

    def enter(self) -> None:
        pass

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        return dict(environment)


SERVE = """import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()"""


def test_a_child_whose_port_was_taken_restarts_on_another_one_and_who_has_read_of_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    stack = Stack({}, tmp_path, say=said.append)
    planned = plan({}, tmp_path, dagster_port=free_port(), gateway_port=free_port(), workers=1)
    serve = {
        name: [sys.executable, "-c", SERVE, str(port)] for name, port in ports_of(tmp_path / "workspace.yaml").items()
    }
    monkeypatch.setattr(
        planned.code_servers,
        "command",
        lambda name: [
            sys.executable,
            "-c",
            SERVE,
            str(ports_of(tmp_path / "workspace.yaml")[name.removeprefix("code-")]),
        ],
    )
    commands = {"code-reporting": serve["reporting"], "daemon": ["/bin/sleep", "60"], "gateway": ["/bin/sleep", "60"]}
    stack._plan = planned
    for name, argv in commands.items():
        stack.children.append(Child(name, argv, os.environ, tmp_path / f"{name}.log", AsWeAre(tmp_path)))
        stack.children[-1].start()
    code, daemon, gateway = stack.children
    old = ports_of(tmp_path / "workspace.yaml")["reporting"]

    def until(true: Callable[[], bool]) -> None:
        ends = time.monotonic() + 20
        while not true():
            assert time.monotonic() < ends, said
            stack.keep_running()
            time.sleep(0.05)

    try:
        until(lambda: not is_free(old))
        first = [child.pid for child in stack.children]
        code.ask_to_stop()
        until(lambda: is_free(old))
        with socket.create_server(("127.0.0.1", old)):
            until(lambda: ports_of(tmp_path / "workspace.yaml")["reporting"] != old)
            new = ports_of(tmp_path / "workspace.yaml")["reporting"]
            until(lambda: not is_free(new) and daemon.pid != first[1])
        assert gateway.pid == first[2], "it does not read the workspace"
        assert [line.partition(" ended")[0] for line in said] == [
            "code-reporting",
            "the port of code-reporting is taken by another process; it gets another one, and its clients start again",
        ]
        with socket.create_server(("127.0.0.1", planned.ports["gateway"])):
            gateway.ask_to_stop()
            until(lambda: "its port" in said[-1])
        assert said[-1].endswith(f"; its port {planned.ports['gateway']} is taken by another process")
    finally:
        stack.stop()


def test_a_process_that_does_not_end_when_it_is_to_be_started_again_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hangs, or a UI that waits for open pages, would keep the port that it has read."""
    monkeypatch.setattr(children, "END_SECONDS", 0.5)
    argv = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"]
    daemon = Child("daemon", argv, os.environ, tmp_path / "log", AsWeAre(tmp_path))
    ends = time.monotonic() + 20
    try:
        daemon.start()
        while not (tmp_path / "log").read_bytes().endswith(b"\n"):
            assert time.monotonic() < ends
        first, began = daemon.pid, time.monotonic()
        daemon.start_again()
        while daemon.pid == first:
            assert time.monotonic() < ends, "it lives on"
            assert daemon.keep_running() is None, "it is no failure"
            time.sleep(0.05)
        assert time.monotonic() - began > 0.5, "it had time to end"
    finally:
        daemon.ensure_stopped(0)
