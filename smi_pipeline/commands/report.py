"""`smi report DAY|MONTH`: the figures of the reports' tables. Building them is the reporting location's work."""

import re
from calendar import monthrange
from datetime import date, timedelta
from typing import Any

import click

from smi_pipeline.commands.frame import json_option, load_settings, print_json, print_table
from smi_pipeline.core.errors import NotFound


class Period(click.ParamType):
    """A day `2026-11-20` or a month `2026-11` as its first and last day."""

    name = "day|month"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[date, date]:  # the base class allows anything
        if isinstance(value, tuple):
            return value
        try:
            if re.fullmatch(r"\d{4}-\d{2}", value):
                first = date.fromisoformat(f"{value}-01")
                return first, first.replace(day=monthrange(first.year, first.month)[1])
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
                day = date.fromisoformat(value)
                return day, day
        except ValueError:
            pass
        self.fail(f"{value!r} is neither a day like 2026-11-20 nor a month like 2026-11", param, context)


@click.command()
@click.argument("period", metavar="DAY|MONTH", type=Period())
@json_option
def report(period: tuple[date, date], as_json: bool) -> None:
    """Print what a day (2026-11-20) or month (2026-11) brought, by UTC days of payment."""
    from smi_pipeline.adapters.postgres.database import Database
    from smi_pipeline.adapters.postgres.report_figures import stage_seconds
    from smi_pipeline.adapters.postgres.reports import REPORTS, PostgresReports
    from smi_pipeline.wiring import state_url

    first, last = period
    settings = load_settings()
    database = Database(state_url(settings), pool_size=1)
    reports = PostgresReports(database, settings.prices)
    built = reports.paid_jobs(first, last)
    missing = _missing(first, last, set(built))
    partitions = f"materialise the assets job_facts, {', '.join(REPORTS)} in Dagster (port {settings.smi_dagster_port})"
    if not built:
        raise NotFound(f"no report of {_span(first, last)} was built yet: {partitions} for {_span(first, last)}")
    tables = {table: reports.rows(table, first, last) for table in REPORTS}
    figures = {
        "first_day": first,
        "last_day": last,
        "completion_rate": _completion(tables["completion_rate"]),
        "profit_margin": _margin(tables["profit_margin"]),
        "processing_times": stage_seconds(database, first, last),
        "not_delivered": _summed(reports.reasons(first, last), ("reason",), ("jobs",)),
        "days_not_built": missing,
        "days_out_of_date": [stale.day for stale in reports.out_of_date(first, last) if stale.built_at],
    }
    if as_json:
        print_json(figures)
    else:
        _print(figures, partitions)


def _missing(first: date, last: date, built: set[date]) -> list[date]:
    from datetime import UTC, datetime

    until = min(last, datetime.now(UTC).date())  # the rest of this month has not been lived yet
    days = [first + timedelta(days=n) for n in range((until - first).days + 1)]
    return [day for day in days if day not in built]


def _span(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _summed(rows: list[dict[str, Any]], keys: tuple[str, ...], sums: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of several days added up by their keys, in the order in which the keys first come."""
    totals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(tuple(row[k] for k in keys), {**{k: row[k] for k in keys}, **dict.fromkeys(sums, 0)})
        for name in sums:
            total[name] += int(row[name])
    return list(totals.values())


def _completion(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals = _summed(rows, ("resolution",), ("paid_jobs", "delivered", "refunded", "failed", "open_jobs"))
    for total in totals:
        decided = total["paid_jobs"] - total["open_jobs"]
        total["completion_rate"] = total["delivered"] / decided if decided else None
    return totals


def _margin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from smi_pipeline.core.pricing import margin_percent

    amounts = ("revenue_cents", "refunds_cents", "stripe_fees_cents", "api_cost_cents", "net_margin_cents")
    totals = _summed(rows, ("currency", "resolution"), ("paid_jobs", *amounts, "credits", "jobs_at_a_loss"))
    for total in totals:
        percent = margin_percent(total["net_margin_cents"], total["revenue_cents"])
        total["margin_percent"] = None if percent is None else float(percent)
    return totals


def _print(figures: dict[str, Any], partitions: str) -> None:
    from smi_pipeline.core.words import money

    click.echo(f"{_span(figures['first_day'], figures['last_day'])}, UTC days of payment")
    if not figures["completion_rate"]:
        click.echo("no paid upscale jobs")
    else:
        print_table(
            "completion",
            ("size", "paid", "delivered", "refunded", "failed", "open", "rate"),
            [
                (
                    *(row[k] for k in ("resolution", "paid_jobs", "delivered", "refunded", "failed", "open_jobs")),
                    "" if row["completion_rate"] is None else f"{row['completion_rate']:.1%}",
                )
                for row in figures["completion_rate"]
            ],
            right=("paid", "delivered", "refunded", "failed", "open", "rate"),
        )
        cents = ("revenue_cents", "refunds_cents", "stripe_fees_cents", "api_cost_cents", "net_margin_cents")
        print_table(
            "money",
            ("size", "jobs", "revenue", "refunds", "Stripe fees", "API cost", "margin", "%", "credits"),
            [
                (
                    row["resolution"],
                    row["paid_jobs"],
                    *(money(row[name], row["currency"]) for name in cents),
                    row["margin_percent"],
                    row["credits"],
                )
                for row in figures["profit_margin"]
            ],
            right=("jobs", "revenue", "refunds", "Stripe fees", "API cost", "margin", "%", "credits"),
        )
        print_table(
            "seconds",
            ("stage", "jobs", "half within", "95 % within", "slowest"),
            [
                (row["stage"].replace("_", " "), row["jobs"], *(f"{row[k]:.1f}" for k in ("p50", "p95", "max")))
                for row in figures["processing_times"]
            ],
            right=("jobs", "half within", "95 % within", "slowest"),
        )
        if figures["not_delivered"]:
            print_table("not delivered", ("reason", "jobs"), [tuple(row.values()) for row in figures["not_delivered"]])
    for key, words in (("days_not_built", "not built yet"), ("days_out_of_date", "out of date")):
        if figures[key]:
            click.echo(f"{words}: {', '.join(map(str, figures[key]))}; {partitions}")
