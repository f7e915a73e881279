"""What is compared with the outside: payments and refunds with Stripe's, rows with the files of the storage.

Every read is bounded by an index: the history may be long, and these questions come every few minutes.
"""

from datetime import datetime, timedelta
from typing import Any

from smi_pipeline.state.database import Database

DIFFERENCES = {
    "events": ("stripe_event",),
    "payments": ("payment_differs", "orphan_payment"),
    "files": ("file_missing", "file_damaged", "orphan_files"),
}
"""Kinds of the person's tasks that each comparison opens."""

CURSORS = {"events": "stripe_events_read", "payments": "stripe_payments_compared", "files": "files_compared"}


class Reconciliation:
    """What is compared with the outside; reading only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def payments(self, payment_intent_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Recorded payments by id, each with its `refunds` (state, amount_cents, stripe_refund_id) and its job's
        `status` and `imported_from`."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT p.*, j.status, j.imported_from FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id)
                   WHERE p.payment_intent_id = ANY(:ids)""",
                ids=payment_intent_ids,
            )
            found = {row["payment_intent_id"]: row | {"refunds": []} for row in rows}
            refunds = tx.rows(
                """SELECT payment_intent_id, state, amount_cents, stripe_refund_id FROM smi.refunds
                   WHERE job_id = ANY(:jobs) OR (job_id IS NULL AND payment_intent_id = ANY(:ids))
                   ORDER BY refund_row""",
                jobs=[row["job_id"] for row in rows if row["job_id"]],
                ids=payment_intent_ids,
            )
        for refund in refunds:
            if refund["payment_intent_id"] in found:
                found[refund["payment_intent_id"]]["refunds"].append(refund)
        return found

    def paid_between(self, since: datetime, until: datetime) -> list[str]:
        """Ids of the recorded payments of jobs paid then, and of orphans; without imported ones."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT p.payment_intent_id FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id)
                   WHERE j.paid_at >= :since AND j.paid_at < :until AND j.imported_from IS NULL
                   UNION
                   SELECT payment_intent_id FROM smi.payments
                   WHERE job_id IS NULL AND paid_at >= :since AND paid_at < :until""",
                since=since,
                until=until,
            )
        return [row["payment_intent_id"] for row in rows]

    def unnamed_orphans(self, patience: timedelta, limit: int) -> list[str]:
        """Payments without a job, known for longer than `patience`, that nobody has settled and no task names."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT payment_intent_id FROM smi.payments
                   WHERE job_id IS NULL AND role = 'orphan' AND settled_by IS NULL
                     AND learned_at + CAST(:patience AS interval) <= smi.now()
                     AND NOT EXISTS (SELECT FROM smi.person_tasks t WHERE t.closed_at IS NULL
                                     AND t.kind = 'orphan_payment' AND t.subject = payment_intent_id)
                   ORDER BY learned_at LIMIT :limit""",
                patience=patience,
                limit=limit,
            )
        return [row["payment_intent_id"] for row in rows]

    def jobs_with_files(self, shard: str, changed_within: timedelta) -> list[dict[str, Any]]:
        """Jobs whose id begins with `shard` (hexadecimal), changed lately, whose row names a file. `link`: a download
        link is valid."""
        with self._database.transaction() as tx:
            return tx.rows(
                """SELECT j.job_id, j.status, j.queue, j.source_url, j.source_key, j.source_sha256, j.result_key,
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

    def claims(self, job_ids: list[str]) -> dict[str, dict[str, Any]]:
        """What jobs name of the storage: status, round, source_key, result_key; `at_rest`: nobody works on it, and it
        has not changed for a day."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT job_id, status, round, source_key, result_key,
                          status IN ('completed', 'failed', 'refunded', 'abandoned')
                              AND queue IS NULL AND lease_id IS NULL
                              AND updated_at < smi.now() - interval '1 day' AS at_rest
                   FROM smi.upscale_jobs WHERE job_id = ANY(:ids)""",
                ids=job_ids,
            )
        return {row["job_id"]: row for row in rows}

    def standing(self) -> dict[str, dict[str, Any]]:
        """Per comparison (events, payments, files): `age_seconds` since the last whole one (None: never) and the
        open person's tasks of its `differences` by kind."""
        with self._database.transaction() as tx:
            ended = tx.rows(
                """SELECT name, CAST(extract(epoch FROM smi.now()
                                             - CAST(CAST(value AS jsonb) ->> 'ended' AS timestamptz)) AS float) AS age
                   FROM smi.cursors WHERE name = ANY(:names)""",
                names=list(CURSORS.values()),
            )
            opened = tx.rows(
                """SELECT kind, count(*) AS n FROM smi.person_tasks
                   WHERE closed_at IS NULL AND kind = ANY(:kinds) GROUP BY kind""",
                kinds=[kind for kinds in DIFFERENCES.values() for kind in kinds],
            )
        ages = {row["name"]: row["age"] for row in ended}
        counts = {row["kind"]: row["n"] for row in opened}
        return {
            what: {
                "age_seconds": ages.get(CURSORS[what]),
                "differences": {kind: counts.get(kind, 0) for kind in kinds},
            }
            for what, kinds in DIFFERENCES.items()
        }
