"""`smi report DAY|MONTH`: print the figures of the reports, which the reporting location builds."""

import re
from calendar import monthrange
from contextlib import suppress
from datetime import date
from typing import Any

import click

from smi_pipeline.commands.cli_support import json_option, load_settings, print_json, print_table
from smi_pipeline.core.errors import NotFound


class Period(click.ParamType[tuple[str, date]]):
    """A day `2026-11-20` or a month `2026-11` as ('day' or 'month', its first day)."""

    name = "day|month"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, date]:
        """Return the kind and the first day of the period."""
        if isinstance(value, tuple):
            return value
        if found := re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", value):
            with suppress(ValueError):
                day = date.fromisoformat(value if found[1] else f"{value}-01")
                return "day" if found[1] else "month", day
        self.fail(f"{value!r} is neither a day like 2026-11-20 nor a month like 2026-11", param, context)


@click.command()
@click.argument("period", metavar="DAY|MONTH", type=Period())
@json_option
def report(period: tuple[str, date], as_json: bool) -> None:
    """Print the figures of a day (2026-11-20) or month (2026-11), by UTC day of payment."""
    from smi_pipeline.reporting.figures import FIGURES
    from smi_pipeline.reporting.presentation import so_far
    from smi_pipeline.state.database import Database
    from smi_pipeline.state.reports.store import REPORTS, Reports
    from smi_pipeline.wiring import state_url

    kind, start = period
    name = f"{start}" if kind == "day" else f"{start:%Y-%m}"
    settings = load_settings()
    reports = Reports(Database(state_url(settings), pool_size=1), settings.prices)
    how = f"materialise it with the job rebuild_{kind}s in Dagster (port {settings.smi_dagster_port})"
    if not reports.is_built(kind, start):
        raise NotFound(f"no report of {name} has been built yet: {how}")
    figures: dict[str, Any] = {table: reports.rows(table, start, start, period=kind) for table in REPORTS}
    last = start if kind == "day" else start.replace(day=monthrange(start.year, start.month)[1])
    complete = last < reports.today()
    stale = any(one.period in ("day", kind) for one in reports.out_of_date(start, last))
    if as_json:
        print_json({"period": kind, "starts_on": start, **figures, "out_of_date": stale, "complete": complete})
        return
    click.echo(f"{name}, UTC days of payment" + so_far(kind, complete=complete))
    for table, figure in FIGURES.items():
        said = figure.describe(figures[table])
        click.echo(f"{figure.title}: {said.headline}")
        if said.table:
            print_table(None, said.table.headers, said.table.rows, right=said.table.headers[said.table.words :])
    if stale:
        click.echo(f"out of date: {how}")
