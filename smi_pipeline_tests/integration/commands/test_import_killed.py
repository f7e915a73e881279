"""An import whose process is killed, and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests.integration.commands.plugin_orders import FAILED, ROW, rows, run, write
from smi_pipeline_tests.integration.commands.test_import_at_stripe import client, sold
from smi_pipeline_tests.integration.services.databases import shared_database

__all__ = ["client"]  # a fixture

KILLED_AT = (1, 4, 9)  # rows that are on record by then
TABLES = {
    "upscale_jobs": "updated_at files_removed_at",
    "payments": "",
    "refunds": "refund_row",
    "submissions": "submission_id",
    "outcomes": "",
    "job_events": "event_id at",
    "person_tasks": "task_id opened_at",
}
"""What an import writes, and the columns that are numbers or times of the writing itself."""


@pytest.fixture
def other_database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    with shared_database(postgres) as url:
        yield url


def books(url: str) -> dict[str, list[Any]]:
    return {
        table: rows(
            url, f"SELECT (to_jsonb(t) - string_to_array('{volatile}', ' '))::text FROM smi.{table} t ORDER BY 1"
        )
        for table, volatile in TABLES.items()
    }


def importing(url: str, path: Path) -> "subprocess.Popen[str]":
    code = "import sys; from smi_pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "import-wordpress", str(path)],
        env=os.environ | {"SMI_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def orders(sandbox: Sandbox, client: Any) -> list[dict[str, str]]:
    """Sales of every kind: delivered, refunded after that, failed and refunded, failed and paid, disputed, unpaid."""
    made = []
    for n in range(12):
        kind = n % 6
        ids = {"id": str(n), "job_id": f"{n:08x}-1111-4111-8111-111111111111", "upsampler_job_id": f"up_{n}"}
        base = (FAILED if kind in (2, 3) else ROW) | ids
        if kind == 5:
            unpaid = {"status": "awaiting_payment", "payment_status": "pending", "paid_at": "", "completed_at": ""}
            ids = {"stripe_payment_intent_id": "", "stripe_checkout_session_id": "", "upsampler_job_id": ""}
            made.append(base | unpaid | ids)
            continue
        row = sold(sandbox, client, base)
        made.append(row)
        if kind in (1, 2):
            client.v1.refunds.create(
                {"payment_intent": row["stripe_payment_intent_id"], "amount": 96 - 56 * (kind == 1)}
            )
        if kind == 4:
            dispute = sandbox.control("stripe", "/_dispute", payment_intent=row["stripe_payment_intent_id"])
            if n > 6:
                sandbox.control("stripe", "/_dispute", dispute=dispute["id"], outcome="lost")
    return made


def test_an_import_that_is_killed_three_times_ends_as_one_that_was_never_disturbed(
    configured: Sandbox, client: Any, database: str, other_database: str, tmp_path: Path
) -> None:
    path = write(tmp_path, *orders(configured, client))
    money = configured.ledger("stripe")
    undisturbed = importing(other_database, path)
    assert undisturbed.communicate(timeout=120)[0] == "12 rows: 12 imported, 0 imported before, 0 refused\n"
    # Each row takes a moment inside of its transaction: most kills hit one that is not committed.
    run(
        database,
        """CREATE FUNCTION smi.linger() RETURNS trigger LANGUAGE plpgsql
               AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END';
           CREATE TRIGGER linger AFTER INSERT ON smi.upscale_jobs FOR EACH ROW EXECUTE FUNCTION smi.linger()""",
    )
    engine = create_engine(database)
    try:
        for count in KILLED_AT:
            process = importing(database, path)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while connection.execute(text("SELECT count(*) FROM smi.upscale_jobs")).scalar_one() < count:
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        last = importing(database, path)
        said, complaints = last.communicate(timeout=120)
    finally:
        engine.dispose()
        run(database, "DROP FUNCTION smi.linger CASCADE")
    assert (last.returncode, complaints) == (0, "")
    assert 0 < int(said.removeprefix("12 rows: ").partition(" ")[0]) <= 12 - KILLED_AT[-1]
    assert books(database) == books(other_database)
    assert configured.ledger("stripe") == money
