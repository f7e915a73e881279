"""The memory of a stand-in: what it was asked to do and what it did, on disk.

Belongs here: storing JSON records by kind and key, in the order they were first written. Does not belong here: what
the records mean.

Every record lives in a dict in memory (all reads) and in one SQLite table (all writes), so that a stand-in that is
killed goes on where it was. A write costs some 20 microseconds; 100,000 records are fine. SQLite runs without fsync: a
killed process loses nothing, only a power cut could, and a sandbox need not survive that.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Ledger:
    """Records of one stand-in. Safe to use from several threads.

    A record handed out is the stored one: change it through :meth:`update` or :meth:`put`, or the change is not kept.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, seq INTEGER, body TEXT, PRIMARY KEY (kind, key))"
        )
        self._records: dict[str, dict[str, Record]] = {}
        self._seq = 0
        for kind, key, seq, body in self._database.execute("SELECT kind, key, seq, body FROM records ORDER BY seq"):
            self._records.setdefault(kind, {})[key] = json.loads(body)
            self._seq = max(self._seq, seq)

    def put(self, kind: str, key: str, record: Record) -> Record:
        """Store a record; one of the same kind and key is replaced and keeps its place in the order."""
        with self._lock:
            self._records.setdefault(kind, {})[key] = record
            self._seq += 1
            self._database.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
                (kind, key, self._seq, json.dumps(record)),
            )
            return record

    def append(self, kind: str, record: Record) -> str:
        """Store a record that has no key of its own; returns the key it got."""
        with self._lock:
            key = f"{self._seq + 1:09d}"
            self.put(kind, key, record)
            return key

    def update(self, kind: str, key: str, **changes: Any) -> Record:
        """Change fields of a record. Raises KeyError if there is none."""
        with self._lock:
            record = self._records[kind][key]
            record.update(changes)
            return self.put(kind, key, record)

    def delete(self, kind: str, key: str) -> None:
        """Forget a record; one that does not exist is no error."""
        with self._lock:
            if self._records.get(kind, {}).pop(key, None) is not None:
                self._database.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))

    def get(self, kind: str, key: str) -> Record | None:
        """The record, or None."""
        return self._records.get(kind, {}).get(key)

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, oldest first."""
        with self._lock:
            return list(self._records.get(kind, {}).values())

    def items(self, kind: str) -> list[tuple[str, Record]]:
        """All keys and records of a kind, oldest first."""
        with self._lock:
            return list(self._records.get(kind, {}).items())

    def newest(self, kind: str) -> Iterator[Record]:
        """Records of a kind, newest first; nothing may be added or deleted while it is read."""
        return reversed(self._records.get(kind, {}).values())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside reach the disk together, so that a kill never leaves half of a request behind.

        There is no rollback: a stand-in checks first and writes then.
        """
        with self._lock:
            outermost = not self._database.in_transaction
            if outermost:
                self._database.execute("BEGIN")
            try:
                yield
            finally:
                if outermost:
                    self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file. Records stay readable."""
        with self._lock:
            self._database.close()
