"""The customers of a soak: many order and pay at once, and try again when the shop or Checkout fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from smi_pipeline.demo.orders import DemoState, Order
from smi_pipeline.demo.shop import CustomerError, Shop

AT_ONCE = 12
TRIES = 40  # enough to survive an outage of a minute


@dataclass
class Customers:
    """Orders through a pool of threads, with at most `open_limit` paid orders that are not closed.

    `per_minute`: orders per minute (0: as fast as possible)."""

    demo: DemoState
    open_limit: int
    per_minute: float = 0.0
    given_up: list[str] = field(default_factory=list)
    paid: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self._shop = Shop(self.demo)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="customer")
        self._stopping = threading.Event()

    def send(self) -> None:
        """Start all customers; return at once."""
        began = time.monotonic()
        pause = 60 / self.per_minute if self.per_minute else 0.0
        for number, order in enumerate(self.demo.orders):
            self._pool.submit(self._buy, order, began + number * pause)

    @property
    def done(self) -> bool:
        """Whether all customers have paid or given up."""
        return self.paid + len(self.given_up) >= len(self.demo.orders)

    def stop(self) -> None:
        """Stop ordering."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _buy(self, order: Order, not_before: float) -> None:
        self._stopping.wait(max(0.0, not_before - time.monotonic()))
        while self.paid - self.closed >= self.open_limit and not self._stopping.is_set():
            time.sleep(0.1)
        why = ""
        for _ in range(TRIES):
            if self._stopping.is_set():
                return
            try:
                self._shop.order_and_pay(order)
            except CustomerError as error:
                why = str(error)
                if order.checkout_url and order.paid_at is None and "paying" in why:
                    order.job_id = ""  # the session has expired: order again
                time.sleep(0.5)
            else:
                with self._lock:
                    self.paid += 1
                return
        with self._lock:
            self.given_up.append(f"order {order.number} was not taken in {TRIES} tries: {why}")
