"""One child process: started with default signals, restarted with backoff, stopped with everything it started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from smi_pipeline.privileges.accounts import as_owner_of
from smi_pipeline.privileges.linux import end_with_parent
from smi_pipeline.privileges.processes import Unprivileged

LONGEST_PAUSE_SECONDS = 30.0

END_SECONDS = 6.0
"""How long a process that is started again may take to end: one that hangs would stay as it is for ever."""


class Child:
    """A supervised process in a process group of its own, so that Ctrl-C reaches the supervisor alone."""

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], log_file: Path, run_as: Unprivileged
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._argv = list(argv)
        self._environment = run_as.environment(environment)
        self._run_as = run_as
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_at = 0.0
        self._restart_at = 0.0
        self._asked_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the first start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process; its output goes to the log file."""
        log: BinaryIO
        with as_owner_of(self.log_file.parent):
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            log = self.log_file.open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command lines
                self._argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._in_child,
            )
        self._started_at, self._asked_at = time.monotonic(), None

    def _in_child(self) -> None:
        # A process started in the background of a non-interactive shell ignores SIGINT, and so would its children.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self._run_as.enter()
        end_with_parent(signal.SIGTERM)  # no child outlives a supervisor that was killed

    def keep_running(self, renewed: Callable[[], Sequence[str] | None] = lambda: None) -> str | None:
        """Restarts the process if it has ended. Returns a line for a person when something happened. `renewed` is asked
        just before, and may return another command line."""
        if self._process is None or self._process.poll() is None:
            if self._asked_at is not None and time.monotonic() - self._asked_at > END_SECONDS:
                self._signal_group(signal.SIGKILL)
            if self._failures and time.monotonic() - self._started_at > 60:
                self._failures = 0
            return None
        if not self._restart_at:
            self._signal_group(signal.SIGKILL)  # what it left behind would work on beside the new one
            if self._asked_at is not None:
                self._restart_at = time.monotonic()
                return None
            pause = min(LONGEST_PAUSE_SECONDS, 0.5 * 2**self._failures)
            self._failures += 1
            self._restart_at = time.monotonic() + pause
            return (
                f"{self.name} ended with {self._process.returncode}; it is started again in {pause:g} s "
                f"(see {self.log_file})"
            )
        if time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self._argv = list(renewed() or self._argv)
            self.start()
        return None

    def start_again(self) -> None:
        """Ends the process, so that `keep_running` starts it at once, or after `END_SECONDS` if it does not end."""
        self._asked_at = time.monotonic()
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM to the process; what it has started is its own to stop (a worker finishes its runs)."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def ensure_stopped(self, deadline: float) -> None:
        """Waits until `deadline` (monotonic seconds), then kills the whole group."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
