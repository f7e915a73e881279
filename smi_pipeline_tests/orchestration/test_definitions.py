"""The code locations as Dagster and the workers load them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance, DefaultSensorStatus

from smi_pipeline.core.models import Queue
from smi_pipeline.core.runs import DAGSTER_JOB, FIRST_OP
from smi_pipeline.fulfilment.definitions import build_defs
from smi_pipeline.fulfilment.hooks import job_id_of
from smi_pipeline.state.database import Database
from smi_pipeline_tests.orchestration.conftest import Shop

CHECKOUT = Path(__file__).parents[2]
HEAVY = {"pandas", "matplotlib", "skimage"}


def python(code: str, **environment: str) -> str:
    """Runs code in a process that knows nothing of this one's environment."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_location_imports_without_environment_and_without_heavy_libraries():
    heavy = python(f"import sys, smi_pipeline.fulfilment.definitions; print({HEAVY} & set(sys.modules))")
    assert heavy == "set()"


def test_dagster_finds_both_locations_valid_anywhere_and_without_environment(tmp_path: Path):
    done = subprocess.run(
        [Path(sys.executable).parent / "dagster", "definitions", "validate", "-w", CHECKOUT / "workspace.yaml"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    assert "All code locations passed validation" in said
    for location in ("fulfilment", "reporting"):
        assert f"Validation successful for code location {location}" in said, said


def test_the_names_by_which_runs_are_started_are_those_of_the_definitions():
    defs = build_defs()
    for queue in Queue:
        assert FIRST_OP[queue] in {node.name for node in defs.resolve_job_def(DAGSTER_JOB[queue]).nodes}


def test_every_sensor_and_schedule_runs_without_being_switched_on():
    defs = build_defs()
    assert {sensor.default_status for sensor in defs.sensors or []} == {DefaultSensorStatus.RUNNING}
    assert all(schedule.default_status.value == "RUNNING" for schedule in defs.schedules or [])


def test_after_real_runs_the_workers_process_holds_no_pandas_matplotlib_or_scikit_image(
    shop: Shop, environment: dict[str, str]
):
    job_id = shop.order("rocket-200.jpg")
    code = """
import sys
from dagster import DagsterInstance
import smi_pipeline.dagster_instance.worker, smi_pipeline.fulfilment.definitions, smi_pipeline.reporting.definitions
from smi_pipeline.fulfilment.definitions import defs
with DagsterInstance.ephemeral() as instance:
    for job in sys.stdin:
        assert defs.resolve_job_def(job.strip()).execute_in_process(instance=instance).success
        print({'pandas', 'matplotlib', 'skimage'} & set(sys.modules), 'pyvips' in sys.modules, flush=True)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        asks, says = worker.stdin, worker.stdout
        assert asks and says

        def run(job: str) -> str:
            """Have a job run; return what is said then."""
            print(job, file=asks, flush=True)
            said = [says.readline()]
            while not said[-1].startswith(("set()", "{")):
                assert said[-1], "".join(said)
                said.append(says.readline())
            return said[-1]

        assert run("submit_upscales").startswith("set()")
        shop.until_ready(job_id)
        assert run("fulfil_upscales") == "set() True\n"
        asks.close()
        assert worker.wait(timeout=60) == 0
    assert shop.job(job_id).status == "completed"


@pytest.mark.parametrize(
    ("step_key", "job_id"),
    [
        ("verify_result[0123456789abcdef0123456789abcdef]", "0123456789abcdef0123456789abcdef"),
        ("results_leased", None),
        ("refund_payment[17]", None),
        ("verify_result[?]", None),
    ],
)
def test_the_failure_hook_takes_the_job_from_the_step_key_and_ignores_other_steps(step_key: str, job_id: str | None):
    assert job_id_of(step_key) == job_id


def test_the_failure_hook_refunds_nothing_while_the_row_is_not_failed(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    job_id = shop.order()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug, not a verdict")

    monkeypatch.setattr("smi_pipeline.services.submit._prepare", broken)
    (result,) = shop.run(Queue.SUBMIT)
    assert not result.success
    assert shop.job(job_id).status == "pending"
    assert "a bug, not a verdict" in (shop.job(job_id).last_error or "")
    assert shop.sandbox.ledger("stripe")["refunds"] == []


def test_plain_dagster_dev_has_its_history_in_the_installations_database(
    state_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("SMI_DATABASE_URL", state_url)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", state_url)
    with DagsterInstance.get() as instance:
        assert instance.get_runs() == []
        assert type(instance.run_launcher).__name__ == "DefaultRunLauncher"
    with Database(state_url).transaction() as tx:
        assert tx.value("SELECT count(*) FROM runs") == 0
