"""A SQLAlchemy engine plugin that gives Dagster's storage one small connection pool per process.

dagster-postgres asks for no pool at all, so that each event opens a connection. `?plugin=smi_pool` in its URL puts a
pool there instead, through SQLAlchemy's public hook; Dagster itself stays as it is.

The pool is shared: Dagster makes a new instance, with engines of its own, for every sensor tick and every run, and
never disposes of them. With a pool each, their connections stay open until the garbage is collected, 90 of one code
server within a minute, and the server runs out of them.
"""

import os
from typing import Any

from sqlalchemy import URL, CreateEnginePlugin, Engine
from sqlalchemy.pool import QueuePool

_first: dict[tuple[object, ...], Engine] = {}
"""The engine whose pool the later ones share, by process (a fork must not share sockets), URL and arguments."""


class PoolPlugin(CreateEnginePlugin):
    """Registered as `smi_pool` in the `sqlalchemy.plugins` entry points."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        kwargs["poolclass"] = QueuePool
        kwargs.setdefault("pool_size", 4)
        kwargs.setdefault("max_overflow", 20)
        # after a restart of the server the pool holds dead connections: without the ping the next launches fail
        kwargs["pool_pre_ping"] = True
        self._arguments = tuple(sorted((name, repr(value)) for name, value in kwargs.items()))

    def update_url(self, url: URL) -> URL:
        """The URL as it is: SQLAlchemy itself removes `plugin` from the query."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Gives the engine the pool of the first one, and its dialect, which learns from the pool's first connection
        what server this is."""
        first = _first.setdefault((os.getpid(), engine.url, self._arguments), engine)
        engine.pool, engine.dialect = first.pool, first.dialect
