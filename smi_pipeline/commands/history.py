"""`smi import-wordpress FILE`: import the past orders of the WordPress plugin as closed jobs."""

from datetime import tzinfo
from pathlib import Path

import click

from smi_pipeline.commands.cli_support import done, json_option, load_context, load_settings, print_json, who
from smi_pipeline.core.errors import RefusedError


def _zone(ctx: click.Context, param: click.Parameter, value: str | None) -> tzinfo | None:
    from smi_pipeline.commands import local_times

    try:
        return local_times.zone(value) if value else None
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command("import-wordpress")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--time-zone",
    "--timezone",
    "timezone",
    callback=_zone,
    help="Time zone of the WordPress site, such as Europe/Berlin or UTC+5:30.  [default: UTC]",
)
@click.option(
    "--database-time-zone",
    callback=_zone,
    default="UTC",
    show_default=True,
    help="Time zone of its database server, which writes updated_at.",
)
@click.option("--currency", default="usd", show_default=True, help="Currency of the plugin's prices (ISO 4217).")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "csv-backslash", "outfile", "mysql"]),
    help="How values are written, if it cannot be told from the file: csv doubles quotes, csv-backslash escapes them, "
    "outfile is MySQL's INTO OUTFILE, mysql is `wp db query`.",
)
@click.option("--columns", help="Names of the columns, separated by commas, for a file without them.")
@click.option("--encoding", help="Encoding of the file if it is neither UTF-8 nor marked, such as cp1252.")
@click.option("--dates", type=click.Choice(["dmy", "mdy"]), help="Order of day and month if Excel has changed them.")
@click.option("--without-stripe", is_flag=True, help="Do not ask Stripe: refunds are missing then.")
@click.option(
    "--refused",
    "refused_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write refused rows into a new CSV file, to be corrected and imported.",
)
@click.option("--skip-bad", is_flag=True, help="Exit with 0 even if rows were refused.")
@json_option
def import_wordpress(
    file: Path,
    timezone: tzinfo | None,
    database_time_zone: tzinfo,
    currency: str,
    format_: str | None,
    columns: str | None,
    encoding: str | None,
    dates: str | None,
    without_stripe: bool,
    refused_file: Path | None,
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Import an export of the plugin's table wp_smi_jobs as closed jobs. Importing it again changes nothing.

    It reads CSV as phpMyAdmin and Excel write it, the output of `wp db query`, and MySQL's INTO OUTFILE. Rows that
    cannot be imported are named by line and reason; all others are imported, and the exit code is 1.
    """
    from smi_pipeline.commands import exports, local_times
    from smi_pipeline.commands.import_run import ImportRun, write_refused
    from smi_pipeline.commands.wordpress import REQUIRED, Site, times_in
    from smi_pipeline.core.currencies import stripe_decimals
    from smi_pipeline.state.database import Database
    from smi_pipeline.state.imported_jobs import PostgresHistory
    from smi_pipeline.wiring import state_url

    try:
        stripe_decimals(currency)
    except RefusedError as error:
        raise click.BadParameter(str(error), param_hint="--currency") from None
    if refused_file and refused_file.exists():
        raise click.BadParameter(f"{refused_file} exists already", param_hint="--refused")
    if refused_file and not refused_file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {refused_file.parent}", param_hint="--refused")
    export = exports.read(
        file.read_bytes(),
        required=REQUIRED,
        table="wp_smi_jobs",
        encoding=encoding,
        format=format_,
        columns=columns.split(",") if columns else None,
    )
    settings = load_settings()
    site = Site(
        timezone=timezone or local_times.zone("UTC"),
        database_timezone=database_time_zone,
        dates=dates or local_times.order_of(times_in(export)),
        currency=currency.lower(),
        credit_cents=settings.smi_credit_cents if currency.lower() == settings.smi_currency else None,
    )
    if not without_stripe and not settings.stripe_api_key.get_secret_value():
        raise RefusedError(
            "STRIPE_API_KEY is not set, and only Stripe knows of refunds (--without-stripe imports without them)"
        )
    history = PostgresHistory(Database(state_url(settings), pool_size=1))
    payments = None if without_stripe else load_context().payments
    result = ImportRun(export, site, history, payments, zone_is_named=timezone is not None, actor=who())
    result.run(lambda line: click.echo(f"smi: {line}", err=True))
    result.problems.sort()
    if refused_file and result.problems:
        write_refused(refused_file, export, result.problems)
    counts = {"rows": len(export.records), "imported": result.imported, "known_already": result.known}
    if as_json:
        bad = [{"line": line, "problem": problem} for line, problem in result.problems]
        print_json({**counts, "refused": len(bad), "bad_rows": bad})
    for line, problem in result.problems:
        click.echo(f"smi: {file.name}, line {line}: {problem}", err=True)
    for note in result.notes:
        click.echo(f"smi: note: {note}", err=True)
    if not as_json:
        rows = "1 row" if len(export.records) == 1 else f"{len(export.records):,} rows"
        refused = len(result.problems)
        done(False, f"{rows}: {result.imported:,} imported, {result.known:,} imported before, {refused:,} refused")
    return 1 if result.problems and not skip_bad else 0
