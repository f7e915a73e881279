"""Rarer ends of disputes in the Stripe sandbox, early fraud warnings and thin events."""

import json
from typing import Any

import pytest
import stripe

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.contract.sandbox.conftest import Receiver, paid, until


def moves_of(client: Any, dispute: dict[str, Any]) -> list[tuple[int, int]]:
    found = client.v1.balance_transactions.list({"source": dispute["id"]}).data
    return [(move.amount, move.fee) for move in reversed(found)]


def told_of(client: Any, dispute: dict[str, Any]) -> list[tuple[str, str]]:
    """Types of the events of a dispute with its state, oldest first."""
    events = client.v1.events.list({"type": "charge.dispute.*", "limit": 100}).data
    return [(e.type, e.data.object["status"]) for e in reversed(events) if e.data.object["id"] == dispute["id"]]


def test_a_prevented_dispute_takes_the_money_without_a_fee_and_has_no_answer(sandbox: Sandbox, client: Any) -> None:
    payment_intent = paid(sandbox, client)
    dispute = sandbox.control("stripe", "/_dispute", payment_intent=payment_intent, prevented=True)
    assert (dispute["status"], dispute["is_charge_refundable"]) == ("prevented", False)
    assert moves_of(client, dispute) == [(-500, 0)]
    assert told_of(client, dispute) == [("charge.dispute.created", "prevented")]
    with pytest.raises(ValueError, match="already closed"):
        sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="won")
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        client.v1.refunds.create({"payment_intent": payment_intent})


def test_an_appeal_opens_a_lost_dispute_again_and_may_win(sandbox: Sandbox, client: Any) -> None:
    dispute = sandbox.control("stripe", "/_dispute", payment_intent=paid(sandbox, client))
    with pytest.raises(ValueError, match="Only a lost dispute"):
        sandbox.control("stripe", "/_dispute", dispute=dispute["id"], appeal="appeal_needs_response")
    sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="lost")
    for status in ("appeal_needs_response", "appeal_under_review"):
        sandbox.control("stripe", "/_dispute", dispute=dispute["id"], appeal=status)
        assert client.v1.disputes.retrieve(dispute["id"]).status == status
    sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="won")
    assert [status for _, status in told_of(client, dispute)] == [
        "needs_response", "lost", "appeal_needs_response", "appeal_under_review", "won",
    ]  # fmt: skip
    assert moves_of(client, dispute) == [(-500, 1500), (500, 0)]


def test_an_early_fraud_warning_names_the_payment_and_is_an_event(sandbox: Sandbox, client: Any) -> None:
    payment_intent = paid(sandbox, client)
    warning = sandbox.control("stripe", "/_warn", payment_intent=payment_intent, fraud_type="made_with_stolen_card")
    listed = client.v1.radar.early_fraud_warnings.list({"payment_intent": payment_intent}).data
    assert [(each.id, each.fraud_type, each.actionable) for each in listed] == [
        (warning["id"], "made_with_stolen_card", True)
    ]
    (event, *_) = client.v1.events.list({"type": "radar.early_fraud_warning.created"}).data
    assert event.data.object["payment_intent"] == payment_intent


def test_a_thin_event_is_signed_and_holds_no_object(sandbox: Sandbox, client: Any, receiver: Receiver) -> None:
    payment_intent = paid(sandbox, client)
    sandbox.configure("stripe", webhook_url=f"{receiver.url}/thin")
    event = sandbox.control("stripe", "/_thin", payment_intent=payment_intent)
    until(lambda: receiver.bodies("/thin"))
    (found,) = [each for each in receiver.received if each[0] == "/thin"]
    stripe.WebhookSignature.verify_header(found[2], found[1]["Stripe-Signature"], "whsec_sandbox", 300)
    body = json.loads(found[2])
    assert body == event
    assert (body["object"], "data" in body) == ("v2.core.event", False)
    assert body["related_object"]["id"] == payment_intent
    assert event["id"] not in {each.id for each in client.v1.events.list({"limit": 100}).data}
