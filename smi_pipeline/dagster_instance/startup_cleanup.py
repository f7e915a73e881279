"""Prepare the Dagster instance before the daemon starts: create all tables, and fail the runs of an earlier start.

Such a run would stay STARTED until its maximum runtime; its upscale jobs are leased again in any case.
"""

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from smi_pipeline.core.runs import FULFILMENT_QUEUE, PRIORITY_QUEUE, REPORTS_QUEUE
from smi_pipeline.dagster_instance.worker import app

_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def main() -> None:
    """Fail unfinished runs, and empty the broker's queues, whose messages name those runs."""
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
            instance.report_run_failed(run, "Stopped with its process; later runs take over its upscale jobs.")
    # One process creates the tables: workers that start together fail when they all try.
    with app.connection_for_write() as broker:
        for name in (FULFILMENT_QUEUE, PRIORITY_QUEUE, REPORTS_QUEUE):
            queue = broker.SimpleQueue(name)
            queue.clear()
            queue.close()
    app.backend.ResultSession().close()


if __name__ == "__main__":
    main()
