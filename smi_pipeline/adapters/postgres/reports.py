"""All SQL of the reports: facts and reports are built set by set, a range of days at a time, and read back.

Definitions of the figures are the comments of the columns (migration 0002). Nothing here touches the schema `smi`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from smi_pipeline.adapters.postgres.database import Database, Transaction
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.pricing import Prices

FACTS = "job_facts"
REPORTS = ("completion_rate", "processing_times", "profit_margin")
"""Tables built from the facts alone."""

STAGES = ("paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed")
"""Columns of the facts that hold seconds; the last is the whole."""

_LOCK = 727_464_002  # pg_advisory_xact_lock key: one build at a time, so that two never replace the same day
_TIMEOUT = "10min"  # a build of years takes longer than the 20 s that the database allows a statement of fulfilment
_WILSON_Z = 1.959963984540054  # two-sided 95 %

# Refunds count once Stripe has them; `back` is per payment, because a lost dispute takes only what is left of it.
_INSERT_FACTS = """
INSERT INTO reports.job_facts (day, job_id, resolution, megapixels, outcome, reason, paid_to_submitted,
    submitted_to_ready, ready_to_delivered, delivered_to_mailed, paid_to_mailed, submissions, credits, credits_assumed,
    api_cost_cents, currency, price_cents, received_cents, stripe_fee_cents, stripe_fee_known, refunded_cents,
    disputed_cents, net_margin_cents, rating)
WITH jobs AS MATERIALIZED (
    SELECT j.*, (j.paid_at AT TIME ZONE 'UTC')::date AS day, coalesce(o.currency, j.currency) AS paid_currency
    FROM smi.upscale_jobs j LEFT JOIN smi.payments o ON o.payment_intent_id = j.payment_intent_id
    WHERE j.paid_at >= CAST(:first AS date)::timestamp AT TIME ZONE 'UTC'
      AND j.paid_at < (CAST(:last AS date) + 1)::timestamp AT TIME ZONE 'UTC'
), back AS (
    SELECT r.job_id, r.payment_intent_id, sum(r.amount_cents) AS cents
    FROM smi.refunds r JOIN jobs j ON j.job_id = r.job_id AND j.paid_currency = r.currency
    WHERE r.state IN ('pending', 'succeeded') GROUP BY r.job_id, r.payment_intent_id
), refunded AS (
    SELECT job_id, sum(cents) AS cents FROM back GROUP BY job_id
), paid AS (
    SELECT p.job_id, sum(p.received_cents) AS received, bool_and(p.fee_cents IS NOT NULL) AS fee_known,
           sum(coalesce(p.fee_cents, CASE WHEN p.received_cents > 0
               THEN round(p.received_cents * CAST(:fee_percent AS numeric) / 100) + :fee_fixed ELSE 0 END)) AS fee,
           sum(CASE WHEN p.dispute = 'lost' THEN greatest(p.received_cents - coalesce(b.cents, 0), 0) ELSE 0 END)
               AS disputed
    FROM smi.payments p JOIN jobs j ON j.job_id = p.job_id AND j.paid_currency = p.currency
    LEFT JOIN back b ON b.job_id = p.job_id AND b.payment_intent_id = p.payment_intent_id GROUP BY p.job_id
), calls AS (
    SELECT s.job_id, count(*) AS submissions, coalesce(sum(s.credits), 0) AS credits,
           sum(j.expected_credits) FILTER (WHERE s.state = 'lost' AND s.credits IS NULL) AS assumed
    FROM smi.submissions s JOIN jobs j USING (job_id) WHERE s.state <> 'sending' GROUP BY s.job_id
), decided AS (
    SELECT o.job_id, bool_or(o.outcome = 'deliver') AS delivered, bool_or(o.outcome = 'refund') AS refund,
           bool_or(o.reason = 'refunded_outside') AS outside,
           (array_agg(o.reason ORDER BY o.round) FILTER (WHERE o.reason IS NOT NULL))[1] AS reason
    FROM smi.outcomes o JOIN jobs USING (job_id) GROUP BY o.job_id
), settled AS (
    SELECT DISTINCT r.job_id FROM smi.refunds r JOIN jobs USING (job_id)
    WHERE r.kind IN ('failure', 'wrong_amount') AND r.state IN ('succeeded', 'not_needed')
), mails AS (
    SELECT e.job_id, min(e.accepted_at) FILTER (WHERE e.kind = 'completion') AS completion,
           min(e.accepted_at) FILTER (WHERE e.kind = 'completion' AND e.accepted_at >= j.completed_at) AS delivery,
           min(e.accepted_at) FILTER (WHERE e.kind = 'refund') AS refund
    FROM smi.emails e JOIN jobs j USING (job_id) WHERE e.accepted_at IS NOT NULL GROUP BY e.job_id
), judged AS (
    SELECT j.*, CASE
            WHEN j.status = 'completed' OR d.delivered THEN 'delivered'
            WHEN j.status = 'refunded' OR d.outside OR (d.refund AND s.job_id IS NOT NULL) THEN 'refunded'
            WHEN j.status = 'failed' OR d.refund THEN 'failed'
            ELSE 'open' END AS outcome,
        coalesce(d.reason, j.reason_code) AS why, m.completion, m.delivery, m.refund
    FROM jobs j LEFT JOIN decided d USING (job_id) LEFT JOIN settled s USING (job_id) LEFT JOIN mails m USING (job_id)
), counted AS (
    SELECT j.*, coalesce(p.received, j.price_cents) AS received, coalesce(p.fee_known, false) AS fee_known,
           coalesce(p.fee, round(j.price_cents * CAST(:fee_percent AS numeric) / 100) + :fee_fixed) AS fee,
           coalesce(p.disputed, 0) AS disputed,
           -- imported history has its price and status alone
           coalesce(r.cents, CASE WHEN p.job_id IS NULL AND j.status = 'refunded' THEN j.price_cents END, 0)
               AS refunded,
           coalesce(c.submissions, 0) AS submissions,
           coalesce(c.credits, CASE WHEN j.imported_from IS NOT NULL AND j.status = 'completed'
                                    THEN j.expected_credits END, 0) AS credits,
           coalesce(c.assumed, 0) AS assumed
    FROM judged j LEFT JOIN paid p USING (job_id) LEFT JOIN refunded r USING (job_id) LEFT JOIN calls c USING (job_id)
), priced AS (
    SELECT *, ceil((credits + assumed) * CAST(:credit_cents AS numeric)) AS cost FROM counted
)
SELECT day, j.job_id, resolution, source_width::numeric * source_height * scale * scale / 1000000, outcome,
       CASE WHEN outcome IN ('refunded', 'failed') THEN why END,
       CASE WHEN submitted_at >= paid_at THEN extract(epoch FROM submitted_at - paid_at) END,
       CASE WHEN result_ready_at >= submitted_at THEN extract(epoch FROM result_ready_at - submitted_at) END,
       CASE WHEN completed_at >= result_ready_at THEN extract(epoch FROM completed_at - result_ready_at) END,
       extract(epoch FROM delivery - completed_at),
       extract(epoch FROM CASE WHEN outcome = 'delivered' THEN completion
                               WHEN outcome <> 'open' THEN refund END - paid_at),
       submissions, credits, assumed, cost, paid_currency, price_cents, received, fee, fee_known, refunded, disputed,
       received - refunded - disputed - fee - cost, f.score
FROM priced j LEFT JOIN smi.feedback f ON f.job_id = j.job_id
"""

_INSERT_REPORT = {
    "completion_rate": """
        INSERT INTO reports.completion_rate (day, resolution, paid_jobs, delivered, refunded, failed, open_jobs,
            completion_rate, rate_low, rate_high)
        WITH counted AS (
            SELECT day, coalesce(resolution, 'all') AS resolution, count(*) AS jobs,
                   count(*) FILTER (WHERE outcome = 'delivered') AS delivered,
                   count(*) FILTER (WHERE outcome = 'refunded') AS refunded,
                   count(*) FILTER (WHERE outcome = 'failed') AS failed,
                   count(*) FILTER (WHERE outcome = 'open') AS open_jobs
            FROM reports.job_facts WHERE day BETWEEN :first AND :last
            GROUP BY GROUPING SETS ((day), (day, resolution))
        ), rated AS (
            SELECT *, nullif(jobs - open_jobs, 0)::float8 AS n,
                   delivered / nullif(jobs - open_jobs, 0)::float8 AS p, CAST(:z AS float8) AS z
            FROM counted
        ), wilson AS (
            SELECT *, (p + z * z / (2 * n)) / (1 + z * z / n) AS middle,
                   z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n) AS half
            FROM rated
        )
        SELECT day, resolution, jobs, delivered, refunded, failed, open_jobs, p,
               -- at the ends exactly 0 and 1, which floating point misses by a hair
               CASE WHEN p = 0 THEN 0 ELSE middle - half END, CASE WHEN p = 1 THEN 1 ELSE middle + half END
        FROM wilson""",
    "processing_times": f"""
        INSERT INTO reports.processing_times (day, resolution, stage, jobs, mean_seconds, p50_seconds, p90_seconds,
            p95_seconds, p99_seconds, max_seconds)
        SELECT day, resolution, stage, jobs, mean, p[1], p[2], p[3], p[4], slowest FROM (
            SELECT day, coalesce(resolution, 'all') AS resolution, stage, count(*) AS jobs,
                   round(avg(seconds)::numeric, 6) AS mean, -- the last bits depend on the order of summation
                  
                   percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p,
                   max(seconds) AS slowest
            FROM reports.job_facts
            CROSS JOIN LATERAL (VALUES {", ".join(f"('{stage}', {stage})" for stage in STAGES)}) AS s (stage, seconds)
            WHERE day BETWEEN :first AND :last AND seconds IS NOT NULL
            GROUP BY GROUPING SETS ((day, stage), (day, stage, resolution))) AS measured""",
    "profit_margin": """
        INSERT INTO reports.profit_margin (day, currency, resolution, paid_jobs, revenue_cents, refunds_cents,
            stripe_fees_cents, api_cost_cents, net_margin_cents, margin_percent, credits, jobs_at_a_loss)
        SELECT day, currency, coalesce(resolution, 'all'), count(*), sum(received_cents),
               sum(refunded_cents + disputed_cents), sum(stripe_fee_cents), sum(api_cost_cents), sum(net_margin_cents),
               round(sum(net_margin_cents) * 100.0 / nullif(sum(received_cents), 0), 1),
               sum(credits + credits_assumed), count(*) FILTER (WHERE net_margin_cents < 0)
        FROM reports.job_facts WHERE day BETWEEN :first AND :last
        GROUP BY GROUPING SETS ((day, currency), (day, currency, resolution))""",
}


@dataclass(frozen=True, kw_only=True)
class OutOfDate:
    """A day whose tables do not show the state: since when it is known, the last change, what was built when."""

    day: date
    last_change: int  # change_id, 0 when only a report is behind its facts
    changed_at: datetime  # the newest change
    built_at: datetime | None  # of the facts
    now: datetime


class PostgresReports:
    """Builds and reads the schema `reports`. Raises TransientError when the database does not answer."""

    def __init__(self, database: Database, prices: Prices) -> None:
        self._database = database
        self._prices = prices

    @contextmanager
    def _building(self) -> Iterator[Transaction]:
        with self._database.transaction() as tx:
            tx.run(f"SET LOCAL statement_timeout = '{_TIMEOUT}'")
            tx.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
            yield tx

    def build(self, table: str, first: date, last: date) -> dict[date, int]:
        """Replaces the days `first` to `last` of one table in one transaction: rows per day. Idempotent.

        Raises RefusedError for a report on days whose facts have not been built."""
        days = {"first": first, "last": last}
        with self._building() as tx:
            if table == FACTS:
                # First the log, then the state: a change that commits in between stays in the log.
                tx.run("DELETE FROM reports.changes WHERE day BETWEEN :first AND :last", **days)
                tx.run("DELETE FROM reports.job_facts WHERE day BETWEEN :first AND :last", **days)
                tx.run(
                    _INSERT_FACTS,
                    **days,
                    fee_percent=self._prices.fee_percent,
                    fee_fixed=self._prices.fee_fixed_cents,
                    credit_cents=self._prices.credit_cents,
                )
            else:
                missing = tx.value(
                    """SELECT min(d)::date FROM generate_series(CAST(:first AS date), CAST(:last AS date), '1 day') AS d
                       WHERE NOT EXISTS (SELECT FROM reports.builds WHERE report = 'job_facts' AND day = d)""",
                    **days,
                )
                if missing:
                    raise RefusedError(f"{table} is built from job_facts, which has not been built for {missing} yet")
                tx.run(f"DELETE FROM reports.{table} WHERE day BETWEEN :first AND :last", **days)
                tx.run(_INSERT_REPORT[table], **days, **({"z": _WILSON_Z} if table == "completion_rate" else {}))
            built = tx.rows(
                f"""WITH now AS MATERIALIZED (SELECT smi.now() AS at)
                    INSERT INTO reports.builds AS b (report, day, built_at, facts_built_at, row_count)
                    SELECT :table, d::date, now.at, coalesce(f.built_at, now.at), coalesce(n.rows, 0)
                    FROM generate_series(CAST(:first AS date), CAST(:last AS date), '1 day') AS d
                    CROSS JOIN now
                    LEFT JOIN reports.builds f ON f.report = 'job_facts' AND f.day = d AND :table <> 'job_facts'
                    LEFT JOIN (SELECT day, count(*) AS rows FROM reports.{table}
                               WHERE day BETWEEN :first AND :last GROUP BY day) AS n ON n.day = d
                    ON CONFLICT (report, day) DO UPDATE SET built_at = excluded.built_at,
                        facts_built_at = excluded.facts_built_at, row_count = excluded.row_count
                    RETURNING day, row_count""",
                table=table,
                **days,
            )
            return {row["day"]: row["row_count"] for row in sorted(built, key=lambda row: row["day"])}

    def out_of_date(self, first: date, last: date) -> list[OutOfDate]:
        """Days between `first` and `last` that a build would change, oldest first: facts with changes in the log, and
        reports built from other facts than the newest ones."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """WITH stale AS (
                       SELECT day, max(change_id) AS last_change, max(at) AS changed_at FROM reports.changes
                       WHERE day BETWEEN :first AND :last GROUP BY day
                   ), behind AS (
                       SELECT DISTINCT f.day, f.built_at AS changed_at
                       FROM reports.builds f CROSS JOIN unnest(CAST(:reports AS text[])) AS wanted (name)
                       LEFT JOIN reports.builds b ON b.report = wanted.name AND b.day = f.day
                       WHERE f.report = 'job_facts' AND f.day BETWEEN :first AND :last
                         AND b.facts_built_at IS DISTINCT FROM f.built_at
                   )
                   SELECT day, coalesce(s.last_change, 0) AS last_change, coalesce(s.changed_at, b.changed_at)
                          AS changed_at, f.built_at, smi.now() AS now
                   FROM stale s FULL JOIN behind b USING (day)
                   LEFT JOIN (SELECT day, built_at FROM reports.builds WHERE report = 'job_facts') AS f USING (day)
                   ORDER BY day""",
                first=first,
                last=last,
                reports=list(REPORTS),
            )
        return [OutOfDate(**row) for row in rows]

    def rows(self, table: str, first: date, last: date, *, limit: int = 100_000) -> list[dict[str, Any]]:
        """Rows of a table between two days in the order of its key; money in cents, times in seconds."""
        keys = {
            FACTS: "day, job_id",
            "completion_rate": "day, resolution DESC",
            "processing_times": "day, resolution DESC, stage",
            "profit_margin": "day, currency, resolution DESC",
        }
        with self._database.transaction() as tx:
            return tx.rows(
                f"""SELECT * FROM reports.{table} WHERE day BETWEEN :first AND :last
                    ORDER BY {keys[table]} LIMIT :limit""",
                first=first,
                last=last,
                limit=limit,
            )

    def least_profitable(self, day: date, limit: int) -> list[dict[str, Any]]:
        """Facts of a day, the biggest loss first."""
        with self._database.transaction() as tx:
            return tx.rows(
                """SELECT * FROM reports.job_facts WHERE day = :day
                   ORDER BY net_margin_cents, job_id LIMIT :limit""",
                day=day,
                limit=limit,
            )

    def paid_jobs(self, first: date, last: date) -> dict[date, int]:
        """Paid jobs per day, of the days whose facts have been built."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT day, row_count FROM reports.builds
                   WHERE report = 'job_facts' AND day BETWEEN :first AND :last""",
                first=first,
                last=last,
            )
        return {row["day"]: row["row_count"] for row in rows}

    def reasons(self, first: date, last: date) -> list[dict[str, Any]]:
        """Per day: reason code and number of jobs that were not delivered because of it, the most frequent first."""
        with self._database.transaction() as tx:
            return tx.rows(
                """SELECT day, coalesce(reason, 'unknown') AS reason, count(*) AS jobs FROM reports.job_facts
                   WHERE day BETWEEN :first AND :last AND outcome IN ('refunded', 'failed')
                   GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2""",
                first=first,
                last=last,
            )

    def columns(self, table: str) -> list[tuple[str, str, str, bool]]:
        """Columns of a table as the database describes them: name, type, comment, whether it may be empty."""
        with self._database.transaction() as tx:
            rows = tx.rows(
                """SELECT attname AS name, format_type(atttypid, atttypmod) AS type,
                          coalesce(col_description(attrelid, attnum), '') AS comment, NOT attnotnull AS nullable
                   FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
                   ORDER BY attnum""",
                table=f"reports.{table}",
            )
        return [(row["name"], row["type"], row["comment"], row["nullable"]) for row in rows]
