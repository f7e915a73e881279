"""The demo's customers: order through the storefront's API, add the faults of the case, pay at Checkout."""

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests

from smi_pipeline.core.errors import SmiError
from smi_pipeline.demo.orders import DemoState, Order
from smi_pipeline.demo.scenario import Fault, MatchBy

_TIMEOUT_SECONDS = 20
_TRIES = 5
_PATIENCE_SECONDS = 60
"""How long a customer tries to order while the shop takes no orders."""
_CARD = {"card": "4242 4242 4242 4242", "expiry": "12 / 34", "cvc": "123"}


class CustomerError(SmiError):
    """A customer could not order or pay; the message says why."""


class Shop:
    """HTTP client of the shop's public API and of the sandbox's control endpoints. Thread-safe."""

    def __init__(self, demo: DemoState) -> None:
        self._demo = demo
        self._local = threading.local()

    def order_and_pay(self, order: Order) -> None:
        """Complete an order up to its payment, saving each step. Raises CustomerError."""
        if not order.job_id:
            self.order(order)
        if not order.faults_added:
            for fault in order.case.faults:
                self._add_fault(fault, order)
            order.faults_added = True
            self._demo.save()
        if order.paid_at is None:
            self._pay(order)
            self._demo.save()

    def order(self, order: Order) -> None:
        """Register a job, which then awaits payment. Raises CustomerError."""
        body = {
            "image_url": order.source_url,
            "resolution": order.case.resolution,
            "email": order.email,
            "customer_name": f"Customer {order.number}",
        }
        headers = {"Authorization": f"Bearer {self._demo.secrets['api_key']}"}
        reply = self._post(f"{self._demo.url('gateway')}/smi/v1/jobs", json=body, headers=headers)
        if reply.status_code != 201:
            raise CustomerError(f"the order of {order.source_url} was refused: {reply.status_code} {reply.text[:300]}")
        given = reply.json()["data"]
        order.price_cents = given["price_cents"]
        order.checkout_url = given["checkout_url"]
        order.status_url = given["status_url"]
        order.job_id = given["job_id"]
        self._demo.save()

    def status(self, order: Order) -> dict[str, Any]:
        """Return the public status of an order; empty while the gateway does not respond."""
        view = urlsplit(order.status_url).query
        url = f"{self._demo.url('gateway')}/smi/v1/job-status/{order.job_id}?{view}"
        try:
            data: dict[str, Any] = self.http.get(url, timeout=5).json().get("data", {})
            return data
        except (requests.RequestException, ValueError):
            return {}

    def ledger(self, service: str) -> dict[str, Any]:
        """Return the ledger of a service of the sandbox. Raises requests.RequestException."""
        reply = self.http.get(f"{self._demo.url(service)}/_ledger", timeout=_TIMEOUT_SECONDS)
        reply.raise_for_status()
        ledger: dict[str, Any] = reply.json()
        return ledger

    @property
    def http(self) -> requests.Session:
        """The session of this thread."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # bypass a proxy of the machine
        return session

    def _add_fault(self, fault: Fault, order: Order) -> None:
        """Add a fault to its service; the caller sees to it that this happens once."""
        match = dict(fault.match)
        if fault.match_by:
            match[fault.match_by] = _match_value(fault.match_by, order)
        body = {"kind": fault.kind, "match": match, **fault.params}
        reply = self._post(f"{self._demo.url(fault.service)}/_faults", json=body)
        if reply.status_code != 201:
            raise CustomerError(f"the fault {fault.kind} could not be added: {reply.text[:300]}")

    def _pay(self, order: Order) -> None:
        form = {"email": order.email, **_CARD}
        at = time.time()
        reply = self._post(order.checkout_url, data=form, allow_redirects=False)
        if reply.status_code != 303:
            raise CustomerError(f"paying for {order.source_url} failed: {reply.status_code}")
        order.paid_at = at

    def _post(self, url: str, **request: Any) -> requests.Response:
        """POST; retry after a second, as a customer would, while there is no response or a 503."""
        began, unanswered = time.monotonic(), 0
        while True:
            try:
                reply = self.http.post(url, timeout=_TIMEOUT_SECONDS, **request)
                if reply.status_code != 503 or time.monotonic() > began + _PATIENCE_SECONDS:
                    return reply
            except requests.RequestException as error:
                unanswered += 1
                if unanswered == _TRIES:
                    raise CustomerError(f"{urlsplit(url).netloc} does not respond: {type(error).__name__}") from error
            time.sleep(1)


def _match_value(match_by: MatchBy, order: Order) -> str:
    values: dict[MatchBy, str] = {
        "image_url": order.source_url,
        "path": urlsplit(order.source_url).path,
        "to": order.email,
        "job_id": order.job_id,
    }
    return values[match_by]
