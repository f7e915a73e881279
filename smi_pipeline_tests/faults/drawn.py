"""Which faults can happen, and how one is drawn. A seed gives the same fault again."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smi_pipeline.core import faults

SHORTEST_MINUTES, LONGEST_MINUTES = 2, 9
"""How long a fault lasts by the moved clock: shorter than Upsampler may take for one order (15 minutes)."""
SHORTENED_MINUTES = 2.5
ORDERS = 30
SLOW_SECONDS = 1.5
"""Longer than the clients of the harness wait."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One fault of the sandbox, as `POST /_faults` takes it."""

    service: str
    kind: str
    match: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    times: int | None = None

    def __str__(self) -> str:
        words = [f"{name}={value!r}" for name, value in self.params.items()]
        where = self.match.get("endpoint") or self.match.get("path") or self.match.get("image_url") or ""
        return " ".join([self.service, where, self.kind, *words]).replace("  ", " ")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A fault for one run. `calls` last for `minutes` and begin when `after` orders have ended; `always` from the
    start to the end. `single`: a fault of single orders, which may open nothing for longer than one probe. `told_once`:
    a fault that loses nobody and no mail; one breaker opens once. `bad`: numbers of the orders that may be refunded
    besides. `breakers`: the only ones that may open. `tasks`: kinds of
    manual tasks that are right."""

    calls: Sequence[Call]
    minutes: float
    after: int = 0
    always: Sequence[Call] = ()
    bad: frozenset[int] = frozenset()
    single: bool = False
    told_once: bool = False
    breakers: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    orders: int = ORDERS

    def __str__(self) -> str:
        words = ", ".join(map(str, self.calls)) or f"{len(self.bad)} single orders: {self.always[0]}"
        return f"{words}; {self.minutes:.1f} min after {self.after} orders"


_UPSAMPLER = frozenset({faults.SUBMISSIONS, faults.STATUS, faults.RESULTS})
_ANY_SOURCE = _UPSAMPLER | {"source"}
_PROXY = (502, 503, 520, 521, 522, 523, 524)
_ABOUT = ("maintenance", "challenge")
Chance = random.Random


def _answers(chance: Chance, codes: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """A way in which a request over HTTP fails."""
    return chance.choice(
        (
            ("status", {"code": chance.choice(codes)}),
            ("status", {"code": chance.choice(codes)}),
            ("status", {"code": chance.choice((429, 503)), "retry_after": chance.choice((5, 30, 120))}),
            ("page", {"code": chance.choice((200, 403, *_PROXY)), "about": chance.choice(_ABOUT)}),
            ("page", {"code": chance.choice((200, 403, *_PROXY)), "about": chance.choice(_ABOUT)}),
            ("garbage", {}),
            ("empty_body", {}),
            ("drop", {}),
            ("cut_transfer", {}),
            ("latency", {"seconds": SLOW_SECONDS}),
            ("slow_body", {"seconds": SLOW_SECONDS}),
        )
    )


_API_CODES = (400, 401, 402, 403, 404, 405, 408, 409, 422, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_HOST_CODES = (400, 401, 403, 404, 410, 429, 451, 500, 502, 503, 504, 520, 522)
_ACCOUNT = ("Insufficient credits", "Invalid API key", "unauthorized", "Quota exceeded", "Account suspended")
_VAGUE = ("Internal error", "Upscaling failed", "", "Something went wrong", "GPU out of memory", "Worker lost", "E1042")
_IMAGE = ("Unsupported image format", "Image too large", "Content not allowed", "Could not decode the image")


def submissions(chance: Chance) -> dict[str, Any]:
    kind, params = chance.choice(
        (
            _answers(chance, _API_CODES),
            _answers(chance, _API_CODES),
            ("fail", {"at_once": True, "error": chance.choice((*_ACCOUNT, *_VAGUE))}),
            ("fail", {"at_once": True, "error": chance.choice(_ACCOUNT)}),
            ("reject", {"code": chance.choice((400, 409, 413, 422)), "message": chance.choice((*_VAGUE, *_IMAGE))}),
            ("accept_then_drop", {}),
            ("page", {"code": chance.choice((502, 520, 524)), "after_work": True}),
            ("same_id", {}),
        )
    )
    call = Call(service="upsampler", kind=kind, match={"endpoint": "submit"}, params=params)
    return {"calls": [call], "breakers": _UPSAMPLER, "tasks": frozenset({"shared_id"} if kind == "same_id" else ())}


def status_calls(chance: Chance) -> dict[str, Any]:
    words = ("PAUSED", "RETRYING", "", "processing", "WAITING_FOR_GPU")
    kind, params = chance.choice(
        (_answers(chance, _API_CODES), ("status_word", {"word": chance.choice(words)}), _answers(chance, _API_CODES))
    )
    call = Call(service="upsampler", kind=kind, match={"endpoint": "status"}, params=params)
    return {"calls": [call], "breakers": _UPSAMPLER}


def outcomes(chance: Chance) -> dict[str, Any]:
    words = ("CANCELED", "ERROR", "TIMEOUT", "EXPIRED", None)
    kind, params = chance.choice(
        (
            ("fail", {"error": chance.choice(_VAGUE), "word": chance.choice(words)}),
            ("fail", {"error": chance.choice(_ACCOUNT)}),
            ("fail", {"error": chance.choice(_IMAGE), "word": chance.choice(("NSFW", None))}),
            ("late_address", {"seconds": chance.randint(30, 600)}),
            ("late_result", {"seconds": chance.randint(30, 600), "code": chance.choice((403, 404))}),
            ("no_image_url", {}),
            ("other_host", {}),
            (chance.choice(("rounded", "wrong_dimensions")), {}),
            ("capped", {"pixels": 200_000}),
            (chance.choice(("truncated", "black_tile", "wrong_image", "bit_flip")), {}),
            ("webhook_by", {"how": chance.choice(("GET", "FORM"))}),
            ("lose_webhook", {}),
        )
    )
    return {"calls": [Call(service="upsampler", kind=kind, params=params)], "breakers": _UPSAMPLER}


def results(chance: Chance) -> dict[str, Any]:
    kind, params = chance.choice((_answers(chance, _HOST_CODES), _answers(chance, _HOST_CODES), ("result_404", {})))
    match = {} if kind == "result_404" else {"endpoint": "cdn"}
    return {"calls": [Call(service="upsampler", kind=kind, match=match, params=params)], "breakers": _UPSAMPLER}


def ordinary_results(chance: Chance) -> dict[str, Any]:
    """What is ordinary opens nothing and loses nobody."""
    kind, params = chance.choice(
        (
            ("encoded", {"encoding": chance.choice(("gzip", "deflate"))}),
            ("chunked", {}),
            ("media_type", {}),
            ("redirected", {"code": chance.choice((301, 302, 303, 307, 308))}),
        )
    )
    match = {} if kind == "redirected" else {"endpoint": "cdn"}
    return {"calls": [Call(service="upsampler", kind=kind, match=match, params=params)]}


def sources(chance: Chance) -> dict[str, Any]:
    kind, params = chance.choice((*(_answers(chance, _HOST_CODES) for _ in range(3)), ("swap", {"content": "html"})))
    call = Call(service="origin", kind=kind, match={"path": "/photos/"}, params=params)
    return {"calls": [call], "breakers": _ANY_SOURCE}


_QUOTAS = (
    (550, "5.4.5 Daily user sending limit exceeded"),
    (454, "Throttling failure: Daily message quota exceeded."),
    (552, "Message would take you over your relay quota of 500 Current quota used: 500"),
    (451, "You have exceeded your messaging limits"),
    (550, "Domain shop.example has exceeded the max emails per hour (150/150 (100%)) allowed. Message discarded."),
)
_LOGINS = (
    (535, "5.7.8 Username and password not accepted"),
    (535, "5.7.139 Authentication unsuccessful, basic authentication is disabled"),
    (534, "5.7.9 Application-specific password required"),
    (454, "4.7.0 Temporary authentication failure"),
)


def mail_account(chance: Chance) -> dict[str, Any]:
    """The mail server refuses the shop's login, or says at some stage that a quota is used up."""
    quota = (*chance.choice(_QUOTAS), chance.choice(("MAIL", "RCPT", "DATA")), False)
    login = (*chance.choice(_LOGINS), "AUTH", chance.choice((True, False)))
    code, message, at, hang_up = chance.choice((quota, login))
    params = {"code": code, "at": at, "message": message, "hang_up": hang_up}
    calls = [Call(service="mail", kind="code", params=params)]
    after = chance.choice((0, 5))  # enough mails are left that hit it
    return {"calls": calls, "breakers": frozenset({faults.MAIL}), "told_once": True, "after": after}


def mails(chance: Chance) -> dict[str, Any]:
    if chance.random() < 0.5:
        return mail_account(chance)
    kind, params = chance.choice(
        (
            ("code", {"code": chance.choice((421, 450, 451, 452)), "at": chance.choice(("MAIL", "RCPT", "DATA"))}),
            ("code", {"code": chance.choice((550, 553, 554)), "at": "MAIL", "message": "5.1.8 Sender is suspended"}),
            ("code", {"code": chance.choice((550, 554)), "at": chance.choice(("RCPT", "DATA"))}),
            ("drop", {"at": chance.choice(("CONNECT", "MAIL", "RCPT", "DATA"))}),
        )
    )
    calls = [Call(service="mail", kind=kind, params=params)]
    return {"calls": calls, "breakers": frozenset({faults.MAIL}), "tasks": frozenset({"mail_failed"})}


def refunds(chance: Chance) -> dict[str, Any]:
    """Stripe fails while refunds of single orders are owed."""
    kind, params = chance.choice(
        (
            ("status", {"code": chance.choice((400, 401, 403, 500, 502, 503))}),
            ("status", {"code": 429, "retry_after": 5}),
            ("status", {"code": 500, "after_work": True}),
            ("drop", {}),
            ("accept_then_drop", {}),
            ("garbage", {}),
            ("page", {"code": chance.choice((200, 403, 502, 503))}),
        )
    )
    bad = frozenset(chance.sample(range(ORDERS), 5))
    match = {"endpoint": chance.choice(("refunds", "payment_intents")) if kind != "accept_then_drop" else "refunds"}
    return {
        "calls": [Call(service="stripe", kind=kind, match=match, params=params)],
        "always": [_damaged(number) for number in bad],
        "bad": bad,
        "breakers": frozenset({faults.STRIPE}),
        "tasks": frozenset({"refund_failed", "refund_late"}),
    }


def single_orders(chance: Chance) -> dict[str, Any]:
    """Some images are bad, and all others are good: the converse."""
    bad = frozenset(chance.sample(range(ORDERS), chance.randint(1, 5)))
    how: Callable[[int], Call] = chance.choice((_damaged, _named(chance), _vague(chance), _bad_result(chance)))
    always = [how(number) for number in bad]
    return {"calls": [], "always": always, "bad": bad, "single": True, "breakers": _ANY_SOURCE}


def name_of(number: int) -> str:
    """The part of an order's image address that is its own."""
    return f"order={number:02d}."


def _damaged(number: int) -> Call:
    return Call(service="origin", kind="truncated", match={"image_url": name_of(number)}, params={"keep": 0.4})


def _named(chance: Chance) -> Callable[[int], Call]:
    words = chance.choice(_IMAGE)
    return lambda number: Call(
        service="upsampler", kind="fail", match={"image_url": name_of(number)}, params={"error": words}
    )


def _vague(chance: Chance) -> Callable[[int], Call]:
    words = chance.choice(_VAGUE)
    return lambda number: Call(
        service="upsampler", kind="fail", match={"image_url": name_of(number)}, params={"error": words}
    )


def _bad_result(chance: Chance) -> Callable[[int], Call]:
    kind = chance.choice(("rounded", "black_tile", "wrong_image", "no_image_url"))
    params = {"multiple": 64} if kind == "rounded" else {}
    return lambda number: Call(service="upsampler", kind=kind, match={"image_url": name_of(number)}, params=params)


KINDS: Sequence[tuple[Callable[[Chance], dict[str, Any]], int]] = (
    (submissions, 26),
    (status_calls, 10),
    (outcomes, 20),
    (results, 14),
    (ordinary_results, 4),
    (sources, 12),
    (mails, 6),
    (refunds, 6),
    (single_orders, 12),
)
"""What is drawn, with its weight."""


def draw(seed: int, number: int) -> Drawn:
    """Return the fault of this number."""
    chance = random.Random(f"{seed}/{number}")
    kinds, weights = zip(*KINDS, strict=True)
    (kind,) = chance.choices(kinds, weights)
    minutes = chance.uniform(SHORTEST_MINUTES, LONGEST_MINUTES)
    after = 0 if kind in (single_orders, sources) else chance.choice((0, 0, 0, 5, 12))
    drawn: dict[str, Any] = {"minutes": minutes, "after": after, **kind(chance)}
    return Drawn(**drawn)


def shortened(drawn: Drawn) -> Drawn:
    """Return the same fault for fewer orders and minutes, as `make test` carries it out."""
    return replace(drawn, orders=ORDERS // 2, minutes=min(drawn.minutes, SHORTENED_MINUTES))
