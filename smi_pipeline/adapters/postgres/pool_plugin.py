"""A SQLAlchemy engine plugin that gives Dagster's storage a small connection pool.

dagster-postgres asks for no pool at all, so that each event opens a connection. `?plugin=smi_pool` in its URL puts a
pool there instead, through SQLAlchemy's public hook; Dagster itself stays as it is.
"""

from typing import Any

from sqlalchemy import URL, CreateEnginePlugin
from sqlalchemy.pool import QueuePool


class PoolPlugin(CreateEnginePlugin):
    """Registered as `smi_pool` in the `sqlalchemy.plugins` entry points."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        kwargs["poolclass"] = QueuePool
        kwargs.setdefault("pool_size", 2)
        kwargs.setdefault("max_overflow", 20)
        # after a restart of the server the pool holds dead connections: without the ping the next launches fail
        kwargs["pool_pre_ping"] = True

    def update_url(self, url: URL) -> URL:
        """The URL as it is: SQLAlchemy itself removes `plugin` from the query."""
        return url
