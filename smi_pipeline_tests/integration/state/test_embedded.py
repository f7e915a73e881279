"""The embedded PostgreSQL comes back after a kill, and the supervisor is who brings it back."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.stack import Stack
from smi_pipeline.state.embedded import EmbeddedPostgres


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="smi-kill-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _pid(server: EmbeddedPostgres) -> int:
    return int((server.folder / "postmaster.pid").read_text().split()[0])


def _kill(server: EmbeddedPostgres) -> None:
    os.kill(_pid(server), signal.SIGKILL)
    ends = time.monotonic() + 20
    while server.running():
        assert time.monotonic() < ends
        time.sleep(0.02)


def _answers(server: EmbeddedPostgres) -> bool:
    engine = create_engine(server.url("postgres"))
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar() == 1
    finally:
        engine.dispose()


def test_a_killed_server_is_started_again_by_the_supervisor(server: EmbeddedPostgres, tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack({}, tmp_path, say=said.append)
    stack._postgres = server
    stack.keep_running()
    assert said == [], "a running server is left alone"
    _kill(server)
    ends = time.monotonic() + 60
    while not server.running():
        assert time.monotonic() < ends
        stack.keep_running()
    assert said[0] == "PostgreSQL ended; it is started again"
    assert _answers(server)


def test_a_process_id_that_another_process_has_now_is_no_running_server(server: EmbeddedPostgres) -> None:
    _kill(server)
    file = server.folder / "postmaster.pid"
    file.write_text("\n".join([str(os.getpid()), *file.read_text().split("\n")[1:]]))
    ends = time.monotonic() + 60
    while not server.running():
        assert time.monotonic() < ends
        with contextlib.suppress(subprocess.SubprocessError):  # while backends of the dead one hold its memory
            server.start()
    assert _answers(server)
