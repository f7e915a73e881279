"""`make bench-reports`: how long the reports of a big shop take, and how much memory.

A tenth of the jobs first, then all of them, each on a server of its own with the settings of the product: all facts and
reports by day, week and month; one day with its files, as its run builds it; and the same reports by pandas.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peer import pandas_reports
from benchmarks.report_history import DAYS, FIRST_DAY, make_history
from smi_pipeline.adapters.storage import FileStorage
from smi_pipeline.core.pricing import Prices
from smi_pipeline.reporting import pages
from smi_pipeline.state.database import Database
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.reports.store import PERIODS, REPORTS, Reports
from smi_pipeline.state.schema import ensure_database, migrate

LAST_DAY = FIRST_DAY + timedelta(days=DAYS - 1)
SOME_DAY = FIRST_DAY + timedelta(days=200)


class Memory(threading.Thread):
    """The most memory that this process and the server's have held at once, in MB; shared pages count once (PSS)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self._folder = folder
        self._end = threading.Event()

    def run(self) -> None:
        """Sample the memory until the block ends."""
        while not self._end.wait(0.3):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        pid = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
        server = psutil.Process(pid)
        total = 0
        for process in (psutil.Process(), server, *server.children()):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total / 1e6

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


@contextmanager
def shop(jobs: int) -> Iterator[tuple[Path, Database]]:
    """A server with the history of so many jobs."""
    with tempfile.TemporaryDirectory(prefix="smi-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        try:
            url = server.url("bench")
            ensure_database(url)
            migrate(url)
            database = Database(url, pool_size=4)
            say(f"{jobs:,} jobs: history made in {timed(lambda: make_history(database, jobs)):.0f} s")
            yield Path(folder), database
            database.dispose()
        finally:
            server.stop()


def measure(jobs: int, *, peer: bool) -> dict[str, float]:
    """Seconds and MB by name."""
    with shop(jobs) as (folder, database):
        reports = Reports(database, Prices(), budget=jobs // 4)

        def rebuild() -> None:
            for period in PERIODS:
                for table in REPORTS:
                    reports.build(table, FIRST_DAY, LAST_DAY, period=period)

        def one_day() -> None:
            reports.build_facts(SOME_DAY, SOME_DAY)
            for table in REPORTS:
                reports.build(table, SOME_DAY, SOME_DAY)
            pages.write(reports, FileStorage(str(folder / "storage")), "day", SOME_DAY, 900)

        found: dict[str, float] = {}

        def note(name: str, figure: float) -> None:
            found[name] = figure
            say(f"  {name}: {figure:.1f}")

        with Memory(folder / "postgres") as memory:
            note("facts", timed(lambda: reports.build_facts(FIRST_DAY, LAST_DAY)))
            note("reports", timed(rebuild))
            note("all tables", found["facts"] + found["reports"])
            one_day()  # the first loads pandas, which a worker does once
            note("one day with files", timed(one_day))
        note("peak MB", memory.peak)
        if peer:
            with Memory(folder / "postgres") as memory:
                note("pandas: reports", timed(lambda: pandas_reports(database)))
            note("pandas: peak MB", memory.peak)
        return found


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--jobs", type=int, default=5_000_000)
    options.add_argument("--peer-whole", action="store_true", help="pandas on all jobs too; needs many GB of memory")
    given = options.parse_args()
    tenth, whole = (
        # in a process of its own each: what pandas has once taken, a process keeps
        ProcessPoolExecutor(1, get_context("spawn")).submit(measure, jobs, peer=peer).result()
        for jobs, peer in ((given.jobs // 10, True), (given.jobs, given.peer_whole))
    )
    say(f"\n{'':22}{given.jobs // 10:>14,}{given.jobs:>14,}{'ratio':>8}")
    for name in {**tenth, **whole}:
        cells = [f"{one[name]:14.1f}" if name in one else f"{'–':>14}" for one in (tenth, whole)]
        ratio = f"{whole[name] / tenth[name]:8.1f}" if name in whole and name in tenth else ""
        say(f"{name:22}{''.join(cells)}{ratio}")


def say(words: str) -> None:
    """To the terminal, at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
