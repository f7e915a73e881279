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
from pathlib import Path
from statistics import median

from dagster import (
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    execute_job,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    reconstructable,
)
from sqlalchemy import create_engine

from smi_pipeline.state.embedded import DAGSTER_DATABASE, EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database

STEPS = 8
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
        _say(f"a new process that runs `{statement}`", _median(lambda code=statement: _python(code)))
    with _postgres() as url:
        for words, arguments in (("without a pool", {"pool_size": 1, "max_overflow": 0}), ("from a pool", {})):
            engine = create_engine(url, **arguments)
            _say(f"a connection {words}", _median(lambda: _connections(engine, keep=words == "from a pool")))
        for words, plugin in (("without a pool", ""), ("with the connection pool", "plugin=smi_pool")):
            separator = "&" if "?" in url else "?"
            with _instance(f"{url}{separator}{plugin}" if plugin else url) as instance:
                _run(instance, in_process)  # the first one imports and connects
                whole = _median(lambda: _run(instance, in_process))
                _say(f"a step in process, {words}", whole / (STEPS + 1))
                if plugin:
                    whole = _median(lambda: _run(instance, multiprocess))
                    _say("a step in a process of its own, two at a time", whole / (STEPS + 1))


def _say(what: str, seconds: float) -> None:
    print(f"{seconds * 1000:9.1f} ms   {what}", flush=True)


def _median(measure: Callable[[], float | None]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        told = measure()
        times.append(time.perf_counter() - started if told is None else told)
    return median(times)


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def _connections(engine, *, keep: bool, count: int = 50) -> float:
    started = time.perf_counter()
    for _ in range(count):
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        if not keep:
            engine.dispose()
    return (time.perf_counter() - started) / count


def _run(instance: DagsterInstance, what) -> None:
    result = execute_job(reconstructable(what), instance=instance)
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
def _instance(url: str) -> Iterator[DagsterInstance]:
    with tempfile.TemporaryDirectory(prefix="smi-bench-") as home:
        Path(home, "dagster.yaml").write_text(
            f'storage: {{postgres: {{postgres_url: "{url}"}}}}\n'
            "python_logs: {python_log_level: ERROR}\ntelemetry: {enabled: false}\n"
        )
        os.environ["DAGSTER_HOME"] = home
        with DagsterInstance.get() as instance:
            yield instance


if __name__ == "__main__":
    main()
