"""A SQLAlchemy engine plugin that gives Dagster's storage one small connection pool per process.

dagster-postgres disables pooling, so that each event opens a connection. `?plugin=smi_pool` in its URL adds a pool
through SQLAlchemy's public hook, without a change to Dagster.

All engines of a process share the pool: Dagster makes an instance, with its own engines, for every sensor tick and
every run, and never disposes of them. With a pool per engine, connections would stay open until they are garbage
collected, 90 of one code server within a minute, until PostgreSQL has none left.
"""

import os
from typing import Any

from sqlalchemy import URL, CreateEnginePlugin, Engine
from sqlalchemy.pool import QueuePool

_first: dict[tuple[object, ...], Engine] = {}
"""The engine whose pool later ones share, by process (forks must not share sockets), URL and arguments."""


class PoolPlugin(CreateEnginePlugin):
    """Registered as `smi_pool` in the `sqlalchemy.plugins` entry points."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        kwargs["poolclass"] = QueuePool
        kwargs.setdefault("pool_size", 4)
        kwargs.setdefault("max_overflow", 20)
        # after a restart of PostgreSQL the pooled connections are dead; without the ping, the next launches fail
        kwargs["pool_pre_ping"] = True
        self._arguments = tuple(sorted((name, repr(value)) for name, value in kwargs.items()))

    def update_url(self, url: URL) -> URL:
        """Return the URL unchanged: SQLAlchemy itself removes `plugin` from the query."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Give the engine the pool of the first one, and its dialect, which was initialized by that pool's first
        connection."""
        first = _first.setdefault((os.getpid(), engine.url, self._arguments), engine)
        engine.pool, engine.dialect = first.pool, first.dialect
