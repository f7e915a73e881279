"""`make attack`: hostile requests to each site of the front, judged by what arrives behind it.

make attack                       100,000 requests to each site
make attack SEED=7                others
make attack ARGS="--requests 5000"
"""

import argparse
import sys
import time

from smi_pipeline_tests.attack.run import attack


def main() -> int:
    """Run the attack. Exit code 1 on any violation, or when the time is over before all was sent."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000, help="to each site (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which requests (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="that send (default 2)")
    parser.add_argument("--seconds", type=float, default=3600, help="the time limit (default %(default)s)")
    arguments = parser.parse_args()
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True)

    outcome = attack(
        arguments.requests, arguments.seed, processes=arguments.processes, seconds=arguments.seconds, say=say
    )
    print(f"\nseed {arguments.seed}, {outcome.seconds:.0f} s")
    for site, answers in outcome.answers.items():
        print(f"\n{site}: {sum(answers.values())} requests; answers: {_listed(answers)}")
        for (where, method, route), count in sorted(outcome.reached.items()):
            if where == site:
                print(f"  {count:7}  {method} {route or '(no route)'}")
    if outcome.unsent:
        print(f"\nThe time is over: {outcome.unsent} requests were not sent.")
    print(f"\n{sum(outcome.kinds.values())} violations {_listed(outcome.kinds)}")
    for violation in outcome.violations:
        print(f"  {violation}")
    return 1 if outcome.kinds or outcome.unsent else 0


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
