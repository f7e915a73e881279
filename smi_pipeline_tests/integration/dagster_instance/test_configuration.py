"""dagster.yaml, with the default launcher and with warm workers."""

import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from dagster import DagsterInstance, DefaultRunLauncher, QueuedRunCoordinator

from smi_pipeline.stack.stack import _instance

CHECKOUT = Path(__file__).parents[3]
PACKAGED = files("smi_pipeline.dagster_instance")


@pytest.fixture
def home(state_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty DAGSTER_HOME whose history is in the database of this test."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("SMI_DATABASE_URL", state_url)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", state_url)
    monkeypatch.setenv("SMI_BROKER_URL", f"sqla+{state_url}")
    monkeypatch.setenv("SMI_CELERY_BACKEND_URL", f"db+{state_url}")
    return tmp_path


def test_the_checkouts_dagster_yaml_is_that_of_the_package() -> None:
    assert (CHECKOUT / "dagster.yaml").read_text() == (PACKAGED / "dagster.yaml").read_text()


def test_dagster_dev_queues_runs_and_leaves_a_slot_beside_upscales(home: Path) -> None:
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    with DagsterInstance.get() as instance:
        assert isinstance(instance.run_launcher, DefaultRunLauncher)
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.run_coordinator.dequeue_interval_seconds == 1
        queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 4
    assert queue.tag_concurrency_limits == [{"key": "dagster-celery/queue", "value": "fulfilment", "limit": 3}]


def test_smi_up_launches_runs_on_warm_workers_without_a_second_queue(home: Path) -> None:
    (home / "dagster.yaml").write_text(_instance())
    with DagsterInstance.get() as instance:
        classes = [type(part).__name__ for part in (instance.run_launcher, instance.compute_log_manager)]
        assert not isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert classes == ["CeleryRunLauncher", "NoOpComputeLogManager"]


def test_private_modules_of_dagster_are_named_only_where_there_is_no_public_name() -> None:
    named = [
        re.findall(r"^ +module: (dagster\._\S+)", (PACKAGED / name).read_text(), re.M)
        for name in ("dagster.yaml", "dagster-workers.yaml")
    ]
    assert named == [[], ["dagster._core.run_coordinator", "dagster._core.storage.noop_compute_log_manager"]]
