"""Amounts, times, sizes and untrusted text as people read them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from smi_pipeline import formatting
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.formatting import duration, money, percent, safe_stem


@pytest.mark.parametrize(
    ("cents", "currency", "text"),
    [
        (120, "eur", "€1.20"),
        (50, "usd", "$0.50"),
        (5, "GBP", "£0.05"),
        (123_456_789, "usd", "$1,234,567.89"),
        (120, "jpy", "¥120"),
        (12_000, "krw", "₩12,000"),
        (120, "chf", "CHF\N{NO-BREAK SPACE}1.20"),
        (1_250, "kwd", "KWD\N{NO-BREAK SPACE}1.250"),
        (5_000, "isk", "ISK\N{NO-BREAK SPACE}50"),
        (500_000, "ugx", "UGX\N{NO-BREAK SPACE}5,000"),
        (12_345, "kwd", "KWD\N{NO-BREAK SPACE}12.345"),
        (1_234, "rsd", "RSD\N{NO-BREAK SPACE}12.34"),
        (0, "eur", "€0.00"),
        (-120, "eur", "-€1.20"),
    ],
)
def test_amounts_are_written_with_the_decimals_of_their_currency(cents: int, currency: str, text: str) -> None:
    assert formatting.money(cents, currency) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 credits"), (1, "1 credit"), (1200, "1,200 credits")])
def test_one_thing_is_named_in_the_singular(count: int, text: str) -> None:
    assert formatting.counted(count, "credit") == text


def test_a_currency_that_is_no_code_is_refused() -> None:
    with pytest.raises(RefusedError, match="ISO 4217"):
        formatting.money(1, "euro")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (812, "812 bytes"),
        (1_000, "1 KB"),
        (850_400, "850 KB"),
        (999_499, "999 KB"),
        (999_999, "1.0 MB"),
        (4_213_000, "4.2 MB"),
        (99_960_000, "100 MB"),
        (248_000_000, "248 MB"),
        (999_900_000, "1.0 GB"),
        (2_400_000_000, "2.4 GB"),
    ],
)
def test_file_sizes_read_like_in_a_file_manager(size: int, text: str) -> None:
    assert formatting.file_size(size) == text


def test_a_moment_is_written_out_in_utc_whatever_zone_it_came_in() -> None:
    at = datetime(2026, 11, 21, 23, 5, tzinfo=timezone(timedelta(hours=9)))
    assert formatting.moment(at) == "Saturday 21 November 2026, 14:05 UTC"


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(RefusedError, match="time zone"):
        formatting.moment(datetime(2026, 11, 21, 14, 5))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(hours=24), "24 hours"),
        (timedelta(hours=23, minutes=58), "24 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=45), "45 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(hours=72), "3 days"),
        (timedelta(0), ""),
        (timedelta(hours=-1), ""),
    ],
)
def test_the_time_left_is_rounded_for_people(left: timedelta, text: str) -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert formatting.time_left(now + left, now) == text


def test_a_strangers_text_becomes_one_bounded_line() -> None:
    assert formatting.one_line("  Anna\r\n\tMaria\u202e\x00  ") == "Anna Maria"
    assert formatting.one_line("x" * 100, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0.00 s"),
        (0.254, "0.25 s"),
        (0.995, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3599.7, "1 h"),
        (7_800, "2 h 10 min"),
    ],
)
def test_times_are_told_in_the_unit_that_fits(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("cents", "currency", "words"),
    [
        (1234, "usd", "12.34"),
        (-5, "eur", "-0.05"),
        (123_456_789, "usd", "1,234,567.89"),
        (500, "jpy", "500"),
        (500_000, "ugx", "5,000"),
        (12_345, "kwd", "12.345"),
    ],
)
def test_money_without_a_symbol_keeps_the_decimals_of_its_currency(cents: int, currency: str, words: str) -> None:
    assert money(cents, currency, symbol=False) == words


def test_a_share_without_a_base_is_a_dash() -> None:
    assert (percent(None), percent(0.958)) == ("–", "95.8%")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (7, "7"), (0.0712, "0.0712"), (44.06, "44.1"), (-0.3456, "-0.346"), (12345, "12,345")],
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float, words: str) -> None:
    assert formatting.number(value) == words


def test_another_locale_writes_by_its_own_rules() -> None:
    at = datetime(2026, 11, 21, 14, 5, tzinfo=UTC)
    assert money(123_456, "eur", locale="de") == "1.234,56\N{NO-BREAK SPACE}€"
    assert money(123_456, "eur", symbol=False, locale="de") == "1.234,56"
    assert formatting.moment(at, locale="de") == "Samstag 21 November 2026, 14:05 UTC"
    assert formatting.time_left(at + timedelta(hours=3), at, locale="de") == "3 Stunden"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("/photos/Sonne über Köln.jpg", "Sonne über Köln"),
        ("Ko\u0308ln.jpg", "Köln"),  # NFD, as macOS names files
        ("हिन्दी चित्र.png", "हिन्दी चित्र"),
        ("ภาพถ่าย.webp", "ภาพถ่าย"),
        ("தமிழ்.jpg", "தமிழ்"),
        ("日本 2026.01.jpg", "日本 2026.01"),
        ("\u05e9\u05b8\u05c1\u05dc.jpg", "\u05e9\u05b8\u05c1\u05dc"),
        ("q\u0301.jpg", "q\u0301"),  # no single character is both
        ("love \u2764\ufe0f you.jpg", "love - you"),
        ("می\u200cخواهم.jpg", "می\u200cخواهم"),  # Persian: without the joiner it is another word
        ("क्\u200dष.png", "क्\u200dष"),
        ("ශ්\u200dරී ලංකා.png", "ශ්\u200dරී ලංකා"),
        ("র\u200d্যাম.png", "র্যাম"),  # not where identifiers may have it
        ("\u200cمی\u200c خواهم\u200c.jpg", "می خواهم"),
        ("a\u200db\u200cc.jpg", "abc"),
        ("क्\u200d.png", "क्"),
        ("a/../..%2f.jpg", "2f"),
        ("a\u202egpj.exe.jpg", "a-gpj.exe"),
        ('a"b\r\nc:d.jpg', "a-b--c-d"),
        ("\u0301.jpg", "image"),
        ("\U0001f600.jpg", "image"),
        ("", "image"),
    ],
)
def test_names_of_files_keep_the_letters_and_marks_of_every_script(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def test_a_name_is_never_longer_than_file_systems_take() -> None:
    for character in ("x", "ü", "日", "𠀀"):
        name = f"{safe_stem(character * 300)}-4x.webp"
        assert len(name.encode()) <= 255
        assert set(safe_stem(character * 300)) == {character}
    assert not safe_stem("क्\u200d" * 300).endswith("\u200d")
