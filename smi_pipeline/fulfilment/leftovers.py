"""Run once before the daemon starts: Dagster's tables exist, and no run of an earlier life is still called running.

Such a run would stay STARTED until its longest run time; its upscale jobs come back through their leases anyway.
"""

import os

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy import create_engine, inspect, text

_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def main() -> None:
    """Fails left-over runs and empties the broker's table, whose messages name those runs."""
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
            instance.report_run_failed(run, "Left over from an earlier start; its rows are leased again.")
    engine = create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    if inspect(engine).has_table("kombu_message"):
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM kombu_message"))
    engine.dispose()


if __name__ == "__main__":
    main()
