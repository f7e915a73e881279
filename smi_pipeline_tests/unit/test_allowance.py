"""What a 429 teaches about the API's limits, and how they are raised again."""

from datetime import UTC, datetime, timedelta

import pytest

from smi_pipeline.core.allowance import Allowance, Calls, Lowered, after_refusal, limits
from smi_pipeline.core.vocabulary import CallPurpose

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SETTING = Allowance(per_minute=60, per_hour=1800)


def refused(granted: tuple[int, int], retry_after: float = 20.0, before: Lowered | None = None) -> Lowered:
    return after_refusal(SETTING, before or Lowered(), granted=granted, retry_after=retry_after, now=NOW)


def test_without_a_429_the_settings_hold() -> None:
    assert limits(SETTING, Lowered(), NOW) == (60, 1800)


def test_a_429_lowers_the_limit_of_the_minute_to_what_was_granted() -> None:
    assert limits(SETTING, refused((40, 300)), NOW) == (40, 1800)


def test_a_429_with_a_wait_of_more_than_a_minute_lowers_that_of_the_hour() -> None:
    assert limits(SETTING, refused((40, 1000), retry_after=900), NOW) == (60, 1000)


def test_a_tenth_always_stays() -> None:
    assert limits(SETTING, refused((0, 0)), NOW) == (6, 1800)
    assert limits(SETTING, refused((0, 0), retry_after=3000), NOW) == (60, 180)


@pytest.mark.parametrize(("minutes", "limit"), [(0, 30), (9, 30), (10, 36), (29, 42), (49, 54), (50, 60), (500, 60)])
def test_a_limit_is_raised_by_a_tenth_every_ten_minutes_up_to_the_setting(minutes: int, limit: int) -> None:
    assert limits(SETTING, refused((30, 30)), NOW + timedelta(minutes=minutes)) == (limit, 1800)


def test_a_further_429_never_raises_a_limit() -> None:
    lowered = refused((50, 500), before=refused((30, 300)))
    assert limits(SETTING, lowered, NOW) == (30, 1800)


def test_no_limit_of_ours_stays_none() -> None:
    none = Allowance()
    lowered = after_refusal(none, Lowered(), granted=(5, 5), retry_after=1, now=NOW)
    assert limits(none, lowered, NOW) == (0, 0)


def test_each_purpose_uses_one_allowance() -> None:
    assert Calls.of(CallPurpose.SUBMIT) is Calls.SUBMISSIONS
    assert {Calls.of(CallPurpose.POLL), Calls.of(CallPurpose.URGENT_POLL)} == {Calls.STATUS_CALLS}


@pytest.mark.parametrize(("per_minute", "places"), [(60, 3), (6, 3), (600, 30), (0, None)])
def test_starts_may_be_a_few_places_off_while_an_allowance_holds(per_minute: int, places: int | None) -> None:
    assert Allowance(per_minute=per_minute).places == places
