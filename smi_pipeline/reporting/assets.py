"""The reports as assets: facts first, then what is made of them. SQL does the work; nothing travels between assets."""

from base64 import b64encode
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    DailyPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    asset,
)

from smi_pipeline.adapters.postgres.reports import FACTS, PostgresReports
from smi_pipeline.reporting import charts, presentation
from smi_pipeline.reporting.partitions import DAILY, days_of
from smi_pipeline.reporting.presentation import Description
from smi_pipeline.reporting.resources import ReportsResource

ILLUSTRATED_DAYS = 7
"""Days of a run, the newest ones, that get a table and a chart; all get their figures. A chart takes about 0.2 s and
20 kB of Dagster's event log."""

_OWNERS = ["team:data-ops"]
_SOURCES = ["upscale_jobs", "deliveries", "stripe_payments", "upsampler_api"]  # the fulfilment location defines them


def _definition(table: str, group: str, deps: list[str]) -> dict[str, Any]:
    # Typed as Any: the decorator's overloads do not take keyword dictionaries.
    partitions: DailyPartitionsDefinition = DAILY
    return {
        "deps": deps,
        "partitions_def": partitions,
        "backfill_policy": BackfillPolicy.single_run(),
        "group_name": group,
        "owners": _OWNERS,
        "kinds": {"postgres"},
        "metadata": {"dagster/table_name": f"reports.{table}"},
    }


@asset(
    **_definition(FACTS, "facts", _SOURCES),
    description="One row per paid upscale job, by the UTC day of its payment: times of every stage, outcome and "
    "reason, credits, money in cents. The reports are made of it. Today's figures are 'so far'.",
)
def job_facts(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult:
    """One row per paid upscale job."""
    reports = reports_db.reports()

    def describe(day: date, paid: int) -> Description:
        return presentation.facts(reports.least_profitable(day, presentation.PREVIEW_ROWS), paid)

    return _build(context, reports, FACTS, describe)


@asset(
    **_definition("completion_rate", "reports", [FACTS]),
    description="Share of the decided upscale jobs that were delivered, with its 95 % Wilson interval, per day and "
    "resolution. Open jobs do not count; once delivered, a job stays delivered.",
)
def completion_rate(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult:
    """How many paid jobs were delivered."""
    reports = reports_db.reports()

    def describe(day: date, paid: int) -> Description:
        return presentation.completion(reports.rows("completion_rate", day, day), reports.reasons(day, day))

    def draw(day: date) -> bytes:
        since = day - timedelta(days=charts.TREND_DAYS - 1)
        return charts.png(charts.completion(reports.rows("completion_rate", since, day), day))

    return _build(context, reports, "completion_rate", describe, draw)


@asset(
    **_definition("processing_times", "reports", [FACTS]),
    description="How long each stage took: median, 90th, 95th and 99th percentile, per day and resolution; from the "
    "payment to the moment the mail server took the closing mail.",
)
def processing_times(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult:
    """How long each stage took."""
    reports = reports_db.reports()
    promised = reports_db.policy().max_processing.total_seconds()

    def describe(day: date, paid: int) -> Description:
        return presentation.times(reports.rows("processing_times", day, day), paid)

    def draw(day: date) -> bytes:
        rows = reports.rows("processing_times", day, day)
        return charts.png(charts.times(rows, day, promised_seconds=promised))

    return _build(context, reports, "processing_times", describe, draw)


@asset(
    **_definition("profit_margin", "reports", [FACTS]),
    description="Revenue, refunds, Stripe fees, API cost and what is left, per day, currency and resolution, in "
    "cents. Fees are not returned on a refund. A later refund changes the day of the payment.",
)
def profit_margin(context: AssetExecutionContext, reports_db: ReportsResource) -> MaterializeResult:
    """What is left of the money."""
    reports = reports_db.reports()

    def describe(day: date, paid: int) -> Description:
        return presentation.profit(reports.rows("profit_margin", day, day))

    def draw(day: date) -> bytes:
        return charts.png(charts.profit(reports.rows("profit_margin", day, day), day))

    return _build(context, reports, "profit_margin", describe, draw)


ASSETS = [job_facts, completion_rate, processing_times, profit_margin]


def _build(
    context: AssetExecutionContext,
    reports: PostgresReports,
    table: str,
    describe: Callable[[date, int], Description],
    draw: Callable[[date], bytes] | None = None,
) -> MaterializeResult:
    """Builds the run's days of one table; the newest ones are described in words, and drawn."""
    days = days_of(context)
    if days is None:
        raise ValueError(f"{table} is built by day: choose a partition")
    built = reports.build(table, *days)
    paid = reports.paid_jobs(*days)
    schema = _schema(reports, table)
    for day, count in built.items():
        shown: dict[str, Any] = {"paid_jobs": paid[day]}
        if day in sorted(built)[-ILLUSTRATED_DAYS:]:
            said = describe(day, paid[day])
            shown = {"result": said.headline}  # the UI keeps this order
            if draw is not None:
                shown["chart"] = _image(draw(day), said.headline)
            shown |= {"preview": MetadataValue.md(said.table), **said.numbers}
        shown |= {"dagster/partition_row_count": count, "dagster/column_schema": schema}
        context.add_asset_metadata(shown, partition_key=day.isoformat())
    first, last = days
    context.log.info(f"{table}: {sum(built.values())} rows for {first} to {last}")
    return MaterializeResult()


def _image(png: bytes, words: str) -> MetadataValue:
    return MetadataValue.md(f"![{words}](data:image/png;base64,{b64encode(png).decode()})")


def _schema(reports: PostgresReports, table: str) -> TableSchema:
    return TableSchema(
        columns=[
            TableColumn(name, type_, comment, TableColumnConstraints(nullable=nullable))
            for name, type_, comment, nullable in reports.columns(table)
        ]
    )
