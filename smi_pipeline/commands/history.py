"""`smi import-wordpress FILE.csv`: import the past orders of the WordPress plugin as closed jobs."""

from pathlib import Path

import click

from smi_pipeline.commands.cli_support import done, json_option, load_settings, print_json, who
from smi_pipeline.core.errors import RefusedError


@click.command("import-wordpress")
@click.argument("file", metavar="FILE.csv", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--timezone", default="UTC", show_default=True, help="Time zone of the WordPress site, such as Europe/Berlin."
)
@click.option("--currency", default="usd", show_default=True, help="Currency of the plugin's prices (ISO 4217).")
@click.option("--skip-bad", is_flag=True, help="Import the good rows even if others are bad.")
@json_option
def import_wordpress(file: Path, timezone: str, currency: str, skip_bad: bool, as_json: bool) -> int:
    """Import a CSV export of the plugin's table wp_smi_jobs as closed jobs. Importing it again changes nothing.

    Without --skip-bad nothing is imported if any row is bad.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from smi_pipeline.commands.wordpress import parse
    from smi_pipeline.core.currencies import stripe_decimals
    from smi_pipeline.state.database import Database
    from smi_pipeline.state.imported_jobs import PostgresHistory
    from smi_pipeline.wiring import state_url

    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(f"{timezone!r} is not a time zone", param_hint="--timezone") from None
    try:
        stripe_decimals(currency)
    except RefusedError as error:
        raise click.BadParameter(str(error), param_hint="--currency") from None
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            parsed = parse(lines, timezone=zone, currency=currency.lower())
    except UnicodeDecodeError:
        raise RefusedError(f"{file} is not UTF-8 text") from None
    imported, problems = 0, list(parsed.problems)
    if parsed.jobs and (skip_bad or not problems):
        history = PostgresHistory(Database(state_url(load_settings()), pool_size=1))
        while True:
            imported, blocked = history.insert(list(parsed.jobs.values()), actor=who())
            lines_of = {job.job_id: line for line, job in parsed.jobs.items()}
            problems += [(lines_of[job_id], problem) for job_id, problem in blocked]
            if not blocked or not skip_bad:
                break
            for job_id, _ in blocked:
                del parsed.jobs[lines_of[job_id]]
    known = len(parsed.jobs) - imported if skip_bad or not problems else 0
    problems.sort()
    if as_json:
        bad = [{"line": line, "problem": problem} for line, problem in problems]
        print_json({"imported": imported, "known_already": known, "bad_rows": bad})
    for line, problem in problems:
        click.echo(f"smi: {file.name}, line {line}: {problem}", err=True)
    if problems and not skip_bad:
        click.echo("smi: nothing was imported (--skip-bad imports the good rows)", err=True)
        return 1
    if not as_json:
        done(False, f"{imported} jobs imported, {known} known already, {len(problems)} bad rows skipped")
    return 0
