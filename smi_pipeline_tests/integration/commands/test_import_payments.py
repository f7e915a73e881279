"""Payments, refunds and disputes of imported orders, as Stripe tells of them."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.core.errors import AmbiguousError
from smi_pipeline.core.models import CheckoutSession
from smi_pipeline.services import admin
from smi_pipeline.services.reconciliation.stripe_payments import compare_payments
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.commands.plugin_orders import (
    FAILED,
    REFUNDED,
    ROW,
    UNPAID,
    everything,
    load,
    paid_at_stripe,
    rows,
    write,
)
from smi_pipeline_tests.integration.services.steps import Steps
from smi_pipeline_tests.integration.services.stripe import FakePayments


def test_a_row_without_its_payment_is_matched_when_stripe_tells_of_it(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    load(smi, write(tmp_path, ROW | {"stripe_payment_intent_id": ""}))
    payment_intent = shop.payments.pay(ROW["job_id"], 96)
    told = shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, ROW["job_id"])
    assert told == "order"
    job_id = ROW["job_id"].replace("-", "")
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None
    assert (payment.role, payment.job_id, shop.job(job_id).payment_intent_id) == ("order", job_id, payment_intent)
    shop.later(hours=2)
    shop.everything()
    compare_payments(shop.ctx)
    assert shop.payments.refunds == {}
    assert shop.state.manual_tasks.opened() == []


@pytest.mark.parametrize("row", [FAILED, UNPAID])
def test_a_payment_of_an_imported_order_that_was_not_delivered_is_left_to_a_person(
    smi: Smi, shop: Steps, tmp_path: Path, row: dict[str, str]
) -> None:
    load(smi, write(tmp_path, row | {"stripe_payment_intent_id": ""}))
    payment_intent = shop.payments.pay(row["job_id"], 96)
    told = shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, row["job_id"])
    assert told == "orphan"
    shop.later(hours=1)
    compare_payments(shop.ctx)
    assert [task.kind for task in shop.state.manual_tasks.opened()] == ["orphan_payment"]


@pytest.mark.parametrize(("back", "told"), [(96, "order"), (95, "orphan"), (0, "orphan")])
def test_a_payment_of_an_imported_order_that_was_refunded_is_its_own_only_if_the_money_is_back(
    smi: Smi, shop: Steps, tmp_path: Path, back: int, told: str
) -> None:
    load(smi, write(tmp_path, REFUNDED | {"stripe_payment_intent_id": ""}))
    payment_intent = shop.payments.pay(REFUNDED["job_id"], 96)
    if back:
        shop.payments.refund_by_hand(payment_intent, back)
    event = {"object": "payment_intent", "id": payment_intent}
    assert shop.tell("payment_intent.succeeded", event, REFUNDED["job_id"]) == told


@pytest.mark.parametrize(("amount", "currency"), [(95, "usd"), (96, "eur")])
def test_another_payment_for_an_imported_job_is_left_to_a_person(
    smi: Smi, shop: Steps, tmp_path: Path, amount: int, currency: str
) -> None:
    load(smi, write(tmp_path, ROW | {"stripe_payment_intent_id": ""}))
    payment_intent = shop.payments.pay(ROW["job_id"], amount, currency=currency)
    told = shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, ROW["job_id"])
    assert told == "orphan"
    shop.everything()
    assert shop.payments.refunds == {}


def test_a_payment_that_reconciliation_met_first_is_matched_and_its_task_closed(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, ROW)
    payment_intent = row["stripe_payment_intent_id"]
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, ROW["job_id"])
    shop.later(hours=1)
    compare_payments(shop.ctx)
    assert [task.kind for task in shop.state.manual_tasks.opened()] == ["orphan_payment"]
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None
    assert (payment.role, payment.job_id) == ("order", ROW["job_id"].replace("-", ""))
    assert shop.state.manual_tasks.opened() == []


def test_a_payment_without_its_id_is_found_by_its_checkout_session(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, ROW)
    stripe.sessions["cs_17"] = session("paid", row["stripe_payment_intent_id"])
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": row["stripe_payment_intent_id"]}, "f" * 32)
    assert smi("import-wordpress", write(tmp_path, row | {"stripe_payment_intent_id": "NULL"})).code == 0
    payment = shop.state.queries.payment(row["stripe_payment_intent_id"])
    assert payment is not None
    assert payment.job_id == ROW["job_id"].replace("-", "")


def session(payment_status: str, payment_intent: str | None) -> CheckoutSession:
    return CheckoutSession(
        session_id="cs_17", url=None, status="complete", payment_status=payment_status, payment_intent_id=payment_intent
    )


def test_an_order_that_was_paid_after_the_first_export_is_closed_by_the_second(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    waiting = ROW | {
        "status": "awaiting_payment", "payment_status": "pending", "paid_at": "", "stripe_payment_intent_id": "",
        "upsampler_job_id": "", "completed_at": "", "processing_started_at": "",
    }  # fmt: skip
    job_id = ROW["job_id"].replace("-", "")
    assert smi("import-wordpress", write(tmp_path, waiting, UNPAID)).code == 0
    row = paid_at_stripe(stripe, ROW)
    shop.tell(
        "checkout.session.completed",
        {"object": "checkout.session", "id": "cs_17", "payment_status": "paid",
         "payment_intent": row["stripe_payment_intent_id"]},
        ROW["job_id"],
    )  # fmt: skip
    shop.later(hours=1)
    compare_payments(shop.ctx)
    assert [task.kind for task in shop.state.manual_tasks.opened()] == ["orphan_payment"], "nobody has delivered it yet"
    ran = smi("import-wordpress", write(tmp_path, row, UNPAID))
    assert ran.out == "2 rows: 1 imported, 1 imported before, 0 refused\n"
    job = shop.job(job_id)
    assert (job.status, job.payment_intent_id, job.price_cents) == ("completed", row["stripe_payment_intent_id"], 96)
    assert shop.state.manual_tasks.opened() == []
    assert smi("import-wordpress", write(tmp_path, row, UNPAID)).out.startswith("2 rows: 0 imported, 2 imported before")


@pytest.mark.parametrize("status", ["failed", "processing"])
def test_a_refund_that_only_stripe_knows_of_closes_the_order_with_its_figures(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path, status: str
) -> None:
    row = paid_at_stripe(stripe, FAILED | {"status": status})
    made = stripe.refund_by_hand(row["stripe_payment_intent_id"], 96)
    stripe.refunds[made.refund_id] = replace(made, created_at=datetime(2026, 3, 3, 9, tzinfo=UTC))
    stripe.refund_by_hand(row["stripe_payment_intent_id"], 96, status="failed")
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    job_id = row["job_id"]
    assert shop.job(job_id).status == "refunded"
    refunds = shop.state.refunds.of_job(job_id)
    assert [(refund.state, refund.amount_cents, refund.stripe_refund_id) for refund in refunds] == [
        ("succeeded", 96, made.refund_id)
    ]
    assert rows(shop.state.database.url, "SELECT settled_at::text, stripe_status FROM smi.refunds") == [
        ("2026-03-03 09:00:00+00", "succeeded")
    ]
    payments = rows(shop.state.database.url, "SELECT received_cents, refunded_cents, fee_cents FROM smi.payments")
    assert payments == [(96, 96, 32)]


def test_a_delivered_order_that_was_refunded_stays_delivered_and_its_refund_counts(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, ROW)
    stripe.refund_by_hand(row["stripe_payment_intent_id"], 40)
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    job_id = ROW["job_id"].replace("-", "")
    assert shop.job(job_id).status == "completed"
    assert [refund.amount_cents for refund in shop.state.refunds.of_job(job_id)] == [40]


def test_a_partial_refund_leaves_the_rest_to_an_operator(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, FAILED)
    stripe.refund_by_hand(row["stripe_payment_intent_id"], 40)
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    assert shop.job(row["job_id"]).status == "failed"
    smi("jobs", "refund", row["job_id"])
    assert stripe.returned_cents(row["stripe_payment_intent_id"]) == 96


@pytest.mark.parametrize("told", ["before the import", "after it", "both times"])
@pytest.mark.parametrize("asked", [True, False], ids=["Stripe asked", "without Stripe"])
def test_a_refund_that_stripe_tells_of_too_is_counted_once(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path, told: str, asked: bool
) -> None:
    row = paid_at_stripe(stripe, REFUNDED)
    job_id, payment_intent = row["job_id"], row["stripe_payment_intent_id"]
    stripe.refund_by_hand(payment_intent, 96)
    if told != "after it":
        shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id)
    path = write(tmp_path, row)
    ran = smi("import-wordpress", path) if asked else load(smi, path)
    assert ran.code == 0, ran.err
    if told != "before the import":
        shop.tell("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": payment_intent})
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None
    assert (payment.role, payment.job_id) == ("order", job_id)
    refunds = shop.state.refunds.of_job(job_id)
    assert [(refund.state, refund.amount_cents, refund.stripe_refund_id) for refund in refunds] == [
        ("succeeded", 96, "re_hand1")
    ]


def test_a_payment_that_an_operator_returned_is_not_taken_up(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    payment_intent = shop.payments.pay("1" * 32, 96)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "1" * 32)
    admin.refund_payment(shop.ctx, payment_intent)
    ran = load(smi, write(tmp_path, FAILED | {"stripe_payment_intent_id": payment_intent}))
    assert "is on record for another job" in ran.err


def test_what_stripe_contradicts_is_refused_alone(smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path) -> None:
    good = paid_at_stripe(stripe, ROW)
    unknown = FAILED | {"stripe_payment_intent_id": "pi_of_a_test"}
    canceled = paid_at_stripe(stripe, FAILED | {"job_id": "4" * 32, "stripe_checkout_session_id": "cs_4"})
    stripe.intents[canceled["stripe_payment_intent_id"]] = replace(
        stripe.intents[canceled["stripe_payment_intent_id"]], status="canceled"
    )
    euros = paid_at_stripe(stripe, FAILED | {"job_id": "5" * 32, "stripe_checkout_session_id": "cs_5"}, currency="eur")
    unnoticed = UNPAID | {"stripe_checkout_session_id": "cs_17"}
    missed = stripe.pay(UNPAID["job_id"], 96)
    stripe.sessions["cs_17"] = session("paid", missed)
    ran = smi("import-wordpress", write(tmp_path, good, unknown, canceled, euros, unnoticed), "--json")
    assert (ran.code, ran.json["imported"]) == (1, 1)
    assert [(bad["line"], bad["problem"].partition(":")[0]) for bad in ran.json["bad_rows"]] == [
        (3, "Stripe does not know pi_of_a_test"),
        (4, f"is paid, but Stripe says that the payment {canceled['stripe_payment_intent_id']} is canceled"),
        (5, "Stripe has received EUR, not USD"),
        (6, f"Stripe has its payment {missed}, which the plugin has not noticed"),
    ]


@pytest.mark.parametrize("known_by", ["stripe_checkout_session_id", "stripe_payment_intent_id"])
def test_a_payment_that_the_plugin_has_missed_is_imported_as_refunded_once_it_is_returned(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path, known_by: str
) -> None:
    missed = stripe.pay(UNPAID["job_id"], 96)
    stripe.sessions["cs_17"] = session("paid", missed)
    path = write(tmp_path, UNPAID | {known_by: "cs_17" if "session" in known_by else missed})
    assert "refund it in the Stripe dashboard" in smi("import-wordpress", path).err
    stripe.refund_by_hand(missed, 96)
    assert smi("import-wordpress", path).out == "1 row: 1 imported, 0 imported before, 0 refused\n"
    job = shop.job(UNPAID["job_id"])
    assert (job.status, job.payment_intent_id, job.price_cents) == ("refunded", missed, 96)
    assert [refund.amount_cents for refund in shop.state.refunds.of_job(job.job_id)] == [96]


@pytest.mark.parametrize(
    ("status", "ends", "imported_as"),
    [
        ("completed", "lost", "completed"),
        ("completed", "won", "completed"),
        ("completed", "needs_response", "completed"),
        ("failed", "lost", "refunded"),
        ("failed", "won", "failed"),
        ("processing", "lost", "refunded"),
    ],
)
def test_a_dispute_of_a_sale_is_on_record_with_its_task_while_it_is_open(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path, status: str, ends: str, imported_as: str
) -> None:
    row = paid_at_stripe(stripe, (ROW if status == "completed" else FAILED) | {"status": status})
    stripe.dispute(row["stripe_payment_intent_id"], refundable=ends == "won", status=ends)
    path = write(tmp_path, row)
    assert smi("import-wordpress", path).code == 0
    job = shop.job(row["job_id"].replace("-", ""))
    payment = shop.state.queries.payment(row["stripe_payment_intent_id"])
    assert payment is not None
    assert (job.status, payment.dispute) == (imported_as, "open" if ends == "needs_response" else ends)
    tasks = [(task.kind, task.job_id) for task in shop.state.manual_tasks.opened()]
    assert tasks == ([("dispute", job.job_id)] if ends == "needs_response" else [])
    before = everything(shop.state.database.url)
    assert smi("import-wordpress", path).out.startswith("1 row: 0 imported, 1 imported before")
    assert everything(shop.state.database.url) == before
    shop.later(hours=2)
    shop.everything()
    compare_payments(shop.ctx)
    assert stripe.refunds == {}


def test_an_order_that_is_open_and_disputed_waits_for_the_bank(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, FAILED | {"status": "processing"})
    stripe.dispute(row["stripe_payment_intent_id"], refundable=False)
    assert "is paid and still open (processing)" in smi("import-wordpress", write(tmp_path, row)).err
    stripe.dispute(row["stripe_payment_intent_id"], refundable=False, status="lost")
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    assert shop.job(row["job_id"]).status == "refunded"


def test_a_dispute_that_was_told_before_the_import_goes_on_with_the_order(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, ROW)
    payment_intent = row["stripe_payment_intent_id"]
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, ROW["job_id"])
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent, "status": "needs_response"}
    stripe.dispute(payment_intent, refundable=False)
    shop.tell("charge.dispute.created", body)
    (task,) = shop.state.manual_tasks.opened()
    assert "None" not in task.message
    assert smi("import-wordpress", write(tmp_path, row)).code == 0
    assert [task.kind for task in shop.state.manual_tasks.opened()] == ["dispute"]
    shop.tell("charge.dispute.closed", body | {"status": "lost"})
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None
    assert (payment.role, payment.dispute) == ("order", "lost")
    assert shop.state.manual_tasks.opened() == []


def test_an_import_that_stripe_does_not_answer_goes_on_where_it_was(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smi_pipeline.commands.import_run._AT_ONCE", 1)
    monkeypatch.setattr("smi_pipeline.commands.import_run._CALLS", 1)
    path = write(tmp_path, paid_at_stripe(stripe, ROW), paid_at_stripe(stripe, FAILED))
    answer, calls = stripe.payment, []

    def once(payment_intent: str) -> Any:
        calls.append(payment_intent)
        if len(calls) == 2:
            raise AmbiguousError("Stripe did not answer")
        return answer(payment_intent)

    monkeypatch.setattr(stripe, "payment", once)
    ran = smi("import-wordpress", path)
    assert ran.code == 1
    assert "smi: 1 of 2 orders done\n" in ran.err
    assert "Stripe did not answer" in ran.err
    assert smi("import-wordpress", path).out == "2 rows: 1 imported, 1 imported before, 0 refused\n"


def test_without_a_key_of_stripe_nothing_is_imported(smi: Smi, database: str, tmp_path: Path) -> None:
    ran = smi("import-wordpress", write(tmp_path, ROW))
    assert (ran.code, "STRIPE_API_KEY is not set" in ran.err, "--without-stripe" in ran.err) == (1, True, True)
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(0,)]


def test_a_wrong_time_zone_is_noticed_by_stripes_times(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    row = paid_at_stripe(stripe, ROW) | {"paid_at": "2026-03-01 11:01:03", "created_at": "2026-03-01 11:00:00"}
    path = write(tmp_path, row)
    ran = smi("import-wordpress", path)
    assert ran.code == 1
    assert "1 of 1 payments were made about 1.0 hours earlier than the export says" in ran.err
    assert "the import has stopped: name the site's with --time-zone" in ran.err
    assert rows(shop.state.database.url, "SELECT count(*) FROM smi.upscale_jobs") == [(0,)]
    assert smi("import-wordpress", path, "--time-zone", "Europe/Berlin").err == ""
    assert f"{shop.job(ROW['job_id'].replace('-', '')).paid_at:%H:%M:%S}" == "10:01:00", "as Stripe says"


def test_a_zone_that_is_named_is_believed_with_a_note(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    ran = smi("import-wordpress", write(tmp_path, paid_at_stripe(stripe, ROW)), "--time-zone", "Europe/Berlin")
    assert ran.code == 0
    assert "note: by Stripe, 1 of 1 payments were made about 1.0 hours later" in ran.err
