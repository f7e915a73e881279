"""What runs write to their process's output: warnings and errors. Everything is in the event log all the same."""

import logging

from dagster import InitLoggerContext, logger


@logger(None, description="Warnings and errors to standard error")
def quiet_console(init_context: InitLoggerContext) -> logging.Logger:
    """Dagster's own default writes each of a run's events, at a cost that counts with short steps."""
    console = logging.Logger("smi_pipeline.runs", level=logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console.addHandler(handler)
    return console
