"""Build and read the schema `reports`, a range of days in one statement."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.models import BalanceTransaction
from smi_pipeline.core.pricing import Prices
from smi_pipeline.state.database import Database, Transaction
from smi_pipeline.state.reports.percentiles import STAGES, insert_processing_times
from smi_pipeline.state.reports.statements import (
    INSERT_DAY_SUMS,
    INSERT_JOB_FACTS,
    INSERT_OTHER_MONEY,
    PICK_JOBS,
    SUM_RECORDS,
    insert_report,
)

__all__ = ["FACTS", "OTHER_MONEY", "PERIODS", "REPORTS", "STAGES", "OutOfDate", "Reports"]

FACTS = "job_facts"
OTHER_MONEY = "other_money"
PERIODS = ("day", "week", "month")
REPORTS = (
    "completion_rate", "error_rate", "processing_times", "profit_margin", "credit_usage", "customer_satisfaction"
)  # fmt: skip
"""Tables calculated from the facts."""

BOOKINGS_CURSOR = "stripe_bookings_read"
"""Up to when Stripe's bookings were read."""

_LOCK = 727_464_002  # key of pg_advisory_xact_lock: one build at a time

_ONE_DAY = timedelta(days=1)

# Range of one statement: for the facts it reads whole tables, for a report it holds the times of all jobs in memory.
_FACTS_STRETCH = timedelta(days=184)
_REPORT_STRETCH = timedelta(days=31)

# Settings of a build: years take longer than the 20 s of fulfilment and need memory for joins (a hash uses twice
# work_mem), jit would dominate a short build, random_page_cost favours indexes for a day's jobs, and the transaction
# that holds the lock is idle.
_SETTINGS = """SET LOCAL statement_timeout = '10min'; SET LOCAL work_mem = '40MB'; SET LOCAL jit = off;
    SET LOCAL random_page_cost = 1.1; SET LOCAL idle_in_transaction_session_timeout = 0"""


@dataclass(frozen=True, kw_only=True)
class OutOfDate:
    """A period whose tables are out of date: its last change, and when it was built."""

    period: str
    starts_on: date
    last_change: int  # change_id, 0 when only a report is older than its facts
    changed_at: datetime  # the newest change
    built_at: datetime | None
    now: datetime


class Reports:
    """Build and read the report tables. `budget`: credits of a month, None for no budget.

    Every method raises TransientError when the database does not answer."""

    def __init__(self, database: Database, prices: Prices, *, budget: int | None = None) -> None:
        self._database = database
        self._prices = prices
        self._budget = budget

    def _build(self, stretches: Iterable[tuple[date, date]], work: Callable[[Transaction, date, date], None]) -> None:
        """Call `work` for each range in its own transaction, two at a time, as an INSERT runs on one core. A lock keeps
        other builds out."""
        with self._database.transaction() as lock, ThreadPoolExecutor(2) as threads:
            lock.run(_SETTINGS)
            lock.run("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)

            def run(stretch: tuple[date, date]) -> None:
                with self._database.transaction() as tx:
                    tx.run(_SETTINGS)
                    work(tx, *stretch)

            list(threads.map(run, stretches))

    def build_facts(self, first: date, last: date) -> dict[date, int]:
        """Replace the days `first` to `last` of both fact tables and their sums; return the paid jobs per day.

        Idempotent. Readers see a consistent state of each day."""
        rates = {"fee_percent": self._prices.fee_percent, "fee_fixed": self._prices.fee_fixed_cents}
        credit = {"credit_cents": self._prices.credit_cents}

        def work(tx: Transaction, first: date, last: date) -> None:
            days = {"first": first, "last": last}
            # The log before the state: a change that commits in between stays in the log.
            tx.run("DELETE FROM reports.changes WHERE day BETWEEN :first AND :last", **days)
            for table in (FACTS, OTHER_MONEY, "day_sums"):
                tx.run(f"DELETE FROM reports.{table} WHERE day BETWEEN :first AND :last", **days)
            tx.run(SUM_RECORDS)
            tx.run(PICK_JOBS, **days, **credit)
            tx.run("ANALYZE picked")
            tx.run(INSERT_JOB_FACTS, **rates)
            tx.run(INSERT_OTHER_MONEY, **days, **rates, **credit)
            tx.run(INSERT_DAY_SUMS, **days)
            for table in (OTHER_MONEY, FACTS):
                _note_build(tx, table, "day", "day", **days)

        self._build(_stretches(first, last, "day", _FACTS_STRETCH), work)
        self._database.dispose()  # a session keeps the memory of its joins, a third of a GB for half a year
        return self.row_counts(FACTS, first, last)

    def build(self, table: str, first: date, last: date, *, period: str = "day") -> dict[date, int]:
        """Replace the periods of the days `first` to `last` in one report; return the rows by first day. Idempotent.

        Raises RefusedError for days whose facts have not been built; longer periods use the facts that exist."""
        first, last = _whole_periods(first, last, period)

        def work(tx: Transaction, first: date, last: date) -> None:
            days = {"first": first, "last": last}
            if period == "day":
                _require_facts(tx, table, first, last)
            tx.run(
                f"DELETE FROM reports.{table} WHERE period = :period AND starts_on BETWEEN :first AND :last",
                period=period,
                **days,
            )
            if table == "processing_times":
                insert_processing_times(tx, period, first, last)
            elif table == "credit_usage":
                today = tx.value("SELECT smi.now()::date")
                tx.run(insert_report(table, period), **days, budget=self._budget, today=today)
            else:
                tx.run(insert_report(table, period), **days)
            _note_build(tx, table, period, "starts_on", **days)

        self._build(_stretches(first, last, period, _REPORT_STRETCH), work)
        return self.row_counts(table, first, last, period=period)

    def out_of_date(self, first: date, last: date) -> list[OutOfDate]:
        """Return the out-of-date periods that begin between `first` and `last`, days first, then the oldest: facts with
        changes in the log or built before their day was over, and reports not built from the newest facts."""
        rows = self._database.rows(
            """WITH stale AS (
                   SELECT day, max(change_id) AS last_change, max(at) AS changed_at
                   FROM (SELECT day, change_id, at FROM reports.changes
                         UNION ALL
                         SELECT starts_on, 0, (starts_on + 1)::timestamptz FROM reports.builds
                         WHERE report = :facts AND built_at < starts_on + 1 AND starts_on < smi.now()::date) AS reason
                   WHERE day BETWEEN :first AND :last GROUP BY day
               ), facts AS (
                   SELECT p.period, date_trunc(p.period, starts_on)::date AS starts_on, max(built_at) AS built_at
                   FROM reports.builds CROSS JOIN unnest(CAST(:periods AS text[])) AS p (period)
                   WHERE report = :facts AND starts_on BETWEEN :first AND :last GROUP BY 1, 2
               ), behind AS (
                   SELECT f.period, f.starts_on, max(f.built_at) AS changed_at, min(b.built_at) AS built_at
                   FROM facts f CROSS JOIN unnest(CAST(:reports AS text[])) AS wanted (name)
                   LEFT JOIN reports.builds b
                     ON b.report = wanted.name AND b.period = f.period AND b.starts_on = f.starts_on
                   GROUP BY 1, 2 HAVING bool_or(b.facts_built_at IS DISTINCT FROM f.built_at)
               )
               SELECT 'day' AS period, day AS starts_on, last_change, changed_at, f.built_at, smi.now() AS now
               FROM stale s LEFT JOIN facts f ON f.period = 'day' AND f.starts_on = s.day
               UNION ALL
               SELECT b.period, b.starts_on, 0, changed_at, b.built_at, smi.now() FROM behind b
               WHERE b.period <> 'day' OR b.starts_on NOT IN (SELECT day FROM stale)
               ORDER BY period, starts_on""",
            first=first,
            last=last,
            facts=FACTS,
            periods=list(PERIODS),
            reports=list(REPORTS),
        )
        return [OutOfDate(**row) for row in rows]

    def rows(
        self, table: str, first: date, last: date, *, period: str = "day", limit: int = 100_000
    ) -> list[dict[str, Any]]:
        """Return rows of a table between two days, ordered by key; money in cents, times in seconds, shares 0 to 1."""
        keys = {
            FACTS: "day, job_id",
            OTHER_MONEY: "day, subject",
            "error_rate": "starts_on, reason <> 'all', jobs DESC, reason",
            "processing_times": f"starts_on, array_position(ARRAY{list(STAGES)}, stage), resolution DESC",
            "profit_margin": "starts_on, currency, resolution = 'none', resolution DESC",
            "credit_usage": "starts_on, resolution = 'none', resolution DESC",
        }
        which = "day" if table in (FACTS, OTHER_MONEY) else "period = :period AND starts_on"
        return self._database.rows(
            f"""SELECT * FROM reports.{table} WHERE {which} BETWEEN :first AND :last
                ORDER BY {keys.get(table, "starts_on, resolution DESC")} LIMIT :limit""",
            first=first,
            last=last,
            limit=limit,
            **({} if which == "day" else {"period": period}),
        )

    def least_profitable(self, first: date, last: date, limit: int) -> list[dict[str, Any]]:
        """Return the facts of these days, the biggest loss first."""
        return self._database.rows(
            """SELECT * FROM reports.job_facts WHERE day BETWEEN :first AND :last
               ORDER BY net_margin_cents, job_id LIMIT :limit""",
            first=first,
            last=last,
            limit=limit,
        )

    def row_counts(self, table: str, first: date, last: date, *, period: str = "day") -> dict[date, int]:
        """Return the number of rows per period for which a table has been built."""
        rows = self._database.rows(
            """SELECT starts_on, row_count FROM reports.builds WHERE report = :table AND period = :period
               AND starts_on BETWEEN :first AND :last ORDER BY starts_on""",
            table=table,
            period=period,
            first=first,
            last=last,
        )
        return {row["starts_on"]: row["row_count"] for row in rows}

    def today(self) -> date:
        """Return the current day, UTC. Periods that end on it or later are not over."""
        today: date = self._database.value("SELECT smi.now()::date")
        return today

    def is_built(self, period: str, starts_on: date) -> bool:
        """Return whether all reports of a period have been built."""
        return bool(
            self._database.value(
                """SELECT count(*) = :reports FROM reports.builds
                   WHERE report = ANY(:names) AND period = :period AND starts_on = :starts_on""",
                reports=len(REPORTS),
                names=list(REPORTS),
                period=period,
                starts_on=starts_on,
            )
        )

    def bookings_read_to(self) -> datetime | None:
        """Return the time up to which Stripe's bookings have been read; initially the first payment, None before it."""
        read_to: datetime | None = self._database.value(
            """SELECT coalesce((SELECT value::timestamptz FROM smi.cursors WHERE name = :name),
                               (SELECT min(coalesce(paid_at, learned_at)) FROM smi.payments))""",
            name=BOOKINGS_CURSOR,
        )
        return read_to

    def note_bookings(
        self, bookings: Sequence[BalanceTransaction], *, since: datetime | None, read_to: datetime
    ) -> int:
        """Store the new ones among Stripe's bookings and return how many; the days that they change go to the log. They
        were read from `since`: a bookmark that is elsewhere by now was moved back to be read from there, and stays."""
        with self._database.transaction() as tx:
            tx.run(
                """INSERT INTO smi.cursors (name, value) VALUES (:name, :read_to)
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value
                   WHERE CAST(cursors.value AS timestamptz) = :since""",
                name=BOOKINGS_CURSOR,
                read_to=str(read_to),
                since=since,
            )
            return sum(
                tx.run(
                    """INSERT INTO reports.stripe_bookings AS b (booking_id, created_at, source_id, kind,
                           payment_intent_id, amount_cents, fee_cents, currency)
                       VALUES (:booking_id, :created_at, :source_id, :kind, :payment_intent_id, :amount_cents,
                           :fee_cents, :currency)
                       ON CONFLICT (booking_id) DO UPDATE SET amount_cents = excluded.amount_cents,
                           fee_cents = excluded.fee_cents, currency = excluded.currency
                       WHERE (b.amount_cents, b.fee_cents, b.currency)
                           IS DISTINCT FROM (excluded.amount_cents, excluded.fee_cents, excluded.currency)""",
                    **asdict(booking),
                )
                for booking in bookings
            )

    def columns(self, table: str) -> list[tuple[str, str, str, bool]]:
        """Return the columns of a table: name, type, comment, whether it may be NULL."""
        rows = self._database.rows(
            """SELECT attname AS name, format_type(atttypid, atttypmod) AS type,
                      coalesce(col_description(attrelid, attnum), '') AS comment, NOT attnotnull AS nullable
               FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
               ORDER BY attnum""",
            table=f"reports.{table}",
        )
        return [(row["name"], row["type"], row["comment"], row["nullable"]) for row in rows]


def _start_of(day: date, period: str) -> date:
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[period]


def _whole_periods(first: date, last: date, period: str) -> tuple[date, date]:
    """Return the days `first` to `last` widened to whole periods."""
    longest = {"day": 1, "week": 7, "month": 31}[period]
    return _start_of(first, period), _start_of(_start_of(last, period) + timedelta(days=longest), period) - _ONE_DAY


def _stretches(first: date, last: date, period: str, length: timedelta) -> Iterator[tuple[date, date]]:
    """Yield the days `first` to `last` in ranges of whole periods of about `length`, at least a month."""
    while first <= last:
        following = _start_of(first + length, period)
        yield first, min(last, following - _ONE_DAY)
        first = following


def _require_facts(tx: Transaction, table: str, first: date, last: date) -> None:
    missing = tx.value(
        """SELECT min(d)::date FROM generate_series(CAST(:first AS date), CAST(:last AS date), '1 day') AS d
           WHERE NOT EXISTS (SELECT FROM reports.builds WHERE report = 'job_facts' AND starts_on = d::date)""",
        first=first,
        last=last,
    )
    if missing:
        raise RefusedError(f"{table} is built from job_facts, which has not been built for {missing} yet")


def _note_build(tx: Transaction, table: str, period: str, column: str, *, first: date, last: date) -> None:
    which = "" if column == "day" else "period = :period AND "
    tx.run(
        f"""WITH now AS MATERIALIZED (SELECT smi.now() AS at)
            INSERT INTO reports.builds AS b (report, period, starts_on, built_at, facts_built_at, row_count)
            SELECT :table, :period, p::date, now.at, coalesce(f.built_at, now.at), coalesce(n.rows, 0)
            FROM generate_series(CAST(:first AS date), CAST(:last AS date), ('1 ' || :period)::interval) AS p
            CROSS JOIN now
            LEFT JOIN (SELECT date_trunc(:period, starts_on)::date AS start, max(built_at) AS built_at
                       FROM reports.builds
                       WHERE report = 'job_facts' AND starts_on BETWEEN :first AND :last AND :table <> 'job_facts'
                       GROUP BY 1) AS f ON f.start = p::date
            LEFT JOIN (SELECT {column} AS start, count(*) AS rows FROM reports.{table}
                       WHERE {which}{column} BETWEEN :first AND :last GROUP BY 1) AS n ON n.start = p::date
            ON CONFLICT (report, period, starts_on) DO UPDATE SET built_at = excluded.built_at,
                facts_built_at = excluded.facts_built_at, row_count = excluded.row_count""",
        table=table,
        period=period,
        first=first,
        last=last,
    )
