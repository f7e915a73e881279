"""The Celery app of the warm workers: dagster-celery's own, with the broker of `SMI_BROKER_URL`.

`celery -A smi_pipeline.dagster_instance.worker worker -Q fulfilment -I MODULE,…`: the modules named by `-I`, the code
locations, are imported before the workers fork, so that no run pays for it. Engines and libvips start after the fork.
"""

import os

from dagster_celery.app import app, execute_job, resume_job
from kombu.transport.sqlalchemy import Transport

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

__all__ = ["app", "execute_job", "resume_job"]
