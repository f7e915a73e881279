"""A sample of `make bench-images`."""

from pathlib import Path

from smi_pipeline_tests.bench_images.__main__ import arguments
from smi_pipeline_tests.bench_images.judging import Outcome, plan, run


def test_of_a_sample_no_honest_result_is_refused_and_hardly_a_bad_one_is_silent(tmp_path: Path) -> None:
    options = arguments(["--sample", "8", "--tuning", "--no-networks", "--folder", str(tmp_path)])
    outcomes = run(plan(options), processes=1)
    honest = [outcome for outcome in outcomes if not outcome.bad]
    bad = [outcome for outcome in outcomes if outcome.bad and outcome.counts]
    assert len(honest) >= 80
    assert len(bad) >= 40
    assert [told(outcome) for outcome in honest if outcome.refused] == []
    silent = [told(outcome) for outcome in bad if outcome.silent]
    assert len(silent) <= len(bad) // 20, silent


def told(outcome: Outcome) -> str:
    return f"{outcome.kind} of {outcome.name}: {outcome.words}"
