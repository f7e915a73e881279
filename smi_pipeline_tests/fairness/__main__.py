"""Measure at the running product in which order paid jobs start: `make fairness`.

waiting  150 orders are paid before the first start; the allowance is 60 a minute
learned  the same with an API that takes 40 a minute, which the shop does not know
stream   30 wait, and orders come at exactly the pace of the allowance
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from smi_pipeline.demo.environment import isolated_environment, running_sandbox, stack_environment
from smi_pipeline.demo.orders import DemoState, Order
from smi_pipeline.demo.shop import Shop
from smi_pipeline.privileges.accounts import own_home
from smi_pipeline.stack import Stack
from smi_pipeline.state.database import Database
from smi_pipeline_tests.fairness.judge import judge
from smi_pipeline_tests.soak.orders import soak_state

PER_MINUTE = 60
ENVIRONMENT = {
    "UPSAMPLER_REQUESTS_PER_MINUTE": str(PER_MINUTE),
    "SMI_MAX_PROCESSING_SECONDS": "300",
    "SMI_POLL_SECONDS": "10",
}


class Run:
    """One case on a stack of its own."""

    def __init__(self, demo: DemoState, stack: Stack) -> None:
        self.demo, self.stack, self.shop = demo, stack, Shop(demo)
        self.database = Database(stack.state_url)

    def pause_until(self, seconds: float) -> None:
        """Let no job start for so long, as a 429 does."""
        self.database.run(
            """INSERT INTO smi.gates (name, blocked_until, reason)
               VALUES ('submissions', smi.now() + make_interval(secs => :seconds), 'until all are paid')
               ON CONFLICT (name) DO UPDATE SET blocked_until = excluded.blocked_until""",
            seconds=seconds,
        )

    def pay(self, orders: Sequence[Order]) -> None:
        """Order and pay, twelve at once."""
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(self.shop.order_and_pay, orders))
        while self.database.value("SELECT count(*) FROM smi.upscale_jobs WHERE learned_at IS NOT NULL") < len(orders):
            time.sleep(0.2)

    def stream(self, orders: Sequence[Order]) -> None:
        """Order and pay, one at a time, at the pace of the allowance."""
        began = time.monotonic()
        with ThreadPoolExecutor(12) as pool:
            for number, order in enumerate(orders):
                time.sleep(max(0.0, began + number * 60 / PER_MINUTE - time.monotonic()))
                pool.submit(self.shop.order_and_pay, order)

    def until_all_started(self, seconds: float) -> dict[str, Any]:
        """Wait until every order was accepted by Upsampler, or the time is over. Return the ledger."""
        ends = time.monotonic() + seconds
        while True:
            self.stack.keep_running()
            ledger = self.shop.ledger("upsampler")
            sys.stdout.write(f"\r{len(ledger['submissions'])} of {len(self.demo.orders)} started ")
            sys.stdout.flush()
            if len(ledger["submissions"]) >= len(self.demo.orders) or time.monotonic() > ends:
                return ledger
            time.sleep(1)

    def in_order_of_payment(self) -> list[str]:
        """Return the addresses of the images."""
        rows = self.database.rows(
            "SELECT source_url FROM smi.upscale_jobs WHERE learned_at IS NOT NULL ORDER BY learned_at"
        )
        return [row["source_url"] for row in rows]

    def refunds(self) -> int:
        """Return how many orders were refunded."""
        return int(self.database.value("SELECT count(*) FROM smi.refunds"))


def main() -> int:
    """Run the cases. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline_tests.fairness", description=__doc__)
    parser.add_argument("--orders", type=int, default=150)
    parser.add_argument("--only", choices=("waiting", "learned", "stream"))
    given = parser.parse_args()
    failed = 0
    for case in ("waiting", "learned", "stream"):
        if given.only in (None, case):
            failed += _case(case, given.orders)
    return 1 if failed else 0


def _case(case: str, count: int) -> int:
    per_minute = 40 if case == "learned" else PER_MINUTE
    with tempfile.TemporaryDirectory(prefix="smi-fairness-") as folder:
        home = Path(folder) / "run"
        own_home(home)
        demo = soak_state(home, count, seed=1)
        environment = {**stack_environment(demo, "documented"), **ENVIRONMENT}
        if case == "stream":
            environment["SMI_MAX_WAIT_SECONDS"] = "120"
        sandbox = {"rate_minute": per_minute, "rate_hour": 0, "processing_seconds": 2.0}
        with (
            isolated_environment(demo),
            running_sandbox(demo, **sandbox),
            Stack(environment, demo.stack_folder) as stack,
        ):
            stack.wait_ready(120)
            run = Run(demo, stack)
            try:
                return _measure(case, run, per_minute)
            finally:
                run.database.dispose()


def _measure(case: str, run: Run, per_minute: int) -> int:
    orders = run.demo.orders
    waiting = orders[:30] if case == "stream" else orders
    run.pause_until(600 if case != "stream" else 60)
    run.pay(waiting)
    run.pause_until(1)
    if case == "stream":
        threading.Thread(target=run.stream, args=(orders[30:],), daemon=True).start()
    ledger = run.until_all_started(60 + 80 * len(orders) / per_minute)
    found, refunds = judge(ledger, run.in_order_of_payment(), per_minute=per_minute), run.refunds()
    wrong = [
        words
        for is_wrong, words in (
            (found.started < len(orders), "not all orders were started"),
            (found.most_places_off > 3, "a start is more than three places off"),
            (case != "stream" and found.used_percent < 95, "less than 95 % of the allowance was used"),
            (found.refused_later > 0 or (case != "learned" and found.refused > 0), "the API refused calls again"),
            (refunds > 0, "orders were refunded"),
        )
        if is_wrong
    ]
    sys.stdout.write(f"\r{case}: {found}, refunds={refunds}: {'; '.join(wrong) or 'as it should be'}\n")
    return len(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except requests.RequestException as error:
        sys.exit(f"the sandbox does not respond: {type(error).__name__}")
