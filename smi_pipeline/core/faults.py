"""Whose fault a failure is, and what the shop does about it: circuit breakers.

A fault of one order ends that order. A fault of the shop (a key, a setting, the state of a provider) hits every order,
so it must end none: its circuit breaker opens, orders wait, and one of them at a time probes whether it is over. What
could be either is asked again while there is time, and is taken for the shop's after `ORDERS_IN_A_ROW` orders.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from smi_pipeline.core import reasons

ORDERS_IN_A_ROW = 3
"""So many orders that fail in a row, without one success of that part between them, are a fault of the shop."""

KEPT = 20
"""How many orders are kept in mind that failed before others succeeded."""

OUTAGE = timedelta(minutes=1)
"""How long a part gives no answer before that is a fault of the shop: waiting costs nothing, and most hiccups pass."""

FIRST_PAUSE, LONGEST_PAUSE, LONGEST_COSTLY_PAUSE = timedelta(seconds=5), timedelta(minutes=1), timedelta(minutes=5)
"""Between two probes; each that fails doubles it. The third if the probe cost one of the order's submissions, or was a
login that can lock the account."""

PROBES_WITH_A_QUESTION = 4
"""So many probes of submissions in a row first ask for a status; the next one does without, in case only that fails."""

SUBMISSIONS = "submissions"
STATUS = "status"
RESULTS = "results"
STRIPE = "stripe"
CHECKOUT = "checkout"
MAIL = "mail"
_SOURCE = "source:"


def source(url: str) -> str:
    """Return the name of the breaker for the host of a source image."""
    return _SOURCE + url.split("/", 3)[2].lower()


def is_source(name: str) -> bool:
    """Return whether a breaker belongs to the host of source images."""
    return name.startswith(_SOURCE)


class Scope(StrEnum):
    """Whose fault a failure is."""

    ORDER = "order"
    SHOP = "shop"
    UNKNOWN = "unknown"


_OF_THE_ACCOUNT = re.compile(
    r"credit|api.?key|unauthori[sz]ed|authenticat|forbidden|payment required|quota|balance|billing|subscription"
    r"|suspended|account|plan\b|permission",
    re.IGNORECASE,
)
_OF_THE_IMAGE = re.compile(
    r"(unsupported|invalid|corrupt\w*|damaged|unreadable|broken|bad) (image|file|picture|photo|format)"
    r"|too (large|big|small)|exceed|not allowed|nsfw|prohibited|content policy|dimension|megapixel|aspect ratio"
    r"|(cannot|could not) (decode|read)|no recogni[sz]able content",
    re.IGNORECASE,
)


NOT_BELIEVED = "not believed: "
"""Begins the words for a failure that are ours, or that every order gets: they name nobody's fault."""


def scope_of_words(words: str) -> Scope:
    """Return whose fault Upsampler's words for a failure name: the account, the image, or neither."""
    if words.startswith(NOT_BELIEVED):
        return Scope.UNKNOWN
    if _OF_THE_ACCOUNT.search(words):
        return Scope.SHOP
    return Scope.ORDER if _OF_THE_IMAGE.search(words) else Scope.UNKNOWN


class Again(StrEnum):
    """What can be done about a failure whose scope is unknown, while there is time."""

    SAME = "same"  # ask for the same thing again
    RESUBMIT = "resubmit"  # have the image upscaled again
    NEVER = "never"


AGAIN = {
    reasons.SOURCE_UNREACHABLE: Again.SAME,
    reasons.SOURCE_CHANGED: Again.SAME,
    reasons.REJECTED_BY_API: Again.SAME,
    reasons.RESULT_UNREACHABLE: Again.SAME,
    reasons.UPSCALE_FAILED: Again.RESUBMIT,
    reasons.NO_RESULT: Again.RESUBMIT,
    reasons.RESULT_REJECTED: Again.RESUBMIT,
    reasons.TIMED_OUT: Again.RESUBMIT,
}
"""The reasons that are not believed at first sight; all others end a job unless they hit every order."""

DOUBTED_FOR = {reasons.SOURCE_CHANGED: timedelta(seconds=30)}
"""How long after an order began to wait a reason is doubted, and once more if it comes later: the new file is really
there. All others of `AGAIN` are doubted until the clock of the order ends it."""

LATE = frozenset({reasons.TIMED_OUT, reasons.NO_RESULT})
"""The reasons that are known long after the upscale began. Orders that began later may have succeeded meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure of a part of the shop, for one order. `passing`: no answer, rather than a definite no. `costly`: it
    used up one of the order's submissions, or may help to lock an account. `others_succeeded`: orders that began later
    have. `counted_as`: what is counted in a row, if not the work key."""

    breaker: str
    work_key: str
    counted_as: str = ""
    message: str
    scope: Scope = Scope.UNKNOWN
    passing: bool = False
    costly: bool = False
    others_succeeded: bool = False
    next_step: str = ""


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """A circuit breaker. `failed`: work keys that failed since the last success; `failed_before`: those that had failed
    when others succeeded; `by_hand`: opened by an operator, who must close it, too."""

    name: str
    failed: Sequence[str] = ()
    failed_before: Sequence[str] = ()
    failing_since: datetime | None = None
    message: str = ""
    next_step: str = ""
    opened_at: datetime | None = None
    by_hand: bool = False
    probe: str | None = None
    probe_until: datetime | None = None
    next_probe_at: datetime | None = None
    failed_probes: int = 0
    last_fault_from: datetime | None = None
    last_fault_until: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether orders wait."""
        return self.opened_at is not None

    @property
    def asks_first(self) -> bool:
        """Whether the next probe is to ask for a status, which costs nothing, before it submits an image."""
        return self.is_open and self.failed_probes % (PROBES_WITH_A_QUESTION + 1) < PROBES_WITH_A_QUESTION

    def excuses(self, at: datetime) -> bool:
        """Return whether what went wrong at this time belongs to the present or to the last fault of the shop."""
        if self.opened_at and self.failing_since and at >= self.failing_since:
            return True
        return bool(
            self.last_fault_from and self.last_fault_until and self.last_fault_from <= at <= self.last_fault_until
        )


def after_failure(breaker: Breaker, failure: Failure, now: datetime) -> Breaker:
    """Return the breaker after a failure. A fault of the order itself tells nothing about the shop."""
    probed = breaker.probe == failure.work_key
    if failure.scope is Scope.ORDER:
        return replace(breaker, probe=None, next_probe_at=now) if probed else breaker
    counted = failure.counted_as or failure.work_key
    failed = [*(key for key in breaker.failed if key != counted), counted][-2 * ORDERS_IN_A_ROW :]
    if failure.others_succeeded:
        breaker = replace(breaker, failed_before=[*breaker.failed_before, counted][-KEPT:])
    since = breaker.failing_since or now
    if failure.passing:
        in_a_row = len(failed) >= ORDERS_IN_A_ROW and now - since >= OUTAGE
    else:
        in_a_row = _orders_in(failed, breaker) >= ORDERS_IN_A_ROW
    told = replace(
        breaker,
        failed=failed,
        failing_since=since,
        message=failure.message,
        next_step=failure.next_step or advice(breaker.name),
    )
    if not breaker.is_open:
        if failure.scope is Scope.SHOP or in_a_row:
            return replace(told, opened_at=now, next_probe_at=now, probe=None, failed_probes=0)
        return told
    if not probed:  # it still fails: no order is to be taken to try it
        return replace(told, next_probe_at=max(now, breaker.next_probe_at or now))
    longest = LONGEST_COSTLY_PAUSE if failure.costly else LONGEST_PAUSE
    pause = min(longest, FIRST_PAUSE * 2 ** min(breaker.failed_probes, 10))
    return replace(told, probe=None, next_probe_at=now + pause, failed_probes=breaker.failed_probes + 1)


def _orders_in(failed: Sequence[str], breaker: Breaker) -> float:
    """Return how many orders have got a definite no in a row. One that had failed when others succeeded counts half:
    its image may be to blame."""
    return sum(0.5 if key in breaker.failed_before else 1.0 for key in failed)


def may_wait(
    breaker: Breaker,
    scope: Scope,
    again: Again,
    *,
    now: datetime,
    until: datetime,
    until_while_open: datetime,
    left: int,
    believed: bool,
) -> bool:
    """Return whether a failed order may wait for another attempt instead of ending. `until`: its clock for that;
    `left`: how often its image may still be submitted for a failure that is its own. `believed`: nothing but a fault of
    the shop keeps it from ending."""
    if scope is Scope.ORDER:
        return False
    if breaker.is_open:
        return now < until_while_open
    return not believed and again is not Again.NEVER and now < until and (again is Again.SAME or left > 0)


def headline(name: str) -> str:
    """Return what is wrong while a breaker is open, in words."""
    if is_source(name):
        return f"The images at {name.removeprefix(_SOURCE)} cannot be fetched"
    return {
        SUBMISSIONS: "Upsampler takes no submissions",
        STATUS: "Upsampler does not tell how upscales are doing",
        RESULTS: "Upsampler's results cannot be used",
        STRIPE: "Stripe does not carry out our calls",
        CHECKOUT: "Stripe opens no Checkout sessions for us",
        MAIL: "Mails cannot be sent",
    }[name]


def meanwhile(name: str) -> tuple[str, str]:
    """Return what happens to orders while a breaker is open, and how that ends."""
    if name == CHECKOUT:
        return (
            "No new orders are taken; those that were paid go on, refunds too.",
            "A new order tries it each minute, and they are then taken again.",
        )
    return (
        "Orders wait; none is refunded for this.",
        "It is retried automatically, and the orders then continue.",
    )


def to_customers(name: str) -> str:
    """Return the same for somebody who wants to order."""
    if is_source(name):
        return "the image host does not hand out its images"
    return {
        SUBMISSIONS: "the upscaling service is not available",
        STATUS: "the upscaling service does not work as it should",
        RESULTS: "the upscaling service does not work as it should",
        STRIPE: "the payment service is not available",
        CHECKOUT: "the payment service is not available",
    }[name]


def advice(name: str) -> str:
    """Return what an operator should look at first."""
    if is_source(name):
        return (
            "Open an image of the shop from this server: bot protection, a firewall or a certificate may stop "
            "programs. Allow the user agent smi-pipeline there, and check SMI_ALLOWED_SOURCE_HOSTS."
        )
    return {
        SUBMISSIONS: "Check UPSAMPLER_API_KEY, UPSAMPLER_BASE_URL, and the credits and the state of the account.",
        STATUS: "Check UPSAMPLER_API_KEY and UPSAMPLER_BASE_URL, and whether Upsampler reports an outage.",
        RESULTS: "Look at a failed upscale at Upsampler, and check SMI_ALLOWED_RESULT_HOSTS.",
        STRIPE: "Check STRIPE_API_KEY and the state of the account in the Stripe dashboard.",
        CHECKOUT: "Check in the Stripe dashboard that STRIPE_API_KEY may write Checkout Sessions, and that the account "
        "may take payments.",
        MAIL: "Check SMTP_HOST, SMTP_USER, SMTP_PASSWORD, and whether the account may send as SMI_MAIL_FROM.",
    }[name]
