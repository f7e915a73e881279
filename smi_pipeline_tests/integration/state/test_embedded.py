"""The embedded PostgreSQL comes back after a kill, and the supervisor is who brings it back."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from smi_pipeline.core.errors import RefusedError, TransientError
from smi_pipeline.stack import Stack
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.users import forked


@pytest.fixture(scope="module")
def made_folder() -> Iterator[Path]:
    """A data folder that is made once for all of these servers, by the first of them."""
    with tempfile.TemporaryDirectory(prefix="smi-kill-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "postgres"


@pytest.fixture
def server(made_folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(made_folder)
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
        with contextlib.suppress(TransientError):  # while backends of the dead one hold its memory
            server.start()
    assert _answers(server)


LONG = "/".join(["a-folder-with-a-long-name"] * 5)


@pytest.fixture(scope="module")
def far_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smi-far-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / LONG / "postgres"


@pytest.fixture
def far_server(far_folder: Path) -> Iterator[EmbeddedPostgres]:
    """One whose own folder has too long a path for a socket."""
    server = EmbeddedPostgres(far_folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _socket_folder(server: EmbeddedPostgres) -> Path:
    return Path(str(make_url(server.url()).query["host"]))


def test_a_socket_that_vanished_comes_back_at_the_same_place(far_server: EmbeddedPostgres) -> None:
    before, url = _pid(far_server), far_server.url()
    shutil.rmtree(_socket_folder(far_server))  # as whatever tidies /tmp up does
    assert not far_server.running(), "so the supervisor starts it again"
    far_server.start()
    assert (far_server.url(), _answers(far_server)) == (url, True)
    assert _pid(far_server) != before


def test_a_folder_that_somebody_else_made_in_its_place_is_not_used(far_server: EmbeddedPostgres) -> None:
    folder = _socket_folder(far_server)
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)
    try:
        far_server.start()
        assert _socket_folder(far_server) != folder
        assert _answers(far_server)
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


JOIN = """if True:
    import sys, time
    from pathlib import Path
    from smi_pipeline.state.embedded import EmbeddedPostgres
    server = EmbeddedPostgres(Path(sys.argv[1]))
    server.start()
    print(server.url(), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def _another_user_of(server: EmbeddedPostgres) -> Iterator[subprocess.Popen[str]]:
    """A process that has joined the server, and leaves it when its standard input is closed."""
    command = [sys.executable, "-c", JOIN, str(server.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == server.url()
        yield process


def test_the_last_process_that_uses_the_server_stops_it(server: EmbeddedPostgres) -> None:
    with _another_user_of(server) as first:
        pid = _pid(server)
        first.communicate()
        assert server.running(), "we use it still"
    with _another_user_of(server) as second:
        server.stop()
        assert server.running(), "the other uses it still"
        assert _pid(server) == pid
        second.communicate()
        assert not server.running()


def test_a_killed_process_does_not_count_as_one_that_uses_the_server(server: EmbeddedPostgres) -> None:
    with _another_user_of(server) as other:
        other.kill()
    server.stop()
    assert not server.running()


def test_a_fork_that_ends_does_not_stop_the_server_of_its_parent(server: EmbeddedPostgres) -> None:
    def work() -> str:
        server.stop()
        return "stopped"

    assert forked(work, lambda: None) == "stopped"
    assert _answers(server)


def test_a_data_folder_of_another_release_of_postgresql_is_left_alone(server: EmbeddedPostgres) -> None:
    server.stop()
    version = (server.folder / "PG_VERSION").read_text()
    (server.folder / "PG_VERSION").write_text("16\n")
    try:
        with pytest.raises(RefusedError, match="is of PostgreSQL 16"):
            server.start()
    finally:
        (server.folder / "PG_VERSION").write_text(version)


def test_a_start_that_was_interrupted_while_the_data_files_were_made_is_repeated() -> None:
    with tempfile.TemporaryDirectory(prefix="smi-half-", ignore_cleanup_errors=True) as name:
        server = EmbeddedPostgres(Path(name) / "postgres")
        server.start()
        server.stop()
        (server.folder / "PG_VERSION").rename(server.folder / "new-version")  # it is put in place last
        (server.folder / "new").mkdir()
        server.start()
        try:
            assert _answers(server)
        finally:
            server.stop()


def test_a_running_server_that_lets_others_in_is_not_joined_but_started_anew(server: EmbeddedPostgres) -> None:
    before = _pid(server)
    (server.folder / "pg_hba.conf").write_text("local all all trust\n")
    joining = EmbeddedPostgres(server.folder)
    joining.start()
    try:
        assert _pid(server) != before
        assert "trust" not in (server.folder / "pg_hba.conf").read_text()
        assert _answers(joining)
    finally:
        joining.stop()


def test_settings_of_another_postgresql_in_the_environment_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    with tempfile.TemporaryDirectory(prefix="smi+port-", ignore_cleanup_errors=True) as name:
        server = EmbeddedPostgres(Path(name) / "postgres")
        server.start()
        try:
            assert _answers(server)
        finally:
            server.stop()
