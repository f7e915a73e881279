"""Failpoints die where they are told to, once, and are not there at all unless they are asked for."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smi_pipeline.adapters.stripe.payments import StripePayments
from smi_pipeline.core import ports
from smi_pipeline.failpoints import COMMITS, EXTERNAL, POINTS, FailpointError
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.settings import Settings
from smi_pipeline.state import State
from smi_pipeline.state.database import Database
from smi_pipeline.wiring import build_context
from smi_pipeline_tests.stored_keys import stored_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("armed", "hit"):
        (tmp_path / name).mkdir()
    return tmp_path


def settings(state_url: str, folder: Path | None) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        smi_database_url=state_url,
        smi_secret_key="k" * 32,  # type: ignore[arg-type]
        smi_mail_from="shop@example.com",
        smi_support_email="help@example.com",
        smi_failpoints=folder,
    )


def ctx(state_url: str, folder: Path | None) -> ServiceContext:
    return build_context(settings(state_url, folder), actor="test")


def arm(folder: Path, point: str, action: str) -> None:
    (folder / "armed" / point).write_text(action)


def test_every_point_is_a_call_that_exists() -> None:
    assert len(POINTS) >= 24
    all_ports = {name.removesuffix("Port").lower(): port for name, port in vars(ports).items()}
    parts = vars(State(Database("postgresql+psycopg2://"), secret_keys=(), mail_domain=""))
    for call in COMMITS + EXTERNAL:
        group, method = call.split(".")
        found = [callable(getattr(groups.get(group), method, None)) for groups in (all_ports, parts)]
        assert found.count(True) == 1, call  # `payments` is a port and a part of the state


def test_unless_asked_for_there_is_nothing_around_the_ports(state_url: str) -> None:
    plain = ctx(state_url, None)
    assert type(plain.state) is State
    assert type(plain.payments) is StripePayments


@pytest.mark.parametrize(("moment", "written"), [("before", None), ("after", "x")])
def test_an_error_before_the_commit_writes_nothing_and_after_it_everything(
    state_url: str, folder: Path, moment: str, written: str | None
) -> None:
    watched = ctx(state_url, folder)
    arm(folder, f"reconciliation.set_cursor.{moment}", "raise")
    with pytest.raises(FailpointError):
        watched.state.reconciliation.set_cursor("a", "x")
    assert ctx(state_url, None).state.reconciliation.cursor("a") == written
    watched.state.reconciliation.set_cursor("a", "y")  # it was claimed: the next call goes through
    assert watched.state.reconciliation.cursor("a") == "y"


@pytest.mark.parametrize(("moment", "written"), [("before", None), ("after", "x")])
def test_a_killed_process_is_dead_at_its_point(state_url: str, folder: Path, moment: str, written: str | None) -> None:
    arm(folder, f"reconciliation.set_cursor.{moment}", "kill")
    code = (
        "from smi_pipeline.settings import Settings; from smi_pipeline.wiring import build_context; "
        "build_context(Settings(), actor='x').state.reconciliation.set_cursor('a', 'x')"
    )
    variables = {"SMI_DATABASE_URL": state_url, "SMI_SECRET_KEY": "k" * 32, "SMI_FAILPOINTS": str(folder)}
    variables |= {"SMI_PROCESS": "gateway", "SMI_MAIL_FROM": "shop@example.com", "SMI_SUPPORT_EMAIL": "h@example.com"}
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, cwd=folder, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert ctx(state_url, None).state.reconciliation.cursor("a") == written
    assert [path.name.rpartition(".")[0] for path in (folder / "hit").iterdir()] == [
        f"reconciliation.set_cursor.{moment}@gateway"
    ]


def test_a_hanging_process_goes_on_when_its_claim_is_removed(state_url: str, folder: Path) -> None:
    watched = ctx(state_url, folder)
    arm(folder, "reconciliation.set_cursor.before", "hang")
    thread = threading.Thread(target=watched.state.reconciliation.set_cursor, args=("a", "x"))
    thread.start()
    while not (claims := list((folder / "hit").iterdir())):
        time.sleep(0.01)
    assert ctx(state_url, None).state.reconciliation.cursor("a") is None
    claims[0].unlink()
    thread.join(10)
    assert ctx(state_url, None).state.reconciliation.cursor("a") == "x"


def test_a_point_armed_for_one_process_leaves_the_others_alone(
    state_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(folder, "reconciliation.set_cursor.after@worker-priority", "raise")
    monkeypatch.setenv("SMI_PROCESS", "gateway")
    ctx(state_url, folder).state.reconciliation.set_cursor("a", "x")
    monkeypatch.setenv("SMI_PROCESS", "worker-priority")
    with pytest.raises(FailpointError):
        ctx(state_url, folder).state.reconciliation.set_cursor("a", "x")


def test_which_process_passes_which_point_is_noted_if_there_is_a_folder_for_it(
    state_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_PROCESS", "gateway")
    ctx(state_url, folder).state.reconciliation.set_cursor("a", "x")
    (folder / "passed").mkdir()
    ctx(state_url, folder).state.webhook_inbox.note("evt_1", "charge.refunded", "refund")
    assert sorted(path.name for path in (folder / "passed").iterdir()) == [
        "webhook_inbox.note.after@gateway",
        "webhook_inbox.note.before@gateway",
    ]


def test_points_outside_lie_before_and_after_the_call(state_url: str, folder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(b"x")
    configured = settings(state_url, folder).model_copy(update={"smi_storage_url": str(tmp_path / "storage")})
    watched = build_context(configured, actor="test")
    arm(folder, "storage.put.before", "raise")
    with pytest.raises(FailpointError):
        watched.storage.put("a/b", photo)
    assert stored_keys(watched.storage, "a") == []
    arm(folder, "storage.put.after", "raise")
    with pytest.raises(FailpointError):
        watched.storage.put("a/b", photo)
    assert stored_keys(watched.storage, "a") == ["a/b"]


def test_an_action_that_does_not_exist_is_refused_by_name(state_url: str, folder: Path) -> None:
    arm(folder, "reconciliation.set_cursor.before", "explode")
    with pytest.raises(ValueError, match="kill, raise or hang"):
        ctx(state_url, folder).state.reconciliation.set_cursor("a", "x")
