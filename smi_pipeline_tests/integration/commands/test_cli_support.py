"""What all commands share: quick help, one line for each error, exit codes, no secret and no traceback."""

import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from smi_pipeline import cli
from smi_pipeline.commands.errors import scrubbed
from smi_pipeline_tests.integration.commands.conftest import Smi

BIN = Path(sys.executable).parent / "smi"


def commands(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        path, command = (*before, name), group.get_command(context, name)
        assert command is not None
        found += commands(command, path) if isinstance(command, click.Group) else [path]
    return found


def _computed() -> float:
    """The seconds of CPU time of the processes that ended: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_needs_less_than_half_a_second_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(3):
        began = _computed()
        shown = subprocess.run([BIN, "--help"], capture_output=True, text=True, check=True, timeout=20)
        seconds.append(_computed() - began)
    assert "Commands:" in shown.stdout
    assert min(seconds) < 0.5
    heavy = ["dagster", "sqlalchemy", "pydantic", "rich", "stripe", "pandas", "numpy", "jinja2", "requests"]
    code = f"import sys, smi_pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_commands_load_no_dagster() -> None:
    code = """
import sys, smi_pipeline.cli as cli
for command in (["jobs", "list"], ["doctor"], ["report", "2026-01"]):
    cli.main(command)
print("dagster" in sys.modules)
"""
    environment = {"SMI_DATABASE_URL": "postgresql://127.0.0.1:9/x", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert ran.stdout.strip().endswith("False")


def test_the_commands_are_these() -> None:
    assert {" ".join(path) for path in commands(cli.smi)} == {
        "demo", "up", "migrate", "doctor", "front", "import-wordpress", "report",
        *(f"jobs {name}" for name in (
            "add", "list", "show", "retry", "check", "extend", "refund", "resend", "address", "token", "revoke",
            "cancel", "hold", "release", "assign", "adopt", "refund-payment")),
        *(f"tasks {name}" for name in ("list", "acknowledge", "close")),
        *(f"breakers {name}" for name in ("list", "open", "close")), "unsold list", "unsold lift",
    }  # fmt: skip


@pytest.mark.parametrize("path", commands(cli.smi), ids=" ".join)
def test_every_command_has_help_and_json(smi: Smi, path: tuple[str, ...]) -> None:
    ran = smi(*path, "--help")
    assert ran.code == 0
    assert "--json" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("jobs", "nonsense"),
        ("jobs", "show"),
        ("jobs", "extend", "x", "soon"),
        ("jobs", "list", "--status", "lost"),
        ("jobs", "list", "--limit", "0"),
        ("demo", "--jobs", "0"),
        ("demo", "--json", "/no/such/folder/out.json"),
        ("report", "yesterday"),
        ("report", "2026-13"),
        ("report", "2026-02-30"),
        ("import-wordpress", "no-such-file.csv"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(smi: Smi, arguments: tuple[str, ...]) -> None:
    ran = smi(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("smi: ")


@pytest.mark.parametrize("arguments", [(), ("jobs",)])
def test_without_a_command_the_commands_are_shown(smi: Smi, arguments: tuple[str, ...]) -> None:
    ran = smi(*arguments)
    assert ran.code == 2
    assert "Commands:" in ran.err


def test_wrong_settings_are_one_line_each_by_the_name_of_the_variable(
    smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_GATEWAY_PORT", "high")
    monkeypatch.setenv("SMI_DATABASE_URL", "mysql://root:geheim@db/x")
    monkeypatch.setenv("SMI_FIDELITY", "hope")
    ran = smi("jobs", "list")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["SMI_DATABASE_URL", "SMI_GATEWAY_PORT", "SMI_FIDELITY"]
    assert "geheim" not in ran.err


def test_a_database_that_is_down_is_one_line_without_its_password(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMI_DATABASE_URL", "postgresql://smi:geheim@127.0.0.1:9/smi")
    for arguments in (("report", "2026-01-01"), ("migrate",)):
        ran = smi(*arguments)
        assert ran.code == 1
        assert ran.err.count("\n") == 1
        assert "geheim" not in ran.err


def test_a_missing_secret_key_is_named(smi: Smi, database: str) -> None:
    ran = smi("jobs", "list")
    assert (ran.code, ran.out) == (1, "")
    assert "SMI_SECRET_KEY" in ran.err


def test_a_bug_is_one_line_and_no_traceback(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line sk_live_123456789")

    monkeypatch.setattr("smi_pipeline.wiring.build_context", broken)
    ran = smi("jobs", "list")
    assert ran.code == 1
    assert ran.err == "smi: unexpected error (RuntimeError: first line)\n"


def test_ctrl_c_is_told_and_exits_130(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smi_pipeline.wiring.build_context", interrupted)
    ran = smi("jobs", "list")
    assert (ran.code, ran.err.strip()) == (130, "smi: interrupted")


@pytest.mark.parametrize(
    "text",
    ["postgresql+psycopg2://smi:geheim@db/x", "the key sk_live_geheim", "Bearer geheim", "password=geheim", "geheim@x"],
)
def test_credentials_are_blotted_out(text: str) -> None:
    assert "geheim" not in scrubbed(text) or text == "geheim@x"


def test_a_reader_that_leaves_early_is_no_error(database: str) -> None:
    environment = {"SMI_DATABASE_URL": database, "SMI_SECRET_KEY": "s" * 32, "PATH": "/usr/bin:/bin"}
    script = f"{BIN} doctor | head -c 1 >/dev/null"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr
