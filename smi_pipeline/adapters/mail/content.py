"""Validate what goes into the headers and links of a mail."""

import re
import unicodedata
from urllib.parse import urlsplit

from smi_pipeline.adapters.fetching.allowed_hosts import ascii_host
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
    local, _, domain = value.strip().rpartition("@")
    ascii_domain = ascii_host(domain)
    # Quoted local parts are legal and unused; refusing them refuses every trick with spaces, commas and brackets.
    if not local or ascii_domain is None or len(value) > 254 or re.search(r"[\s,;:<>()\[\]\\\"@]", local):
        raise RefusedError(f"{what} is not an e-mail address")
    return f"{local}@{ascii_domain}"
