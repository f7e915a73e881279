"""Questions to the reports whose answer must be "nothing": missing facts, money that does not add up, overdue jobs.

Each is one statement, so that it sees one moment; what is in the log of changes is not counted as wrong.
"""

from datetime import date
from typing import Any

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.views import overdue
from smi_pipeline.core.policy import Policy

NEWEST_DAYS = 31
"""Built days that a check looks at besides those it is asked for: enough for a month, quick after years."""

_PENDING = "EXISTS (SELECT FROM reports.changes c WHERE c.day = {0}.day AND c.job_id = {0}.job_id)"


def _days(report: str) -> str:
    return f"""days AS (
        SELECT r.day FROM reports.builds r JOIN reports.builds f ON f.day = r.day AND f.report = 'job_facts'
        WHERE r.report = '{report}' AND r.facts_built_at = f.built_at
          AND (r.day BETWEEN :first AND :last OR r.day IN (
              SELECT day FROM reports.builds WHERE report = '{report}' ORDER BY day DESC LIMIT {NEWEST_DAYS})))"""


class PostgresReportChecks:
    """Reading only. `first` and `last` are days that are checked besides the newest ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def completeness(self, first: date, last: date) -> dict[str, Any]:
        """Paid jobs and facts of the built days: days, paid, facts, waiting (changed since), missing, surplus."""
        with self._database.transaction() as tx:
            return tx.sure_row(
                f"""WITH {_days("job_facts")},
                    paid AS (
                        SELECT d.day, j.job_id FROM days d JOIN smi.upscale_jobs j
                        ON j.paid_at >= d.day::timestamp AT TIME ZONE 'UTC'
                       AND j.paid_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
                    ), facts AS (SELECT day, job_id FROM reports.job_facts JOIN days USING (day)),
                    pairs AS (
                        SELECT p.job_id IS NOT NULL AS paid, f.job_id IS NOT NULL AS facts,
                               (p.job_id IS NULL OR f.job_id IS NULL) AS differ, day, job_id
                        FROM paid p FULL JOIN facts f USING (day, job_id)
                    ), judged AS (SELECT *, differ AND {_PENDING.format("pairs")} AS waiting FROM pairs)
                    SELECT (SELECT count(*) FROM days) AS days, count(*) FILTER (WHERE paid) AS paid,
                           count(*) FILTER (WHERE facts) AS facts, count(*) FILTER (WHERE waiting) AS waiting,
                           count(*) FILTER (WHERE NOT facts AND NOT waiting) AS missing,
                           count(*) FILTER (WHERE NOT paid AND NOT waiting) AS surplus
                    FROM judged""",
                first=first,
                last=last,
            )

    def money(self, first: date, last: date) -> list[dict[str, Any]]:
        """Per currency, in cents: the report's revenue, refunds, fees, cost and net, the net summed up job by job
        (`jobs_net`) and the received (`jobs_received`)."""
        with self._database.transaction() as tx:
            return tx.rows(
                f"""WITH {_days("profit_margin")},
                    jobs AS (
                        SELECT currency, sum(net_margin_cents) AS jobs_net, sum(received_cents) AS jobs_received
                        FROM reports.job_facts JOIN days USING (day) GROUP BY currency
                    ), report AS (
                        SELECT currency, sum(revenue_cents) AS revenue, sum(refunds_cents) AS refunds,
                               sum(stripe_fees_cents) AS fees, sum(api_cost_cents) AS cost, sum(net_margin_cents) AS net
                        FROM reports.profit_margin JOIN days USING (day) WHERE resolution = 'all' GROUP BY currency)
                    SELECT * FROM jobs FULL JOIN report USING (currency) ORDER BY currency""",
                first=first,
                last=last,
            )

    def payments_off(self, first: date, last: date) -> int:
        """Jobs whose facts hold another sum than their payments, of whatever currency."""
        with self._database.transaction() as tx:
            return tx.value(
                f"""WITH {_days("job_facts")}
                    SELECT count(*) FROM (
                        SELECT f.day, f.job_id FROM reports.job_facts f JOIN days USING (day)
                        JOIN smi.payments p ON p.job_id = f.job_id
                        GROUP BY f.day, f.job_id, f.received_cents HAVING sum(p.received_cents) <> f.received_cents
                    ) AS off WHERE NOT {_PENDING.format("off")}""",
                first=first,
                last=last,
            )

    def overdue(self, policy: Policy) -> list[dict[str, Any]]:
        """The alarm query (design section 6 rule 11)."""
        with self._database.transaction() as tx:
            return overdue(tx, policy)

    def below_floors(
        self, first: date, last: date, *, completion_percent: float, margin_percent: float
    ) -> list[dict[str, Any]]:
        """Closed days and currencies below a floor: day, what ('completion rate' or 'margin USD'), percent, floor."""
        with self._database.transaction() as tx:
            return tx.rows(
                """WITH chosen AS (
                       SELECT day FROM reports.builds WHERE report = 'profit_margin'
                         AND (day BETWEEN :first AND :last
                              OR day = (SELECT max(day) FROM reports.builds WHERE report = 'profit_margin'))),
                   figures AS (
                       SELECT day, 'completion rate' AS what, 100 * completion_rate AS percent,
                              CAST(:completion AS float) AS floor
                       FROM reports.completion_rate WHERE resolution = 'all' AND completion_rate IS NOT NULL
                       UNION ALL
                       SELECT day, 'margin ' || upper(currency), 100.0 * net_margin_cents / revenue_cents,
                              CAST(:margin AS float)
                       FROM reports.profit_margin WHERE resolution = 'all' AND revenue_cents > 0)
                   SELECT day, what, percent::float AS percent, floor FROM figures JOIN chosen USING (day)
                   WHERE percent < floor ORDER BY day, what""",
                first=first,
                last=last,
                completion=completion_percent,
                margin=margin_percent,
            )
