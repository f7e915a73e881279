"""What a 429 teaches about the API's limits, and how they are raised again."""

from datetime import UTC, datetime, timedelta

import pytest

from smi_pipeline.core.allowance import Allowance, Calls, Taught, after_refusal, limits, windows
from smi_pipeline.core.vocabulary import CallPurpose

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SETTING = Allowance(per_minute=60, per_hour=1800)


def refused(
    granted: tuple[int, int],
    retry_after: float = 20.0,
    before: Taught | None = None,
    *,
    since_pause: int = 0,
    now: datetime = NOW,
) -> Taught:
    return after_refusal(
        SETTING, before or Taught(), granted=granted, since_pause=since_pause, retry_after=retry_after, now=now
    )


def pause(taught: Taught) -> float:
    assert taught.blocked_until and taught.refused_at
    return (taught.blocked_until - taught.refused_at).total_seconds()


def test_without_a_429_the_settings_hold() -> None:
    assert limits(SETTING, Taught(), NOW) == (60, 1800)
    assert [window.limit for window in windows(SETTING, Taught(), NOW)] == [60, 1800]


@pytest.mark.parametrize(("granted", "limit"), [(29, 60), (30, 30), (40, 40), (60, 60)])
def test_a_429_lowers_the_limit_of_the_minute_to_what_was_granted_if_half_of_it_was(granted: int, limit: int) -> None:
    assert limits(SETTING, refused((granted, 300)), NOW) == (limit, 1800)


@pytest.mark.parametrize(("granted", "limit"), [(899, 1800), (1000, 1000)])
def test_a_429_with_a_wait_of_more_than_a_minute_is_about_the_hour(granted: int, limit: int) -> None:
    assert limits(SETTING, refused((40, granted), retry_after=900), NOW) == (60, limit)


def test_a_429_with_few_calls_pauses_as_long_as_asked_and_spreads_the_calls_for_a_while() -> None:
    taught = refused((5, 5), retry_after=7)
    assert pause(taught) == 7
    assert [(window.limit, window.seconds) for window in windows(SETTING, taught, NOW)][2:] == [(12, 6.0)]
    assert len(windows(SETTING, taught, NOW + timedelta(minutes=5))) == 2


def test_a_429_after_the_pause_before_which_no_call_was_taken_doubles_it_up_to_five_minutes() -> None:
    taught, now, pauses = refused((5, 5)), NOW, []
    for _ in range(6):
        now += timedelta(seconds=pause(taught) + 1)
        taught = refused((0, 5), before=taught, since_pause=3, now=now)
        pauses.append(pause(taught))
    assert pauses == [40, 80, 160, 300, 300, 300]
    assert limits(SETTING, taught, now) == (60, 1800)
    much_later = now + timedelta(minutes=7)
    assert pause(refused((5, 5), before=taught, since_pause=0, now=much_later)) == 20


def test_429s_of_calls_that_were_on_their_way_are_one_event() -> None:
    first = refused((5, 5))
    second = refused((4, 4), before=first, now=NOW + timedelta(seconds=1))
    assert pause(second) == 20
    assert limits(SETTING, second, NOW) == (60, 1800)


def test_a_limit_far_below_ours_is_found_in_steps_of_a_half() -> None:
    taught, now, found = refused((7, 7)), NOW, []
    for _ in range(4):
        now += timedelta(seconds=21)
        taught = refused((7, 7), before=taught, since_pause=7, now=now)
        found.append(limits(SETTING, taught, now)[0])
    assert found == [30, 15, 7, 7]
    assert pause(taught) == 20


def test_a_tenth_always_stays() -> None:
    before = Taught(per_minute=6, per_hour=180, minute_since=NOW, hour_since=NOW, refused_at=NOW)
    assert limits(SETTING, refused((3, 3), before=before), NOW) == (6, 180)
    assert limits(SETTING, refused((3, 90), retry_after=3000, before=before), NOW) == (6, 180)


@pytest.mark.parametrize(("minutes", "limit"), [(0, 30), (4, 30), (5, 36), (9, 36), (10, 48), (15, 60), (5000, 60)])
def test_a_limit_is_raised_every_five_minutes_by_more_each_time_up_to_the_setting(minutes: int, limit: int) -> None:
    assert limits(SETTING, refused((30, 30)), NOW + timedelta(minutes=minutes))[0] == limit


def test_the_limit_of_the_hour_is_raised_every_hour() -> None:
    taught = refused((30, 900), retry_after=900)
    raised = [limits(SETTING, taught, NOW + timedelta(minutes=minutes))[1] for minutes in (59, 60, 120, 180)]
    assert raised == [900, 1080, 1440, 1800]


def test_a_raise_that_is_refused_is_taken_back() -> None:
    raised_at = NOW + timedelta(minutes=5)
    again = refused((40, 400), before=refused((40, 300)), now=raised_at)
    assert limits(SETTING, again, raised_at + timedelta(minutes=4)) == (40, 1800)


def test_a_429_of_the_minute_does_not_delay_the_raising_of_the_hour() -> None:
    taught, now = refused((30, 900), retry_after=900), NOW
    for _ in range(6):
        now += timedelta(minutes=30)
        taught = refused((50, 800), before=taught, now=now)
    assert limits(SETTING, taught, now)[1] == 1800


def test_a_further_429_never_raises_a_limit() -> None:
    lowered = refused((50, 500), before=refused((30, 300)))
    assert limits(SETTING, lowered, NOW) == (30, 1800)


def test_no_limit_of_ours_stays_none() -> None:
    none = Allowance()
    taught = after_refusal(none, Taught(), granted=(5, 5), since_pause=5, retry_after=1, now=NOW)
    assert limits(none, taught, NOW) == (0, 0)
    assert {window.limit for window in windows(none, taught, NOW)} == {0}


def test_each_purpose_uses_one_allowance() -> None:
    assert Calls.of(CallPurpose.SUBMIT) is Calls.SUBMISSIONS
    assert {Calls.of(CallPurpose.POLL), Calls.of(CallPurpose.URGENT_POLL)} == {Calls.STATUS_CALLS}


@pytest.mark.parametrize(("per_minute", "places"), [(60, 3), (6, 3), (600, 30), (0, None)])
def test_starts_may_be_a_few_places_off_while_an_allowance_holds(per_minute: int, places: int | None) -> None:
    assert Allowance(per_minute=per_minute).places == places
