"""`python -m smi_pipeline_tests.soak --jobs N --seed S --json FILE`: exit code 1 on any violation."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from smi_pipeline.demo.runner import ctrl_c
from smi_pipeline.state.embedded import DAGSTER_DATABASE, STATE_DATABASE, EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database
from smi_pipeline_tests.soak import outages
from smi_pipeline_tests.soak.rotation import Rotation
from smi_pipeline_tests.soak.runner import Plan, soak

OUTAGE_SECONDS = 60.0
PAUSE_SECONDS = 75.0  # a lease lasts 45 s
OUTAGES = ("postgres-paused", "postgres-down", "disk-storage", "disk-postgres")
_SMALL_MEGABYTES = {"disk-storage": 150, "disk-postgres": 500}


def main() -> int:
    """Run one soak and print the report."""
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline_tests.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orders-per-minute", type=float, default=0.0, help="default: as fast as the shop takes them")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--home", type=Path, help="folder for everything, kept afterwards (default: a temporary one)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--outage", choices=OUTAGES, help="what fails for a minute once a third of the orders is paid")
    more.add_argument(
        "--two-stacks", action="store_true", help="run two stacks on one database, each paused for a while"
    )
    more.add_argument(
        "--rotate", action="store_true", help="replace all keys under load; at the end open each link of each mail"
    )
    given = parser.parse_args()
    report_path = given.json.absolute() if given.json else None
    with (
        tempfile.TemporaryDirectory(prefix="smi-soak-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as around,
    ):
        Path(folder).chmod(0o755)  # as root the product runs as another user
        plan = Plan(
            home=(given.home or Path(folder) / "soak").absolute(),
            jobs=given.jobs,
            seed=given.seed,
            orders_per_minute=given.orders_per_minute,
        )
        if given.outage:
            _outage(plan, given.outage, around)
        if given.two_stacks:
            _two_stacks(plan, around)
        if given.rotate:
            rotation = Rotation()
            plan.interrupted = plan.open_links = True
            plan.events = [(0.3, rotation.begin), (0.65, rotation.end)]
        around.enter_context(ctrl_c())
        report = soak(plan)
    sys.stdout.write(f"{report}\n")
    if report_path:
        report.write(report_path)
    return 1 if report.violations else 0


def _outage(plan: Plan, name: str, around: contextlib.ExitStack) -> None:
    """Plan an outage once a third of the orders is paid."""
    plan.interrupted = True
    if name == "postgres-paused":
        event = outages.postgres_paused(OUTAGE_SECONDS)
    elif name == "postgres-down":
        event = outages.postgres_down(_server(plan, around), OUTAGE_SECONDS)
    else:
        disk = plan.home / "stack" / ("postgres" if name == "disk-postgres" else "storage")
        around.enter_context(outages.small_disk(disk, _SMALL_MEGABYTES[name]))
        event = outages.disk_full(disk, OUTAGE_SECONDS)
    plan.events = [(0.33, event)]


def _two_stacks(plan: Plan, around: contextlib.ExitStack) -> None:
    """Plan two stacks as on two hosts: one state, one storage, and a Dagster database each (see deploy/README.md)."""
    plan.interrupted = True
    server = _server(plan, around)
    plan.environment["SMI_STORAGE_URL"] = str(plan.home / "storage")
    dagster = server.url(f"{DAGSTER_DATABASE}_2")
    ensure_database(dagster)
    plan.second = {"DAGSTER_POSTGRES_URL": dagster}
    plan.events = [(0.2, outages.stack_paused(1, PAUSE_SECONDS)), (0.6, outages.stack_paused(0, PAUSE_SECONDS))]


def _server(plan: Plan, around: contextlib.ExitStack) -> EmbeddedPostgres:
    """Start a database server that no stack owns."""
    server = EmbeddedPostgres(plan.home / "server")
    server.start()
    around.callback(server.stop)
    plan.environment["SMI_DATABASE_URL"] = server.url(STATE_DATABASE)
    return server


if __name__ == "__main__":
    sys.exit(main())
