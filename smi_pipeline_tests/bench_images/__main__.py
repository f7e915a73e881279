"""`make bench-images`: how many honest results are refused or warned of, and how many bad ones pass silently.

A third of the photographs and scenes is kept back: no threshold may be chosen by it. `--tuning` leaves it out.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from smi_pipeline_tests.bench_images.bad import BAD, HARDEST, REPORTED_ONLY
from smi_pipeline_tests.bench_images.judging import Outcome, plan, run
from smi_pipeline_tests.bench_images.models import networks


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the report on some outcomes."""
    kinds: dict[tuple[bool, bool, str], list[Outcome]] = defaultdict(list)
    seen = [outcome for outcome in outcomes if not outcome.unseen]
    for outcome in seen:
        kinds[outcome.bad, outcome.network, outcome.kind].append(outcome)
    yield f"{'':30} {'results':>8} {'refused':>8} {'warned':>8} {'silent':>8}"
    for (bad, network, kind), found in [*sorted(kinds.items()), *_sums(seen)]:
        refused, silent = sum(o.refused for o in found), sum(o.silent for o in found)
        share = silent / len(found) if bad else refused / len(found)
        what = "bad" if bad else "network" if network else "honest"
        yield (
            f"{what:8}{kind:28} {len(found):6} {refused:8} {len(found) - refused - silent:8} {silent:8}"
            f"   {share:6.2%} {'silent' if bad else 'refused'}"
        )
    unseen = Counter((o.kind, o.unseen) for o in outcomes if o.unseen)
    yield f"Not counted, without damage that could be seen: {unseen.total()}"
    yield from (f"{number:6} {kind}: {why}" for (kind, why), number in sorted(unseen.items()))


def _sums(outcomes: list[Outcome]) -> Iterator[tuple[tuple[bool, bool, str], list[Outcome]]]:
    counted = [o for o in outcomes if o.counts]
    for bad, network in ((False, False), (False, True), (True, False)):
        found = [o for o in counted if (o.bad, o.network) == (bad, network)]
        if found:
            yield (bad, network, "IN ALL"), found


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="make bench-images")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", type=int, default=3, help="draws the third that is kept back")
    parser.add_argument("--tuning", action="store_true", help="leave out the third that is kept back")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only one picture of every Nth scene")
    parser.add_argument("--photographs", type=Path, help="a folder with more photographs")
    parser.add_argument("--folder", type=Path, default=Path(".smi/bench-images"), help="keeps what networks made")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-networks", dest="networks", action="store_false")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--scene", default="", help="sources whose name contains this")
    parser.add_argument("--json", type=Path, help="writes every outcome")
    return parser.parse_args(given)


def main() -> int:
    """Print the report; fail when a bar is missed."""
    options = arguments()
    if options.networks:
        try:
            networks()
        except ImportError as error:
            print(f"without networks ({error}); see docs/image-checks.md", file=sys.stderr)
            options.networks = False
    start = time.perf_counter()
    outcomes = run(plan(options), options.processes)
    if options.json:
        options.json.write_text(json.dumps([vars(o) for o in outcomes], indent=0))
    for kept_back, title in ((False, "Two thirds, by which thresholds are chosen"), (True, "The third kept back")):
        found = [o for o in outcomes if o.kept_back == kept_back]
        if found:
            print(f"\n{title}", *table(found), sep="\n")
    outcomes = [outcome for outcome in outcomes if not outcome.unseen]
    seconds = sorted(o.seconds for o in outcomes)
    if seconds:
        print(
            f"\n{len(seconds)} checks: median {seconds[len(seconds) // 2] * 1000:.0f} ms, "
            f"longest {seconds[-1] * 1000:.0f} ms; {time.perf_counter() - start:.0f} s in all"
        )
    missed = [
        line for kept_back in (False, True) for line in _missed([o for o in outcomes if o.kept_back == kept_back])
    ]
    print(*missed, sep="\n")
    return 1 if missed else 0


def _missed(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the bars that are missed: of honest results one in a thousand may be refused, of each bad kind one in
    fifty may be silent, of the two that are hardest to see one in twenty."""
    honest = [o for o in outcomes if not o.bad]
    refused = sum(o.refused for o in honest)
    if refused > len(honest) / 1000 or any(o.refused for o in honest if o.network):
        yield f"missed: {refused} of {len(honest)} honest results are refused"
    for kind in BAD.keys() - set(REPORTED_ONLY):
        found = [o for o in outcomes if o.kind == kind]
        silent = sum(o.silent for o in found)
        if silent > len(found) * (0.05 if kind in HARDEST else 0.02):
            yield f"missed: {silent} of {len(found)} results with {kind} are silent"


if __name__ == "__main__":
    sys.exit(main())
