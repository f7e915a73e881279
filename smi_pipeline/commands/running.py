"""`smi demo`, `smi up` and `smi migrate`: what starts the product, and what its database needs before."""

import os
from pathlib import Path

import click

from smi_pipeline.commands.cli_support import done, json_option, load_settings, reporter


@click.command()
@click.option("--jobs", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Upscale jobs to sell.")
@click.option("--once", is_flag=True, help="Stop at the end; exit 0 only if the ledgers show no violation.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what happened to each job into this file.",
)
def demo(jobs: int, once: bool, json_path: Path | None) -> int:
    """Run the whole shop against a sandbox on this machine: no server, account or key needed."""
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {json_path.absolute().parent}", param_hint="--json")
    from smi_pipeline.demo.runner import run_demo

    # The demo has settings of its own, so that those of an installation can neither hinder nor join it.
    home = os.environ.get("SMI_HOME")
    return run_demo(jobs, once, json_path, Path(home) / "demo" if home else None)


@click.command()
@json_option
def up(as_json: bool) -> int:
    """Run everything against the services that the environment names, until Ctrl-C."""
    from smi_pipeline.stack.stack import run_up

    return run_up(load_settings(), reporter(as_json))


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Create the databases where they are missing and bring the state's schema up to date."""
    from smi_pipeline.state.database import Database
    from smi_pipeline.state.health import check_database
    from smi_pipeline.state.schema import ensure_database, migrate
    from smi_pipeline.wiring import state_url

    settings = load_settings()
    url = state_url(settings)
    for database in filter(None, (url, settings.dagster_postgres_url)):
        ensure_database(database)
    migrate(url)
    revision = check_database(Database(url, pool_size=1)).revision
    done(as_json, f"the state's schema is at revision {revision}", revision=revision)
