"""`python -m smi_pipeline_tests.soak --jobs N --seed S --json FILE`: exit code 1 on any violation."""

import argparse
import sys
import tempfile
from pathlib import Path

from smi_pipeline_tests.soak.runner import Plan, soak


def main() -> int:
    """Runs one soak and prints what it found."""
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline_tests.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--home", type=Path, help="folder for everything, kept afterwards (default: a temporary one)")
    given = parser.parse_args()
    report_path = given.json.absolute() if given.json else None
    with tempfile.TemporaryDirectory(prefix="smi-soak-", ignore_cleanup_errors=True) as folder:
        report = soak(Plan(home=given.home or Path(folder) / "soak", jobs=given.jobs, seed=given.seed))
    sys.stdout.write(f"{report}\n")
    if report_path:
        report.write(report_path)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
