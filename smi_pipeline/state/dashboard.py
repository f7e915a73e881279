"""Figures of the operations page: the last 24 hours, today's money, and the details of a job."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from smi_pipeline.core import faults
from smi_pipeline.core.allowance import Calls
from smi_pipeline.core.faults import Breaker
from smi_pipeline.core.models import RecordedPayment
from smi_pipeline.core.vocabulary import UNFINISHED_REFUNDS, UNSENT, Outcome, RefundState, Status
from smi_pipeline.state.database import Aggregate, as_record, in_
from smi_pipeline.state.waiting import WAITS_FOR


@dataclass(frozen=True, kw_only=True)
class BreakerFigures:
    """A circuit breaker and how much waits for it: refunds for Stripe's, mails for that of mails, else orders."""

    breaker: Breaker
    waiting: int

    @property
    def waiting_text(self) -> str:
        """Return what waits in words, such as `3 orders`."""
        what = {faults.STRIPE: "refund", faults.MAIL: "mail"}.get(self.breaker.name, "order")
        return f"{self.waiting:,} {what}{'' if self.waiting == 1 else 's'}"


class Dashboard(Aggregate):
    """Figures for the operations page, and whether anything can be written at all."""

    def can_write(self) -> None:
        """Raise TransientError, with the cause, when the database has no disk space or is read-only."""
        # This needs new pages; small changes of rows need them rarely, and would succeed for a while.
        self._database.run(
            "CREATE TEMP TABLE room ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 100)"
        )

    def outcomes(self) -> dict[str, int]:
        """Return how the jobs decided in the last 24 hours ended: `delivered` or a reason code, with their numbers."""
        rows = self._database.rows(
            f"""SELECT CASE outcome WHEN '{Outcome.DELIVER}' THEN 'delivered'
                           ELSE coalesce(reason, 'unknown') END AS ended, count(*) AS n
               FROM smi.outcomes JOIN smi.upscale_jobs j USING (job_id)
               WHERE j.updated_at > smi.now() - interval '24 hours' -- has an index, and is never the earlier
                 AND decided_at > smi.now() - interval '24 hours'
               GROUP BY 1 ORDER BY 2 DESC, 1"""
        )
        return {row["ended"]: row["n"] for row in rows}

    def durations(self) -> dict[str, dict[str, float | None]]:
        """Return median and 95th percentile in seconds of each stage, of the deliveries of the last 24 hours."""
        parts = {
            "paid to submitted": "submitted_at - learned_at",
            "submitted to result": "result_ready_at - submitted_at",
            "result to delivered": "completed_at - result_ready_at",
            "paid to delivered": "completed_at - learned_at",
        }
        columns = ", ".join(
            f"percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM {span}))::float AS median_{i}, "
            f"percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM {span}))::float AS p95_{i}"
            for i, span in enumerate(parts.values())
        )
        row = self._database.one(
            f"""SELECT {columns} FROM smi.upscale_jobs
                WHERE status = '{Status.COMPLETED}' AND round = 1 AND imported_from IS NULL
                  AND updated_at > smi.now() - interval '24 hours' -- has an index, and is never the earlier
                  AND completed_at > smi.now() - interval '24 hours'"""
        )
        return {
            name: {"median": row[f"median_{i}"], "p95": row[f"p95_{i}"]}  # None when nothing was delivered
            for i, name in enumerate(parts)
        }

    def money_today(self, currency: str, credit_cents: Decimal) -> dict[str, Any]:
        """Return, since midnight UTC, `credits`, what those of orders in the currency cost (`cost_cents`, exact; at
        `credit_cents` where the order has not kept its price), `refunded_cents`, and `payments` as (received_cents,
        fee_cents or None, number)."""
        with self._database.transaction() as tx:
            row = tx.one(
                f"""SELECT used.*,
                          (SELECT coalesce(sum(amount_cents), 0) FROM smi.refunds
                           WHERE settled_at >= day AND state = '{RefundState.SUCCEEDED}'
                             AND currency = :currency) AS refunded_cents
                   FROM (SELECT date_trunc('day', smi.now(), 'UTC') AS day) AS today CROSS JOIN LATERAL (
                       SELECT coalesce(sum(s.credits), 0) AS credits,
                              coalesce(sum(s.credits * coalesce(j.credit_cents, CAST(:credit_cents AS numeric)))
                                       FILTER (WHERE j.currency = :currency), 0) AS cost_cents
                       FROM smi.submissions s JOIN smi.upscale_jobs j USING (job_id)
                       WHERE j.updated_at >= day AND s.created_at >= day) AS used""",
                currency=currency,
                credit_cents=credit_cents,
            )
            payments = tx.rows(
                """SELECT received_cents, fee_cents, count(*) AS n FROM smi.payments
                   WHERE paid_at >= date_trunc('day', smi.now(), 'UTC') AND currency = :currency
                   GROUP BY received_cents, fee_cents""",
                currency=currency,
            )
        return {**row, "payments": [(pay["received_cents"], pay["fee_cents"], pay["n"]) for pay in payments]}

    def pause(self) -> dict[str, Any] | None:
        """Return until when Upsampler has asked us to make no calls of one kind (blocked_until, reason), or None."""
        return self._database.row(
            """SELECT blocked_until, reason FROM smi.gates WHERE name = ANY(:names) AND blocked_until > smi.now()
               ORDER BY blocked_until DESC LIMIT 1""",
            names=list(Calls),
        )

    def breakers(self) -> list[BreakerFigures]:
        """Return the circuit breakers that are open, longest first, then those of parts that have begun to fail."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                f"""SELECT b.*, CASE b.name
                        WHEN '{faults.STRIPE}' THEN
                            (SELECT count(*) FROM smi.refunds WHERE state IN {in_(UNFINISHED_REFUNDS)})
                        WHEN '{faults.MAIL}' THEN (SELECT count(*) FROM smi.emails WHERE state IN {in_(UNSENT)})
                        ELSE (SELECT count(*) FROM smi.upscale_jobs j WHERE j.queue IS NOT NULL AND {WAITS_FOR})
                        END AS waiting
                    FROM smi.breakers b WHERE b.opened_at IS NOT NULL OR b.failed <> '{{}}'
                    ORDER BY b.opened_at NULLS LAST, b.name"""
            )
        return [BreakerFigures(breaker=as_record(Breaker, row), waiting=row["waiting"]) for row in rows]

    def downloads(self, job_id: str) -> list[dict[str, Any]]:
        """Return the download links of a job without their tokens, oldest first."""
        return self._database.rows(
            """SELECT round, serial, created_at, expires_at, revoked_at, downloads, last_download_at
               FROM smi.download_tokens WHERE job_id = :id ORDER BY round, serial""",
            id=job_id,
        )

    def payments(self, job_id: str) -> list[RecordedPayment]:
        """Return the payments of a job, oldest first."""
        return self._database.records(
            RecordedPayment, "SELECT * FROM smi.payments WHERE job_id = :id ORDER BY learned_at", id=job_id
        )

    def rating(self, job_id: str) -> dict[str, Any] | None:
        """Return the customer's rating (score, comment, at), or None."""
        return self._database.row("SELECT score, comment, at FROM smi.feedback WHERE job_id = :id", id=job_id)
