"""`smi demo`, `smi up` and `smi migrate`: start the product, and prepare its databases."""

import os
from pathlib import Path

import click

from smi_pipeline.commands.cli_support import done, json_option, load_settings, reporter


@click.command()
@click.option("--jobs", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Number of orders.")
@click.option("--once", is_flag=True, help="Stop at the end; exit 0 only if no violation was found.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the outcome of each job into this file.",
)
@click.option("--broker-url", help="Run it on this broker, like SMI_BROKER_URL; its queues are emptied.")
@click.option("--storage-url", help="Store its files there, like SMI_STORAGE_URL; they are left there.")
def demo(jobs: int, once: bool, json_path: Path | None, broker_url: str | None, storage_url: str | None) -> int:
    """Run the whole shop against the sandbox on this machine; no server, account or key is needed."""
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {json_path.absolute().parent}", param_hint="--json")
    from smi_pipeline.demo.runner import run_demo

    # The demo has its own settings, so that it never mixes with an installation.
    home = os.environ.get("SMI_HOME")
    elsewhere = {"SMI_BROKER_URL": broker_url, "SMI_STORAGE_URL": storage_url}
    given = {name: value for name, value in elsewhere.items() if value}
    return run_demo(jobs, once, json_path, Path(home) / "demo" if home else None, given)


@click.command()
@json_option
def up(as_json: bool) -> int:
    """Run everything against the configured services until Ctrl-C."""
    from smi_pipeline.stack.stack import run_up

    return run_up(load_settings(), reporter(as_json))


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Create missing databases and migrate the schema of the state."""
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
    done(as_json, f"the schema of the state is at revision {revision}", revision=revision)
