"""Heartbeats of a Celery worker, which the gateway watches: a process that takes work from its queue is there."""

import logging
import threading
from typing import Any

from celery.signals import worker_ready

from smi_pipeline.core.runs import workers_of
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline.state.heartbeat import ProcessHeartbeats

log = logging.getLogger("smi_pipeline")

HEARTBEAT_SECONDS = 15.0


def start_heartbeats(queue: str) -> None:
    """Start the heartbeats as soon as the worker of this process waits for work. Call it after the fork."""

    def begin(sender: Any, **_: object) -> None:
        worker_ready.disconnect(begin)  # it is sent again after each loss of the broker
        threading.Thread(target=_record_heartbeats, args=(queue, sender), name="heartbeat", daemon=True).start()

    worker_ready.connect(begin, weak=False)


def _record_heartbeats(queue: str, consumer: Any) -> None:
    """Record heartbeats, also during a long run, except while the worker has lost its broker and takes no work."""
    settings, pause = Settings(), threading.Event()
    url = settings.smi_database_url
    if url is None:  # an embedded server; imported here because wiring imports every adapter
        from smi_pipeline.wiring import state_url

        url = state_url(settings)
    heartbeats, failed = ProcessHeartbeats(Database(url, pool_size=1)), False
    while True:
        if consumer.connection is not None:
            try:
                heartbeats.record(workers_of(queue))
                failed = False
            except Exception as error:  # whatever it is, the worker goes on
                if not failed:
                    log.warning("the heartbeat of a worker could not be recorded: %s", type(error).__name__)
                failed = True
        pause.wait(HEARTBEAT_SECONDS)
