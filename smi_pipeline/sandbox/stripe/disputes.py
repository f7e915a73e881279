"""Disputes: a customer's bank takes the money back, or asks about it first.

Belongs here: opening and closing a dispute, and whether it blocks a refund. Does not belong here: refunds.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smi_pipeline.sandbox.stripe import objects
from smi_pipeline.sandbox.stripe.events import Events
from smi_pipeline.sandbox.stripe.forms import Object, StripeError

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import StandIn

_CLOSED = ("won", "lost", "warning_closed")


class Disputes:
    """The disputes of the stand-in."""

    def __init__(self, standin: "StandIn", events: Events, move: Callable[[str, int, int, Object], str]) -> None:
        """``move`` books type, amount, fee (cents) and source on the balance, and returns the id of the booking."""
        self._standin = standin
        self._ledger = standin.ledger
        self._events = events
        self._move = move

    def open_after_payment(self, charge: Object, fault: dict[str, Any]) -> None:
        """What the fault ``dispute`` does: plan a dispute, and its end if told."""
        due = time.time() + fault["seconds"]
        self._standin.timers.at(due, "dispute", charge=charge["id"], inquiry=fault["inquiry"])
        if fault["outcome"]:
            due += fault["outcome_seconds"]
            self._standin.timers.at(due, "end_dispute", charge=charge["id"], outcome=fault["outcome"])

    def open(
        self, charge: Object, *, amount: int | None = None, reason: str = "fraudulent", inquiry: bool = False
    ) -> Object:
        """The bank disputes a charge; unless it only inquires, it takes the money and a fee at once."""
        left = charge["amount"] - charge["amount_refunded"]
        amount = (left or charge["amount"]) if amount is None else amount
        dispute = objects.dispute(
            now=int(self._standin.clock()), charge=charge, amount=amount, reason=reason, inquiry=inquiry
        )
        with self._ledger.transaction():
            if not inquiry:
                taken = self._move("adjustment", -amount, self._standin.settings["dispute_fee_cents"], dispute)
                dispute["balance_transactions"].append(self._ledger.get("balance_transactions", taken))
            self._ledger.put("disputes", dispute["id"], dispute)
            self._ledger.update("charges", charge["id"], disputed=True, dispute=dispute["id"])
            self._events.emit("charge.dispute.created", dispute)
        return dispute

    def close(self, dispute: Object, outcome: str) -> Object:
        """The bank decides: ``won`` by the shop, or ``lost``. An inquiry that is won is ``warning_closed``."""
        if outcome not in ("won", "lost"):
            raise StripeError("A dispute ends won or lost", param="status")
        if dispute["status"] in _CLOSED:
            raise StripeError("This dispute is already closed.")
        inquiry = dispute["status"].startswith("warning")
        with self._ledger.transaction():
            dispute["status"] = "warning_closed" if inquiry and outcome == "won" else outcome
            dispute["is_charge_refundable"] = outcome == "won"
            if outcome == "won" and not inquiry:
                returned = self._move("adjustment", dispute["amount"], 0, dispute)
                dispute["balance_transactions"].append(self._ledger.get("balance_transactions", returned))
            elif outcome == "lost" and inquiry:
                self._move("adjustment", -dispute["amount"], 0, dispute)
            self._ledger.put("disputes", dispute["id"], dispute)
            self._events.emit("charge.dispute.closed", dispute)
        return dispute

    async def open_later(self, charge: str, inquiry: bool) -> None:
        """Open a dispute. Runs from a timer."""
        stored = self._ledger.get("charges", charge)
        if stored is not None and not stored["disputed"]:
            self.open(stored, inquiry=inquiry)

    async def close_later(self, charge: str, outcome: str) -> None:
        """Decide the dispute of a charge. Runs from a timer."""
        stored = self._ledger.get("charges", charge) or {}
        dispute = self._ledger.get("disputes", stored.get("dispute") or "")
        if dispute is not None and dispute["status"] not in _CLOSED:
            self.close(dispute, outcome)

    def block(self, charge: Object) -> bool:
        """Whether a dispute keeps the charge from being refunded."""
        dispute = self._ledger.get("disputes", charge["dispute"] or "")
        return dispute is not None and not dispute["is_charge_refundable"]
