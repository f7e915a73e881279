"""The state of the demo: new, continued, and removed once it is finished."""

from pathlib import Path

import pytest

from smi_pipeline.core.errors import Conflict
from smi_pipeline.demo import orders


def test_a_fresh_start_has_all_ports_and_secrets(tmp_path: Path) -> None:
    demo = orders.load_or_create(tmp_path, 24)
    assert not demo.continued
    assert len(demo.orders) == 24
    assert len(set(demo.ports.values())) == len(orders.PORTS)
    assert len(set(demo.secrets.values())) == len(demo.secrets)
    assert len(demo.secrets["secret_key"]) >= 32
    assert (tmp_path / "demo.json").stat().st_mode & 0o077 == 0


def test_an_interrupted_demo_is_continued_as_it_was(tmp_path: Path) -> None:
    first = orders.load_or_create(tmp_path, 24)
    first.orders[0].job_id, first.orders[0].paid_at = "a" * 32, 1000.0
    first.orders[1].job_id = "b" * 32
    first.save()
    again = orders.load_or_create(tmp_path, 50)
    assert again.continued
    assert (again.ports, again.secrets) == (first.ports, first.secrets)
    assert [order.job_id for order in again.orders] == [order.job_id for order in first.orders]
    assert [order.interrupted for order in again.orders[:2]] == [True, False]


def test_a_closed_demo_is_cleared_away(tmp_path: Path) -> None:
    first = orders.load_or_create(tmp_path, 24)
    first.sandbox_folder.mkdir()
    (first.sandbox_folder / "ledger").write_text("old")
    (tmp_path / "notes.txt").write_text("not the demo's")
    first.save(closed=True)
    again = orders.load_or_create(tmp_path, 14)
    assert not again.continued
    assert len(again.orders) == 14
    assert again.secrets != first.secrets
    assert not again.sandbox_folder.exists()
    assert (tmp_path / "notes.txt").exists()


def test_a_second_demo_in_the_folder_is_refused(tmp_path: Path) -> None:
    with orders.locked(tmp_path), pytest.raises(Conflict, match="runs in"), orders.locked(tmp_path):
        pass
    with orders.locked(tmp_path):
        pass
