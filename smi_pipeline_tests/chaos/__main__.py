"""`make chaos`: the kill matrix against the running product.

make chaos                                             every point, 3 repeats near money
make chaos FULL=1                                      20 repeats near money
make chaos ARGS="--seed 7 --only submissions.begin.after@worker-fulfilment"
make chaos ARGS="--only upscaler.submit.after@worker-fulfilment/postgres --json out.json"
"""

import argparse
import sys
import time
from pathlib import Path

from smi_pipeline.demo.runner import ctrl_c
from smi_pipeline_tests.chaos import cases
from smi_pipeline_tests.chaos.arena import arena
from smi_pipeline_tests.chaos.matrix import Options, carry_through
from smi_pipeline_tests.chaos.report import Report, show, write_json, write_markdown


def main() -> int:
    """Runs the matrix. Exit code 1 on any violation, lost or stuck order, or point that was not hit."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="order of the kills, and the random part (default 1)")
    parser.add_argument("--only", action="append", default=[], help="POINT, POINT@PROCESS or POINT@PROCESS/VICTIM")
    parser.add_argument(
        "--victim",
        action="append",
        default=[],
        choices=(cases.ITSELF, *cases.VICTIMS, "random", "recovery"),
        help="only these parts",
    )
    parser.add_argument("--repeats", type=int, default=cases.REPEATS, help="near money (default %(default)s)")
    parser.add_argument(
        "--full", action="store_const", dest="repeats", const=cases.FULL_REPEATS, help=f"{cases.FULL_REPEATS} repeats"
    )
    parser.add_argument("--json", type=Path, help="writes everything to this file")
    parser.add_argument("--markdown", type=Path, help="writes the matrix to this file")
    parser.add_argument("--home", type=Path, help="keeps all files in this folder, instead of a temporary one")
    arguments = parser.parse_args()
    options = Options(
        seed=arguments.seed, only=tuple(arguments.only), victims=tuple(arguments.victim), repeats=arguments.repeats
    )
    json_file, markdown_file, home = (p and p.absolute() for p in (arguments.json, arguments.markdown, arguments.home))

    if home and home.exists() and any(home.iterdir()):
        parser.error(f"{home} is not empty: the chaos begins with nothing; name another folder")

    def say(line: str) -> None:
        print(f"{time.time() - started:7.1f} s  {line}", flush=True)

    started = time.time()
    report = Report(seed=options.seed)
    try:
        with ctrl_c(), arena(home, lambda line: None) as place:
            say("the stack is ready")
            carry_through(place, options, report, say)
    except KeyboardInterrupt:
        report.violations.append("stopped before the end")
    finally:
        report.seconds = time.time() - started
        show(report)
        if json_file:
            write_json(report, json_file)
        if markdown_file:
            write_markdown(report, markdown_file)
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
