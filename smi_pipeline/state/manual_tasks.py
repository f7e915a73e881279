"""Manual tasks: what no rule may settle automatically."""

from dataclasses import dataclass
from datetime import datetime

from smi_pipeline.core.models import ManualTask
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.state.database import Aggregate, Transaction

RECOVERED = "recovered"
"""Who has closed a task that ended by itself."""


def open_task(
    tx: Transaction, *, kind: str, subject: str, message: str, next_step: str, job_id: str | None = None
) -> bool:
    """Open a task unless the same one is open. Return whether it was opened."""
    return tx.changes(
        """INSERT INTO smi.person_tasks (kind, subject, job_id, message, next_step)
           VALUES (:kind, :subject, :job_id, :message, :next_step)
           ON CONFLICT (kind, subject) WHERE closed_at IS NULL DO NOTHING""",
        kind=kind,
        subject=subject,
        job_id=job_id,
        message=message,
        next_step=next_step,
    )


def close_task(tx: Transaction, *, kind: str, subject: str, actor: str) -> bool:
    """Close the open task of this name. Return False when there is none."""
    return tx.changes(
        """UPDATE smi.person_tasks SET closed_at = smi.now(), acknowledged_by = :actor
           WHERE kind = :kind AND subject = :subject AND closed_at IS NULL""",
        kind=kind,
        subject=subject,
        actor=actor,
    )


def close_tasks_about(tx: Transaction, *, kind: str, prefix: str, actor: str) -> None:
    """Close the open tasks of a kind whose subject begins with `prefix`."""
    tx.run(
        """UPDATE smi.person_tasks SET closed_at = smi.now(), acknowledged_by = :actor
           WHERE kind = :kind AND closed_at IS NULL AND starts_with(subject, :prefix)""",
        kind=kind,
        prefix=prefix,
        actor=actor,
    )


@dataclass(frozen=True, kw_only=True)
class EndedTask:
    """A manual task that ended by itself."""

    task_id: int
    subject: str
    message: str
    alerted_at: datetime | None
    opened_at: datetime
    closed_at: datetime


class ManualTasks(Aggregate):
    """What only a person can settle."""

    def open(self, *, kind: str, subject: str, message: str, next_step: str, job_id: str | None = None) -> bool:
        """Open a task unless the same one is open. Return whether it was opened."""
        with self._database.transaction() as tx:
            return open_task(tx, kind=kind, subject=subject, job_id=job_id, message=message, next_step=next_step)

    def open_once(self, *, kind: str, subject: str, message: str, next_step: str) -> None:
        """Open a task unless it is open or was ever closed."""
        with self._database.transaction() as tx:
            if not tx.value("SELECT 1 FROM smi.person_tasks WHERE kind = :k AND subject = :s", k=kind, s=subject):
                open_task(tx, kind=kind, subject=subject, message=message, next_step=next_step)

    def opened(self) -> list[ManualTask]:
        """Return all open tasks."""
        return self._database.records(
            ManualTask, "SELECT * FROM smi.person_tasks WHERE closed_at IS NULL ORDER BY task_id"
        )

    def unalerted(self, limit: int, *, by_gateway: bool = False) -> list[ManualTask]:
        """Return open tasks that no alert has named yet: those of which the gateway tells, or all others."""
        return self._database.records(
            ManualTask,
            """SELECT * FROM smi.person_tasks WHERE closed_at IS NULL AND alerted_at IS NULL
                 AND (kind = :silent) = :by_gateway
               ORDER BY task_id LIMIT :limit""",
            silent=ManualTaskKind.PROCESS_SILENT,
            by_gateway=by_gateway,
            limit=limit,
        )

    def alerted(self, task_ids: list[int]) -> None:
        """Note that an alert has named these tasks."""
        self._database.run("UPDATE smi.person_tasks SET alerted_at = smi.now() WHERE task_id = ANY(:ids)", ids=task_ids)

    def ended_by_themselves(self, limit: int, *, by_gateway: bool = False) -> list[EndedTask]:
        """Return tasks of circuit breakers, or those of which the gateway tells, that ended by themselves, and of whose
        end nobody was told. Those that no alert has named either are news for a day."""
        return self._database.records(
            EndedTask,
            """SELECT * FROM smi.person_tasks WHERE closed_at IS NOT NULL AND end_told_at IS NULL
                 AND kind = :kind AND acknowledged_by = :recovered
                 AND (alerted_at IS NOT NULL OR closed_at > smi.now() - interval '1 day')
               ORDER BY closed_at LIMIT :limit""",
            kind=ManualTaskKind.PROCESS_SILENT if by_gateway else ManualTaskKind.BREAKER,
            recovered=RECOVERED,
            limit=limit,
        )

    def end_told(self, task_ids: list[int]) -> None:
        """Note that an operator was told that these tasks have ended."""
        self._database.run(
            """UPDATE smi.person_tasks SET end_told_at = smi.now(), alerted_at = coalesce(alerted_at, smi.now())
               WHERE task_id = ANY(:ids)""",
            ids=task_ids,
        )

    def close(self, kind: str, subject: str, *, actor: str) -> bool:
        """Close the open task of this name. Return False when there is none."""
        with self._database.transaction() as tx:
            return close_task(tx, kind=kind, subject=subject, actor=actor)

    def acknowledge(self, task_id: int, *, actor: str) -> bool:
        """Note that somebody works on an open task. Return False when there is none."""
        return self._end(task_id, "acknowledged_at", actor)

    def close_by_id(self, task_id: int, *, actor: str) -> bool:
        """Close a task by its number. Return False when it is not open."""
        return self._end(task_id, "closed_at", actor)

    def _end(self, task_id: int, column: str, actor: str) -> bool:
        with self._database.transaction() as tx:
            row = tx.row(
                f"""UPDATE smi.person_tasks SET {column} = smi.now(), acknowledged_by = :actor
                    WHERE task_id = :id AND closed_at IS NULL RETURNING job_id, kind""",
                id=task_id,
                actor=actor,
            )
            if row:
                tx.audit(row["job_id"], f"task_{column.removesuffix('_at')}", actor=actor, kind=row["kind"])
            return row is not None
