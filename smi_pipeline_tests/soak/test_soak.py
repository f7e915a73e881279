"""A small soak: the real stack, and everything that can go wrong outside it at random. `make soak` is the large one."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest

from smi_pipeline_tests.soak.runner import Plan, soak

JOBS = 50


@pytest.mark.timeout(420)
def test_under_random_faults_of_every_sandbox_service_each_paid_job_ends_correctly_and_once():
    with tempfile.TemporaryDirectory(prefix="smi-soak-", ignore_cleanup_errors=True) as folder:
        report = soak(
            Plan(
                home=Path(folder) / "soak",
                jobs=JOBS,
                seed=1,
                webhooks_per_second=5,
                environment={"SMI_MAX_PROCESSING_SECONDS": "8", "SMI_AMBIGUOUS_GRACE_SECONDS": "2"},
            )
        )
    assert report.violations == []
    assert report.jobs == sum(report.outcomes.values()) == JOBS
    assert report.outcomes["delivered"] > JOBS / 2
    injections = Counter({name: sum(counts.values()) for name, counts in report.faults.items()})
    assert all(injections[name] >= 3 for name in ("upsampler", "stripe", "mail", "origin")), injections
