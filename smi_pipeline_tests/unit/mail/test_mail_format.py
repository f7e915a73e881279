from datetime import UTC, datetime, timedelta, timezone

import pytest

from smi_pipeline.adapters.mail import content as fmt
from smi_pipeline.core.errors import RefusedError


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
        (0, "eur", "€0.00"),
        (-120, "eur", "-€1.20"),
    ],
)
def test_amounts_are_written_with_the_decimals_of_their_currency(cents: int, currency: str, text: str) -> None:
    assert fmt.money(cents, currency) == text


def test_a_currency_that_is_no_code_is_refused() -> None:
    with pytest.raises(RefusedError, match="ISO 4217"):
        fmt.money(1, "euro")


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
    assert fmt.file_size(size) == text


def test_a_moment_is_written_out_in_utc_whatever_zone_it_came_in() -> None:
    at = datetime(2026, 11, 21, 23, 5, tzinfo=timezone(timedelta(hours=9)))
    assert fmt.moment(at) == "Saturday 21 November 2026, 14:05 UTC"


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(RefusedError, match="time zone"):
        fmt.moment(datetime(2026, 11, 21, 14, 5))  # noqa: DTZ001


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
    assert fmt.time_left(now + left, now) == text


@pytest.mark.parametrize(
    "char", ["\r", "\n", "\r\n", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f"]
)
def test_no_line_break_of_any_kind_passes_into_a_header(char: str) -> None:
    with pytest.raises(RefusedError, match="line breaks"):
        fmt.header_value(f"Shop{char}Bcc: x@example.com", "the shop name")


def test_a_strangers_text_becomes_one_bounded_line() -> None:
    assert fmt.one_line("  Anna\r\n\tMaria\u202e\x00  ") == "Anna Maria"
    assert fmt.one_line("x" * 100, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "data:text/html,x", "//example.com/", "/path", "", "https://", "http://[",
        "https://example.com/a b", "https://example.com/\n", 'https://example.com/"x', "ftp://example.com/",
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(url: str) -> None:
    with pytest.raises(RefusedError, match="not a web address"):
        fmt.link(url, "the link")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("anna@example.org", "anna@example.org"),
        ("Anna.B+x@EXAMPLE.org", "Anna.B+x@example.org"),
        ("anna@köln.example", "anna@xn--kln-sna.example"),
        ("björn@köln.example", "björn@xn--kln-sna.example"),
    ],
)
def test_the_domain_of_an_address_is_written_in_ascii(given: str, written: str) -> None:
    assert fmt.address(given, "the recipient") == written


@pytest.mark.parametrize(
    "value",
    [
        "", "anna", "@example.org", "anna@", "a@b@c", "anna@example.org, eve@example.org", "Anna <anna@example.org>",
        "anna@example.org\nBcc: eve@example.org", "anna @example.org", '"a b"@example.org', "a@" + "x" * 260,
    ],
)  # fmt: skip
def test_what_is_not_exactly_one_address_is_refused(value: str) -> None:
    with pytest.raises(RefusedError):
        fmt.address(value, "the recipient")
