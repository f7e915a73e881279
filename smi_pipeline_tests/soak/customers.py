"""The customers of a soak: they order and pay many at once, and try again when the shop or a stand-in fails them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from smi_pipeline.demo.orders import Memory, Order
from smi_pipeline.demo.shop import CustomerError, Shop

AT_ONCE = 12
TRIES = 40  # a customer who is refused comes back; an outage of a minute loses none


@dataclass
class Customers:
    """Sends all of them through a pool of threads, with at most `open_limit` paid orders that are not closed, and so
    many a minute as `per_minute` says (0: as fast as they can)."""

    memory: Memory
    open_limit: int
    per_minute: float = 0.0
    given_up: list[str] = field(default_factory=list)
    paid: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self._shop = Shop(self.memory)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="customer")
        self._stopping = threading.Event()

    def send(self) -> None:
        """Returns at once."""
        began = time.monotonic()
        pause = 60 / self.per_minute if self.per_minute else 0.0
        for number, order in enumerate(self.memory.orders):
            self._pool.submit(self._buy, order, began + number * pause)

    @property
    def done(self) -> bool:
        """Whether every one has paid or given up."""
        return self.paid + len(self.given_up) >= len(self.memory.orders)

    def stop(self) -> None:
        """Nobody orders any more."""
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
                    order.job_id = None  # the session is gone: a new order
                time.sleep(0.5)
            else:
                with self._lock:
                    self.paid += 1
                return
        with self._lock:
            self.given_up.append(f"order {order.number} was not taken in {TRIES} tries: {why}")
