"""`make help` and the documents name the targets of the Makefile."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def targets() -> set[str]:
    """Return the targets that a person calls."""
    found = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert found is not None
    return set(found[1].split())


def test_make_help_names_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z-]+)  ", printed, re.M)) == targets() - {"help"}


def test_the_documents_name_only_targets_that_exist() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")]
    command = re.compile(r"(?:`|^(?=make \S+(?:$|  | [A-Z#])))make ([a-z-]+)", re.M)  # quoted, or a line of a listing
    named = {name for path in documents for name in command.findall(path.read_text())}
    assert len(named) > 5
    assert named - targets() == set()
