"""Times of a WordPress site in UTC."""

from datetime import UTC, datetime

import pytest

from smi_pipeline.commands.local_times import in_utc, order_of, parse, zone
from smi_pipeline.core.errors import RefusedError

BERLIN = zone("Europe/Berlin")


def utc(text: str, where: str = "Europe/Berlin", after: datetime | None = None) -> str:
    return f"{in_utc(parse(text, None), zone(where), after=after)[0]:%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("Europe/Berlin", "2026-07-01 08:00:00"),
        ("UTC", "2026-07-01 10:00:00"),
        ("UTC+5:30", "2026-07-01 04:30:00"),
        ("+05:30", "2026-07-01 04:30:00"),
        ("+5.5", "2026-07-01 04:30:00"),
        ("UTC-3", "2026-07-01 13:00:00"),
        ("UTC\u22123", "2026-07-01 13:00:00"),
    ],
)
def test_a_zone_is_named_as_wordpress_names_it(where: str, expected: str) -> None:
    assert utc("2026-07-01 10:00:00", where) == expected


@pytest.mark.parametrize("name", ["Mars", "", "UTC+25", "../etc/passwd", "5"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time zone|strictly between"):
        zone(name)


def test_an_hour_that_comes_twice_is_the_first_unless_that_was_before_what_came_before() -> None:
    assert utc("2026-10-25 02:30:00") == "2026-10-25 00:30:00"
    created, _ = in_utc(parse("2026-10-25 02:50:00", None), BERLIN)
    assert utc("2026-10-25 02:05:00", after=created) == "2026-10-25 01:05:00"
    assert utc("2026-10-25 02:55:00", after=created) == "2026-10-25 00:55:00"


def test_a_time_that_does_not_exist_is_counted_on_and_told() -> None:
    at, exists = in_utc(parse("2026-03-29 02:30:00", None), BERLIN)
    assert (at, exists) == (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), False)


@pytest.mark.parametrize(
    ("text", "order", "expected"),
    [
        ("2026-03-01 10:00:05", None, datetime(2026, 3, 1, 10, 0, 5)),  # noqa: DTZ001
        ("2026-03-01T10:00:05Z", None, datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC)),
        ("2026-03-01 10:00", None, datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("01.03.2026 10:00", None, datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("01.03.2026 10:00", "mdy", datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("1.3.26 10:00:05", "dmy", datetime(2026, 3, 1, 10, 0, 5)),  # noqa: DTZ001
        ("01/03/2026 10:00", "dmy", datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("3/1/2026 10:00", "mdy", datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("3/1/2026 12:05:00 AM", "mdy", datetime(2026, 3, 1, 0, 5)),  # noqa: DTZ001
        ("3/1/2026 1:05 PM", "mdy", datetime(2026, 3, 1, 13, 5)),  # noqa: DTZ001
        ("1-3-2026 10:00", "dmy", datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("2026/3/1 10:00", None, datetime(2026, 3, 1, 10)),  # noqa: DTZ001
    ],
)
def test_excels_dates_are_read(text: str, order: str | None, expected: datetime) -> None:
    assert parse(text, order) == expected


@pytest.mark.parametrize("text", ["yesterday", "########", "46082.417", "2026-02-30 10:00:00", "13/13/2026 10:00", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text, "dmy")


def test_the_order_of_day_and_month_is_told_by_all_times_of_a_file() -> None:
    assert order_of(["2026-03-01 10:00:00"]) is None
    assert order_of(["1/2/2026 10:00", "25/2/2026 10:00"]) == "dmy"
    assert order_of(["1/2/2026 10:00", "2/25/2026 10:00"]) == "mdy"
    assert order_of(["01.02.2026 10:00"]) == "dmy"
    for doubtful in (["1/2/2026 10:00"], ["25/2/2026 10:00", "2/25/2026 10:00"]):
        with pytest.raises(RefusedError, match="--dates dmy or --dates mdy"):
            order_of(doubtful)
