"""Query the reports for the asset checks: completeness, sums of money, differences from Stripe.

Each query is one statement, so that it sees one snapshot. Days in the log of changes do not count as wrong. `first` and
`last` are the days checked.
"""

from datetime import date
from typing import Any

from smi_pipeline.state.database import Aggregate
from smi_pipeline.state.queries import credits_used
from smi_pipeline.state.reports.statements import OUTSIDE

_BETWEEN = "{0} >= CAST(:first AS date)::timestamp AND {0} < (CAST(:last AS date) + 1)::timestamp"
_BUILT = """built AS (SELECT starts_on AS day FROM reports.builds
                      WHERE report = 'job_facts' AND starts_on BETWEEN :first AND :last)"""

# A row of the facts is compared once all bookings of all of its payments have been read: those of the charge, of each
# refund on record (a failed one has none or two) and of a lost dispute. Facts that wait to be rebuilt are not compared,
# nor payments of which Stripe names no amount in their currency.
_COMPARED = f"""chosen AS (
        SELECT p.payment_intent_id, p.currency, p.dispute, j.job_id AS subject, j.job_id AS changed,
               (j.paid_at AT TIME ZONE 'UTC')::date AS day, j.imported_from IS NOT NULL AS imported
        FROM smi.upscale_jobs j JOIN smi.payments p USING (job_id)
        LEFT JOIN smi.payments o ON o.payment_intent_id = j.payment_intent_id AND o.job_id = j.job_id
        WHERE {_BETWEEN.format("j.paid_at")} AND p.currency = coalesce(o.currency, j.currency)
        UNION ALL
        SELECT p.payment_intent_id, p.currency, p.dispute, p.payment_intent_id,
               coalesce(p.job_id, p.payment_intent_id), (coalesce(p.paid_at, p.learned_at) AT TIME ZONE 'UTC')::date,
               false
        FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id) WHERE {OUTSIDE}
    ), booked AS (
        SELECT c.payment_intent_id, sum(b.amount_cents - b.fee_cents) AS stripe, bool_or(b.kind = 'dispute') AS disputed
        FROM chosen c JOIN reports.stripe_bookings b USING (payment_intent_id)
        GROUP BY 1 HAVING bool_or(b.kind = 'charge') AND bool_and(b.currency = c.currency)
    ), unread AS (
        SELECT r.payment_intent_id FROM smi.refunds r JOIN booked USING (payment_intent_id)
        LEFT JOIN reports.stripe_bookings b ON b.payment_intent_id = r.payment_intent_id AND b.kind = 'refund'
             AND (b.source_id = r.stripe_refund_id OR r.stripe_refund_id IS NULL)
        GROUP BY r.refund_row
        HAVING CASE WHEN r.state IN ('pending', 'succeeded') THEN count(b.booking_id) = 0
                    ELSE r.stripe_refund_id IS NOT NULL AND count(b.booking_id) = 1 END
    ), wholes AS ( -- a job's row holds all of its payments
        SELECT c.day, c.subject, c.currency, sum(b.stripe) AS stripe, min(c.payment_intent_id) AS payment_intent_id
        FROM chosen c LEFT JOIN booked b ON b.payment_intent_id = c.payment_intent_id
             AND (c.dispute IS DISTINCT FROM 'lost' OR b.disputed)
             AND c.payment_intent_id NOT IN (SELECT payment_intent_id FROM unread)
        GROUP BY 1, 2, 3 HAVING bool_and(b.stripe IS NOT NULL)
             AND NOT bool_or(EXISTS (SELECT FROM reports.changes n WHERE n.job_id = c.changed))
    ), ours AS (
        SELECT job_id AS subject, currency, received_cents - refunded_cents - disputed_cents
               - stripe_fee_cents - dispute_fee_cents AS ours
        FROM reports.job_facts WHERE day BETWEEN :first AND :last
        UNION ALL
        SELECT subject, currency, received_cents - refunded_cents - disputed_cents - stripe_fee_cents
               - dispute_fee_cents FROM reports.other_money
        WHERE kind = 'payment' AND day BETWEEN :first AND :last
    ), compared AS (SELECT * FROM wholes JOIN ours USING (subject, currency))"""


class ReportChecks(Aggregate):
    """The queries of the asset checks; they change nothing."""

    def newest_day(self) -> date | None:
        """Return the newest day whose facts have been built."""
        newest: date | None = self._database.value(
            "SELECT max(starts_on) FROM reports.builds WHERE report = 'job_facts'"
        )
        return newest

    def completeness(self, first: date, last: date) -> list[dict[str, Any]]:
        """Count on each built day: day, paid, facts, waiting (changed since), missing, surplus."""
        return self._database.rows(
            f"""WITH {_BUILT},
                paid AS (
                    SELECT day, job_id FROM smi.upscale_jobs j
                    JOIN built ON day = (j.paid_at AT TIME ZONE 'UTC')::date
                    WHERE {_BETWEEN.format("j.paid_at")}
                ), facts AS (SELECT day, job_id FROM reports.job_facts JOIN built USING (day)),
                pairs AS (
                    SELECT p.job_id IS NOT NULL AS paid, f.job_id IS NOT NULL AS facts, day, job_id
                    FROM paid p FULL JOIN facts f USING (day, job_id)
                ), judged AS (
                    SELECT *, NOT (paid AND facts) AND EXISTS (SELECT FROM reports.changes c
                        WHERE c.day = pairs.day AND c.job_id = pairs.job_id) AS waiting FROM pairs)
                SELECT day, count(*) FILTER (WHERE paid) AS paid,
                       count(*) FILTER (WHERE facts) AS facts, count(*) FILTER (WHERE waiting) AS waiting,
                       count(*) FILTER (WHERE NOT facts AND NOT waiting) AS missing,
                       count(*) FILTER (WHERE NOT paid AND NOT waiting) AS surplus
                FROM built LEFT JOIN judged USING (day) GROUP BY day ORDER BY day""",
            first=first,
            last=last,
        )

    def money(self, first: date, last: date) -> list[dict[str, Any]]:
        """Return per day and currency, in cents, the report's revenue, refunds, disputes, fees, cost and net, and the
        received (`facts_received`) and net (`facts_net`) money of both fact tables."""
        return self._database.rows(
            """WITH facts AS (
                   SELECT day, currency, sum(net) AS facts_net, sum(received) AS facts_received FROM (
                       SELECT day, currency, net_margin_cents AS net, received_cents AS received FROM reports.job_facts
                       WHERE day BETWEEN :first AND :last
                       UNION ALL SELECT day, currency, net_margin_cents, received_cents FROM reports.other_money
                       WHERE day BETWEEN :first AND :last) AS rows
                   GROUP BY day, currency
               ), report AS (
                   SELECT starts_on AS day, currency, sum(revenue_cents) AS revenue, sum(refunds_cents) AS refunds,
                          sum(disputes_cents) AS disputes, sum(stripe_fees_cents) AS fees,
                          sum(api_cost_cents) AS cost, sum(net_margin_cents) AS net
                   FROM reports.profit_margin
                   WHERE period = 'day' AND resolution = 'all' AND starts_on BETWEEN :first AND :last
                   GROUP BY 1, 2)
               SELECT * FROM facts FULL JOIN report USING (day, currency) ORDER BY day, currency""",
            first=first,
            last=last,
        )

    def stripe_comparison(self, first: date, last: date) -> list[dict[str, Any]]:
        """Count per day and currency: rows of the facts with payments of ours (`rows`), those that are `compared` with
        what Stripe has booked, and whether Stripe has had a day to book them (`due`)."""
        return self._database.rows(
            f"""WITH {_COMPARED}
                SELECT day, currency, count(DISTINCT subject) FILTER (WHERE NOT imported) AS rows,
                       (SELECT count(*) FROM compared m WHERE m.day = c.day AND m.currency = c.currency) AS compared,
                       day < (smi.now() AT TIME ZONE 'UTC')::date - 1 AS due
                FROM chosen c GROUP BY day, currency ORDER BY day, currency""",
            first=first,
            last=last,
        )

    def stripe_differences(self, first: date, last: date, limit: int = 20) -> list[dict[str, Any]]:
        """Payments of these days whose received - refunds - disputes - fees is not what Stripe has booked for them, the
        biggest difference first: day, payment_intent_id, currency, ours, stripe (cents)."""
        return self._database.rows(
            f"""WITH {_COMPARED}
                SELECT day, payment_intent_id, currency, ours, stripe FROM compared WHERE ours <> stripe
                ORDER BY abs(ours - stripe) DESC, payment_intent_id LIMIT :limit""",
            first=first,
            last=last,
            limit=limit,
        )

    def oldest_change(self) -> float:
        """Return the seconds since the oldest change that is not in the tables, 0 when all are up to date."""
        return float(
            self._database.value("SELECT coalesce(extract(epoch FROM smi.now() - min(at)), 0) FROM reports.changes")
            or 0
        )

    def credits_used(self, day: date) -> int:
        """Return the credits used in the month of `day` up to that day."""
        with self._database.transaction() as tx:
            return credits_used(tx, day)

    def below_floors(
        self, first: date, last: date, *, completion_percent: float, margin_percent: float
    ) -> list[dict[str, Any]]:
        """Return days and currencies below a floor: day, what ('completion rate' or 'margin USD'), percent, floor."""
        return self._database.rows(
            """WITH figures AS (
                   SELECT starts_on AS day, 'completion rate' AS what, 100 * completion_rate AS percent,
                          CAST(:completion AS float) AS floor
                   FROM reports.completion_rate
                   WHERE period = 'day' AND resolution = 'all' AND completion_rate IS NOT NULL
                   UNION ALL
                   SELECT starts_on, 'margin ' || upper(currency), 100.0 * net_margin_cents / revenue_cents,
                          CAST(:margin AS float)
                   FROM reports.profit_margin WHERE period = 'day' AND resolution = 'all' AND revenue_cents > 0)
               SELECT day, what, percent::float AS percent, floor FROM figures
               WHERE day BETWEEN :first AND :last AND percent < floor ORDER BY day, what""",
            first=first,
            last=last,
            completion=completion_percent,
            margin=margin_percent,
        )

    def slow_days(self, first: date, last: date, seconds: float) -> list[dict[str, Any]]:
        """Return the days whose 95th percentile from payment to closing mail is above `seconds`: day, p95."""
        return self._database.rows(
            """SELECT starts_on AS day, p95_seconds AS p95 FROM reports.processing_times
               WHERE period = 'day' AND resolution = 'all' AND stage = 'paid_to_mailed'
                 AND starts_on BETWEEN :first AND :last AND p95_seconds > :seconds ORDER BY 1""",
            first=first,
            last=last,
            seconds=seconds,
        )
