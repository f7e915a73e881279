"""A second user of the machine gets neither into the embedded database nor into SMI_HOME."""

import contextlib
import os
import pwd
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
from sqlalchemy import create_engine, make_url, text

import smi_pipeline
from smi_pipeline.privileges.accounts import own_home
from smi_pipeline.privileges.processes import Unprivileged
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.users import ORDINARY, OUTSIDER, as_user, forked, modes, needs_root, outcome

HOMES = {
    "short": "home",
    "long": "/".join(["a-folder-with-a-long-name"] * 5),
    "space": "my shop/home",
    "odd": 'd\'or, "$HOME" `id` %s é\\/home',
}


@contextmanager
def enterable(name: str) -> Iterator[Path]:
    """SMI_HOME in folders that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="smi-users-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / name
        home.parent.mkdir(parents=True, exist_ok=True)
        yield home


@pytest.fixture(params=list(HOMES.values()), ids=list(HOMES))
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A home that is not there yet."""
    with enterable(request.param) as home:
        yield home


@pytest.fixture(scope="module", params=list(HOMES.values()), ids=list(HOMES))
def used_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A home that several tests use after each other: its data files are made once."""
    with enterable(request.param) as home:
        yield home


@pytest.fixture
def plain_home() -> Iterator[Path]:
    with enterable("home") as home:
        yield home


@contextmanager
def running(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home / "postgres")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _query(url: str, sql: str = "SELECT current_user") -> str:
    parts = make_url(url)
    connection = psycopg2.connect(host=parts.query["host"], user="postgres", dbname="postgres")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()) if cursor.description else ""


def _attempts(home: Path, url: str) -> str:
    """What an outsider gets out of a running installation."""
    socket_folder = Path(str(make_url(url).query["host"]))
    tried = {
        "connect": lambda: _query(url),
        "run a program": lambda: _query(url, "COPY (SELECT 1) TO PROGRAM 'id'"),
        "list the home": lambda: list(home.iterdir()),
        "list the database": lambda: list((home / "postgres").iterdir()),
        "read the log": lambda: (home / "postgres" / "log").read_text(),
        "list the socket's folder": lambda: list(socket_folder.iterdir()),
        "see the socket": lambda: (socket_folder / ".s.PGSQL.5432").stat(),
        "make a file": lambda: (home / "mine").write_text("x"),
        "replace the socket's folder": lambda: socket_folder.rename(socket_folder.with_name("away")),
    }
    return "\n".join(f"{name}: {outcome(action)}" for name, action in tried.items())


NOTHING = """connect: OperationalError
run a program: OperationalError
list the home: PermissionError
list the database: PermissionError
read the log: PermissionError
list the socket's folder: PermissionError
see the socket: PermissionError
make a file: PermissionError
replace the socket's folder: PermissionError"""


@needs_root
def test_another_user_gets_nothing_from_a_server_that_root_started(used_home: Path) -> None:
    home = used_home
    with running(home) as server:
        url = server.url()
        assert "postgres" in _query(url), "root itself may"
        assert as_user(OUTSIDER, lambda: _attempts(home, url)) == NOTHING


@needs_root
def test_another_user_gets_nothing_from_a_server_that_an_ordinary_user_started(home: Path) -> None:
    home.mkdir()
    os.chown(home, ORDINARY.pw_uid, ORDINARY.pw_gid)

    def work() -> str:
        assert os.geteuid() == ORDINARY.pw_uid
        with running(home) as server:
            os.write(told, server.url().encode())
            assert "postgres" in _query(server.url())
            os.read(waits, 1)
        return "ended well"

    said, told = os.pipe()
    waits, goes_on = os.pipe()
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(forked(work, Unprivileged(home).enter)))
    thread.start()
    try:
        url = os.read(said, 10_000).decode()
        assert as_user(OUTSIDER, lambda: _attempts(home, url)) == NOTHING
        assert "postgres" in _query(url), "root may"
    finally:
        os.write(goes_on, b"x")
        thread.join(30)
        for descriptor in (said, told, waits, goes_on):
            os.close(descriptor)
    assert result == ["ended well"]


def test_only_a_socket_of_our_own_leads_to_the_server(used_home: Path) -> None:
    home = used_home
    with running(home) as server:
        pid = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
        assert psutil.Process(pid).net_connections("inet") == []
        socket = Path(str(make_url(server.url()).query["host"])) / ".s.PGSQL.5432"
        owner = pwd.getpwuid(home.stat().st_uid)
        for path, mode in ((home, 0o40700), (home / "postgres", 0o40700), (socket.parent, 0o40700), (socket, 0o140700)):
            assert (path.stat().st_mode, path.stat().st_uid) == (mode, owner.pw_uid), path
        rules = (home / "postgres" / "pg_hba.conf").read_text().splitlines()
        assert [rule for rule in rules if not rule.startswith("#")] == ["local all all peer map=smi"]
        engine = create_engine(server.url("postgres"))
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NULL")).scalar() == 1
        engine.dispose()
    assert not socket.exists()
    assert (home / "postgres").exists()
    assert socket.parent == home / "postgres" or not socket.parent.exists(), "its folder does not stay in /tmp"


def test_nothing_outside_the_home_changes_its_mode_or_owner(plain_home: Path) -> None:
    home = plain_home
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    package = Path(smi_pipeline.__file__)
    watched = (closed / "home", package, Path(sys.prefix) / "x", Path(sys.base_prefix) / "x", Path(psycopg2.__file__))
    before = modes(*watched)
    with running(closed / "home"):
        pass
    assert modes(*watched) == before


@needs_root
def test_root_runs_the_server_as_the_owner_of_the_home_or_as_the_system_account(plain_home: Path) -> None:
    home = plain_home
    for owner, runs_as in ((0, "smi"), (ORDINARY.pw_uid, ORDINARY.pw_name)):
        of_owner = home.parent / str(owner)
        of_owner.mkdir()
        os.chown(of_owner, owner, owner)
        with running(of_owner):
            pid = int((of_owner / "postgres" / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            family = [process, *process.children()]
            assert {one.username() for one in family} == {runs_as}
            assert set().union(*(one.uids() for one in family)) == {pwd.getpwnam(runs_as).pw_uid}
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nGroups:\t \n" in status
            assert "\nNoNewPrivs:\t1\n" in status


@needs_root
def test_what_an_earlier_release_left_as_root_is_handed_over_and_its_trust_ends(plain_home: Path) -> None:
    home = plain_home
    with running(home):
        pass
    data = home / "postgres"
    (data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    (home / "logs").mkdir()
    (home / "logs" / "gateway.log").write_text("of root's\n")
    for path in (home, *home.rglob("*")):
        old = OUTSIDER.pw_uid if path.is_relative_to(data) else 0  # as `pgserver` had it
        os.chown(path, old, old, follow_symlinks=False)
    home.chmod(0o755)
    with running(home) as server:
        url = server.url()
        assert "postgres" in _query(url)
        assert as_user(OUTSIDER, lambda: _attempts(home, url)) == NOTHING
        assert {path.owner() for path in (home, *home.rglob("*"))} == {"smi"}


def test_a_folder_that_others_use_is_not_taken_as_home(tmp_path: Path) -> None:
    (tmp_path / "thesis.pdf").touch()
    tmp_path.chmod(0o755)
    before = modes(tmp_path / "x")
    assert outcome(lambda: own_home(tmp_path)) == "RefusedError"
    assert outcome(lambda: EmbeddedPostgres(Path("/tmp/postgres-of-nobody")).start()) == "RefusedError"
    assert modes(tmp_path / "x") == before
