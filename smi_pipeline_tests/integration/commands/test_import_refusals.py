"""Rows and files that are not imported."""

from pathlib import Path

import pytest

from smi_pipeline_tests.integration.commands.conftest import Smi
from smi_pipeline_tests.integration.commands.plugin_orders import (
    FAILED,
    REFUNDED,
    ROW,
    UNPAID,
    load,
    rows,
    write,
)


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


def test_a_row_with_damaged_bytes_is_refused_alone(smi: Smi, database: str, tmp_path: Path) -> None:
    reason, refused = "größer als erlaubt", tmp_path / "refused.csv"
    path = write(tmp_path, ROW, REFUNDED | {"refund_reason": reason}, FAILED | {"refund_reason": reason})
    path.write_bytes(path.read_bytes().replace("ö".encode(), b"\xf6", 1))
    ran = load(smi, path, "--refused", str(refused))
    assert ran.out == "3 rows: 2 imported, 0 imported before, 1 refused\n"
    assert "line 3: has bytes that are no text" in ran.err
    assert "gr?ßer" in refused.read_text()
    assert rows(database, "SELECT reason_text FROM smi.upscale_jobs WHERE status = 'failed'") == [(reason,)]


def test_an_export_that_was_cut_off_loses_no_row_but_the_last(smi: Smi, database: str, tmp_path: Path) -> None:
    path = write(tmp_path, ROW, FAILED, REFUNDED | {"refund_reason": "größer"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index("ö".encode()) + 1])
    ran = load(smi, path)
    assert ran.out == "3 rows: 2 imported, 0 imported before, 1 refused\n"
    assert "line 4: has " in ran.err


def test_a_file_for_refused_rows_that_cannot_be_written_is_named_before_the_import(
    smi: Smi, database: str, tmp_path: Path
) -> None:
    ran = load(smi, write(tmp_path, ROW), "--refused", str(tmp_path / "missing" / "refused.csv"))
    assert (ran.code, "there is no folder" in ran.err) == (2, True)
    assert rows(database, "SELECT count(*) FROM smi.upscale_jobs") == [(0,)]
