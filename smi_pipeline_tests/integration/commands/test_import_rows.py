"""What becomes of the values of an imported row."""

import csv
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smi_pipeline_tests.exports import TABLE, WRITERS, Writer
from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.commands.plugin_orders import (
    FAILED,
    REFUNDED,
    ROW,
    load,
    paid_at_stripe,
    rows,
    run,
    write,
)
from smi_pipeline_tests.integration.services.databases import empty
from smi_pipeline_tests.integration.services.steps import Steps
from smi_pipeline_tests.integration.services.stripe import FakePayments


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


def test_a_remark_is_made_once(smi: Smi, shop: Steps, stripe: FakePayments, tmp_path: Path) -> None:
    row = paid_at_stripe(stripe, ROW)
    late = {"created_at": "2026-03-29 01:59:00", "paid_at": "2026-03-29 02:30:00"}
    later = {"processing_started_at": "2026-03-29 03:32:00", "completed_at": "2026-03-29 03:33:00"}
    assert smi("import-wordpress", write(tmp_path, row | late | later), "--time-zone", "Europe/Berlin").code == 0
    ((remark,),) = rows(
        shop.state.database.url, "SELECT details ->> 'remark' FROM smi.job_events WHERE details ? 'remark'"
    )
    assert remark == "paid_at 2026-03-29 02:30:00 does not exist in the time zone Europe/Berlin"
