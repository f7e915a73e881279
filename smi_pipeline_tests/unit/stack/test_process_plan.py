"""Which processes `smi up` starts."""

from pathlib import Path

from smi_pipeline.stack.process_plan import plan


def test_as_many_workers_are_started_as_are_asked_for(tmp_path: Path) -> None:
    commands = plan({}, tmp_path, dagster_port=1, gateway_port=2, workers=7).commands
    assert "fulfilment=7" in commands["workers"]


def test_the_analysts_ui_is_started_read_only_and_only_when_it_has_a_door(tmp_path: Path) -> None:
    ports = {"dagster_port": 1, "gateway_port": 2, "workers": 2}
    without = plan({}, tmp_path, **ports).commands
    commands = plan({}, tmp_path, **ports, analysts_port=3).commands
    (more,) = commands.keys() - without.keys()
    assert "--read-only" in commands[more]
