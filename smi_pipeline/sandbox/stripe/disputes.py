"""Disputes: a customer's bank takes the money back, or inquires first."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smi_pipeline.sandbox.stripe import objects
from smi_pipeline.sandbox.stripe.events import Events
from smi_pipeline.sandbox.stripe.forms import Object, StripeError

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

_CLOSED = ("won", "lost", "warning_closed", "prevented")


class Disputes:
    """Opens and closes disputes."""

    def __init__(self, service: "SandboxService", events: Events, move: Callable[[str, int, int, Object], str]) -> None:
        """``move`` records a balance transaction (type, amount and fee in cents, source), and returns its id."""
        self._service = service
        self._ledger = service.ledger
        self._events = events
        self._move = move

    def open_after_payment(self, charge: Object, fault: dict[str, Any]) -> None:
        """Schedule a dispute, and its outcome if the fault ``dispute`` has one."""
        due = time.time() + fault["seconds"]
        self._service.timers.at(due, "dispute", charge=charge["id"], inquiry=fault["inquiry"])
        if fault["outcome"]:
            due += fault["outcome_seconds"]
            self._service.timers.at(due, "end_dispute", charge=charge["id"], outcome=fault["outcome"])

    def open(
        self,
        charge: Object,
        *,
        amount: int | None = None,
        reason: str = "fraudulent",
        inquiry: bool = False,
        prevented: bool = False,
    ) -> Object:
        """Open a dispute; unless it is an inquiry, the bank takes the money and a fee at once. One that is prevented
        (Visa's Rapid Dispute Resolution) takes the money without a fee, and ends with that. Return it."""
        left = charge["amount"] - charge["amount_refunded"]
        amount = (left or charge["amount"]) if amount is None else amount
        dispute = objects.dispute(
            now=int(self._service.clock()), charge=charge, amount=amount, reason=reason, inquiry=inquiry
        )
        with self._ledger.transaction():
            if prevented:
                dispute["status"] = "prevented"
            if not inquiry:
                fee = 0 if prevented else self._service.settings["dispute_fee_cents"]
                taken = self._move("adjustment", -amount, fee, dispute)
                dispute["balance_transactions"].append(self._ledger.get("balance_transactions", taken))
            self._ledger.put("disputes", dispute["id"], dispute)
            self._ledger.update("charges", charge["id"], disputed=True, dispute=dispute["id"])
            self._events.emit("charge.dispute.created", dispute)
        return dispute

    def close(self, dispute: Object, outcome: str) -> Object:
        """Close a dispute as ``won`` by the shop or ``lost``; return it. A won inquiry becomes ``warning_closed``."""
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

    def appeal(self, dispute: Object, status: str) -> Object:
        """Appeal against a lost dispute, or move the appeal on (``appeal_needs_response``, ``appeal_under_review``);
        return it. It is closed like the dispute before."""
        if dispute["status"] != "lost" and not dispute["status"].startswith("appeal_"):
            raise StripeError("Only a lost dispute is appealed against.")
        with self._ledger.transaction():
            self._ledger.update("disputes", dispute["id"], status=status, is_charge_refundable=False)
            dispute["status"] = status
            self._events.emit("charge.dispute.updated", dispute)
        return dispute

    def warn(self, charge: Object, fraud_type: str = "misc") -> Object:
        """Record an early fraud warning of the bank; return it."""
        warning = objects.fraud_warning(now=int(self._service.clock()), charge=charge, fraud_type=fraud_type)
        with self._ledger.transaction():
            self._ledger.put("fraud_warnings", warning["id"], warning)
            self._events.emit("radar.early_fraud_warning.created", warning)
        return warning

    async def open_later(self, charge: str, inquiry: bool) -> None:
        """Open a dispute. Called by a timer."""
        stored = self._ledger.get("charges", charge)
        if stored is not None and not stored["disputed"]:
            self.open(stored, inquiry=inquiry)

    async def close_later(self, charge: str, outcome: str) -> None:
        """Close the dispute of a charge. Called by a timer."""
        stored = self._ledger.get("charges", charge) or {}
        dispute = self._ledger.get("disputes", stored.get("dispute") or "")
        if dispute is not None and dispute["status"] not in _CLOSED:
            self.close(dispute, outcome)

    def block(self, charge: Object) -> bool:
        """Return whether a dispute prevents a refund of the charge."""
        dispute = self._ledger.get("disputes", charge["dispute"] or "")
        return dispute is not None and not dispute["is_charge_refundable"]
