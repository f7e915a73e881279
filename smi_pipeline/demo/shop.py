"""The demo's customers: they order through the storefront's API, pay at Checkout, and follow the public status.

What is to go wrong with an order is arranged here as well, between ordering and paying.
"""

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests

from smi_pipeline.core.errors import SmiError
from smi_pipeline.demo.orders import Memory, Order
from smi_pipeline.demo.scenario import Fault

_TIMEOUT_SECONDS = 20
_TRIES = 5
_CARD = {"card": "4242 4242 4242 4242", "expiry": "12 / 34", "cvc": "123"}


class CustomerError(SmiError):
    """A customer could not order or pay; the message says why."""


class Shop:
    """The public doors of the shop and the control endpoints of the stand-ins, by HTTP. Safe to use from threads."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._local = threading.local()

    def order_and_pay(self, order: Order) -> None:
        """Takes an order from where it is to paid, noting each step. Raises CustomerError."""
        if order.job_id is None:
            self.order(order)
        if not order.faults_planted:
            for fault in order.case.faults:
                self._plant(fault, order)
            order.faults_planted = True
            self._memory.save()
        if order.paid_at is None:
            self._pay(order)
            self._memory.save()

    def order(self, order: Order) -> None:
        """Orders only; the job exists, and waits to be paid. Raises CustomerError."""
        body = {
            "image_url": order.source_url,
            "resolution": order.case.resolution,
            "email": order.email,
            "customer_name": f"Customer {order.number}",
        }
        headers = {"Authorization": f"Bearer {self._memory.secrets['api_key']}"}
        reply = self._patiently(f"{self._memory.url('gateway')}/smi/v1/jobs", json=body, headers=headers)
        if reply.status_code != 201:
            raise CustomerError(f"the order of {order.source_url} was refused: {reply.status_code} {reply.text[:300]}")
        given = reply.json()["data"]
        order.price_cents = given["price_cents"]
        order.checkout_url = given["checkout_url"]
        order.status_url = given["status_url"]
        order.job_id = given["job_id"]
        self._memory.save()

    def status(self, order: Order) -> dict[str, Any]:
        """What the customer's page would show now; empty while the gateway does not answer."""
        view = urlsplit(order.status_url).query
        url = f"{self._memory.url('gateway')}/smi/v1/job-status/{order.job_id}?{view}"
        try:
            data: dict[str, Any] = self.http.get(url, timeout=5).json().get("data", {})
            return data
        except (requests.RequestException, ValueError):
            return {}

    def ledger(self, service: str) -> dict[str, Any]:
        """A stand-in's ledger. Raises requests.RequestException."""
        reply = self.http.get(f"{self._memory.url(service)}/_ledger", timeout=_TIMEOUT_SECONDS)
        reply.raise_for_status()
        ledger: dict[str, Any] = reply.json()
        return ledger

    @property
    def http(self) -> requests.Session:
        """This thread's session."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # a proxy of the machine must not see the sandbox
        return session

    def _plant(self, fault: Fault, order: Order) -> None:
        """At most once in earnest: an unused fault planted twice would strike twice."""
        match = {**fault.match, fault.match_by: _of_order(fault, order)}
        body = {"kind": fault.kind, "match": match, **fault.params}
        reply = self._patiently(f"{self._memory.url(fault.service)}/_faults", json=body)
        if reply.status_code != 201:
            raise CustomerError(f"the fault {fault.kind} could not be planted: {reply.text[:300]}")

    def _pay(self, order: Order) -> None:
        form = {"email": order.email, **_CARD}
        at = time.time()
        reply = self._patiently(order.checkout_url, data=form, allow_redirects=False)
        if reply.status_code != 303:
            raise CustomerError(f"paying for {order.source_url} failed: {reply.status_code}")
        order.paid_at = at

    def _patiently(self, url: str, **request: Any) -> requests.Response:
        """POST; again after a moment while nobody answers, or with a 503, as a customer would."""
        for left in reversed(range(_TRIES)):
            try:
                reply = self.http.post(url, timeout=_TIMEOUT_SECONDS, **request)
                if reply.status_code != 503 or not left:
                    return reply
            except requests.RequestException as error:
                if not left:
                    raise CustomerError(f"{urlsplit(url).netloc} does not answer: {type(error).__name__}") from error
            time.sleep(1)
        raise AssertionError("the last try returns or raises")


def _of_order(fault: Fault, order: Order) -> str:
    match fault.match_by:
        case "image_url":
            return order.source_url
        case "path":
            return urlsplit(order.source_url).path
        case "to":
            return order.email
        case "job_id":
            return order.job_id or ""
