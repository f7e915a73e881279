"""A fault that hits every order loses three at most. With SMI_FULL they are carried out in full, and some more."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import stripe

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline_tests.faults.drawn import LONGEST_MINUTES, SHORTEST_MINUTES, draw, shortened
from smi_pipeline_tests.faults.run import carry_out

SEED = 1
FULL = bool(os.environ.get("SMI_FULL"))
QUICK = (1, 2, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 19, 20, 22, 23, 26, 28, 29, 32, 75, 111)
SLOW = (30, 33)
NUMBERS = (*QUICK, *SLOW) if FULL else QUICK


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Sandbox(folder, processing_seconds=0.05, rate_minute=0, rate_hour=0, rate_status=0) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_fault_of_the_shop_loses_three_orders_at_most_and_tells_a_person_once(
    number: int, state_url: str, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    drawn = draw(SEED, number)
    run = carry_out(drawn if FULL else shortened(drawn), state_url, tmp_path, sandbox, mark=f"t{number}")
    again = f"make faults SEED={SEED} ARGS='--only {number}{'' if FULL else ' --short'}'"
    assert run.violations == [], f"{again}: {run.drawn}"


def test_a_seed_draws_the_same_fault_again() -> None:
    assert draw(7, 3) == draw(7, 3)
    assert draw(7, 3) != draw(8, 3)


def test_two_hundred_draws_hold_every_kind_and_last_some_minutes() -> None:
    drawn = [draw(SEED, number) for number in range(200)]
    assert all(SHORTEST_MINUTES <= each.minutes <= LONGEST_MINUTES for each in drawn)
    assert {call.service for each in drawn for call in each.calls} == {"upsampler", "stripe", "mail", "origin"}
    assert len({str(each) for each in drawn}) > 190
    assert sum(each.single for each in drawn) >= 10
