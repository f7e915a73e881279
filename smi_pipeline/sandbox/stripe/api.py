"""The endpoints of Stripe's API: from path and parameters to the returned object."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from stripe.params import RefundCreateParams

from smi_pipeline.sandbox.stripe.checkout import Checkout
from smi_pipeline.sandbox.stripe.forms import (
    Object,
    Params,
    StripeError,
    check_names,
    expand,
    find,
    integer,
    metadata,
    page,
)
from smi_pipeline.sandbox.stripe.money import Money

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

Endpoint = Callable[[Params, str, "str | None"], Object]

# by collection in the path: ledger kind, name in "No such …", filters of the list
_READABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "checkout/sessions": ("sessions", "checkout.session", ("payment_intent", "status", "customer")),
    "payment_intents": ("intents", "payment_intent", ("customer",)),
    "charges": ("charges", "charge", ("payment_intent", "customer")),
    "refunds": ("refunds", "refund", ("payment_intent", "charge")),
    "events": ("events", "event", ("type",)),
    "disputes": ("disputes", "dispute", ("payment_intent", "charge")),
    "radar/early_fraud_warnings": ("fraud_warnings", "early fraud warning", ("payment_intent", "charge")),
    "balance_transactions": ("balance_transactions", "balance transaction", ("type", "source", "currency")),
}
_PAGING = ("limit", "starting_after", "ending_before", "created")
_REFUND_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


class Api:
    """Finds the endpoint of a request and runs it."""

    def __init__(
        self, service: "SandboxService", money: Money, checkout: Checkout, endpoints: Callable[[], list[Object]]
    ) -> None:
        self._ledger = service.ledger
        self._settings = service.settings
        self._endpoints = endpoints
        self._money = money
        self._checkout = checkout
        one = r"([A-Za-z]+_\w+)"
        self._writers: list[tuple[str, Endpoint]] = [
            (r"checkout/sessions()", self._create_session),
            (rf"checkout/sessions/{one}/expire", self._expire_session),
            (r"refunds()", self._create_refund),
            (rf"(?:refunds|payment_intents|charges)/{one}", self._update),
        ]

    def endpoint_of(self, path: str) -> str:
        """Return the name by which faults match: ``refunds``, ``checkout/sessions``, ``events`` …"""
        rest = path.removeprefix("/v1/")
        names = (*_READABLE, "balance", "account", "webhook_endpoints")
        return next((name for name in names if rest == name or rest.startswith(name + "/")), "unknown")

    def run(self, method: str, path: str, params: Params, idempotency_key: str | None) -> Object:
        """Handle a request; return the object. Raises StripeError."""
        rest = path.removeprefix("/v1/").rstrip("/")
        if method == "GET":
            answer = self._read(rest, params)
        elif method != "POST":
            raise _unrecognized(method, path)
        else:
            for pattern, writer in self._writers:
                if found := re.fullmatch(pattern, rest):
                    answer = writer(params, found[1], idempotency_key)
                    break
            else:
                raise _unrecognized(method, path)
        return expand(self._ledger, answer, params.get("expand"))

    def _read(self, rest: str, params: Params) -> Object:
        if rest == "balance":
            amounts = [
                {"amount": amount, "currency": currency, "source_types": {"card": amount}}
                for currency, amount in (self._money.available() or {"usd": 0}).items()
            ]
            nothing = [{**amount, "amount": 0, "source_types": {"card": 0}} for amount in amounts]
            return {"object": "balance", "available": amounts, "pending": nothing, "livemode": False}
        if rest == "webhook_endpoints":
            check_names(params, _PAGING)
            return page(self._endpoints(), params, "/v1/webhook_endpoints")
        if rest == "account":
            return {"id": "acct_sandbox", "object": "account", "default_currency": self._settings["default_currency"]}
        if found := re.fullmatch(r"checkout/sessions/(cs_\w+)/line_items", rest):
            return self._checkout.line_items(find(self._ledger, "sessions", found[1], "checkout.session"))
        if rest in _READABLE:
            return self._list(rest, params)
        name, _, key = rest.rpartition("/")
        if name not in _READABLE:
            raise _unrecognized("GET", f"/v1/{rest}")
        check_names(params, ())
        kind, label, _filters = _READABLE[name]
        return find(self._ledger, kind, key, label, param="session" if kind == "sessions" else "id")

    def _list(self, name: str, params: Params) -> Object:
        kind, _, filters = _READABLE[name]
        check_names(params, (*_PAGING, *filters, *(("types", "delivery_success") if kind == "events" else ())))
        wanted = {field: params[field] for field in filters if field in params}
        types = params.get("types")

        def keep(each: Object) -> bool:
            if types is not None and each["type"] not in types:
                return False
            return all(
                each[field] == value
                or (field == "type" and value.endswith(".*") and each[field].startswith(value[:-1]))
                for field, value in wanted.items()
            )

        return page(self._ledger.newest(kind), params, f"/v1/{name}", keep)

    def _create_session(self, params: Params, _: str, key: str | None) -> Object:
        return self._checkout.create(params)

    def _expire_session(self, params: Params, id: str, key: str | None) -> Object:
        session = find(self._ledger, "sessions", id, "checkout.session", param="session")
        self._money.expire(session)
        return session

    def _create_refund(self, params: Params, _: str, key: str | None) -> Object:
        check_names(params, RefundCreateParams.__annotations__)
        reason = params.get("reason")
        if reason is not None and reason not in _REFUND_REASONS:
            raise StripeError(f"Invalid reason: must be one of {', '.join(_REFUND_REASONS)}", param="reason")
        amount = integer(params["amount"], "amount") if "amount" in params else None
        return self._money.refund(
            self.charge_of(params), amount, reason=reason, metadata=metadata(params), idempotency_key=key
        )

    def charge_of(self, params: Params) -> Object:
        """Return the charge that ``charge`` or ``payment_intent`` names. Raises StripeError."""
        if params.get("charge"):
            return find(self._ledger, "charges", params["charge"], "charge", param="charge")
        if not params.get("payment_intent"):
            message = "One of the following params should be provided for this request: payment_intent or charge."
            raise StripeError(message, code="parameter_missing")
        intent = find(self._ledger, "intents", params["payment_intent"], "payment_intent", param="payment_intent")
        if intent["latest_charge"] is None:
            message = f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
            raise StripeError(message, code="payment_intent_unexpected_state", param="payment_intent")
        return find(self._ledger, "charges", intent["latest_charge"], "charge")

    def _update(self, params: Params, id: str, key: str | None) -> Object:
        check_names(params, ("metadata", "description"))
        kind = {"re": "refunds", "pi": "intents", "ch": "charges"}.get(id.split("_")[0], "refunds")
        found = find(self._ledger, kind, id, kind.rstrip("s"))
        given = params.get("metadata") or {}
        merged = {**found["metadata"], **metadata(params)}  # an empty string removes a key
        return self._ledger.update(kind, id, metadata={name: merged[name] for name in merged if given.get(name) != ""})


def _unrecognized(method: str, path: str) -> StripeError:
    return StripeError(f"Unrecognized request URL ({method}: {path}).", status=404)
