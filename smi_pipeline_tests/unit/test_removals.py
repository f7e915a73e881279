"""What `make removals` takes away is there, so that a rename does not silently end it."""

from pathlib import Path

from smi_pipeline_tests.removals.removals import all_removals

ROOT = Path(__file__).parents[2]


def test_every_removal_is_found_and_changes_its_file() -> None:
    removals = all_removals(ROOT)
    assert {r.kind for r in removals} == {
        "unique index",
        "lease condition",
        "intent",
        "outcome",
        "inbox",
        "refund",
        "transition",
    }
    for removal in removals:
        source = (ROOT / removal.file).read_text()
        assert source[removal.start : removal.end] != removal.instead, removal.what
