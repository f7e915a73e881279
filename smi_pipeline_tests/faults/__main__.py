"""Draw faults and carry them out; print a line for each, and its violations. `make faults SEED=1`."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stripe
import structlog
from sqlalchemy import create_engine, text

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline_tests.faults.drawn import draw, shortened
from smi_pipeline_tests.faults.run import Run, carry_out

TEMPLATE = "smi_faults_template"


def report(seed: int, number: int, run: Run) -> str:
    """Return the lines of one run; the command in them repeats it alone."""
    opened = ", ".join(run.opened) or "nothing"
    said = (
        f"SEED={seed} ARGS='--only {number}'  {run.drawn}; opened {opened}, {run.refunded} refunded, "
        f"{run.refusals} orders refused, {run.minutes:.0f} min in {run.seconds:.1f} s"
    )
    wrong = [f"  VIOLATION SEED={seed} ARGS='--only {number}'  {run.drawn}: {words}" for words in run.violations]
    return "\n".join([said, *wrong])


@contextmanager
def fresh_database(server: EmbeddedPostgres, name: str) -> Iterator[str]:
    """A migrated database of its own, dropped afterwards."""
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    try:
        yield server.url(name)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline_tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", type=int, nargs="*", help="carry out only the runs of these numbers")
    parser.add_argument("--short", action="store_true", help="fewer orders and minutes, as in `make test`")
    parser.add_argument("--list", action="store_true", help="print what is drawn, and carry out nothing")
    given = parser.parse_args()
    numbers = given.only if given.only is not None else range(given.first, given.first + given.runs)
    if given.list:
        for number in numbers:
            print(number, draw(given.seed, number))
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    stripe.HTTPClient.INITIAL_DELAY = 0.001  # type: ignore[attr-defined]
    violations = 0
    with tempfile.TemporaryDirectory(prefix="smi-faults-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        server = EmbeddedPostgres(home / "postgres")
        server.start()
        ensure_database(server.url(TEMPLATE))
        migrate(server.url(TEMPLATE))
        try:
            with Sandbox(
                home / "sandbox", processing_seconds=0.05, rate_minute=0, rate_hour=0, rate_status=0
            ) as sandbox:
                for number in numbers:
                    drawn = draw(given.seed, number)
                    with fresh_database(server, f"smi_faults_{number}") as url:
                        run = carry_out(
                            shortened(drawn) if given.short else drawn,
                            url,
                            home / f"run-{number}",
                            sandbox,
                            mark=f"n{number}",
                        )
                    violations += len(run.violations)
                    print(report(given.seed, number, run), flush=True)
        finally:
            server.stop()
    print(f"{len(numbers)} faults, {violations} violations")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
