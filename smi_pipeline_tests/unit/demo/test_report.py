"""What the demo prints and writes."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.demo import report
from smi_pipeline.demo.environment import stack_environment
from smi_pipeline.demo.judge import Finding
from smi_pipeline.demo.orders import Order, load_or_create
from smi_pipeline.demo.progress import STAGES, ProgressDisplay
from smi_pipeline.demo.runner import run_demo
from smi_pipeline.settings import Settings

COLUMNS = [
    "job_id",
    "case",
    "outcome",
    "reason",
    "seconds_to_submit",
    "seconds_total",
    "mails",
    "refunds",
    "submissions",
    "cost_cents",
    "revenue_cents",
    "margin_cents",
]


def finding(case: str, outcome: str, **fields: object) -> Finding:
    job = Order(
        number=1,
        job_id=case.ljust(32, "0"),
        case_name=case,
        email="a@example.com",
        source_url="http://origin/photos/a.png?order=1",
        price_cents=50,
        paid_at=1000.0,
    )
    return Finding(job=job, outcome=outcome, received_cents=50, **fields)  # type: ignore[arg-type]


@pytest.fixture
def findings() -> list[Finding]:
    return [
        finding("good-4x", "delivered", mails=1, submissions=1, credits=1, submitted_at=1000.25, closed_at=1004.0),
        finding("source-swapped", "refunded", mails=1, refunds=1, refunded_cents=50, closed_at=1003.0),
        finding("black-tile", "lost"),
    ]


def test_the_json_file_has_the_promised_shape(findings: list[Finding], tmp_path: Path) -> None:
    rows = report.job_rows(findings, {"source-swapped".ljust(32, "0"): "The image is a GIF."})
    path = tmp_path / "deep" / "out.json"
    report.write_json(path, rows, ["something was wrong"], 61.26, {"dagster": "http://127.0.0.1:1"})
    written = json.loads(path.read_text())
    assert list(written) == ["jobs", "violations", "seconds", "addresses", "alerts"]
    assert [list(row) for row in written["jobs"]] == [COLUMNS] * 3
    assert (written["violations"], written["seconds"]) == (["something was wrong"], 61.3)
    good, swapped, lost = written["jobs"]
    assert (good["seconds_to_submit"], good["seconds_total"], good["reason"]) == (0.25, 4.0, "")
    assert (good["cost_cents"], good["revenue_cents"], good["margin_cents"]) == (35, 50, 15)
    assert (swapped["seconds_to_submit"], swapped["reason"]) == (None, "The image is a GIF.")
    assert (swapped["cost_cents"], swapped["revenue_cents"], swapped["margin_cents"]) == (31, 0, -31)
    assert (lost["outcome"], lost["seconds_total"], lost["mails"]) == ("lost", None, 0)


def test_the_table_names_jobs_totals_and_violations(findings: list[Finding]) -> None:
    out = io.StringIO()
    report.show(Console(file=out, width=200), report.job_rows(findings, {}), ["black-tile (job 1) was lost"], 61.2)
    text = out.getvalue()
    for expected in ("no fault", "3 jobs", "1 delivered, 1 refunded, 1 lost", "1 violations", "was lost"):
        assert expected in text


def test_progress_is_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    with ProgressDisplay(Console(file=out, width=60, force_terminal=False), 3) as display:
        display.show({"ordering": 3})
        display.show({"upscaling": 1, "queued": 2})  # too soon after the first
        display.show({"completed": 2, "refunded": 1}, "done")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("3 being ordered")
    assert lines[1].endswith("2 delivered, 1 refunded; done")


def test_progress_shows_every_stage_and_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with ProgressDisplay(console, 3) as display:
        display.show({"queued": 1, "completed": 1, "refunded": 1}, "a note")
        console.print(display._render())
    text = out.getvalue()
    assert all(label in text for label in STAGES.values())
    assert "2/3" in text
    assert "a note" in text


def test_too_few_jobs_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="at least 12 jobs"):
        run_demo(5, True, None, tmp_path)


@pytest.mark.parametrize("api_format", ["documented", "live"])
def test_the_environment_leads_to_the_sandbox_alone(tmp_path: Path, api_format: str) -> None:
    demo = load_or_create(tmp_path, 14)
    environment = stack_environment(demo, api_format)
    assert {name.lower() for name in environment} <= set(Settings.model_fields)
    addresses = [value for value in environment.values() if value.startswith("http")]
    assert all(address.startswith("http://127.0.0.1:") for address in addresses)
    assert environment["SMI_ALLOWED_SOURCE_HOSTS"] == demo.url("origin")
    settings = Settings(**{name.lower(): value for name, value in environment.items()}, _env_file=None)  # type: ignore[call-arg, arg-type]
    assert settings.upsampler_wire.value == api_format
