"""Connections and transactions. Every SQL statement of the project runs through a `Transaction` made here."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from smi_pipeline.core.errors import TransientError

READ_ONLY = "25006"
"""SQLSTATE read_only_sql_transaction: what a standby answers, after a failover too."""

T = TypeVar("T")
_open = threading.local()


def transaction_is_open() -> bool:
    """Whether this thread holds a transaction now. No adapter may call the outside while it does (design section 4)."""
    return getattr(_open, "depth", 0) > 0


class Transaction:
    """One short transaction: `row`, `rows` and `run` execute SQL with named parameters."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(text(sql), parameters).mappings()]

    def row(self, sql: str, **parameters: Any) -> dict[str, Any] | None:
        found = self._connection.execute(text(sql), parameters).mappings().first()
        return dict(found) if found is not None else None

    def one(self, sql: str, **parameters: Any) -> dict[str, Any]:
        """As `row`, where the row is known to exist. Raises NoResultFound."""
        return dict(self._connection.execute(text(sql), parameters).mappings().one())

    def value(self, sql: str, **parameters: Any) -> Any:
        return self._connection.execute(text(sql), parameters).scalar()

    def run(self, sql: str, **parameters: Any) -> int:
        """Executes and returns the number of rows that were changed."""
        return self._connection.execute(text(sql), parameters).rowcount

    def event(
        self,
        job_id: str | None,
        event: str,
        *,
        actor: str,
        from_status: str | None = None,
        to_status: str | None = None,
        **details: Any,
    ) -> None:
        """Appends to the audit trail. Details must hold no address, token or key."""
        self.run(
            """INSERT INTO smi.job_events (job_id, event, actor, from_status, to_status, details)
               VALUES (:job_id, :event, :actor, :from_status, :to_status, CAST(:details AS jsonb))""",
            job_id=job_id,
            event=event,
            actor=actor,
            from_status=from_status,
            to_status=to_status,
            details=json.dumps(details, default=str),
        )


class Database:
    """A pooled engine on the state's database. Created after a fork, never before.

    A process that is stopped in the middle of a transaction loses it after `idle_seconds`: it may hold the lock that
    every process needs, and leases do not help against that.
    """

    def __init__(self, url: str, *, pool_size: int = 5, idle_seconds: float = 20) -> None:
        self.url = url
        self._engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            hide_parameters=True,  # they hold addresses, and errors are logged
            connect_args={
                "connect_timeout": 5,
                "application_name": "smi_pipeline",
                "options": "-c synchronous_commit=on -c statement_timeout=20000 -c timezone=UTC "
                f"-c idle_in_transaction_session_timeout={int(idle_seconds * 1000)}",
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commits at the end, rolls back on any error. Raises TransientError when the database cannot be reached."""
        try:
            with self._engine.begin() as connection:
                _open.depth = getattr(_open, "depth", 0) + 1
                try:
                    yield Transaction(connection)
                finally:
                    _open.depth -= 1
        except (OperationalError, InterfaceError) as error:
            raise TransientError(f"the database did not answer: {_first_line(error)}", counts=False) from error
        except InternalError as error:
            if getattr(error.orig, "pgcode", None) != READ_ONLY:
                raise
            raise TransientError("the database takes no writes now: is it a standby?", counts=False) from error
        except PoolTimeout as error:
            raise TransientError("all connections to the database are in use", counts=False) from error

    def before_commit(self, call: Callable[[], None]) -> None:
        """Has `call` called just before each COMMIT is sent."""
        event.listen(self._engine, "commit", lambda connection: call())

    def now(self) -> datetime:
        """The state's clock."""
        with self.transaction() as tx:
            return tx.value("SELECT smi.now()")

    def dispose(self) -> None:
        """Closes the pooled connections."""
        self._engine.dispose()


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else "no connection"


def as_record(record: type[T], row: Mapping[str, Any]) -> T:
    """Builds a frozen record from the columns of a row that the record has fields for."""
    return record(**{name: row[name] for name in record.__dataclass_fields__ if name in row})  # type: ignore[attr-defined]
