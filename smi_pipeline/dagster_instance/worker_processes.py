"""The warm workers of one host: import the code locations once, then fork one Celery worker for each place in a queue.

`python -m smi_pipeline.dagster_instance.worker_processes --preload MODULE,… fulfilment=2 priority=1 reports=1`

A worker is one process without Celery's pool. With PostgreSQL as broker the children of such a pool share a pipe and
the lock on it; if one is killed while it waits for work, the others wait for that lock for ever, beside a parent that
lives. Here they share nothing. A worker that ends is forked again; the task of one that was killed is marked as failed,
so that Dagster ends the run.
"""

import argparse
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from ctypes import c_char
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray

from billiard.exceptions import WorkerLostError
from celery.signals import task_postrun, task_prerun

from smi_pipeline.dagster_instance.worker import app
from smi_pipeline.dagster_instance.worker_heartbeat import start_heartbeats
from smi_pipeline.failpoints import PROCESS_VARIABLE
from smi_pipeline.privileges.linux import end_with_parent, name_process

log = logging.getLogger("smi_pipeline")

PAUSE_SECONDS = 0.5
"""Before a worker that has ended is forked again: one that cannot start must not take a whole core."""

_FORK = multiprocessing.get_context("fork")
_STOP = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (*_STOP, signal.SIGCHLD)
_OPTIONS = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")


class WorkerProcess:
    """One place in a queue, and the process that holds it now."""

    def __init__(self, queue: str, number: int) -> None:
        self.name = f"{queue}-{number}"
        self._queue = queue
        self._task = RawArray(c_char, 64)  # id of the task in progress, for the process that follows a killed one
        self.process = self._fork()

    def _fork(self) -> BaseProcess:
        process = _FORK.Process(target=self._work, args=(os.getpid(),), name=self.name)
        process.start()
        return process

    def replace(self) -> str:
        """Fork the worker again. Return a line that says how the last one ended."""
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.process.close()
        self.process = self._fork()
        return f"worker {self.name} ended with {how}; started again"

    def _work(self, parent: int) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        end_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            return  # it ended before it could be watched
        name_process(f"smi-{self._queue}")
        os.environ[PROCESS_VARIABLE] = f"worker-{self._queue}"
        if lost := self._task.value.decode():
            self._fail(lost)
        task_prerun.connect(self._begins, weak=False)
        task_postrun.connect(self._ends, weak=False)
        start_heartbeats(self._queue)
        app.worker_main(["worker", "-P", "solo", "-Q", self._queue, "-n", f"{self.name}@%h", *_OPTIONS])

    def _fail(self, task_id: str) -> None:
        try:
            app.backend.mark_as_failure(task_id, WorkerLostError("The process was killed."))
        except Exception as error:  # whatever it is, the worker must start; the run ends after its longest time
            log.warning("task %s of a killed worker could not be marked as failed: %s", task_id, error)
        self._task.value = b""

    def _begins(self, task_id: str, **_: object) -> None:
        self._task.value = task_id.encode()

    def _ends(self, **_: object) -> None:
        self._task.value = b""


def run(places: Sequence[tuple[str, int]]) -> None:
    """Keep the workers of `places` (queue, processes) running until SIGTERM or SIGINT, then let them finish."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are waited for: none is missed while a worker is forked
    workers = [WorkerProcess(queue, number) for queue, count in places for number in range(1, count + 1)]
    while signal.sigwait(_SIGNALS) not in _STOP:
        time.sleep(PAUSE_SECONDS)
        for worker in workers:
            if not worker.process.is_alive():
                log.warning(worker.replace())
    while running := [worker.process for worker in workers if worker.process.is_alive()]:
        for process in running:
            process.terminate()  # again and again: Celery misses the signal while it starts
        running[0].join(1)


def main() -> None:
    """Import what runs need, then fork: no run has to import it. Engines and libvips start after the fork."""
    parser = argparse.ArgumentParser(description="Run warm workers.")
    parser.add_argument("--preload", default="", help="modules to import before the workers are forked, by commas")
    parser.add_argument("places", nargs="+", type=_place, metavar="QUEUE=PROCESSES")
    asked = parser.parse_args()
    for module in filter(None, asked.preload.split(",")):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, pages that all workers share
    run(asked.places)


def _place(text: str) -> tuple[str, int]:
    queue, _, count = text.partition("=")
    return queue, int(count)


if __name__ == "__main__":
    main()
