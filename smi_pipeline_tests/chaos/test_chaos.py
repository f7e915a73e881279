"""The matrix in small: workers die at the points nearest to money, and PostgreSQL once, in one running product."""

import pytest

from smi_pipeline_tests.chaos.arena import arena
from smi_pipeline_tests.chaos.cases import ITSELF, Kill, Wave
from smi_pipeline_tests.chaos.recipes import GATEWAY, WORKER
from smi_pipeline_tests.chaos.waves import run

pytestmark = [pytest.mark.timeout(480)]


def _kill(point: str, recipe: str = "good", victim: str = ITSELF, process: str = WORKER) -> Kill:
    return Kill(point=point, process=process, victim=victim, recipe=recipe)


def test_no_death_near_money_loses_or_doubles_anything() -> None:
    wave = Wave(
        number=1,
        victim="postgres",
        kills=(
            _kill("submissions.begin.after"),
            _kill("upscaler.submit.after"),
            _kill("deliveries.deliver.before"),
            _kill("mailer.send.after"),
            _kill("deliveries.fail.after", "fails"),
            _kill("payments.create_refund.after", "fails"),
            _kill("refunds.settle.before", "fails"),
            _kill("payments.record_payment.before", victim="postgres", process=GATEWAY),
            _kill("submissions.accepted.before", victim="postgres"),
        ),
    )
    with arena(None, lambda line: None) as place:
        result = run(place, wave, seed=1)
    assert result.missed == []
    assert result.violations == []
    assert "postgres" in place.deaths
