"""Which Dagster job works on which queue, which Celery queue its runs wait in, and the run configuration of a lease."""

from typing import Any

from smi_pipeline.core.models import Queue

BATCH_LIMIT = 25

FULFILMENT_QUEUE = "fulfilment"
PRIORITY_QUEUE = "priority"
REPORTS_QUEUE = "reports"
"""Celery queues: a backlog of upscales must not delay refunds, mails and admin jobs, nor reports any of them."""

DAGSTER_JOB = {
    Queue.SUBMIT: "submit_upscales",
    Queue.FULFIL: "fulfil_upscales",
    Queue.REFUND: "refund_upscales",
    Queue.MAIL: "send_mails",
}
FIRST_OP = {
    Queue.SUBMIT: "paid_jobs_leased",
    Queue.FULFIL: "results_leased",
    Queue.REFUND: "refunds_leased",
    Queue.MAIL: "mails_leased",
}
"""Names of the Dagster job of each queue and of its fan-out op. A test holds them against the definitions."""


def run_config(queue: Queue, lease_id: str) -> dict[str, Any]:
    """Run configuration of the Dagster job of `queue` for one lease."""
    return {"ops": {FIRST_OP[queue]: {"config": {"lease_id": lease_id}}}}


DAEMON = "daemon"
"""The part of the service whose heartbeat is the sensor `alerts`: the daemon, and the code server that it asks."""


_WORKERS = "workers-"


def workers_of(queue: str) -> str:
    """Return the part of the service whose heartbeats are those of the workers of a Celery queue."""
    return _WORKERS + queue


def silence(part: str) -> str:
    """Return what is wrong while a part of the service is silent, in words."""
    if part == DAEMON:
        return "Dagster runs no sensors"
    return f"No worker takes the runs of the queue {part.removeprefix(_WORKERS)}"
