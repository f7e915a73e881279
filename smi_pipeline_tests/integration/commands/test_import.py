"""The WordPress plugin's history as closed jobs."""

import csv
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.core.errors import Conflict
from smi_pipeline.services import admin, intake
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.services.steps import Steps

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


def rows(url: str, query: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text(query)).all()
    engine.dispose()
    return [tuple(row) for row in found]


def test_history_comes_in_as_closed_jobs_and_only_once(smi: Smi, database: str, tmp_path: Path) -> None:
    path = write(tmp_path, ROW, FAILED, REFUNDED, UNPAID)
    assert smi("import-wordpress", path, "--json").json == {"imported": 4, "known_already": 0, "bad_rows": []}
    assert smi("import-wordpress", path).out == "0 jobs imported, 4 known already, 0 bad rows skipped\n"
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


def test_nothing_of_it_is_worked_on_or_alarmed(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    smi("import-wordpress", write(tmp_path, ROW, FAILED, REFUNDED, UNPAID))
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


def test_the_recorded_payment_can_be_refunded_by_an_operator(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    payment_intent = shop.payments.pay("1" * 32, 96)
    smi("import-wordpress", write(tmp_path, FAILED | {"stripe_payment_intent_id": payment_intent}))
    assert "re_1" in smi("jobs", "refund", "1" * 32).out
    assert shop.job("1" * 32).status == "refunded"


def test_a_payment_of_an_imported_job_is_never_refunded_by_itself(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    smi("import-wordpress", write(tmp_path, FAILED | {"stripe_payment_intent_id": ""}))
    payment_intent = shop.payments.pay("1" * 32, 96)
    told = shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "1" * 32)
    assert told == "orphan"
    shop.everything()
    assert shop.payments.refunds == {}


def test_an_orphan_that_reconciliation_met_first_is_taken_up(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    payment_intent = shop.payments.pay("1" * 32, 96)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "1" * 32)
    smi("import-wordpress", write(tmp_path, FAILED | {"stripe_payment_intent_id": payment_intent}))
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None
    assert (payment.role, payment.job_id) == ("order", "1" * 32)


@pytest.mark.parametrize("told", ["before the import", "after it", "both times"])
def test_a_refund_that_stripe_tells_of_too_is_counted_once(smi: Smi, shop: Steps, tmp_path: Path, told: str) -> None:
    job_id = REFUNDED["job_id"]
    payment_intent = shop.payments.pay(job_id, 96)
    shop.payments.refund_by_hand(payment_intent, 96)
    if told != "after it":
        shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id)
    ran = smi("import-wordpress", write(tmp_path, REFUNDED | {"stripe_payment_intent_id": payment_intent}))
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


def test_an_orphan_that_an_operator_returned_is_not_taken_up(smi: Smi, shop: Steps, tmp_path: Path) -> None:
    payment_intent = shop.payments.pay("1" * 32, 96)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "1" * 32)
    admin.refund_payment(shop.ctx, payment_intent)
    ran = smi("import-wordpress", write(tmp_path, FAILED | {"stripe_payment_intent_id": payment_intent}))
    assert "is on record for another job" in ran.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job_id": "17"}, "job_id is not a UUID"),
        ({"image_url": "javascript:alert(1)"}, "image_url is not an http(s) URL"),
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
def test_a_bad_row_is_named_by_its_line_and_keeps_the_file_out(
    smi: Smi, database: str, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path = write(tmp_path, ROW, UNPAID, FAILED | change)
    ran = smi("import-wordpress", path)
    assert ran.code == 1
    assert ran.err.splitlines()[0].startswith(f"smi: {path.name}, line 4: ")
    assert words in ran.err
    assert "nothing was imported" in ran.err
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(0,)]
    skipped = smi("import-wordpress", path, "--skip-bad", "--json")
    assert skipped.code == 0
    assert (skipped.json["imported"], [bad["line"] for bad in skipped.json["bad_rows"]]) == (2, [4])


def test_lines_are_counted_as_an_editor_does(smi: Smi, database: str, tmp_path: Path) -> None:
    path = write(tmp_path, ROW | {"refund_reason": "two\nlines"}, FAILED | {"resolution": "9x"})
    assert "line 4: resolution" in smi("import-wordpress", path).err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "missing: job_id"),
        (b"a,b\n1,2\n", "missing: job_id"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"job_id,image_url,resolution,email,status,created_at\n1,2\n", "line 2: has 2 columns"),
        (b'job_id,image_url,resolution,email,status,created_at\n"1', "line 2: cannot be read as CSV"),
        (b"job_id,image_url,resolution,email,status,created_at\n\x00,,,,,\n", "line 2"),
    ],
)
def test_what_is_no_export_is_refused(smi: Smi, database: str, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    ran = smi("import-wordpress", path)
    assert ran.code == 1
    assert words in ran.err


def test_other_dialects_time_zones_and_older_versions_are_read(smi: Smi, database: str, tmp_path: Path) -> None:
    old = {k: v for k, v in ROW.items() if k not in ("paid_at", "image_width", "image_height", "completed_at")}
    path = write(tmp_path, old, encoding="utf-8-sig", delimiter=";", quoting=csv.QUOTE_ALL)
    assert smi("import-wordpress", path, "--timezone", "Europe/Berlin", "--currency", "EUR").code == 0
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
    assert smi("import-wordpress", path, "--currency", currency).code == 0
    assert rows(database, "SELECT price_cents, currency FROM smi.upscale_jobs") == [(price, currency)]


def test_a_fraction_of_a_yen_is_refused(smi: Smi, database: str, tmp_path: Path) -> None:
    ran = smi("import-wordpress", write(tmp_path, ROW), "--currency", "jpy")
    assert (ran.code, "amount_charged is not an amount of money in JPY" in ran.err) == (1, True)
