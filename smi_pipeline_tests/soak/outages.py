"""Outages during a soak: PostgreSQL, a full disk, a paused stack. Each ends by itself.

Every outage notes what an operator sees of it: responses of `/health`, log lines, mails to the owner.
"""

import contextlib
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import requests

from smi_pipeline.stack import Stack
from smi_pipeline.state.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from smi_pipeline_tests.soak.runner import Soak

_TELLING = re.compile(r"(?i)error|warning|disk|space|database|unavailable|panic|fatal")
_LINES = 12  # of each log, the most frequent ones

Event = Callable[["Soak"], None]


def postgres_paused(seconds: float) -> Event:
    """Pause all processes of PostgreSQL by SIGSTOP, then continue them."""

    def event(soak: "Soak") -> None:
        server = soak.postgres_pid()
        with _seen(soak, f"PostgreSQL is stopped by SIGSTOP for {seconds:g} s"), _stopped(server):
            time.sleep(seconds)

    return event


def postgres_down(server: EmbeddedPostgres, seconds: float) -> Event:
    """Shut down PostgreSQL, then start it again."""

    def event(soak: "Soak") -> None:
        with _seen(soak, f"PostgreSQL is shut down for {seconds:g} s"):
            server.stop()
            try:
                time.sleep(seconds)
            finally:
                server.start()

    return event


def disk_full(folder: Path, seconds: float) -> Event:
    """Fill the file system of a folder to the last byte, then free it."""

    def event(soak: "Soak") -> None:
        filler = folder / "filler"
        with _seen(soak, f"the disk of {folder.name} is full for {seconds:g} s"):
            ends = time.monotonic() + seconds
            try:
                with filler.open("wb", buffering=0) as file:
                    while time.monotonic() < ends:
                        try:
                            file.write(b"\0" * 65536)
                        except OSError:
                            with contextlib.suppress(OSError):
                                file.write(b"\0" * 512)
                            time.sleep(0.2)  # also takes what others free
            finally:
                filler.unlink()

    return event


def stack_paused(number: int, seconds: float) -> Event:
    """Pause all processes of a stack for longer than a lease lasts, then continue them."""

    def event(soak: "Soak") -> None:
        soak.note(f"all processes of stack {number} are stopped by SIGSTOP for {seconds:g} s")
        soak.paused.add(number)
        try:
            with _stopped(*(child.pid for child in soak.stacks[number].children)):
                time.sleep(seconds)
        finally:
            soak.paused.discard(number)
        soak.note(f"stack {number} continues")

    return event


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small file system at `folder`. Raises subprocess.CalledProcessError unless run as root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _stopped(*roots: int | None) -> Iterator[None]:
    family: list[psutil.Process] = []
    for pid in roots:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            family += [root, *root.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def _seen(soak: "Soak", what: str) -> Iterator[None]:
    """Note start and end of an outage, what was visible in between, and how long the recovery took."""
    stack = soak.stacks[0]
    soak.note(what)
    before = {log: log.stat().st_size for log in (stack.home / "logs").glob("*.log")}
    mails = len(soak.owner_subjects())
    watch = _Health(stack)
    soak.watch = watch.look
    try:
        yield
    finally:
        soak.note(f"the outage is over; responses of /health meanwhile: {dict(watch.answers)}")
    began = time.monotonic()
    while watch.look() != "200" and time.monotonic() < began + 120:
        time.sleep(0.5)
    soak.watch = None
    soak.note(f"/health is 200 again after {time.monotonic() - began:.1f} s")
    for log, size in before.items():
        for line, count in _telling(log, size):
            soak.note(f"  {log.name}: {count} x {line}")
    for subject, count in Counter(soak.owner_subjects()[mails:]).items():
        soak.note(f"  mail to the owner: {count} x {subject}")


class _Health:
    def __init__(self, stack: Stack) -> None:
        self._url = f"{stack.addresses['gateway']}/health"
        self.answers: Counter[str] = Counter()

    def look(self) -> str:
        try:
            answer = requests.get(self._url, timeout=5)
            result = str(answer.status_code)
        except requests.RequestException as error:
            result = type(error).__name__
        self.answers[result] += 1
        return result


def _telling(log: Path, offset: int) -> list[tuple[str, int]]:
    """Return the most frequent error lines since `offset`, with numbers and ids masked."""
    with log.open(errors="replace") as file:
        file.seek(offset)
        lines = Counter(
            re.sub(r"[0-9a-f]{8,}[0-9a-f-]*|\d+", "#", line.strip())[:160] for line in file if _TELLING.search(line)
        )
    return lines.most_common(_LINES)
