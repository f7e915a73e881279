"""Print what Dagster costs per process, per step and per connection: the figures that led to the run design.

    .venv/bin/python -m benchmarks.dagster_costs

Everything runs on a PostgreSQL of its own in a temporary folder. Absolute times depend on the machine; the ratios
between the lines are what `docs/architecture.md` builds on.
"""

import os
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
    for statement in ("import dagster", *(f"import smi_pipeline.{x}.definitions" for x in ("fulfilment", "reporting"))):
        _say(f"a new process that runs `{statement}`", _median(partial(_python, statement)))
    with _postgres() as url:
        _say("a connection without a pool", _median(partial(_connections, url, keep=False)) / CONNECTIONS)
        _say("a connection from a pool", _median(partial(_connections, url, keep=True)) / CONNECTIONS)
        with _instance(url) as instance:
            _run(instance, in_process)  # the first run imports and connects
            _say("a step in process, without a pool", _seconds_per_step(instance, in_process))
        with _instance(make_url(url).update_query_pairs([("plugin", "smi_pool")])) as instance:
            _run(instance, in_process)
            _say("a step in process, with the connection pool", _seconds_per_step(instance, in_process))
            _say("a step in a process of its own, two at a time", _seconds_per_step(instance, multiprocess))


def _say(what: str, seconds: float) -> None:
    sys.stdout.write(f"{seconds * 1000:9.1f} ms   {what}\n")
    sys.stdout.flush()


def _seconds_per_step(instance: DagsterInstance, what: JobDefinition) -> float:
    return _median(partial(_run, instance, what)) / (STEPS + 1)


def _median(measure: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        measure()
        times.append(time.perf_counter() - started)
    return median(times)


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
