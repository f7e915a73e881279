"""The warm workers as `smi up` starts them, with PostgreSQL as their broker."""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from celery.result import AsyncResult
from celery.signals import worker_ready
from kombu import Connection
from redis import Redis
from sqlalchemy.orm import close_all_sessions
from sqlalchemy.pool import NullPool

from smi_pipeline.core.runs import workers_of
from smi_pipeline.dagster_instance import worker, worker_heartbeat
from smi_pipeline.stack.process_plan import dagster_environment, plan
from smi_pipeline.state.database import Database
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.heartbeat import ProcessHeartbeats
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline_tests import servers

# kombu 5.7 declares its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

ANSWER_SECONDS = 30
WORKERS = 2
TASKS = f"{__package__}.tasks"


class Workers:
    """The processes of the plan that take runs, and what they are asked to do."""

    def __init__(self, url: str, folder: Path) -> None:
        own = dagster_environment(url, url, folder, broker_url=None)
        planned = plan({**os.environ, **own}, folder, dagster_port=1, gateway_port=2, workers=WORKERS)
        self.client = Celery("test", broker=own["SMI_BROKER_URL"], backend=own["SMI_CELERY_BACKEND_URL"])
        self.client.conf.broker_transport_options = {"poolclass": NullPool}
        with self.client.connection_for_write() as broker:  # makes the tables, as the clean-up before the start does
            broker.SimpleQueue("fulfilment").close()
        self.client.backend.ResultSession().close()
        command = planned.commands["workers"]
        command[command.index("--preload") + 1] = TASKS  # in place of the code locations, which take seconds
        self.url = url
        self._parent = subprocess.Popen(command, env=planned.environment, stderr=subprocess.PIPE, text=True)

    def processes(self, queue: str) -> list[psutil.Process]:
        """Those that take work of `queue`."""
        return [child for child in psutil.Process(self._parent.pid).children() if child.name() == f"smi-{queue}"]

    def send(self, task: str, *args: object, queue: str = "fulfilment") -> AsyncResult:
        """Ask the workers of `queue` to run a task of `tasks.py`."""
        return self.client.send_task(f"{TASKS}.{task}", args=args, queue=queue)

    def run(self, task: str, *args: object, queue: str = "fulfilment") -> Any:
        """Return what a task answers."""
        return self.send(task, *args, queue=queue).get(timeout=ANSWER_SECONDS)

    def kill(self) -> None:
        """SIGKILL to the process that forks the others."""
        self._parent.kill()

    def stop(self) -> tuple[int, str]:
        """Stop them as the supervisor does. Return the exit code and what was printed."""
        self._parent.terminate()
        try:
            printed = self._parent.communicate(timeout=10)[1]
            return self._parent.returncode, printed
        finally:
            self._parent.kill()
            self._parent.wait()


def wait_until(what: str, true: Callable[[], bool]) -> None:
    ends = time.monotonic() + ANSWER_SECONDS
    while not true():
        assert time.monotonic() < ends, f"waited for {what}"
        time.sleep(0.05)


@contextmanager
def running_workers(postgres: EmbeddedPostgres, folder: Path) -> Iterator[Workers]:
    url = postgres.url(f"broker_{uuid.uuid4().hex[:12]}")
    ensure_database(url)
    migrate(url)
    running = Workers(url, folder)
    try:
        yield running
    finally:
        running.stop()
        close_all_sessions()  # kombu keeps one in each channel, and the database is about to go


@pytest.fixture(scope="module")
def workers(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Workers that are killed, and go on."""
    with running_workers(postgres, tmp_path_factory.mktemp("workers")) as running:
        yield running


@pytest.fixture
def own_workers(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Workers]:
    """Workers that the test stops."""
    with running_workers(postgres, tmp_path) as running:
        yield running


def test_a_worker_that_is_killed_while_it_waits_for_work_holds_up_no_other(workers: Workers) -> None:
    workers.run("process_id")
    for _ in range(3):
        for process in workers.processes("fulfilment"):
            process.kill()
            assert workers.run("process_id") != process.pid


def test_the_task_of_a_worker_that_was_killed_is_failed_and_the_next_one_is_run(workers: Workers) -> None:
    started = workers.send("sleep", 60, queue="reports")
    wait_until("the task to begin", lambda: started.state == "STARTED")
    (process,) = workers.processes("reports")
    process.kill()
    wait_until("the task to be failed", lambda: started.state == "FAILURE")
    assert "killed" in str(started.result)
    assert workers.run("process_id", queue="reports") != process.pid


def test_each_queue_has_processes_of_its_own_and_a_stop_lets_them_finish(own_workers: Workers) -> None:
    own_workers.run("process_id")
    assert [len(own_workers.processes(queue)) for queue in ("fulfilment", "priority", "reports")] == [WORKERS, 1, 1]
    (reports,) = own_workers.processes("reports")
    reports.kill()
    last = own_workers.send("sleep", 2, queue="priority")
    wait_until("the task to begin", lambda: last.state == "STARTED")
    code, printed = own_workers.stop()
    assert (code, last.state) == (0, "SUCCESS"), printed
    assert "worker reports-1 ended with SIGKILL; started again" in printed


def test_no_worker_outlives_the_process_that_forked_it(own_workers: Workers) -> None:
    own_workers.run("process_id")
    processes = own_workers.processes("fulfilment") + own_workers.processes("priority")
    own_workers.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_the_workers_of_each_queue_give_heartbeats(own_workers: Workers) -> None:
    database = Database(own_workers.url, pool_size=1)
    heartbeats = ProcessHeartbeats(database)
    pools = {workers_of(queue) for queue in ("fulfilment", "priority", "reports")}
    wait_until("the first heartbeats", lambda: set(heartbeats.all()) == pools)
    database.dispose()


class Consumer:
    """What Celery says has become ready."""

    connection: str | None = None


def test_a_worker_without_its_broker_gives_no_heartbeat(state_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMI_DATABASE_URL", state_url)
    monkeypatch.setattr(worker_heartbeat, "HEARTBEAT_SECONDS", 0.01)
    database = Database(state_url, pool_size=1)
    heartbeats = ProcessHeartbeats(database)
    consumer = Consumer()
    worker_heartbeat.start_heartbeats("fulfilment")
    worker_ready.send(sender=consumer)
    time.sleep(0.3)
    assert heartbeats.all() == {}
    consumer.connection = "connected again"
    wait_until("a heartbeat", lambda: set(heartbeats.all()) == {"workers-fulfilment"})
    worker_ready.send(sender=consumer)
    assert [thread.name for thread in threading.enumerate()].count("heartbeat") == 1
    monkeypatch.setattr(worker_heartbeat, "HEARTBEAT_SECONDS", 1e6)
    database.dispose()


def test_a_redis_that_hangs_is_a_lost_broker_and_no_endless_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REDIS_SECONDS", 0.5)
    with servers.redis(tmp_path) as url, Redis.from_url(url) as client:
        process = psutil.Process(client.info()["process_id"])
        with Connection(url, transport_options=worker.transport_options(url)) as connection:
            queue = connection.SimpleQueue("fulfilment")
            queue.put("before")
            process.suspend()
            try:
                with pytest.raises(connection.connection_errors):
                    queue.put("meanwhile")
            finally:
                process.resume()
            queue.put("afterwards")
            assert queue.get(timeout=5).payload == "before"
    assert worker.transport_options("sqla+postgresql+psycopg2://host/db") == {}, "create_engine would reject them"
