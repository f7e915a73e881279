"""A code server whose port was taken while it restarted: the running product goes on with another one."""

import os
import signal
import socket
import time
from typing import Any

import pytest
import yaml

from smi_pipeline_tests.end_to_end.one_product.conftest import RunningShop

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # the sandbox's mail server
]


def test_the_product_goes_on_when_another_process_takes_the_port_of_a_code_server(
    running_shop: RunningShop, orders: dict[str, Any]
) -> None:
    stack = running_shop.stack
    workspace = stack.home / "workspace.yaml"

    def port() -> int:
        entries = [entry["grpc_server"] for entry in yaml.safe_load(workspace.read_text())["load_from"]]
        return next(entry["port"] for entry in entries if entry["location_name"] == "reporting")

    def until(what: str, true: Any, seconds: float = 90) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, what
            stack.keep_running()
            time.sleep(0.2)

    old = port()
    code = next(child for child in stack.children if child.name == "code-reporting")
    before = {child.name: child.pid for child in stack.children}
    os.kill(code.pid or 0, signal.SIGKILL)
    taken = socket.socket()
    until("the old port", lambda: _bound(taken, old), seconds=20)
    with taken:
        until("another port", lambda: port() != old, seconds=20)
        until(
            "new readers",
            lambda: all(c.pid != before[c.name] for c in stack.children if c.name in ("daemon", "webserver")),
        )
        until("both code locations", stack._dagster_ready)
    assert {c.name for c in stack.children if c.pid == before[c.name]} == {"code-fulfilment", "gateway", "workers"}


def _bound(taken: socket.socket, port: int) -> bool:
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
    except OSError:
        return False
    return True
