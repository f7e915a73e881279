"""Who uses the embedded server of a data folder: the last one stops it, and who died does not count."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from smi_pipeline.privileges.accounts import as_owner_of


class ServerUsers:
    """A list in the data folder, a line each: process id, the time at which it started, and a name for this user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "smi.users"
        self._name = uuid.uuid4().hex

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else starts, joins or stops the server meanwhile."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child on its way to exec may hold a copy
            os.close(descriptor)

    def add(self) -> None:
        """Register this process."""
        self._write([*self._others(), f"{os.getpid()} {process_started(os.getpid())} {self._name}"])

    def remove(self) -> bool:
        """Remove this process. Return whether others remain."""
        others = self._others()
        self._write(others)
        return bool(others)

    def _others(self) -> list[str]:
        """Return the entries of the other live processes."""
        try:
            lines = [line.split() for line in self._file.read_text(errors="replace").splitlines()]
        except FileNotFoundError:
            return []
        known = [line for line in lines if len(line) == 3 and line[0].isdecimal()]
        alive = [line for line in known if process_started(int(line[0])) == line[1]]
        return [" ".join(line) for line in alive if (line[0], line[2]) != (str(os.getpid()), self._name)]

    def _write(self, lines: list[str]) -> None:
        with as_owner_of(self._folder):
            self._file.write_text("".join(f"{line}\n" for line in lines))


def process_started(pid: int) -> str | None:
    """When a living process started, in ticks of the kernel; None: there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None
    return None if state == "Z" else fields[18]
