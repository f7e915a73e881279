"""Checkout sessions: create them from parameters, and serve the page on which a customer pays."""

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from stripe.params.checkout import SessionCreateParams

from smi_pipeline.sandbox.pages import html
from smi_pipeline.sandbox.stripe import objects
from smi_pipeline.sandbox.stripe.currencies import check_charge
from smi_pipeline.sandbox.stripe.forms import Object, Params, StripeError, check_names, integer, metadata, required
from smi_pipeline.sandbox.stripe.money import Money

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

_KNOWN = frozenset(SessionCreateParams.__annotations__) | {"payment_method_types"}  # of older API versions, too
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1800, 24 * 3600
_DECLINED_CARD = "4000000000000002"


class Checkout:
    """Checkout sessions and their page."""

    def __init__(self, service: "SandboxService", money: Money) -> None:
        self._service = service
        self._ledger = service.ledger
        self._money = money

    def create(self, params: Params) -> Object:
        """Create a session; return it. Raises StripeError for what Stripe would refuse."""
        check_names(params, _KNOWN)
        if required(params, "mode") != "payment":
            raise StripeError("This sandbox supports only mode=payment", param="mode")
        items = [_line_item(item, number) for number, item in enumerate(required(params, "line_items"))]
        currency, amount = items[0]["currency"], sum(item["amount_total"] for item in items)
        check_charge(amount, currency, self._money.settlement(currency))
        required(params, "success_url")
        now = int(self._service.clock())
        expires_at = integer(params.get("expires_at", now + _LONGEST_SECONDS), "expires_at")
        if not now + _SHORTEST_SECONDS - 60 <= expires_at <= now + _LONGEST_SECONDS + 60:
            message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from now."
            raise StripeError(message, param="expires_at")
        copied = ("success_url", "cancel_url", "customer_email", "client_reference_id", "locale", "submit_type")
        fields = {name: params[name] for name in copied if name in params}
        session = objects.session(
            now=now,
            base_url=self._service.base_url,
            expires_at=expires_at,
            amount=amount,
            currency=currency,
            fields={**fields, "metadata": metadata(params)},
        )
        intent_data = params.get("payment_intent_data") or {}
        details = {"intent_metadata": metadata(intent_data), "line_items": items}
        self._ledger.put("session_details", session["id"], details)
        return self._ledger.put("sessions", session["id"], session)

    def line_items(self, session: Object) -> Object:
        """Return the list of line items."""
        details = self._ledger.get("session_details", session["id"]) or {"line_items": []}
        url = f"/v1/checkout/sessions/{session['id']}/line_items"
        return {"object": "list", "url": url, "has_more": False, "data": details["line_items"]}

    async def show(self, request: Request) -> Response:
        """Return the page (GET), or pay by its form (POST)."""
        session = self._ledger.get("sessions", request.path_params["id"])
        if session is None:
            return html("checkout.html", status=404, state="unknown", session=None, items=[], error=None)
        error, status = None, session["status"]
        if request.method == "POST" and status == "open":
            form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            email = form.get("email", "").strip()
            if not (email or session["customer_email"]):
                error = "Enter your email."
            else:
                if form.get("card", "").replace(" ", "") == _DECLINED_CARD:
                    error = "Your card was declined."
                self._money.pay(session, outcome="declined" if error else "paid", email=email)
        if request.method == "POST" and not error and status in ("open", "complete"):  # or the button was pressed twice
            target = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
            return RedirectResponse(target, status_code=303)
        return html(
            "checkout.html",
            status=402 if error else 200,
            state=session["status"],
            session=session,
            items=self.line_items(session)["data"],
            error=error,
        )


def _line_item(item: Any, number: int) -> Object:
    label = f"line_items[{number}]"
    if not isinstance(item, dict):
        raise StripeError(f"Invalid object: {label}", param=label)
    data = item.get("price_data")
    if not isinstance(data, dict):
        raise StripeError("This sandbox supports only prices given by price_data", param=f"{label}[price_data]")
    currency = required(data, "currency", label=f"{label}[price_data][currency]").lower()
    unit = integer(required(data, "unit_amount", label=f"{label}[price_data][unit_amount]"), f"{label}[price_data]")
    product = required(data, "product_data", label=f"{label}[price_data][product_data]")
    quantity = integer(item.get("quantity", 1), f"{label}[quantity]")
    return {
        "id": objects.new_id("li"),
        "object": "item",
        "amount_subtotal": unit * quantity,
        "amount_total": unit * quantity,
        "currency": currency,
        "description": required(product, "name", label=f"{label}[price_data][product_data][name]"),
        "price": {"object": "price", "currency": currency, "unit_amount": unit},
        "quantity": quantity,
    }
