"""Faults, by which a test makes a service misbehave: matching, counting, and reproducible random draws.

What a fault does is up to the service; its module lists the kinds. A fault is added with ``POST /_faults``::

    {"kind": "status", "match": {"endpoint": "submit", "nth": 2}, "times": 3, "code": 503, "retry_after": 2}

``match`` (all named conditions must hold; left out: everything the kind can apply to):

- ``endpoint``: the service's name of the operation, ``method``: GET, POST;
- ``path``, ``image_url``, ``webhook``, ``to``, ``subject``: a part of the text;
- ``job_id``, ``id``, ``scale``, ``event_type``, ``payment_intent``, ``email`` (of Stripe's customer): equal;
- ``nth``: only the Nth time that all other conditions hold (1 is the first), a number or a list of numbers.

``times``: how often it applies; null: without end. Left out: the default of the kind (mostly 1).
All other fields are parameters of the kind, each with a default.

``{"kind": "random", "seed": 1, "rates": {"latency": 0.05, "drop": 0.01}, "params": {"latency": {"seconds": 2}},
"match": {...}}`` applies each named kind with its probability, without end. The draw depends on the seed, the kind,
the subject (the customer's address, else path and query of the image, else job id, else path: what is the same in
every run comes first) and on how often that subject was drawn before, but not on the order in which different subjects
come, so that a seed replays also under concurrency.

``GET /_injections`` lists all faults applied so far, with subject and parameters.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from smi_pipeline.sandbox.ledger import Ledger

Context = Mapping[str, Any]
Params = dict[str, Any]

_PARTS_OF_TEXT = frozenset({"path", "image_url", "webhook", "to", "subject"})
_EQUAL = frozenset({"endpoint", "method", "job_id", "id", "scale", "event_type", "payment_intent", "email"})
_RESERVED = frozenset({"kind", "match", "times"})


class FaultError(ValueError):
    """The requested fault is invalid; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault: its parameters with defaults, and how often it applies by default (None: without end).

    ``choices``: the values that a parameter may have, so that a misspelled one is refused and not ignored.
    """

    defaults: Params = field(default_factory=dict)
    times: int | None = 1
    choices: Mapping[str, Collection[Any]] = field(default_factory=dict)


class FaultRegistry:
    """The faults of one service, and how often each kind was injected; persisted in the ledger."""

    def __init__(self, ledger: Ledger, kinds: Mapping[str, Kind]) -> None:
        self._ledger = ledger
        self._kinds = kinds
        self._injected: Counter[str] = Counter(ledger.get("injected", "counts") or {})
        self._drawn: Counter[tuple[str, ...]] = Counter()

    def add(self, request: Any) -> dict[str, Any]:
        """Validate and store a fault; return it as stored. Raises FaultError if it is invalid."""
        if not isinstance(request, dict) or "kind" not in request:
            raise FaultError("a fault is an object with a 'kind'")
        match = request.get("match") or {}
        if not isinstance(match, dict) or (unknown := set(match) - _PARTS_OF_TEXT - _EQUAL - {"nth"}):
            raise FaultError(f"cannot match by {sorted(unknown) if isinstance(match, dict) else match!r}")
        params = {key: value for key, value in request.items() if key not in _RESERVED}
        if request["kind"] == "random":
            self._check_random(params)
            times = None
        else:
            kind = self._kind(request["kind"])
            self._check_params(request["kind"], params)
            params = {**kind.defaults, **params}
            times = request.get("times", kind.times)
        if times is not None and (not isinstance(times, int) or times < 1):
            raise FaultError("'times' is a number from 1, or null for no end")
        fault = {"kind": request["kind"], "match": match, "times": times, "seen": 0, "applied": 0, "params": params}
        fault["id"] = self._ledger.append("faults", fault)
        return self._ledger.put("faults", fault["id"], fault)

    def clear(self) -> None:
        """Remove all faults; the counts of injected ones stay."""
        for key, _ in self._ledger.items("faults"):
            self._ledger.delete("faults", key)

    def report(self) -> dict[str, Any]:
        """Return the body of ``GET /_faults``."""
        return {"faults": self._ledger.all("faults"), "injected": dict(self._injected)}

    def take(
        self, kinds: Collection[str], context: Context, *, only_named: bool = False, at: str | None = None
    ) -> dict[str, Params]:
        """Return the faults that apply now, by kind, and count them as applied.

        ``only_named``: only faults whose match names the endpoint or path apply (a download from the CDN is not meant
        by "the next request"). ``at``: only faults with this parameter ``at``.
        """
        taken: dict[str, Params] = {}
        for key, fault in self._ledger.items("faults"):
            match = fault["match"]
            if only_named and not {"endpoint", "path"} & set(match):
                continue
            if fault["kind"] == "random":
                if _matches(match, context):
                    given = fault["params"].get("params") or {}
                    possible = [kind for kind in fault["params"]["rates"] if kind in kinds]
                    here = {kind: {**self._kinds[kind].defaults, **given.get(kind, {})} for kind in possible}
                    here = {kind: params for kind, params in here.items() if at is None or params["at"] == at}
                    for kind in self._draw(fault["params"], here, context):
                        taken.setdefault(kind, here[kind])
                continue
            if at is not None and fault["params"].get("at") != at:
                continue
            if fault["kind"] not in kinds or fault["kind"] in taken or not _matches(match, context):
                continue
            if fault["times"] is not None and fault["applied"] >= fault["times"]:
                continue
            fault["seen"] += 1
            if "nth" not in match or fault["seen"] in _numbers(match["nth"]):
                fault["applied"] += 1
                taken[fault["kind"]] = fault["params"]
            self._ledger.put("faults", key, fault)
        if taken:
            self._injected.update(taken.keys())
            self._ledger.put("injected", "counts", dict(self._injected))
            about = {"at": time.time(), "endpoint": context.get("endpoint", ""), "subject": _subject(context)}
            for kind, params in taken.items():
                self._ledger.append("injections", {**about, "kind": kind, "params": params})
        return taken

    def _draw(self, params: Params, kinds: Collection[str], context: Context) -> list[str]:
        subject = _subject(context)
        drawn = []
        for kind, rate in params["rates"].items():
            if kind not in kinds:
                continue
            moment = (kind, str(context.get("endpoint", "")), str(context.get("event_type", "")), subject)
            self._drawn[moment] += 1
            text = "|".join((str(params.get("seed", 0)), *moment, str(self._drawn[moment])))
            chance = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
            if chance < rate:
                drawn.append(kind)
        return drawn

    def _kind(self, name: Any) -> Kind:
        if name not in self._kinds:
            raise FaultError(f"unknown kind {name!r}; known: {', '.join(sorted(self._kinds))}, random")
        return self._kinds[name]

    def _check_params(self, name: str, params: Params) -> None:
        if unknown := set(params) - set(self._kind(name).defaults):
            raise FaultError(f"{name} knows no {sorted(unknown)}; it knows {sorted(self._kinds[name].defaults)}")
        for parameter, choices in self._kind(name).choices.items():
            if parameter in params and params[parameter] not in choices:
                raise FaultError(f"{name}: '{parameter}' is one of {list(choices)}")

    def _check_random(self, params: Params) -> None:
        rates = params.get("rates")
        if not isinstance(rates, dict) or not all(isinstance(rate, int | float) for rate in rates.values()):
            raise FaultError("random needs 'rates': a probability for each kind")
        if unknown := set(params) - {"rates", "seed", "params"}:
            raise FaultError(f"random knows no {sorted(unknown)}")
        for name in rates:
            self._check_params(name, (params.get("params") or {}).get(name, {}))


def _subject(context: Context) -> str:
    if person := context.get("email") or context.get("to"):
        return str(person)
    if image_url := context.get("image_url"):  # without the port, which differs from run to run
        parts = urlsplit(str(image_url))
        return f"{parts.path}?{parts.query}"
    return str(context.get("job_id") or context.get("path") or "")


def _matches(match: Mapping[str, Any], context: Context) -> bool:
    for key, wanted in match.items():
        if key == "nth":
            continue
        found = context.get(key)
        if found is None or (str(wanted) not in str(found) if key in _PARTS_OF_TEXT else str(wanted) != str(found)):
            return False
    return True


def _numbers(nth: Any) -> list[int]:
    return nth if isinstance(nth, list) else [nth]
