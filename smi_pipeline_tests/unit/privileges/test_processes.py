"""Root's children are not root, see what they need through folders that are closed to them, and nothing else there."""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.privileges.processes import REFUSED, Unprivileged
from smi_pipeline_tests.users import forked, modes, needs_root, outcome

pytestmark = needs_root


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that only root may enter, as `mktemp -d` makes it, with something secret in it."""
    with tempfile.TemporaryDirectory(prefix="smi-closed-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "secret").write_text("of root's")
        yield Path(folder)


def _run(run_as: Unprivileged, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=run_as.environment(os.environ),
        preexec_fn=run_as.enter,
        capture_output=True,
        text=True,
    )


def test_a_child_works_in_a_home_below_a_closed_folder_and_sees_nothing_else_there(closed: Path) -> None:
    home = closed / "deep" / "home"
    own_home(home)
    (closed / "deep" / "beside").touch()
    before = modes(home)
    code = """if True:
        import os, pwd, smi_pipeline
        from pathlib import Path
        Path("made").write_text(pwd.getpwuid(os.geteuid()).pw_name)
        print(os.getcwd(), os.getresuid() == (os.getuid(),) * 3, os.getgroups(), os.environ["HOME"])
        print(sorted(os.listdir("../..")), sorted(os.listdir("..")))
    """
    done = _run(Unprivileged(home), code)
    assert done.stdout.splitlines() == [f"{home} True [] {home}", "['deep'] ['home']"], done.stderr
    assert ((home / "made").read_text(), (home / "made").owner()) == ("smi", "smi")
    assert modes(home) == before
    assert (closed / "secret").read_text() == "of root's", "nobody else's view changed"


def test_further_folders_are_shown_and_links_into_a_closed_folder_work(closed: Path, tmp_path: Path) -> None:
    home, files = closed / "home", closed / "files"
    own_home(home)
    files.mkdir()
    os.chown(files, home.stat().st_uid, home.stat().st_gid)
    with tempfile.TemporaryDirectory(prefix="smi-open-") as folder:
        Path(folder).chmod(0o755)
        link = Path(folder) / "link"
        link.symlink_to(files)
        done = _run(Unprivileged(home, writable=[link]), f"open({str(link / 'x')!r}, 'w').write('y'); print('well')")
    assert done.stdout == "well\n", done.stderr
    assert (files / "x").read_text() == "y"


def test_a_home_that_is_itself_in_the_closed_checkout_is_reached(closed: Path) -> None:
    state = closed / ".smi"
    state.mkdir(mode=0o700)  # by a umask of 077
    own_home(state / "demo")
    done = _run(Unprivileged(state / "demo", readable=[closed]), "import os; print(sorted(os.listdir('../..')))")
    assert done.stdout == "['.smi', 'secret']\n", done.stderr


def test_a_folder_that_the_account_may_not_write_in_is_named(closed: Path) -> None:
    own_home(closed / "home")
    done = _run(Unprivileged(closed / "home", writable=[Path("/usr/files")]), "")
    assert done.returncode == REFUSED
    assert done.stderr.startswith("user smi may not write in /usr: ")
    assert len(done.stderr.splitlines()) == 1


def test_where_no_view_can_be_given_the_closed_folder_is_named_with_what_to_do(closed: Path) -> None:
    own_home(closed / "home")
    run_as = Unprivileged(closed / "home")

    def without_the_right_to_mount() -> None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None)
        assert libc.capget(header, sets) == 0
        for word in (0, 1):  # effective and permitted
            sets[word] &= ~(1 << 21)  # CAP_SYS_ADMIN, as in a plain container
        assert libc.capset(header, sets) == 0

    def work() -> str:
        run_as.enter()
        return "entered"

    said = forked(work, without_the_right_to_mount)
    assert said.startswith("user smi may not enter /")
    assert "run smi as an ordinary user" in said
    assert len(said.splitlines()) == 1


def test_what_root_writes_in_a_home_is_its_accounts_and_no_link_leads_root_elsewhere(closed: Path) -> None:
    home = closed / "home"
    own_home(home)
    (home / "link").symlink_to(closed / "secret")
    with as_owner_of(home / "not" / "yet"):
        (home / "not" / "yet").mkdir(parents=True)
        (home / "file").write_text("x")
        assert (home / "link").read_text() == "of root's", "what root may read it still reads"
        assert outcome(lambda: (home / "link").write_text("x")) == "PermissionError"
        assert outcome(lambda: (closed / "other").write_text("x")) == "PermissionError"
    (home / "link").unlink()
    assert {path.owner() for path in home.rglob("*")} == {"smi"}
    (closed / "other").write_text("x")
    assert (closed / "other").owner() == "root"
