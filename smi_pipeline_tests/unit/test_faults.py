"""Circuit breakers as pure rules: what opens one, and how long the pauses between probes are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from smi_pipeline.core.faults import Breaker, Failure, Scope, after_failure

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def failed(breaker: Breaker, keys: Sequence[str], *, scope: Scope = Scope.UNKNOWN, passing: bool = False) -> Breaker:
    for key in keys:
        failure = Failure(breaker=breaker.name, work_key=key, message="broken", scope=scope, passing=passing)
        breaker = after_failure(breaker, failure, NOW)
    return breaker


def test_three_orders_in_a_row_open_a_breaker_and_one_order_three_times_does_not() -> None:
    assert failed(Breaker(name="results"), "abc").is_open
    assert not failed(Breaker(name="results"), "aaab").is_open


def test_five_bad_images_that_failed_while_others_succeeded_open_nothing() -> None:
    seen_before = Breaker(name="results", failed_before="abcde")
    assert not failed(seen_before, "abcde" * 3).is_open


@pytest.mark.parametrize("orders", ["abcdef", "abxy", "xyz"])
def test_a_fault_of_the_shop_after_single_bad_images_is_still_noticed(orders: str) -> None:
    assert failed(Breaker(name="results", failed_before="abcdef"), orders).is_open


def test_words_that_name_the_account_open_a_breaker_whoever_failed_before() -> None:
    assert failed(Breaker(name="results", failed_before="a"), "a", scope=Scope.SHOP).is_open


@pytest.mark.parametrize(("costly", "longest"), [(False, timedelta(minutes=1)), (True, timedelta(minutes=5))])
def test_pauses_between_probes_double_up_to_a_limit_that_depends_on_what_a_probe_costs(
    costly: bool, longest: timedelta
) -> None:
    breaker = Breaker(name="submissions", opened_at=NOW, failing_since=NOW)
    pauses = []
    for _ in range(8):
        failure = Failure(breaker="submissions", work_key="a", message="502", costly=costly)
        breaker = after_failure(replace(breaker, probe="a"), failure, NOW)
        assert breaker.next_probe_at
        pauses.append(breaker.next_probe_at - NOW)
    assert pauses[:3] == [timedelta(seconds=5), timedelta(seconds=10), timedelta(seconds=20)]
    assert pauses[-1] == longest
