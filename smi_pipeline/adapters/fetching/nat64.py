"""Which prefixes of NAT64 the network of this host has: configured ones, and those that its resolver shows."""

import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

from smi_pipeline.adapters.fetching.time_allowed import TimeAllowed
from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.nat64 import DISCOVERY_NAME, LOCAL_USE, WELL_KNOWN, discovered

KNOWN_FOR_SECONDS, RETRY_SECONDS = 3600.0, 60.0
DISCOVERY_SECONDS = 2.0
"""A resolver that has just answered for the image's host answers this at once."""

Resolve = Callable[[str, int, TimeAllowed], list[str]]


class Nat64:
    """The prefixes, the longest first. `resolve` returns the addresses of a name, or raises TransientError."""

    def __init__(self, resolve: Resolve, configured: Iterable[str]) -> None:
        self._resolve = resolve
        self._fixed = {WELL_KNOWN, *map(IPv6Network, configured)}
        self._lock = threading.Lock()
        self._found: set[IPv6Network] = set()
        self._known_until = float("-inf")

    def prefixes(self, allowed: TimeAllowed) -> list[IPv6Network]:
        """Return all that are known; those of the resolver are asked for once an hour, and a minute after a failure."""
        with self._lock:
            if time.monotonic() >= self._known_until:
                self._discover(allowed)
            return sorted(self._fixed | self._found, key=lambda prefix: -prefix.prefixlen)

    def _discover(self, allowed: TimeAllowed) -> None:
        try:
            answers = self._resolve(DISCOVERY_NAME, 443, TimeAllowed(min(DISCOVERY_SECONDS, max(0.0, allowed.left()))))
        except TransientError:  # nothing is known anew: most resolvers have at least the IPv4 addresses of this name
            self._known_until = time.monotonic() + RETRY_SECONDS
            return
        # A prefix of private addresses has to be configured: a forged answer must not open what is inside.
        self._found = {each for each in discovered(answers) if each.is_global or each.subnet_of(LOCAL_USE)}
        self._known_until = time.monotonic() + KNOWN_FOR_SECONDS
