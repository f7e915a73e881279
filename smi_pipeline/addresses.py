"""Host names and e-mail addresses as the wire takes them: domains in ASCII (IDNA)."""

import re

import idna

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NOT_IN_LOCAL_PARTS = re.compile(r"[\s,;:<>()\[\]\\\"@]")
_NAMED = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>\s*")


def ascii_host(name: str) -> str | None:
    """Return a host name in lower-case ASCII (IDNA, UTS 46) without a trailing dot, None when it is not a host name.
    A dotted IPv4 address counts as a name; an IPv6 address does not."""
    try:
        host = name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:  # includes idna's errors
        return None
    host = host.lower().removesuffix(".")
    return host if _HOST_NAME.fullmatch(host) else None


def ascii_address(value: str) -> str | None:
    """Return an e-mail address with its domain in ASCII, None when it is not exactly one address. The part before the @
    stays as it is: only SMTPUTF8 knows one beyond ASCII."""
    local, _, domain = value.strip().rpartition("@")
    ascii_domain = ascii_host(domain)
    # Quoted local parts are legal and unused; refusing them refuses every trick with spaces, commas and brackets.
    if not local or ascii_domain is None or len(value) > 254 or _NOT_IN_LOCAL_PARTS.search(local):
        return None
    return f"{local}@{ascii_domain}"


def named_address(value: str) -> tuple[str, str]:
    """Split `Shop <shop@example.com>` into name and address; a bare address has an empty name. The name may hold
    commas, with or without quotes."""
    if found := _NAMED.fullmatch(value):
        name = found["name"].strip()
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = name[1:-1].replace('\\"', '"')
        return name, found["address"].strip()
    return "", value.strip()
