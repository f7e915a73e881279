"""Sales of the plugin at Stripe's sandbox: its metadata is on the Checkout session only, with hyphens in the id."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stripe

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events
from smi_pipeline.services.reconciliation.stripe_payments import compare_payments
from smi_pipeline.settings import Settings
from smi_pipeline.wiring import build_context
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.commands.plugin_orders import FAILED, ROW, rows, write


@pytest.fixture
def client(configured: Sandbox) -> Any:
    return stripe.StripeClient("sk_test_sandbox", base_addresses={"api": configured.urls.stripe})


@pytest.fixture
def ctx(configured: Sandbox) -> Iterator[ServiceContext]:
    ctx = build_context(Settings(), actor="test", pool_size=2)
    yield ctx
    ctx.state.database.dispose()


def sold(sandbox: Sandbox, client: Any, row: dict[str, str]) -> dict[str, str]:
    """Sell as PaymentService.php does, and return the row that the plugin keeps of it."""
    session = client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "payment_method_types": ["card"],
            "line_items": [
                {"quantity": 1, "price_data": {"currency": "usd", "unit_amount": 96, "product_data": {"name": "4x"}}}
            ],
            "success_url": "https://shop.example/?smi_payment=success",
            "cancel_url": "https://shop.example/?smi_payment=cancelled",
            "metadata": {"job_id": row["job_id"], "resolution": "4x", "source": "sell-my-images"},
        }
    )
    intent = sandbox.pay(session.id, email="customer@example.org")["id"]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    times = {name: now for name in row if name.endswith("_at") and row[name]}
    return row | times | {"stripe_checkout_session_id": session.id, "stripe_payment_intent_id": intent}


def test_sales_of_the_days_of_the_move_are_no_unmatched_payments(
    smi: Smi, configured: Sandbox, client: Any, ctx: ServiceContext, tmp_path: Path
) -> None:
    before = sold(configured, client, ROW)
    refunded = sold(configured, client, FAILED | {"job_id": "11111111-1111-4111-8111-111111111111"})
    client.v1.refunds.create({"payment_intent": refunded["stripe_payment_intent_id"]})
    reconcile_events(ctx)  # both systems run, and hear of the same sales
    assert rows(ctx.state.database.url, "SELECT DISTINCT role FROM smi.payments") == [("orphan",)]
    ran = smi("import-wordpress", write(tmp_path, before, refunded))
    assert (ran.out, ran.err) == ("2 rows: 2 imported, 0 imported before, 0 refused\n", "")
    # A row that was exported before the plugin knew its payment, and an event that comes after the import.
    late = sold(configured, client, ROW | {"id": "21", "job_id": "22222222-2222-4222-8222-222222222222"})
    late |= {"upsampler_job_id": "up_21"}
    known = late | {"stripe_payment_intent_id": "", "stripe_checkout_session_id": ""}
    assert smi("import-wordpress", write(tmp_path, known)).code == 0
    reconcile_events(ctx)
    compare_payments(ctx)
    found = rows(
        ctx.state.database.url,
        """SELECT j.status, p.role, p.received_cents, p.refunded_cents, p.payment_intent_id FROM smi.payments p
           JOIN smi.upscale_jobs j ON j.job_id = p.job_id AND j.payment_intent_id = p.payment_intent_id ORDER BY 5""",
    )
    assert sorted(found) == sorted(
        [
            ("completed", "order", 96, 0, before["stripe_payment_intent_id"]),
            ("refunded", "order", 96, 96, refunded["stripe_payment_intent_id"]),
            ("completed", "order", 96, 0, late["stripe_payment_intent_id"]),
        ]
    )
    ours = {payment_intent for *_, payment_intent in found}
    unmatched = rows(ctx.state.database.url, "SELECT payment_intent_id FROM smi.payments WHERE role = 'orphan'")
    assert ours.isdisjoint(payment_intent for (payment_intent,) in unmatched)  # other tests have sold at this Stripe
    assert ours.isdisjoint(task.subject for task in ctx.state.manual_tasks.opened())
