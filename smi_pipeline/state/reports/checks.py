"""Query the reports for the asset checks: completeness, sums of money, differences from Stripe.

Each query is one statement, so that it sees one snapshot. Days in the log of changes do not count as wrong. `first` and
`last` are the days checked.
"""

from datetime import date
from typing import Any

from smi_pipeline.state.database import Aggregate
from smi_pipeline.state.queries import credits_used

_BETWEEN = "{0} >= CAST(:first AS date)::timestamp AND {0} < (CAST(:last AS date) + 1)::timestamp"
_BUILT = """built AS (SELECT starts_on AS day FROM reports.builds
                      WHERE report = 'job_facts' AND starts_on BETWEEN :first AND :last)"""


class ReportChecks(Aggregate):
    """The queries of the asset checks; they change nothing."""

    def newest_day(self) -> date | None:
        """Return the newest day whose facts have been built."""
        newest: date | None = self._database.value(
            "SELECT max(starts_on) FROM reports.builds WHERE report = 'job_facts'"
        )
        return newest

    def completeness(self, first: date, last: date) -> dict[str, Any]:
        """Count on the built days: days, paid, facts, waiting (changed since), missing, surplus."""
        return self._database.one(
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
                SELECT (SELECT count(*) FROM built) AS days, count(*) FILTER (WHERE paid) AS paid,
                       count(*) FILTER (WHERE facts) AS facts, count(*) FILTER (WHERE waiting) AS waiting,
                       count(*) FILTER (WHERE NOT facts AND NOT waiting) AS missing,
                       count(*) FILTER (WHERE NOT paid AND NOT waiting) AS surplus
                FROM judged""",
            first=first,
            last=last,
        )

    def money(self, first: date, last: date) -> list[dict[str, Any]]:
        """Return per currency, in cents, the report's revenue, refunds, disputes, fees, cost and net, and the received
        (`facts_received`) and net (`facts_net`) money of both fact tables."""
        return self._database.rows(
            """WITH facts AS (
                   SELECT currency, sum(net) AS facts_net, sum(received) AS facts_received FROM (
                       SELECT currency, net_margin_cents AS net, received_cents AS received FROM reports.job_facts
                       WHERE day BETWEEN :first AND :last
                       UNION ALL SELECT currency, net_margin_cents, received_cents FROM reports.other_money
                       WHERE day BETWEEN :first AND :last) AS rows
                   GROUP BY currency
               ), report AS (
                   SELECT currency, sum(revenue_cents) AS revenue, sum(refunds_cents) AS refunds,
                          sum(disputes_cents) AS disputes, sum(stripe_fees_cents) AS fees,
                          sum(api_cost_cents) AS cost, sum(net_margin_cents) AS net
                   FROM reports.profit_margin
                   WHERE period = 'day' AND resolution = 'all' AND starts_on BETWEEN :first AND :last
                   GROUP BY currency)
               SELECT * FROM facts FULL JOIN report USING (currency) ORDER BY currency""",
            first=first,
            last=last,
        )

    def stripe_differences(self, first: date, last: date, limit: int = 20) -> list[dict[str, Any]]:
        """Payments of these days whose received - refunds - disputes - fees is not what Stripe has booked for them, the
        biggest difference first: payment_intent_id, currency, ours, stripe (cents).

        A payment whose bookings have not been read yet or whose facts wait to be rebuilt is not compared, nor one that
        Stripe has settled in another currency."""
        return self._database.rows(
            f"""WITH chosen AS (
                    SELECT p.*, j.paid_at AS job_paid_at FROM smi.payments p
                    JOIN smi.upscale_jobs j USING (job_id) WHERE {_BETWEEN.format("j.paid_at")}
                    UNION ALL
                    SELECT p.*, NULL FROM smi.payments p LEFT JOIN smi.upscale_jobs j USING (job_id)
                    WHERE p.role <> 'order' AND j.paid_at IS NULL
                      AND {_BETWEEN.format("coalesce(p.paid_at, p.learned_at)")}
                ), booked AS (
                    SELECT c.payment_intent_id, c.job_id, c.currency, sum(b.amount_cents - b.fee_cents) AS stripe
                    FROM chosen c JOIN reports.stripe_bookings b USING (payment_intent_id)
                    GROUP BY 1, 2, 3
                    HAVING bool_or(b.kind = 'charge') AND bool_and(b.currency = c.currency)
                ), wholes AS ( -- a job's row holds all of its payments
                    SELECT coalesce(job_id, payment_intent_id) AS subject, currency, sum(stripe) AS stripe,
                           count(*) AS payments, min(payment_intent_id) AS payment_intent_id
                    FROM booked GROUP BY 1, 2
                ), ours AS (
                    SELECT job_id AS subject, currency, received_cents - refunded_cents - disputed_cents
                           - stripe_fee_cents - dispute_fee_cents AS ours
                    FROM reports.job_facts WHERE day BETWEEN :first AND :last
                    UNION ALL
                    SELECT subject, currency, received_cents - refunded_cents - disputed_cents - stripe_fee_cents
                           - dispute_fee_cents FROM reports.other_money
                    WHERE kind = 'payment' AND day BETWEEN :first AND :last)
                SELECT payment_intent_id, currency, ours, stripe FROM wholes JOIN ours USING (subject, currency)
                WHERE ours <> stripe
                  AND payments = (SELECT count(*) FROM chosen c
                                  WHERE coalesce(c.job_id, c.payment_intent_id) = subject
                                    AND c.currency = wholes.currency)
                  AND NOT EXISTS (SELECT FROM reports.changes c WHERE c.job_id = subject)
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
