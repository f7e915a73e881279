"""Logs of the gateway: one JSON object per line, each with an `action`.

No line holds an address, a token or a key: paths are logged as their patterns.
"""

import logging
import sys

import structlog


def configure(level: int = logging.INFO) -> None:
    """Write structlog's and the standard library's logs to standard error as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_action,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(default=str)],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _with_action(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.setdefault("action", "log")
    return event
