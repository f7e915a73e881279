"""The WordPress plugin's history as closed jobs."""

import contextlib
import csv
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from smi_pipeline.core.errors import AmbiguousError, Conflict
from smi_pipeline.core.models import CheckoutSession
from smi_pipeline.services import admin, intake
from smi_pipeline.services.reconciliation.stripe_payments import compare_payments
from smi_pipeline.state.imported_jobs import HistoricJob, PostgresHistory
from smi_pipeline_tests.exports import TABLE, WRITERS, Writer
from smi_pipeline_tests.integration.commands.conftest import Ran, Smi
from smi_pipeline_tests.integration.services.databases import empty
from smi_pipeline_tests.integration.services.steps import Steps
from smi_pipeline_tests.integration.services.stripe import FakePayments

ROW = {
    "id": "17", "job_id": "0b6f0c8e-8a3d-4a2b-9c1d-5e6f7a8b9c0d", "image_url": "https://shop.example/a/Sun%20set.png",
    "resolution": "4x", "email": "customer@example.org", "post_id": "12", "attachment_id": "34", "image_width": "800",
    "image_height": "600", "status": "completed", "upsampler_job_id": "up_17", "stripe_payment_intent_id": "pi_17",
    "stripe_checkout_session_id": "cs_17", "payment_status": "paid", "amount_charged": "0.96", "amount_cost": "0.08",
    "credits_used": "2", "email_sent": "1", "paid_at": "2026-03-01 10:01:00", "created_at": "2026-03-01 10:00:00",
    "updated_at": "2026-03-01 10:05:00", "processing_started_at": "2026-03-01 10:01:30",
    "completed_at": "2026-03-01 10:04:00",
}  # fmt: skip
FAILED = ROW | {
    "id": "18", "job_id": "1" * 32, "status": "failed", "upsampler_job_id": "up_18", "completed_at": "",
    "stripe_payment_intent_id": "pi_18", "stripe_checkout_session_id": "cs_18",
}  # fmt: skip
REFUNDED = FAILED | {
    "id": "19", "job_id": "2" * 32, "upsampler_job_id": "NULL", "stripe_payment_intent_id": "pi_19",
    "stripe_checkout_session_id": "cs_19", "refunded_at": "2026-03-02 10:00:00", "refund_amount": "0.96",
    "refund_reason": "the service failed",
}  # fmt: skip
UNPAID = ROW | {
    "id": "20", "job_id": "3" * 32, "status": "awaiting_payment", "payment_status": "pending", "paid_at": "",
    "stripe_payment_intent_id": "", "stripe_checkout_session_id": "NULL", "amount_charged": "NULL", "email": "",
    "upsampler_job_id": "", "credits_used": "", "completed_at": "0000-00-00 00:00:00",
}  # fmt: skip


def write(folder: Path, *rows: dict[str, str], **options: Any) -> Path:
    path = folder / "wp_smi_jobs.csv"
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, names, restval="NULL", **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(smi: Smi, path: Path, *options: str) -> Ran:
    """Import without asking Stripe."""
    return smi("import-wordpress", path, "--without-stripe", *options)


def rows(url: str, query: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text(query)).all()
    engine.dispose()
    return [tuple(row) for row in found]


def run(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def stripe(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> FakePayments:
    """A Stripe account that the command asks."""
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_1")
    return shop.payments


def paid_at_stripe(stripe: FakePayments, row: dict[str, str], **more: Any) -> dict[str, str]:
    """The row as sold through this account."""
    amount = round(float(row["amount_charged"]) * 100)
    at = datetime.fromisoformat(row["paid_at"]).replace(tzinfo=UTC)
    payment_intent = stripe.pay(row["job_id"], more.pop("amount", amount), at=at, **more)
    return row | {"stripe_payment_intent_id": payment_intent}


def test_history_comes_in_as_closed_jobs_and_only_once(smi: Smi, database: str, tmp_path: Path) -> None:
    path = write(tmp_path, ROW, FAILED, REFUNDED, UNPAID)
    assert load(smi, path, "--json").json == {
        "rows": 4, "imported": 4, "known_already": 0, "refused": 0, "bad_rows": []
    }  # fmt: skip
    before = everything(database)
    assert load(smi, path).out == "4 rows: 0 imported, 4 imported before, 0 refused\n"
    assert everything(database) == before
    jobs = rows(
        database,
        """SELECT imported_from, status, queue, price_cents, payment_intent_id, file_name FROM smi.upscale_jobs
           ORDER BY 1""",
    )
    assert jobs == [
        ("wordpress:17", "completed", None, 96, "pi_17", "Sun set"),
        ("wordpress:18", "failed", None, 96, "pi_18", "Sun set"),
        ("wordpress:19", "refunded", None, 96, "pi_19", "Sun set"),
        ("wordpress:20", "abandoned", None, 50, None, "Sun set"),
    ]
    assert rows(database, "SELECT state, amount_cents FROM smi.refunds") == [("succeeded", 96)]
    assert rows(database, "SELECT count(*) FROM smi.payments") == [(3,)]
    assert rows(database, "SELECT state, credits FROM smi.submissions ORDER BY 1") == [("completed", 2), ("failed", 2)]
    assert rows(database, "SELECT DISTINCT day::text FROM reports.changes") == [("2026-03-01",)]


def everything(url: str) -> list[Any]:
    """All that an import writes."""
    tables = ("upscale_jobs", "payments", "refunds", "submissions", "outcomes", "job_events", "person_tasks")
    return [rows(url, f"SELECT * FROM smi.{table} ORDER BY 1") for table in tables]


def test_nothing_of_it_is_worked_on_or_alarmed(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    load(smi, write(tmp_path, ROW, FAILED, REFUNDED, UNPAID))
    shop.later(hours=2)
    shop.everything()
    shop.poll()
    assert (shop.upscaler.calls, shop.payments.calls, shop.mailer.calls) == ([], [], [])
    assert shop.state.queries.alarms(shop.policy) == []
    assert intake.close_abandoned(shop.ctx) == 0
    job_id = ROW["job_id"].replace("-", "")
    for refused in (admin.cancel, admin.retry, admin.resend, admin.new_token):
        with pytest.raises(Conflict):
            refused(shop.ctx, job_id)


def test_the_recorded_payment_can_be_refunded_by_an_operator(
    smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path
) -> None:
    assert smi("import-wordpress", write(tmp_path, paid_at_stripe(stripe, FAILED))).code == 0
    assert "re_1" in smi("jobs", "refund", "1" * 32).out
    assert shop.job("1" * 32).status == "refunded"


# -- payments and refunds at Stripe


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
    stripe.sessions["cs_17"] = session("paid", "pi_unnoticed")
    ran = smi("import-wordpress", write(tmp_path, good, unknown, canceled, euros, unnoticed), "--json")
    assert (ran.code, ran.json["imported"]) == (1, 1)
    assert [(bad["line"], bad["problem"].partition(":")[0]) for bad in ran.json["bad_rows"]] == [
        (3, "Stripe does not know pi_of_a_test"),
        (4, f"is paid, but Stripe says that the payment {canceled['stripe_payment_intent_id']} is canceled"),
        (5, "Stripe has received EUR, not USD"),
        (6, "Stripe has its payment pi_unnoticed, which the plugin has not noticed"),
    ]


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


# -- rows


def test_an_upload_keeps_its_path_and_an_attachment_its_post(smi: Smi, database: str, tmp_path: Path) -> None:
    upload = FAILED | {
        "image_url": "/var/www/html/wp-content/uploads/sell-my-images/uploads/5e6f.webp", "source_type": "upload",
        "post_id": "0", "attachment_id": "NULL", "email": "",
    }  # fmt: skip
    windows = REFUNDED | {"image_url": "C:\\inetpub\\uploads\\Müller.png", "source_type": "upload", "post_id": "0"}
    assert load(smi, write(tmp_path, ROW, upload, windows), "--format", "csv").code == 0
    assert rows(
        database,
        "SELECT post_id, attachment_id, file_name, source_format, customer_email FROM smi.upscale_jobs ORDER BY job_id",
    ) == [
        (12, 34, "Sun set", "PNG", "customer@example.org"),
        (None, None, "5e6f", "WEBP", ""),
        (None, 34, "Müller", "PNG", "customer@example.org"),
    ]


def test_analysts_see_the_post_of_an_imported_sale(smi: Smi, database: str, tmp_path: Path) -> None:
    load(smi, write(tmp_path, ROW))
    run(
        database,
        """INSERT INTO reports.job_facts SELECT (jsonb_populate_record(NULL::reports.job_facts, jsonb_build_object(
           'day', '2026-03-01', 'job_id', job_id, 'resolution', '4x', 'megapixels', 1, 'outcome', 'delivered',
           'submissions', 0, 'credits', 0, 'credits_assumed', 0, 'api_cost_cents', 0, 'credits_wasted', 0,
           'currency', 'usd', 'price_cents', 96, 'received_cents', 96, 'stripe_fee_cents', 0,
           'stripe_fee_known', false, 'refunded_cents', 0, 'disputed_cents', 0, 'dispute_fee_cents', 0,
           'net_margin_cents', 96))).* FROM smi.upscale_jobs""",
    )
    assert rows(database, "SELECT post_id, attachment_id FROM analytics.jobs") == [(12, 34)]


@pytest.mark.parametrize(("currency", "kept"), [("usd", Decimal("3.7")), ("eur", None)])
def test_an_import_keeps_the_price_of_a_credit_if_it_is_known_in_its_currency(
    smi: Smi, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, currency: str, kept: Decimal | None
) -> None:
    monkeypatch.setenv("SMI_CREDIT_CENTS", "3.7")
    load(smi, write(tmp_path, ROW), "--currency", currency)
    assert rows(database, "SELECT credit_cents FROM smi.upscale_jobs") == [(kept,)]


def test_times_are_those_of_the_site_and_updated_at_that_of_its_database(
    smi: Smi, database: str, tmp_path: Path
) -> None:
    summer = {
        "created_at": "2026-07-01 10:00:00", "paid_at": "2026-07-01 10:01:00", "completed_at": "2026-07-01 10:04:00",
        "processing_started_at": "2026-07-01 10:02:00", "updated_at": "2026-07-01 08:30:00",
    }  # fmt: skip
    path = write(tmp_path, ROW | summer, FAILED | summer | {"completed_at": ""})
    assert load(smi, path, "--time-zone", "Europe/Berlin").code == 0
    assert rows(
        database, "SELECT created_at::time(0)::text, coalesce(completed_at, failed_at)::time(0)::text"
        " FROM smi.upscale_jobs ORDER BY job_id",
    ) == [("08:00:00", "08:04:00"), ("08:00:00", "08:30:00")]  # fmt: skip


def test_a_time_that_the_zone_skips_is_imported_with_a_remark(smi: Smi, database: str, tmp_path: Path) -> None:
    skipped = ROW | {"created_at": "2026-03-29 02:30:00", "paid_at": "2026-03-29 03:31:00"}
    skipped |= {"processing_started_at": "2026-03-29 03:32:00", "completed_at": "2026-03-29 03:33:00"}
    assert load(smi, write(tmp_path, skipped), "--time-zone", "Europe/Berlin").code == 0
    ((remark,),) = rows(database, "SELECT details ->> 'remark' FROM smi.job_events")
    assert remark == "created_at 2026-03-29 02:30:00 does not exist in the time zone Europe/Berlin"


def test_what_excel_has_changed_is_read_or_refused_but_never_taken_for_another_value(
    smi: Smi, database: str, tmp_path: Path
) -> None:
    german = {
        name: f"{datetime.fromisoformat(value):%d.%m.%Y %H:%M}" if name.endswith("_at") and value else value
        for name, value in ROW.items()
    } | {"amount_charged": "0,96", "post_id": "'12", "attachment_id": '="34"'}
    rounded = german | {"job_id": "4" * 32, "upsampler_job_id": "1,23457E+15"}
    hidden = german | {"job_id": "5" * 32, "created_at": "########"}
    path = write(tmp_path, german, rounded, hidden, delimiter=";", encoding="cp1252")
    ran = load(smi, path, "--encoding", "cp1252", "--json")
    assert (ran.json["rows"], ran.json["imported"], ran.json["refused"]) == (3, 1, 2)
    assert [bad["problem"].partition(":")[0] for bad in ran.json["bad_rows"]] == [
        "upsampler_job_id was rounded by a spreadsheet",
        "created_at is not a time like 2026-11-20 14",
    ]
    assert rows(database, "SELECT price_cents, post_id, attachment_id, paid_at::text FROM smi.upscale_jobs") == [
        (96, 12, 34, "2026-03-01 10:01:00+00")
    ]


def test_dates_that_can_be_read_in_two_ways_are_asked_for(smi: Smi, database: str, tmp_path: Path) -> None:
    row = ROW | {name: "3/1/2026 10:00" for name in ROW if name.endswith("_at")}
    path = write(tmp_path, row)
    ran = load(smi, path)
    assert (ran.code, "say --dates dmy or --dates mdy" in ran.err) == (1, True)
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(0,)]
    assert load(smi, path, "--dates", "mdy").code == 0
    assert rows(database, "SELECT paid_at::date::text FROM smi.upscale_jobs") == [("2026-03-01",)]


@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_each_programs_export_is_imported_with_equal_values(
    smi: Smi, database: str, tmp_path: Path, writer: Writer
) -> None:
    reason = 'The service said "no"; then, twice:\n\ttoo large'
    table = [[(row | {"refund_reason": reason}).get(name) or None for name in TABLE] for row in (ROW, FAILED, REFUNDED)]
    path = tmp_path / "wp_smi_jobs"
    path.write_bytes(writer.write(TABLE, table))
    named = [part for name, value in writer.options.items() for part in (f"--{name}", value)]
    assert load(smi, path, *named).out == "3 rows: 3 imported, 0 imported before, 0 refused\n"
    found = rows(
        database,
        """SELECT imported_from, status, price_cents, post_id, paid_at::text, reason_text FROM smi.upscale_jobs
           ORDER BY 1""",
    )
    assert found == [
        (f"wordpress:{n}", status, 96, 12, "2026-03-01 10:01:00+00", reason)
        for n, status in ((17, "completed"), (18, "failed"), (19, "refunded"))
    ]


junk = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    st.sampled_from(["", "NULL", "-1", "1e9", "9" * 30, "0", "0000-00-00 00:00:00", "2026-02-30", '"', "\\"]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.dictionaries(st.sampled_from(list(ROW)), junk, max_size=3), min_size=1, max_size=8),
    writer=st.sampled_from([writer for writer in WRITERS if "encoding" not in writer.options]),
)
def test_every_row_is_imported_or_refused_whatever_is_in_it(
    smi: Smi, database: str, tmp_path: Path, changes: list[dict[str, str]], writer: Writer
) -> None:
    empty(database)
    table = []
    for n, change in enumerate(changes):
        ids = {"id": str(n), "job_id": f"{n:032x}", "upsampler_job_id": f"up_{n}"}
        ids |= {"stripe_payment_intent_id": f"pi_{n:03}", "stripe_checkout_session_id": f"cs_{n:03}"}
        row = ROW | ids | change
        table.append([row.get(name) for name in TABLE])
    path = tmp_path / "wp_smi_jobs"
    path.write_bytes(writer.write(TABLE, table))
    named = [part for name, value in writer.options.items() for part in (f"--{name}", value)]
    ran = load(smi, path, "--format", writer.format, "--dates", "dmy", *named, "--json")
    counts = ran.json
    assert counts["rows"] == len(changes)
    assert counts["imported"] + counts["known_already"] + counts["refused"] == counts["rows"]
    assert ran.code == (1 if counts["refused"] else 0)
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(counts["imported"],)]
    intact = sum(not change for change in changes)
    assert counts["imported"] >= intact
    again = load(smi, path, "--format", writer.format, "--dates", "dmy", *named, "--json").json
    assert (again["imported"], again["known_already"], again["refused"]) == (0, counts["imported"], counts["refused"])


# -- refusals


def test_refused_rows_can_be_corrected_and_imported(smi: Smi, database: str, tmp_path: Path) -> None:
    path, refused = write(tmp_path, ROW, FAILED | {"resolution": "9x"}, UNPAID), tmp_path / "refused.csv"
    assert load(smi, path, "--refused", str(refused)).code == 1
    assert refused.stat().st_mode & 0o777 == 0o600
    text_ = refused.read_text()
    assert text_.splitlines()[0].endswith(",line,problem")
    assert "resolution '9x' is neither 4x nor 8x" in text_
    again = tmp_path / "again.csv"
    assert load(smi, refused, "--refused", str(again)).code == 1
    assert again.read_text().splitlines()[0] == text_.splitlines()[0]
    assert load(smi, path, "--refused", str(refused)).code == 2, "it is not written over"
    refused.write_text(text_.replace(",9x,", ",4x,"))
    assert load(smi, refused).out == "1 row: 1 imported, 0 imported before, 0 refused\n"
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(3,)]


def test_an_import_that_is_killed_goes_on_where_it_was(
    smi: Smi, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, ROW, FAILED, REFUNDED)
    insert, calls = PostgresHistory.insert, []

    def dies(self: PostgresHistory, job: HistoricJob, *, actor: str) -> bool:
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return insert(self, job, actor=actor)

    monkeypatch.setattr(PostgresHistory, "insert", dies)
    with contextlib.suppress(KeyboardInterrupt):
        load(smi, path)
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(1,)]
    assert load(smi, path).out == "3 rows: 2 imported, 1 imported before, 0 refused\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job_id": "17"}, "job_id is not a UUID"),
        ({"image_url": "javascript:alert(1)"}, "image_url is neither an http(s) URL nor the path"),
        ({"image_url": "http://[/a.png"}, "image_url is not a URL"),
        ({"image_width": "100001"}, "image_width is not a whole number up to 100,000"),
        ({"post_id": "9" * 19 + "0"}, "post_id is not a whole number"),
        ({"refund_reason": "a\0b"}, "holds the character NUL"),
        ({"stripe_payment_intent_id": "pi 17"}, "is not an id of Stripe"),
        ({"resolution": "2x"}, "neither 4x nor 8x"),
        ({"status": "lost"}, "status 'lost' is not known"),
        ({"status": "processing"}, "is paid and still open (processing)"),
        ({"status": ""}, "status is empty"),
        ({"email": "nobody"}, "email is not an address"),
        ({"created_at": "yesterday"}, "created_at is not a time"),
        ({"amount_charged": "ninety"}, "amount_charged is not an amount"),
        ({"amount_charged": "-1"}, "amount_charged is not an amount"),
        ({"amount_charged": "NaN"}, "amount_charged is not an amount"),
        ({"amount_charged": ""}, "is paid, but amount_charged is empty"),
        ({"credits_used": "1.5"}, "credits_used is not a whole number"),
        ({"image_width": "", "credits_used": "", "amount_cost": ""}, "neither image_width and image_height nor"),
        ({"job_id": ROW["job_id"].upper()}, "same job_id as line 2"),
        ({"stripe_payment_intent_id": "pi_17"}, "belongs to another job"),
        ({"upsampler_job_id": "up_17"}, "is on record for another job"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_keeps_no_other_out(
    smi: Smi, database: str, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path = write(tmp_path, ROW, UNPAID, FAILED | change, REFUNDED)
    ran = load(smi, path)
    assert ran.code == 1
    assert ran.err.startswith(f"smi: {path.name}, line 4: ")
    assert words in ran.err
    assert ran.out == "4 rows: 3 imported, 0 imported before, 1 refused\n"
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(3,)]
    again = load(smi, path, "--skip-bad", "--json")
    assert again.code == 0
    assert (again.json["known_already"], [bad["line"] for bad in again.json["bad_rows"]]) == (3, [4])


def test_lines_are_counted_as_an_editor_does(smi: Smi, database: str, tmp_path: Path) -> None:
    path = write(tmp_path, ROW | {"refund_reason": "two\nlines"}, FAILED | {"resolution": "9x"})
    assert "line 4: resolution" in load(smi, path).err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "missing: job_id"),
        (b"a,b\n1,2\n", "missing: job_id"),
        (b"\xff\xfe\x00", "not utf-16 text"),
        (b"job_id,image_url,resolution,email,status,created_at\n1,2\n", "line 2: has 2 columns"),
        (b'job_id,image_url,resolution,email,status,created_at\n"1', "line 2: cannot be read as CSV"),
        (b"job_id,image_url,resolution,email,status,created_at\n\x00,,,,,\n", "line 2: holds the character NUL"),
    ],
)
def test_what_is_no_export_is_refused(smi: Smi, database: str, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    ran = load(smi, path)
    assert ran.code == 1
    assert words in ran.err


def test_other_dialects_time_zones_and_older_versions_are_read(smi: Smi, database: str, tmp_path: Path) -> None:
    old = {k: v for k, v in ROW.items() if k not in ("paid_at", "image_width", "image_height", "completed_at")}
    path = write(tmp_path, old, encoding="utf-8-sig", delimiter=";", quoting=csv.QUOTE_ALL)
    assert load(smi, path, "--timezone", "Europe/Berlin", "--currency", "EUR").code == 0
    ((paid_at, currency, width, height, scale, details),) = rows(
        database,
        """SELECT paid_at AT TIME ZONE 'UTC', currency, source_width, source_height, scale, details ->> 'remark'
           FROM smi.upscale_jobs JOIN smi.job_events USING (job_id)""",
    )
    assert f"{paid_at:%Y-%m-%d %H:%M}" == "2026-03-01 09:00"
    assert currency == "eur"
    assert 1 < width * height * scale * scale / 4e6 <= 2, "two credits' worth"
    assert "estimated" in details
    assert smi("import-wordpress", path, "--timezone", "Mars").code == 2
    assert smi("import-wordpress", path, "--currency", "gold").code == 2


@pytest.mark.parametrize(
    ("currency", "charged", "price"), [("jpy", "480", 480), ("kwd", "0.960", 960), ("ugx", "5000", 500_000)]
)
def test_amounts_are_read_in_the_units_of_their_currency(
    smi: Smi, database: str, tmp_path: Path, currency: str, charged: str, price: int
) -> None:
    path = write(tmp_path, ROW | {"amount_charged": charged})
    assert load(smi, path, "--currency", currency).code == 0
    assert rows(database, "SELECT price_cents, currency FROM smi.upscale_jobs") == [(price, currency)]


def test_a_fraction_of_a_yen_is_refused(smi: Smi, database: str, tmp_path: Path) -> None:
    ran = load(smi, write(tmp_path, ROW), "--currency", "jpy")
    assert (ran.code, "amount_charged is not an amount of money in JPY" in ran.err) == (1, True)
