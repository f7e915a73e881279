"""Documents describe what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_test_and_command_of_the_threat_model_exists() -> None:
    model = (ROOT / "docs" / "threat-model.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "smi_pipeline_tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)\(", tests, re.M))
    named = set(re.findall(r"`(test_\w+)`", model))
    assert len(named) > 30
    assert named - defined == set()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([\w-]+)`", model)) - targets == set()
    for row in (line for line in model.split("## Not held")[0].splitlines() if line.startswith("| ")):
        if not row.startswith(("| what happens", "| what is tried")):
            assert "`test_" in row, f"no test in: {row}"
