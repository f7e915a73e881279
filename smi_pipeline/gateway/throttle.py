"""Limits guessing of keys, tokens and passwords, per client address.

The counts are kept in the memory of this process: several gateways allow as many times more, a restart resets them.
Where secrets are generated, a right one is always accepted, so that nobody can lock out customers or the shop behind
the same address. At the operators' pages, whose password is chosen, an address with too many wrong ones must wait,
whatever it sends next.
"""

import ipaddress
import math
from collections import OrderedDict
from threading import Lock
from time import monotonic

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request

log = structlog.get_logger("smi_pipeline.gateway")

GUESSES = 20
"""Wrong secrets that one address may send within a window."""

WINDOW_SECONDS = 60.0
ADDRESSES = 10_000
"""How many addresses are remembered; the oldest is dropped first."""


class Throttle:
    """Counts the wrong secrets of each address in windows of a minute."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def require_patience(self, request: Request) -> None:
        """Raise HTTPException (429) while this address has sent too many wrong secrets."""
        with self._lock:
            begun, wrong = self._window(_client(request))
        if wrong >= GUESSES:
            raise _too_many(begun)

    def note_wrong(self, request: Request) -> None:
        """Count one wrong secret. Raise HTTPException (429) when there were too many."""
        client = _client(request)
        with self._lock:
            begun, wrong = self._window(client)
            self._windows[client] = (begun, wrong + 1)
            self._windows.move_to_end(client)
            while len(self._windows) > ADDRESSES:
                self._windows.popitem(last=False)
        if wrong == GUESSES:
            log.warning("an address guesses keys or tokens", action="guessing", client=client)
        if wrong >= GUESSES:
            raise _too_many(begun)

    def _window(self, client: str) -> tuple[float, int]:
        now = monotonic()
        begun, wrong = self._windows.get(client, (now, 0))
        return (begun, wrong) if now - begun < WINDOW_SECONDS else (now, 0)


def _too_many(begun: float) -> HTTPException:
    seconds = max(1, math.ceil(begun + WINDOW_SECONDS - monotonic()))
    return HTTPException(
        429,
        f"Too many wrong keys or links from your network; please wait {seconds} seconds.",
        {"Retry-After": str(seconds)},
    )


def _client(request: Request) -> str:
    """Return the client's address; for IPv6 its /64 network, of which one client usually has all addresses."""
    given = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        return given[:64]
    if address.version == 4:
        return given
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((int(address), 64), strict=False))
