"""Print what Dagster costs per process, per step and per connection: the figures that led to the run design.

    .venv/bin/python -m benchmarks.dagster_costs

Everything runs on a PostgreSQL of its own in a temporary folder. The first column is the time by the clock, which
depends on what else the machine does; the second is CPU time of this process and its children, which hardly does.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from dagster import (
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    JobDefinition,
    execute_job,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    reconstructable,
)
from sqlalchemy import URL, create_engine, make_url

from smi_pipeline.state.embedded import DAGSTER_DATABASE, EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database

STEPS = 4
CONNECTIONS = 50
REPEATS = 3


@op(out=DynamicOut(str))
def fan_out() -> Iterator[DynamicOutput[str]]:
    """Yield the keys of the mapped steps."""
    for number in range(STEPS):
        yield DynamicOutput(str(number), mapping_key=str(number))


@op
def nothing(key: str) -> str:
    """Do nothing: what is left is Dagster's own cost."""
    return key


@job(executor_def=in_process_executor)
def in_process() -> None:
    """Run every step in the process of the run."""
    fan_out().map(nothing)


@job(executor_def=multiprocess_executor.configured({"max_concurrent": 2}))
def multiprocess() -> None:
    """Start a process for every step, Dagster's default."""
    fan_out().map(nothing)


def main() -> None:
    """Print one line per measurement, each the median of three."""
    sys.stdout.write("    clock        CPU\n")
    for statement in ("import dagster", *(f"import smi_pipeline.{x}.definitions" for x in ("fulfilment", "reporting"))):
        _say(f"a new process that runs `{statement}`", partial(_python, statement))
    with _postgres() as url:
        _say("a connection without a pool", partial(_connections, url, keep=False), CONNECTIONS)
        _say("a connection from a pool", partial(_connections, url, keep=True), CONNECTIONS)
        with _instance(url) as instance:
            _run(instance, in_process)  # the first run imports and connects
            _say("a step in process, without a pool", partial(_run, instance, in_process), STEPS + 1)
        with _instance(make_url(url).update_query_pairs([("plugin", "smi_pool")])) as instance:
            _run(instance, in_process)
            _say("a step in process, with the connection pool", partial(_run, instance, in_process), STEPS + 1)
            _say("a step in a process of its own, two at a time", partial(_run, instance, multiprocess), STEPS + 1)


def _say(what: str, measure: Callable[[], None], parts: int = 1) -> None:
    """Print how long `measure` takes, divided by the number of equal parts that it consists of."""
    clock, cpu = [], []
    for _ in range(REPEATS):
        started, used = time.perf_counter(), _cpu_seconds()
        measure()
        clock.append(time.perf_counter() - started)
        cpu.append(_cpu_seconds() - used)
    sys.stdout.write(f"{median(clock) / parts * 1000:6.0f} ms  {median(cpu) / parts * 1000:6.0f} ms  {what}\n")
    sys.stdout.flush()


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)  # noqa: S603 - our own interpreter and code


def _connections(url: str, *, keep: bool) -> None:
    engine = create_engine(url)
    for _ in range(CONNECTIONS):
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        if not keep:
            engine.dispose()
    engine.dispose()


def _run(instance: DagsterInstance, what: JobDefinition) -> None:
    with execute_job(reconstructable(what), instance=instance) as result:
        if not result.success:
            raise RuntimeError(f"the run {result.run_id} failed")


@contextmanager
def _postgres() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="smi-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        try:
            url = server.url(DAGSTER_DATABASE)
            ensure_database(url)
            yield url
        finally:
            server.stop()


@contextmanager
def _instance(url: str | URL) -> Iterator[DagsterInstance]:
    text = make_url(url).render_as_string(hide_password=False)
    with tempfile.TemporaryDirectory(prefix="smi-bench-") as home:
        Path(home, "dagster.yaml").write_text(
            f'storage: {{postgres: {{postgres_url: "{text}"}}}}\n'
            "python_logs: {python_log_level: ERROR}\ntelemetry: {enabled: false}\n"
        )
        os.environ["DAGSTER_HOME"] = home
        with DagsterInstance.get() as instance:
            yield instance


if __name__ == "__main__":
    main()
