"""The Celery app of the warm workers: that of dagster-celery, with the broker of `SMI_BROKER_URL`."""

import os
from typing import Any

from dagster_celery.app import app, execute_job, resume_job
from kombu.transport.sqlalchemy import Transport

# Seconds between polls of the broker's table; create_engine would reject it as a transport option.
Transport.polling_interval = 0.2

REDIS_SECONDS = 15.0
"""How long Redis may take to answer. Without a limit a worker waits for ever for one that hangs, and its heartbeats,
which only a lost connection ends, say that it takes work."""


def transport_options(broker_url: str) -> dict[str, Any]:
    """Return the options of Celery's connections to a broker."""
    if not broker_url.startswith(("redis:", "rediss:")):
        return {}
    return {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS, "socket_keepalive": True}


_BROKER_URL = os.environ.get("SMI_BROKER_URL", app.conf.broker_url)

app.conf.update(
    broker_url=_BROKER_URL,
    result_backend=os.environ.get("SMI_CELERY_BACKEND_URL", app.conf.result_backend),
    broker_transport_options=transport_options(_BROKER_URL or ""),
    broker_connection_retry_on_startup=True,
    broker_heartbeat=0,  # a run keeps its process from sending any; TCP tells when RabbitMQ is gone
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    task_queues=None,
    task_create_missing_queues=True,
    result_expires=3600,
)

__all__ = ["app", "execute_job", "resume_job", "transport_options"]
