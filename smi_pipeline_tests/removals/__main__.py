"""Runs the tests once per removal, each in a copy of the project, and prints which test noticed it."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from smi_pipeline_tests.removals.removals import Removal, all_removals

ROOT = Path(__file__).parents[2]
TESTS = (  # those that notice most come first, in a run of their own: pytest 9 merges overlapping paths
    (
        "smi_pipeline_tests/integration/state/test_schema.py",
        "smi_pipeline_tests/integration/services/test_zombies.py",
    ),
    ("smi_pipeline_tests/integration",),
)
AT_ONCE = 2


def run(removal: Removal | None) -> tuple[str | None, float]:
    """The first test that fails without this safeguard (None: all pass), and the seconds it took."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smi-removal-") as folder:
        copy = Path(folder)
        for name in ("smi_pipeline", "smi_pipeline_tests", "pyproject.toml", "deploy", "dagster.yaml", ".env.example"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        if removal:
            removal.apply(copy)
        noticed = next(filter(None, (_first_failure(copy, tests) for tests in TESTS)), None)
    return noticed, time.monotonic() - begun


def _first_failure(copy: Path, tests: tuple[str, ...]) -> str | None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    noticed = re.search(r"^(?:FAILED|ERROR) \S+?::(.+?)(?: - |$)", ended.stdout, re.M)
    if ended.returncode not in (0, 1) or (ended.returncode == 1) != bool(noticed):
        raise RuntimeError(f"the tests did not run: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return noticed.group(1) if noticed else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make removals", description=__doc__)
    parser.add_argument("--only", default="", help="part of the kind, the name or the file of the removals to run")
    only = parser.parse_args().only
    console = Console(width=160)
    removals = [r for r in all_removals(ROOT) if only in f"{r.kind} {r.what} {r.file}"]
    broken, seconds = run(None)
    if broken:
        console.print(f"The tests fail without any removal: {broken}. Mend that first.")
        return 2
    console.print(f"{len(removals)} removals; all tests pass without one ({seconds:.0f} s)")
    table = Table("kind", "removed", "file", "noticed by", "s")
    unnoticed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for removal, (test, seconds) in zip(removals, pool.map(run, removals), strict=True):
            unnoticed += test is None
            console.print(f"{removal.what}: {test or 'NOTICED BY NO TEST'} ({seconds:.0f} s)", markup=False)
            table.add_row(
                removal.kind,
                removal.what,
                removal.file.name,
                escape(test) if test else "[red]nobody[/red]",
                f"{seconds:.0f}",
            )
    console.print(table)
    console.print(f"{len(removals) - unnoticed} of {len(removals)} removals are noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
