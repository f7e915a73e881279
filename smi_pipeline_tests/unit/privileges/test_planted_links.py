"""The account of an installation cannot make root work elsewhere, whatever it puts into SMI_HOME."""

import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smi_pipeline.adapters.storage import FileStorage
from smi_pipeline.privileges.accounts import own_home
from smi_pipeline.privileges.processes import Unprivileged
from smi_pipeline.stack.children import Child
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.users import ORDINARY, as_user, forked, needs_root, outcome

pytestmark = needs_root


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's that every user may enter, with a home and a folder that is none of the account's business."""
    with tempfile.TemporaryDirectory(prefix="smi-links-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "etc").mkdir(mode=0o755)
        (folder / "etc" / "passwd").write_text("root's")
        yield folder


def state(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return mode, owner, group and content of all that is none of the account's business."""
    outside = (folder / "etc", *(folder / "etc").rglob("*"))
    return {
        str(path): (found.st_mode, found.st_uid, found.st_gid, path.read_bytes() if path.is_file() else b"")
        for path in outside
        for found in (path.lstat(),)
    }


def as_account(home: Path, work: Callable[[], object]) -> None:
    """Do `work` as the owner of `home`."""
    owner = pwd.getpwuid(home.stat().st_uid)
    assert owner.pw_uid != 0
    assert as_user(owner, lambda: f"done: {work()}").startswith("done")


def replace_by_link(path: Path, target: Path) -> None:
    """Put a link in the place of a folder."""
    if path.exists():
        path.rename(path.with_name("moved"))
    path.symlink_to(target)


def test_a_link_in_place_of_the_data_folder_gives_nothing_away(folder: Path) -> None:
    home, before = folder / "home", state(folder)
    own_home(home)
    as_account(home, lambda: replace_by_link(home / "postgres", folder / "etc"))
    assert outcome(EmbeddedPostgres(home / "postgres").start) == "RefusedError"
    assert state(folder) == before


def test_a_link_that_comes_while_the_server_runs_gives_nothing_away_at_its_restart(folder: Path) -> None:
    home, before = folder / "home", state(folder)
    server = EmbeddedPostgres(home / "postgres")
    server.start()
    pid = server._server_pid()
    assert pid is not None
    as_account(home, lambda: os.kill(pid, signal.SIGQUIT))
    ends = time.monotonic() + 20
    while server.running():
        assert time.monotonic() < ends
        time.sleep(0.02)
    as_account(home, lambda: replace_by_link(home / "postgres", folder / "etc"))
    assert outcome(server.start) == "RefusedError"
    assert state(folder) == before


def test_what_the_pid_file_names_is_removed_with_the_rights_of_the_account_alone(folder: Path) -> None:
    home = folder / "home"
    (folder / "etc" / ".s.PGSQL.5432.lock").touch()
    (folder / "etc" / "precious").mkdir(mode=0o700)
    before = state(folder)
    server = EmbeddedPostgres(home / "postgres")
    server.start()
    server.stop()
    lines = ["99999999", str(home / "postgres"), "1", "5432", str(folder / "etc"), "", "", "ready", ""]
    as_account(home, lambda: (home / "postgres" / "postmaster.pid").write_text("\n".join(lines)))
    server.start()
    assert state(folder) == before
    server._socket_folder = folder / "etc" / "precious"  # as a joiner takes it from the pid file
    server.stop()
    assert state(folder) == before


def test_a_link_in_place_of_the_logs_is_not_written_through(folder: Path) -> None:
    home, before = folder / "home", state(folder)
    own_home(home)
    log = home / "logs" / "gateway.log"
    child = Child("gateway", ["/bin/echo", "well"], {"PATH": "/bin"}, log, Unprivileged(home))
    child.start()
    child.ensure_stopped(time.monotonic() + 10)
    assert log.read_text() == "well\n"
    as_account(home, lambda: replace_by_link(home / "logs", folder / "etc"))
    assert outcome(child.start) == "PermissionError"
    assert state(folder) == before


@pytest.mark.parametrize("link", ["storage", "storage/results"])
def test_a_link_in_the_storage_is_neither_written_nor_deleted_through(folder: Path, link: str) -> None:
    home, before = folder / "home", state(folder)
    own_home(home)
    storage = FileStorage(str(home / "storage"))
    storage.put_bytes("results/a", b"a")
    as_account(home, lambda: replace_by_link(home / link, folder / "etc"))
    prefix = "" if link.endswith("results") else "etc/"
    assert outcome(lambda: storage.put_bytes("results/job", b"* * * * * root id")) == "TransientError"
    assert outcome(lambda: storage.delete(f"results/{prefix}passwd")) in ("TransientError", "done: None")
    assert state(folder) == before


def test_a_process_of_the_account_has_no_terminal_of_roots(folder: Path) -> None:
    own_home(folder / "home")
    run_as = Unprivileged(folder / "home")
    assert forked(lambda: str(os.getsid(0) == os.getpid()), run_as.enter) == "True"


@pytest.mark.parametrize("names", [[".ssh", ".bashrc"], ["workspace.yaml", ".git", "setup.py"], ["postgres", "thesis"]])
def test_a_folder_with_other_things_in_it_is_not_given_to_the_account(folder: Path, names: list[str]) -> None:
    home = folder / "etc"
    for name in names:
        (home / name).mkdir()
    before = state(folder)
    assert outcome(lambda: own_home(home)) == "RefusedError"
    assert state(folder) == before


def test_a_home_that_another_user_could_replace_is_refused(folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, ORDINARY.pw_uid, ORDINARY.pw_gid)
    (theirs / "home").mkdir()
    assert outcome(lambda: own_home(theirs / "home")) == "RefusedError"
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert outcome(lambda: own_home(shared / "home")) == "RefusedError"
    shared.chmod(0o1777)
    (shared / "home").mkdir()
    os.chown(shared / "home", ORDINARY.pw_uid, ORDINARY.pw_gid)
    assert outcome(lambda: own_home(shared / "home")) == "RefusedError"
    shutil.rmtree(shared / "home")
    assert outcome(lambda: own_home(shared / "home")).startswith("done")


def test_folders_above_the_home_are_not_open_to_others_whatever_the_umask_is(folder: Path) -> None:
    umask = os.umask(0)
    try:
        own_home(folder / "a" / "b" / "home")
    finally:
        os.umask(umask)
    assert [(folder / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/home")] == [0o755, 0o755, 0o700]
