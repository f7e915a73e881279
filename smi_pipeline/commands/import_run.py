"""One import of a plugin's orders, row by row."""

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from smi_pipeline.commands.exports import Export
from smi_pipeline.commands.wordpress import Order, Site, read_order
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.ports import PaymentsPort
from smi_pipeline.services.past_sales import PastSale, look_up
from smi_pipeline.state.imported_jobs import PostgresHistory

_AT_ONCE, _CALLS = 200, 4  # rows per round, calls of Stripe side by side: it allows 25 a second for a test key
_TOO_FAR = timedelta(minutes=14)  # the smallest distance between time zones, less a webhook's delay
_WHY = ["line", "problem"]  # the columns that are added to refused rows


@dataclass
class ImportRun:
    """One import: every row is imported, known already, or refused with its line."""

    export: Export
    site: Site
    history: PostgresHistory
    payments: PaymentsPort | None
    zone_is_named: bool
    actor: str
    imported: int = 0
    known: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _checked: bool = False

    def run(self, say: Callable[[str], None]) -> None:
        """Import all rows, each in a transaction of its own, and say how far it is when there are many.

        Raise RefusedError before the first one if the time zone cannot be right, TransientError when Stripe or the
        database does not answer: those before stay imported."""
        orders = self._orders()
        for start in range(0, len(orders), _AT_ONCE):
            if start:
                say(f"{start:,} of {len(orders):,} orders done")
            self._round(orders[start : start + _AT_ONCE])

    def _orders(self) -> list[tuple[int, Order]]:
        found, lines = list[tuple[int, Order]](), dict[str, int]()
        for record in self.export.records:
            try:
                if record.problem:
                    raise RefusedError(record.problem)
                order = read_order(self.export.names, record.cells)
                if order.job_id in lines:
                    raise RefusedError(f"has the same job_id as line {lines[order.job_id]}")
            except RefusedError as error:
                self.problems.append((record.line, str(error)))
                continue
            lines[order.job_id] = record.line
            found.append((record.line, order))
        return found

    def _round(self, orders: Sequence[tuple[int, Order]]) -> None:
        closed = self.history.closed({order.job_id for _, order in orders})
        self.known += len(closed)
        fresh = [(line, order) for line, order in orders if order.job_id not in closed]
        with ThreadPoolExecutor(_CALLS) as pool:
            sales = list(pool.map(self._sale, [order for _, order in fresh]))
        self._check_zone([(order, sale) for (_, order), sale in zip(fresh, sales, strict=True)])
        for (line, order), sale in zip(fresh, sales, strict=True):
            try:
                if isinstance(sale, RefusedError):
                    raise sale
                if self.history.insert(order.historic(self.site, sale), actor=self.actor):
                    self.imported += 1
                else:
                    self.known += 1
            except RefusedError as error:
                self.problems.append((line, str(error)))

    def _sale(self, order: Order) -> PastSale | RefusedError | None:
        if self.payments is None:
            return None
        try:
            return look_up(
                self.payments,
                paid=order.paid,
                payment_intent_id=order.payment_intent_id,
                checkout_session_id=order.checkout_session_id,
            )
        except RefusedError as error:
            return error

    def _check_zone(self, sales: Sequence[tuple[Order, PastSale | RefusedError | None]]) -> None:
        """Compare the plugin's times with Stripe's, once, before the first payment is written."""
        apart = []
        for order, sale in sales:
            try:
                ours = order.paid_at(self.site)
            except RefusedError:
                continue
            if ours and sale and not isinstance(sale, RefusedError) and sale.payment.paid_at:
                apart.append((ours - sale.payment.paid_at, order.job_id))
        if self._checked or not apart:
            return
        self._checked = True
        wrong = [distance for distance, _ in apart if abs(distance) > _TOO_FAR]
        if len(wrong) * 2 <= len(apart):
            return
        hours = sorted(wrong)[len(wrong) // 2] / timedelta(hours=1)
        said = (
            f"by Stripe, {len(wrong)} of {len(apart)} payments were made about {abs(hours):.1f} hours "
            f"{'earlier' if hours > 0 else 'later'} than the export says in this time zone"
        )
        if not self.zone_is_named:
            raise RefusedError(f"{said}; the import has stopped: name the site's with --time-zone")
        self.notes.append(f"{said}: is --time-zone the site's?")


def write_refused(path: Path, export: Export, problems: Sequence[tuple[int, str]]) -> None:
    """Write the refused rows as CSV with their reasons. They hold addresses: nobody else may read the file."""
    cells = {record.line: record.cells for record in export.records}
    path.touch(0o600, exist_ok=False)
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        width = len(export.names) - 2 * (export.names[-2:] == _WHY)  # it may be such a file itself
        writer.writerow([*export.names[:width], *_WHY])
        for line, problem in problems:
            row = (cells[line] + [""] * width)[:width]
            writer.writerow([*row, str(line), problem])
