"""Stripe's conventions: form bodies with nested keys, parameter checks, paging, expansion, error objects."""

import copy
import re
from collections.abc import Callable, Collection, Iterable
from operator import ge, gt, le, lt
from typing import Any
from urllib.parse import parse_qsl

from stripe import RequestOptions

from smi_pipeline.sandbox.ledger import Ledger

Params = dict[str, Any]
Object = dict[str, Any]

# ledger kind by the prefix of an id, for expanding
COLLECTIONS = {
    "cs": "sessions",
    "pi": "intents",
    "ch": "charges",
    "re": "refunds",
    "txn": "balance_transactions",
    "dp": "disputes",
    "evt": "events",
}
_MAX_LIMIT = 100
_BOUNDS: dict[str, Callable[[int, int], bool]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


class StripeError(Exception):
    """An error response: HTTP status and the fields of ``error``.

    ``remembered``: whether an idempotency key replays it. Stripe does not keep responses to invalid parameters.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",
        remembered: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.remembered = remembered
        self.body = {"error": {"type": type, "message": message}}
        if code:
            self.body["error"]["code"] = code
            self.body["error"]["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param:
            self.body["error"]["param"] = param


def decode(form: str) -> Params:
    """Return ``a[b][0][c]=x`` as nested dicts and lists, with strings as values. Raises StripeError."""
    root: Params = {}
    for key, value in parse_qsl(form, keep_blank_values=True):
        parts = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key)
        place: Any = root
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            name = part or str(len(place))
            if following is None:
                place[name] = value
            else:
                place = place.setdefault(name, {})
                if not isinstance(place, dict):
                    raise StripeError(f"Invalid parameters: {key}", param=key)
    decoded: Params = _lists(root)
    return decoded


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(item) for key, item in value.items()}


def check_names(params: Params, known: Collection[str]) -> None:
    """Raise StripeError for a parameter that the endpoint does not have. ``known`` may be the names that Stripe's own
    library declares, among which are options of its client."""
    for name in params:
        if (name not in known or name in RequestOptions.__annotations__) and name != "expand":
            raise StripeError(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def required(params: Params, name: str, *, label: str | None = None) -> Any:
    """Return the value of a parameter. Raises StripeError if it is missing."""
    if params.get(name) in (None, "", {}, []):
        label = label or name
        raise StripeError(f"Missing required param: {label}.", code="parameter_missing", param=label)
    return params[name]


def integer(value: Any, name: str) -> int:
    """Return the value as an integer. Raises StripeError."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise StripeError(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name) from None


def metadata(params: Params) -> dict[str, str]:
    """Return the metadata of a request: at most 50 strings by key. Raises StripeError."""
    given = params.get("metadata") or {}
    if not isinstance(given, dict) or len(given) > 50 or any(not isinstance(value, str) for value in given.values()):
        raise StripeError("Invalid metadata: it must be a hash of up to 50 strings", param="metadata")
    return {key: value for key, value in given.items() if value != ""}


def find(ledger: Ledger, kind: str, key: str, label: str, *, param: str = "id") -> Object:
    """Return the stored object. Raises StripeError 404; ``label`` is its name in the message."""
    found = ledger.get(kind, key)
    if found is None:
        raise StripeError(f"No such {label}: '{key}'", status=404, code="resource_missing", param=param)
    return found


def page(
    objects: Iterable[Object], params: Params, url: str, keep: Callable[[Object], bool] = lambda each: True
) -> Object:
    """Return a page of a list. ``objects`` are newest first. Supports limit, starting_after, ending_before, created."""
    limit = integer(params.get("limit", 10), "limit")
    if not 1 <= limit <= _MAX_LIMIT:
        raise StripeError(
            "Invalid limit: it must be between 1 and 100", code="parameter_invalid_integer", param="limit"
        )
    start, end = params.get("starting_after"), params.get("ending_before")
    skipping = start is not None
    data: list[Object] = []
    for each in objects:
        if end is not None and each["id"] == end:
            break
        if not skipping and keep(each) and _created_in(each, params.get("created")):
            data.append(each)
            if end is None and len(data) > limit:
                break
        if skipping and each["id"] == start:
            skipping = False
    if skipping:
        raise StripeError(f"No such object: '{start}'", status=400, code="resource_missing", param="starting_after")
    has_more = len(data) > limit
    data = data[-limit:] if end is not None else data[:limit]
    return {"object": "list", "url": url, "has_more": has_more, "data": [copy.deepcopy(each) for each in data]}


def _created_in(each: Object, bounds: Any) -> bool:
    if bounds is None:
        return True
    if not isinstance(bounds, dict):
        return bool(each["created"] == integer(bounds, "created"))
    return all(
        _BOUNDS[name](each["created"], integer(bound, f"created[{name}]"))
        for name, bound in bounds.items()
        if name in _BOUNDS
    )


def expand(ledger: Ledger, answer: Object, paths: Any) -> Object:
    """Return a copy with ids replaced by objects along paths such as ``latest_charge.balance_transaction``.

    Raises StripeError for a field that does not exist. The stored objects stay as they are.
    """
    answer = copy.deepcopy(answer)
    for path in paths if isinstance(paths, list) else [paths] if paths else []:
        _expand(ledger, answer, path.split("."), path)
    return answer


def _expand(ledger: Ledger, place: Object, parts: list[str], path: str) -> None:
    name, rest = parts[0], parts[1:]
    if name == "data" and place.get("object") == "list":
        for each in place["data"]:
            _expand(ledger, each, rest, path)
        return
    if name not in place:
        raise StripeError(f"This property cannot be expanded ({path}).", param="expand")
    value = place[name]
    if isinstance(value, str):
        kind = COLLECTIONS.get(value.split("_")[0])
        found = ledger.get(kind, value) if kind else None
        if found is None:
            raise StripeError(f"This property cannot be expanded ({path}).", param="expand")
        place[name] = value = copy.deepcopy(found)
    if rest and isinstance(value, dict):
        _expand(ledger, value, rest, path)
