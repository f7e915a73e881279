"""Tasks that the workers of a test are asked to run."""

import os
import time

from smi_pipeline.dagster_instance.worker import app


@app.task(name=f"{__name__}.process_id")
def process_id() -> int:
    """Return the id of the process that runs this."""
    return os.getpid()


@app.task(name=f"{__name__}.sleep", track_started=True)
def sleep(seconds: float) -> None:
    """Be at work for so long."""
    time.sleep(seconds)
