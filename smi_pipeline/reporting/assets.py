"""Define the reports as assets: the facts, then the reports of each day, week and month, built by SQL."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    BackfillPolicy,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    asset,
    multi_asset,
)

from smi_pipeline.formatting import money, number
from smi_pipeline.reporting import charts, pages
from smi_pipeline.reporting.figures import FIGURES
from smi_pipeline.reporting.partitions import PARTITIONS, earlier, last_day, on, starts_of
from smi_pipeline.reporting.presentation import Measure, Table, Trend, jobs, label, so_far
from smi_pipeline.reporting.resources import ReportsResource
from smi_pipeline.state.reports.store import FACTS, OTHER_MONEY, PERIODS, REPORTS, Reports

SHOWN_PERIODS = 31
"""Newest periods of a run that get a headline, chart and files, which take about a second each; all get tables."""
PREVIEW_ROWS = 4  # of the facts: Dagster hides Markdown of over 1,000 characters behind a click

_ADVERBS = {"day": "daily", "week": "weekly", "month": "monthly"}
_FACTS = {
    FACTS: "One row per paid upscale job, by the UTC day of its payment: times of every stage, outcome and reason, "
    "credits, money in cents. The source of the reports. Today's figures are incomplete.",
    OTHER_MONEY: "Payments without a job, and free retries: together with job_facts, all the money that Stripe has "
    "booked for this shop and all the credits that Upsampler charged.",
}

BOOKINGS = AssetSpec(
    "stripe_bookings",
    deps=["stripe_payments"],
    description="Stripe's balance transactions of payments, refunds and disputes: fees and chargebacks. The sensor of "
    "the same name reads new ones and reports them here.",
    group_name="sources",
    metadata={"dagster/table_name": "reports.stripe_bookings"},
    owners=["team:data-ops"],
    kinds={"stripe", "postgres"},
)


def asset_name(table: str, period: str) -> str:
    """Return the name of a report's asset: `profit_margin` of days, `weekly_profit_margin`, `monthly_profit_margin`."""
    return table if period == "day" else f"{_ADVERBS[period]}_{table}"


@multi_asset(
    name="facts",
    specs=[
        AssetSpec(
            table,
            description=description,
            deps=["upscale_jobs", "deliveries", "stripe_payments", "upsampler_api", "stripe_bookings"],
            group_name="facts",
            metadata={"dagster/table_name": f"reports.{table}"},
            owners=["team:data-ops"],
            kinds={"postgres"},
        )
        for table, description in _FACTS.items()
    ],
    partitions_def=PARTITIONS["day"],
    backfill_policy=BackfillPolicy.single_run(),
)
def facts(context: AssetExecutionContext, reports_db: ReportsResource) -> Iterator[MaterializeResult[None]]:
    """Build both fact tables in one transaction."""
    reports = reports_db.reports()
    first, last = _starts(context)
    built = reports.build_facts(first, last)
    others = reports.row_counts(OTHER_MONEY, first, last)
    schemas = {table: column_schema(reports, table) for table in (FACTS, OTHER_MONEY)}
    today = reports.today()
    for day, count in built.items():
        loose = reports.rows(OTHER_MONEY, day, day, limit=PREVIEW_ROWS)
        count_of_others = number(others[day]) if others[day] else "no"
        without = f"{count_of_others} payments without a job, or free retries"
        later = so_far("day", complete=day < today)
        shown: dict[str, dict[str, Any]] = {
            FACTS: {"result": jobs(count) + later},
            OTHER_MONEY: {"result": without + later},
        }
        if day in sorted(built)[-SHOWN_PERIODS:]:
            worst = reports.least_profitable(day, day, PREVIEW_ROWS)
            shown[FACTS] |= {"least profitable": MetadataValue.md(_worst(worst).markdown())} if worst else {}
            shown[OTHER_MONEY] |= {"rows": MetadataValue.md(_loose(loose).markdown())} if loose else {}
        rows = {FACTS: count, OTHER_MONEY: others[day]}
        for table, said in shown.items():
            said |= {"complete": day < today}
            said |= {"dagster/partition_row_count": rows[table], "dagster/column_schema": schemas[table]}
            context.add_asset_metadata(said, asset_key=table, partition_key=day.isoformat())
    context.log.info(f"{sum(built.values())} paid upscale jobs of {first} to {last}")
    for table in (FACTS, OTHER_MONEY):
        yield MaterializeResult(asset_key=table)


def _worst(rows: Sequence[Any]) -> Table:
    return Table(
        ["Upscale job", "Net margin, outcome"],
        [
            [
                row["job_id"],
                f"{money(row['net_margin_cents'], row['currency'])}, {row['outcome']}"
                + (f": {row['reason']}" if row["reason"] else ""),
            ]
            for row in rows
        ],
        words=2,
    )


def _loose(rows: Sequence[Any]) -> Table:
    return Table(
        ["Payment or job", "Kind", "Net"],
        [[row["subject"], row["kind"], money(row["net_margin_cents"], row["currency"])] for row in rows],
        words=2,
    )


def _report(table: str, period: str) -> AssetsDefinition:
    @asset(
        name=asset_name(table, period),
        deps=on([FACTS, OTHER_MONEY] if table in ("profit_margin", "credit_usage") else [FACTS]),
        partitions_def=PARTITIONS[period],
        backfill_policy=BackfillPolicy.single_run(),
        group_name=_ADVERBS[period],
        description=FIGURES[table].text + ("" if period == "day" else f" By {period}, calculated from the facts."),
        metadata={"dagster/table_name": f"reports.{table}"},
        owners=["team:data-ops"],
        kinds={"postgres"},
    )
    def build(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult[None]:
        reports = reports_db.reports()
        first, last = _starts(context)
        built = reports.build(table, first, last, period=period)
        schema = column_schema(reports, table)
        shown = sorted(built)[-SHOWN_PERIODS:]
        rows = reports.rows(table, earlier(shown[0], period, pages.TREND - 1), shown[-1], period=period)
        today = reports.today()
        for start, count in built.items():
            said: dict[str, Any] = {}
            complete = last_day(start, period) < today
            if start in shown:
                past = pages.trend(rows, period, start)
                description = FIGURES[table].describe(past[-1][1])
                said = {"result": description.headline + so_far(period, complete=complete)}  # the UI keeps this order
                if chart := _chart(FIGURES[table].measure(past), past, period):
                    said["chart"] = MetadataValue.md(chart)
                if description.preview:
                    said["preview"] = MetadataValue.md(description.preview.markdown())
                said |= description.numbers
            said |= {"complete": complete, "dagster/partition_row_count": count, "dagster/column_schema": schema}
            context.add_asset_metadata(said, partition_key=start.isoformat())
        context.log.info(f"{table}: {sum(built.values())} rows for {first} to {last_day(last, period)}")
        return MaterializeResult()

    return build


def _chart(measure: Measure, past: Trend, period: str) -> str:
    """Return the chart of the last periods as Markdown, empty without a value."""
    values = measure.since_first()
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = number(min(known)), number(max(known))
    ends = label(past[-len(values)][0], past), label(past[-1][0], past)
    words = f"{measure.words}, by {period}: {low if low == high else f'{low} to {high}'}"
    return f"{words}\n\n![{words}]({charts.tiny(values, ends)})"


def _pages(period: str) -> AssetsDefinition:
    @asset(
        name=asset_name("pages", period) if period == "month" else "daily_pages",
        deps=[*on([FACTS, OTHER_MONEY]), *(asset_name(table, period) for table in REPORTS)],
        partitions_def=PARTITIONS[period],
        backfill_policy=BackfillPolicy.single_run(),
        group_name=_ADVERBS[period],
        description=f"A printable page of each {period} and its tables as CSV and Parquet, in the storage. Of a long "
        f"range only the newest {SHOWN_PERIODS} {period}s are written.",
        owners=["team:data-ops"],
        kinds={"html", "csv", "parquet"},
    )
    def build(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult[None]:
        reports, files = reports_db.reports(), reports_db.files()
        promise, today = reports_db.settings().smi_max_processing_seconds, reports.today()
        first, start = _starts(context)
        for _ in range(SHOWN_PERIODS):
            written = pages.write(reports, files, period, start, promise)
            key = next(iter(written))
            said = {"page": reports_db.link(key), "files": len(written), "folder": key.rpartition("/")[0]}
            said["complete"] = last_day(start, period) < today
            context.add_asset_metadata(said, partition_key=start.isoformat())
            if start == first:
                break
            start = earlier(start, period, 1)
        return MaterializeResult()

    return build


def _starts(context: AssetExecutionContext) -> tuple[date, date]:
    starts = starts_of(context)
    if starts is None:
        raise ValueError("reports are built by day, week or month: choose a partition")
    return starts


def column_schema(reports: Reports, table: str) -> TableSchema:
    """Return the schema of a table as the database describes it."""
    return TableSchema(
        columns=[
            TableColumn(name, type_, comment, TableColumnConstraints(nullable=nullable))
            for name, type_, comment, nullable in reports.columns(table)
        ]
    )


BY_PERIOD: dict[str, list[AssetsDefinition]] = {
    period: [_report(table, period) for table in REPORTS] + ([_pages(period)] if period != "week" else [])
    for period in PERIODS
}
BY_PERIOD["day"].insert(0, facts)
ASSETS: list[AssetSpec | AssetsDefinition] = [BOOKINGS, *(each for built in BY_PERIOD.values() for each in built)]
