"""What comparisons read: payments and refunds for those with Stripe, jobs for those with the storage, and how far
each comparison has come.

Every read is bounded by an index: the history may be long, and these queries run every few minutes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from smi_pipeline.core.lifecycle import CLOSED, UNFINISHED
from smi_pipeline.core.models import RecordedPayment
from smi_pipeline.core.vocabulary import UNFINISHED_REFUNDS, ManualTaskKind, PaymentRole, Queue, RefundState, Status
from smi_pipeline.state.database import Aggregate, Transaction, as_record, in_

DIFFERENCES = {
    "events": (ManualTaskKind.STRIPE_EVENT,),
    "payments": (ManualTaskKind.PAYMENT_DIFFERS, ManualTaskKind.UNMATCHED_PAYMENT),
    "files": (ManualTaskKind.FILE_MISSING, ManualTaskKind.FILE_DAMAGED, ManualTaskKind.UNMATCHED_FILES),
}
"""Kinds of manual tasks that each comparison opens."""

CURSORS = {"events": "stripe_events_read", "payments": "stripe_payments_compared", "files": "files_compared"}


@dataclass(frozen=True, kw_only=True)
class ComparedRefund:
    """A refund on record of a payment that is compared."""

    state: RefundState
    amount_cents: int | None
    stripe_refund_id: str | None


@dataclass(frozen=True, kw_only=True)
class ComparedPayment:
    """A recorded payment with its refunds, and what matters of its job."""

    payment: RecordedPayment
    job_unfinished: bool
    imported: bool
    refunds: list[ComparedRefund]


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """The files that the row of a job names. `link`: a download link is valid."""

    job_id: str
    status: Status
    queue: Queue | None
    source_url: str
    source_key: str | None
    result_key: str | None
    result_bytes: int | None
    result_sha256: str | None
    link: bool


@dataclass(frozen=True, kw_only=True)
class FileClaim:
    """What a job names of the storage. `at_rest`: nobody works on it, and it has not changed for a day."""

    job_id: str
    fulfilment_round: int
    source_key: str | None
    result_key: str | None
    at_rest: bool

    @property
    def keys(self) -> tuple[str | None, str | None]:
        """The named files."""
        return self.source_key, self.result_key


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Seconds since the last whole comparison (None: never), how many things it has compared (None: not counted), and
    the open manual tasks of its differences by kind."""

    age_seconds: float | None
    compared: int | None
    differences: dict[ManualTaskKind, int]


def write_cursor(tx: Transaction, name: str, value: str) -> None:
    """Store how far an outside list was read."""
    tx.run(
        """INSERT INTO smi.cursors (name, value) VALUES (:name, :value)
           ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
        name=name,
        value=value,
    )


class Reconciliation(Aggregate):
    """What comparisons read, and their cursors."""

    def cursor(self, name: str) -> str | None:
        """Return how far an outside list was read."""
        row = self._database.row("SELECT value FROM smi.cursors WHERE name = :name", name=name)
        return row["value"] if row else None

    def set_cursor(self, name: str, value: str) -> None:
        """Store how far an outside list was read."""
        with self._database.transaction() as tx:
            write_cursor(tx, name, value)

    def payments(self, payment_intent_ids: list[str]) -> dict[str, ComparedPayment]:
        """Return recorded payments by id."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT p.*, j.status, j.imported_from FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id)
                   WHERE p.payment_intent_id = ANY(:ids)""",
                ids=payment_intent_ids,
            )
            refunds = tx.rows(
                """SELECT payment_intent_id, state, amount_cents, stripe_refund_id FROM smi.refunds
                   WHERE job_id = ANY(:jobs) OR (job_id IS NULL AND payment_intent_id = ANY(:ids))
                   ORDER BY refund_row""",
                jobs=[row["job_id"] for row in rows if row["job_id"]],
                ids=payment_intent_ids,
            )
        return {
            row["payment_intent_id"]: ComparedPayment(
                payment=as_record(RecordedPayment, row),
                job_unfinished=row["status"] in UNFINISHED,
                imported=row["imported_from"] is not None,
                refunds=[
                    as_record(ComparedRefund, refund)
                    for refund in refunds
                    if refund["payment_intent_id"] == row["payment_intent_id"]
                ],
            )
            for row in rows
        }

    def paid_between(self, since: datetime, until: datetime) -> list[str]:
        """Return the ids of recorded payments of jobs paid then, and of unmatched payments; without imported ones."""
        rows = self._database.rows(
            """SELECT p.payment_intent_id FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id)
               WHERE j.paid_at >= :since AND j.paid_at < :until AND j.imported_from IS NULL
               UNION
               SELECT payment_intent_id FROM smi.payments
               WHERE job_id IS NULL AND paid_at >= :since AND paid_at < :until""",
            since=since,
            until=until,
        )
        return [row["payment_intent_id"] for row in rows]

    def with_open_refunds(self, before: datetime, limit: int) -> list[str]:
        """Return the ids of payments made before a time that have a refund which is neither done nor given up."""
        rows = self._database.rows(
            f"""SELECT DISTINCT r.payment_intent_id FROM smi.refunds r JOIN smi.payments p USING (payment_intent_id)
               WHERE r.state IN {in_(UNFINISHED_REFUNDS)} AND p.paid_at < :before LIMIT :limit""",
            before=before,
            limit=limit,
        )
        return [row["payment_intent_id"] for row in rows]

    def unnamed_unmatched(self, patience: timedelta, limit: int) -> list[str]:
        """Return unmatched payments on record for longer than `patience` that are not settled and have no task."""
        rows = self._database.rows(
            f"""SELECT payment_intent_id FROM smi.payments
               WHERE job_id IS NULL AND role = '{PaymentRole.UNMATCHED}' AND settled_by IS NULL
                 AND learned_at + CAST(:patience AS interval) <= smi.now()
                 AND NOT EXISTS (SELECT FROM smi.person_tasks t WHERE t.closed_at IS NULL
                                 AND t.kind = '{ManualTaskKind.UNMATCHED_PAYMENT}'
                                 AND t.subject = payment_intent_id)
               ORDER BY learned_at LIMIT :limit""",
            patience=patience,
            limit=limit,
        )
        return [row["payment_intent_id"] for row in rows]

    def jobs_with_files(self, shard: str, changed_within: timedelta) -> list[JobFiles]:
        """Return jobs whose id begins with `shard` (hexadecimal), changed lately, whose row names a file."""
        return self._database.records(
            JobFiles,
            """SELECT j.job_id, j.status, j.queue, j.source_url, j.source_key, j.result_key,
                      j.result_bytes, j.result_sha256,
                      EXISTS (SELECT FROM smi.download_tokens t WHERE t.job_id = j.job_id
                              AND t.revoked_at IS NULL AND t.expires_at > smi.now()) AS link
               FROM smi.upscale_jobs j
               WHERE j.job_id >= :shard AND j.job_id < :beyond
                 AND j.updated_at > smi.now() - CAST(:within AS interval)
                 AND (j.source_key IS NOT NULL OR j.result_key IS NOT NULL)""",
            shard=shard,
            beyond=f"{shard}g",
            within=changed_within,
        )

    def claims(self, job_ids: list[str]) -> dict[str, FileClaim]:
        """Return what jobs name of the storage, by job."""
        rows = self._database.rows(
            f"""SELECT job_id, round, source_key, result_key,
                      status IN {in_(CLOSED)} AND queue IS NULL AND lease_id IS NULL
                          AND updated_at < smi.now() - interval '1 day' AS at_rest
               FROM smi.upscale_jobs WHERE job_id = ANY(:ids)""",
            ids=job_ids,
        )
        return {row["job_id"]: as_record(FileClaim, row) for row in rows}

    def standing(self) -> dict[str, Standing]:
        """Return the standing of each comparison (events, payments, files)."""
        with self._database.transaction() as tx:
            ended = tx.rows(
                """SELECT name, CAST(extract(epoch FROM smi.now()
                                             - CAST(CAST(value AS jsonb) ->> 'ended' AS timestamptz)) AS float) AS age,
                          CAST(CAST(value AS jsonb) ->> 'compared' AS integer) AS compared
                   FROM smi.cursors WHERE name = ANY(:names)""",
                names=list(CURSORS.values()),
            )
            opened = tx.rows(
                """SELECT kind, count(*) AS n FROM smi.person_tasks
                   WHERE closed_at IS NULL AND kind = ANY(:kinds) GROUP BY kind""",
                kinds=[kind for kinds in DIFFERENCES.values() for kind in kinds],
            )
        found = {row["name"]: row for row in ended}
        counts = {row["kind"]: row["n"] for row in opened}
        return {
            what: Standing(
                age_seconds=found.get(CURSORS[what], {}).get("age"),
                compared=found.get(CURSORS[what], {}).get("compared"),
                differences={kind: counts.get(kind, 0) for kind in kinds},
            )
            for what, kinds in DIFFERENCES.items()
        }
