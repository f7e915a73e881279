"""Run once before the daemon starts: Dagster's and the broker's tables exist, and no run of an earlier life is still
called running.

Such a run would stay STARTED until its longest run time; its upscale jobs come back through their leases anyway.
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
    """Fails left-over runs and empties the broker's queues, whose messages name those runs."""
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
            instance.report_run_failed(run, "Left over from an earlier start; its rows are leased again.")
    # Done here by one process: workers that start together fail when they create the same tables at once.
    with app.connection_for_write() as broker:
        for name in (FULFILMENT_QUEUE, PRIORITY_QUEUE, REPORTS_QUEUE):
            queue = broker.SimpleQueue(name)
            queue.clear()
            queue.close()
    app.backend.ResultSession().close()


if __name__ == "__main__":
    main()
