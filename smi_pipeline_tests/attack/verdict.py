"""What may arrive behind the front, whatever was sent: judged by the recorders' own records."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock
from urllib.parse import unquote_to_bytes

from smi_pipeline_tests.attack.recorder import WEBSOCKET, Recorded
from smi_pipeline_tests.attack.requests import attempt, number_of
from smi_pipeline_tests.attack.sites import CUSTOMERS, TEAM, Target

KEPT = 20
"""So many violations are kept in full."""
_CLOSED = ("/dagit_info", "/notebook", "/dagit/notebook")


class Judge:
    """Looks at each request that arrives. `violations` says what must not have happened, `reached` counts the rest by
    site, method and route."""

    def __init__(self, targets: Mapping[str, Target], seed: int) -> None:
        self._targets = targets
        self._seed = seed
        self._lock = Lock()
        self._numbers: set[tuple[str, int]] = set()
        self.reached: Counter[tuple[str, str, str]] = Counter()
        self.kinds: Counter[str] = Counter()
        self.violations: list[str] = []

    def record(self, recorded: Recorded) -> None:
        """Judge one request. Called by the recorders, from their threads."""
        with self._lock:
            self.reached[recorded.site, recorded.method, recorded.route] += 1
            for kind in self._found(recorded):
                self.kinds[f"{recorded.site}: {kind}"] += 1
                if len(self.violations) < KEPT:
                    self.violations.append(f"{recorded.site}: {kind}: {self._told(recorded)}")

    def _told(self, recorded: Recorded) -> str:
        number = number_of("".join(recorded.values("user-agent")))
        sent = b"" if number is None else attempt(self._targets[recorded.site], self._seed, number).raw
        arrived = f"{recorded.method} {recorded.path!r} {recorded.headers}"
        return f"request {number}: {sent[:700]!r} arrived as {arrived[:700]}"

    def _found(self, recorded: Recorded) -> Iterator[str]:
        target = self._targets[recorded.site]
        yield from self._smuggled(recorded)
        names = [name for name, _ in recorded.headers]
        if recorded.values("host") != [target.authority]:
            yield "another host name than the site's"
        if recorded.values("x-forwarded-for") != ["127.0.0.1"]:
            yield "an invented client address"
        path = unquote_to_bytes(recorded.path)
        if re.search(rb"[\x00-\x1f\x7f\\]|\xc2[\x80-\x9f]|//|/\.{1,2}(/|\Z)", path) or b"%2f" in recorded.path.lower():
            yield "a path that can be read in two ways"
        if recorded.site == CUSTOMERS:
            if recorded.route == "/metrics":
                yield "metrics for customers"
            if not re.match(rb"/(not-found\Z|smi/v1/|smi-webhook/|static/|ops(/|\Z)|health\Z)", path):
                yield "a path that is not the gateway's"
            return
        if len(names) != len(set(names)) or {b"authorization", b"cookie"} & set(names):
            yield "a header twice, or a login"
        if recorded.route in _CLOSED or recorded.route == "":
            yield "a closed endpoint"
        if recorded.route.startswith("/report_asset_") and recorded.site != TEAM:
            yield "a report at the analysts' site"
        writes = recorded.route == "/graphql" or recorded.route.startswith("/report_asset_")
        if writes and recorded.method not in ("POST", WEBSOCKET):
            yield "a write by another method than POST"
        if not writes and recorded.method not in ("GET", "HEAD"):
            yield "another method than GET and HEAD"
        yield from self._foreign(recorded, target, writes)

    def _smuggled(self, recorded: Recorded) -> Iterator[str]:
        """Each request carries its number; what arrives without one, or twice, nobody sent as such."""
        number = number_of("".join(recorded.values("user-agent")))
        if number is None:
            yield "a request that nobody sent"
            return
        if (recorded.site, number) in self._numbers:
            yield "a request that was sent once and arrived twice"
        self._numbers.add((recorded.site, number))

    def _foreign(self, recorded: Recorded, target: Target, writes: bool) -> Iterator[str]:
        """What was sent tells whether its sender had the login, and which page made a browser send it."""
        number = number_of("".join(recorded.values("user-agent")))
        if number is None:
            return
        sent = attempt(target, self._seed, number)
        if not sent.right_login:
            yield "no login"
        origin, site, mode, dest = (  # of two, nginx before 1.23 looks at the first
            "".join(sent.values(name)[:1]) for name in ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
        )
        if recorded.values("origin") != [origin] * bool(origin):
            yield "another Origin than the one that was judged"
        if origin.lower() == target.origin:
            return
        if origin:
            yield "a foreign Origin"
        elif writes and site != "same-origin":
            yield "a write that does not come from the site"
        elif site not in ("", "none", "same-origin") and (mode != "navigate" or dest not in ("", "document")):
            yield "embedded by another site"
