"""Connections and transactions. Every SQL statement of the project runs through a `Transaction` made here."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from smi_pipeline.core.errors import LocalError

READ_ONLY = "25006"
"""SQLSTATE read_only_sql_transaction: what a standby answers, after a failover too."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = dict[str, Any]
T = TypeVar("T", bound="DataclassInstance")
_open = threading.local()

_COLUMNS = {
    "attempt_no": "n",
    "fulfilment_round": "round",
    "recorded_at": "learned_at",
    "recorded_from": "learned_from",
    "refund_id": "refund_row",
    "sequence": "serial",
}
"""Fields of records whose columns have another name."""


def transaction_is_open() -> bool:
    """Return whether this thread holds a transaction. No adapter may call an outside service while it does."""
    return getattr(_open, "depth", 0) > 0


class Transaction:
    """One short transaction. Its methods execute SQL with named parameters."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, **parameters: Any) -> list[Row]:
        """Return all rows."""
        return [dict(row) for row in self._connection.execute(text(sql), parameters).mappings()]

    def row(self, sql: str, **parameters: Any) -> Row | None:
        """Return the first row, or None."""
        found = self._connection.execute(text(sql), parameters).mappings().first()
        return dict(found) if found is not None else None

    def one(self, sql: str, **parameters: Any) -> Row:
        """Return the only row. Raise NoResultFound when there is none."""
        return dict(self._connection.execute(text(sql), parameters).mappings().one())

    def value(self, sql: str, **parameters: Any) -> Any:
        """Return the first column of the first row, or None."""
        return self._connection.execute(text(sql), parameters).scalar()

    def run(self, sql: str, **parameters: Any) -> int:
        """Execute the statement and return the number of rows it changed."""
        return self._connection.execute(text(sql), parameters).rowcount

    def changes(self, sql: str, **parameters: Any) -> bool:
        """Execute the statement and return whether it changed a row."""
        return self.run(sql, **parameters) > 0

    def audit(
        self,
        job_id: str | None,
        event: str,
        *,
        actor: str,
        from_status: str | None = None,
        to_status: str | None = None,
        **details: Any,
    ) -> None:
        """Append to the audit trail. Details must hold no address, token or key."""
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
    """A pooled engine on the state's database. Create it after a fork, never before.

    A process that is stopped in the middle of a transaction loses it after `idle_seconds`: it may hold a lock that
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
        """Commit at the end, roll back on any error. Raise LocalError when the database cannot be reached."""
        try:
            with self._engine.begin() as connection:
                _open.depth = getattr(_open, "depth", 0) + 1
                try:
                    yield Transaction(connection)
                finally:
                    _open.depth -= 1
        except (OperationalError, InterfaceError) as error:
            raise LocalError(f"the database did not answer: {_first_line(error)}") from error
        except InternalError as error:
            if getattr(error.orig, "pgcode", None) != READ_ONLY:
                raise
            raise LocalError("the database takes no writes now: is it a standby?") from error
        except PoolTimeout as error:
            raise LocalError("all connections to the database are in use") from error

    def rows(self, sql: str, /, **parameters: Any) -> list[Row]:
        """Execute one statement in a transaction of its own and return all rows, as `Transaction.rows`."""
        with self.transaction() as tx:
            return tx.rows(sql, **parameters)

    def row(self, sql: str, /, **parameters: Any) -> Row | None:
        """Likewise, as `Transaction.row`."""
        with self.transaction() as tx:
            return tx.row(sql, **parameters)

    def one(self, sql: str, /, **parameters: Any) -> Row:
        """Likewise, as `Transaction.one`."""
        with self.transaction() as tx:
            return tx.one(sql, **parameters)

    def value(self, sql: str, /, **parameters: Any) -> Any:
        """Likewise, as `Transaction.value`."""
        with self.transaction() as tx:
            return tx.value(sql, **parameters)

    def run(self, sql: str, /, **parameters: Any) -> int:
        """Likewise, as `Transaction.run`."""
        with self.transaction() as tx:
            return tx.run(sql, **parameters)

    def changes(self, sql: str, /, **parameters: Any) -> bool:
        """Likewise, as `Transaction.changes`."""
        return self.run(sql, **parameters) > 0

    def records(self, record: type[T], sql: str, /, **parameters: Any) -> list[T]:
        """Return all rows of one statement as frozen records."""
        return [as_record(record, row) for row in self.rows(sql, **parameters)]

    def record(self, record: type[T], sql: str, /, **parameters: Any) -> T | None:
        """Return the first row of one statement as a frozen record, or None."""
        row = self.row(sql, **parameters)
        return as_record(record, row) if row else None

    def before_commit(self, call: Callable[[], None]) -> None:
        """Call `call` just before each COMMIT is sent."""
        event.listen(self._engine, "commit", lambda connection: call())

    def now(self) -> datetime:
        """Return the time by the state's clock."""
        now: datetime = self.value("SELECT smi.now()")
        return now

    def dispose(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()


class Aggregate:
    """One part of the state, on its database."""

    def __init__(self, database: Database) -> None:
        self._database = database


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else "no connection"


def in_(values: Iterable[StrEnum]) -> str:
    """Return members of a vocabulary as the right side of SQL's IN."""
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


def as_record(record: type[T], row: Mapping[str, Any]) -> T:
    """Build a frozen record from a row that holds at least its columns; vocabularies become enum members."""
    values = {}
    for name, column, enum in _fields(record):
        value = row[column]
        values[name] = enum(value) if enum and value is not None else value
    return record(**values)


@lru_cache
def _fields(record: type[T]) -> list[tuple[str, str, type[StrEnum] | None]]:
    hints = get_type_hints(record)
    found = []
    for field in fields(record):
        types = [hint for hint in (hints[field.name], *get_args(hints[field.name])) if isinstance(hint, type)]
        enum = next((hint for hint in types if issubclass(hint, StrEnum)), None)
        found.append((field.name, _COLUMNS.get(field.name, field.name), enum))
    return found
