"""What may stand in the headers and links of a mail."""

import pytest

from smi_pipeline.adapters.mail import content
from smi_pipeline.core.errors import RefusedError


@pytest.mark.parametrize(
    "char", ["\r", "\n", "\r\n", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f"]
)
def test_no_line_break_of_any_kind_passes_into_a_header(char: str) -> None:
    with pytest.raises(RefusedError, match="line breaks"):
        content.header_value(f"Shop{char}Bcc: x@example.com", "the shop name")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "data:text/html,x", "//example.com/", "/path", "", "https://", "http://[",
        "https://example.com/a b", "https://example.com/\n", 'https://example.com/"x', "ftp://example.com/",
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(url: str) -> None:
    with pytest.raises(RefusedError, match="not a web address"):
        content.link(url, "the link")


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
    assert content.address(given, "the recipient") == written


@pytest.mark.parametrize(
    "value",
    [
        "", "anna", "@example.org", "anna@", "a@b@c", "anna@example.org, eve@example.org", "Anna <anna@example.org>",
        "anna@example.org\nBcc: eve@example.org", "anna @example.org", '"a b"@example.org', "a@" + "x" * 260,
    ],
)  # fmt: skip
def test_what_is_not_exactly_one_address_is_refused(value: str) -> None:
    with pytest.raises(RefusedError):
        content.address(value, "the recipient")
