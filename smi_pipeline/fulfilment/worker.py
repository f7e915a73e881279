"""The Celery app of the warm workers: `celery -A smi_pipeline.fulfilment.worker worker -Q fulfilment`.

dagster-celery's own app, with the broker of `SMI_BROKER_URL`, and both code locations imported before it forks.
"""

import importlib
import os

from celery import signals
from dagster_celery.app import app, execute_job, resume_job
from kombu.transport.sqlalchemy import Transport

from smi_pipeline.fulfilment.jobs import ERRANDS_QUEUE, FULFILMENT_QUEUE

REPORTS_QUEUE = "reports"

# Seconds between looks into the broker's table. As a transport option it would go to create_engine and fail there.
Transport.polling_interval = 0.2

app.conf.update(
    broker_url=os.environ.get("SMI_BROKER_URL", app.conf.broker_url),
    result_backend=os.environ.get("SMI_CELERY_BACKEND_URL", app.conf.result_backend),
    broker_transport_options={},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    task_queues=None,
    task_create_missing_queues=True,
    result_expires=3600,
)

__all__ = ["ERRANDS_QUEUE", "FULFILMENT_QUEUE", "REPORTS_QUEUE", "app", "execute_job", "resume_job"]


@signals.worker_init.connect
def _import_locations(**_: object) -> None:
    # Imported before the fork, so that no run pays for it; engines and libvips start after it.
    for module in ("smi_pipeline.fulfilment.definitions", "smi_pipeline.reporting.definitions"):
        importlib.import_module(module)
