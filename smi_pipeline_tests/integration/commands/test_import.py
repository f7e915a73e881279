"""The WordPress plugin's history as closed jobs."""

import contextlib
from pathlib import Path

import pytest

from smi_pipeline.core.errors import Conflict
from smi_pipeline.services import admin, intake
from smi_pipeline.state.imported_jobs import HistoricJob, PostgresHistory
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


def test_an_import_that_is_interrupted_goes_on_where_it_was(
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
