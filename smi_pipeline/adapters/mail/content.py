"""Validate what goes into the headers and links of a mail."""

import unicodedata
from urllib.parse import urlsplit

from smi_pipeline.addresses import ascii_address, ascii_host
from smi_pipeline.core.errors import RefusedError


def header_value(value: str, what: str) -> str:
    """Return `value` unchanged if it may stand in a header. Raises RefusedError for line breaks and control
    characters, which could end the header and begin another."""
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in value):
        raise RefusedError(f"{what} must not contain line breaks or control characters")
    return value


def link(url: str, what: str) -> str:
    """Return `url` if it is a plain web address. Raises RefusedError otherwise, `javascript:` included."""
    if not isinstance(url, str) or any(c <= " " or c == "\x7f" for c in url) or any(c in url for c in '<>"\\'):
        raise RefusedError(f"{what} is not a web address")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RefusedError(f"{what} is not a web address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedError(f"{what} is not a web address")
    return url


def address(value: str, what: str) -> str:
    """Return a bare address with its domain in ASCII (IDNA). Raises RefusedError for anything but one address."""
    header_value(value, what)
    found = ascii_address(value)
    if found is None:
        raise RefusedError(f"{what} is not an e-mail address")
    return found


def own_address(value: str, what: str) -> str:
    """Return an address of the shop in ASCII. Raises RefusedError for one that only servers with SMTPUTF8 know."""
    found = address(value, what)
    if not found.isascii():
        raise RefusedError(f"{what} has letters beyond ASCII before the @, which many mail servers refuse")
    return found


def message_id(value: str) -> str:
    """Return a Message-ID with its domain in ASCII: headers know no other. Raises RefusedError for what is none."""
    header_value(value, "the Message-ID")
    left, _, domain = value.removeprefix("<").removesuffix(">").rpartition("@")
    if not (value.startswith("<") and value.endswith(">") and value.count("@") == 1 and left.isascii()):
        raise RefusedError("the Message-ID must look like <unique@host>")
    return value if domain.isascii() else f"<{left}@{ascii_host(domain) or 'localhost'}>"
