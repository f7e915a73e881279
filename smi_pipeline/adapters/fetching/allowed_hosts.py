"""Decide which URLs may be fetched and which addresses may be connected to.

No parser is trusted alone: a URL is put together again from its parts, which must name an allowed host.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from smi_pipeline.addresses import ascii_host
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.nat64 import WELL_KNOWN, embedded

_LOCAL_ENTRY = re.compile(r"http://127\.0\.0\.1:([1-9][0-9]{0,4})")
_KEPT_IN_PATHS = "/%:@!$&'()*+,;=~"  # unescaped by RFC 3986, or already escaped
# Forms of IPv6 that carry an IPv4 address or are translated on the way.
_CARRIERS = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # NAT64, local use: unless a prefix in it is known
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local, deprecated and still routed by some
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)
_RELAYS = (ipaddress.IPv4Network("192.88.99.0/24"),)  # 6to4 relays


@dataclass(frozen=True, kw_only=True)
class CheckedUrl:
    """The parts of an allowed URL. `host` is lower-case ASCII; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def is_local(self) -> bool:
        """Whether an exact `http://127.0.0.1:PORT` entry allows the URL: the one kind that may reach this machine."""
        return self.scheme == "http"

    @property
    def host_header(self) -> str:
        """The Host header, with the port unless it is the default one."""
        return f"{self.host}:{self.port}" if self.is_local else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


class AllowedHosts:
    """The hosts of one setting: exact names (https, port 443), and exact `http://127.0.0.1:PORT` entries.

    `setting` is its name in the environment, for messages. Raises ValueError for an entry that is neither.
    """

    def __init__(self, entries: Iterable[str], setting: str) -> None:
        self._setting = setting
        self._names: set[str] = set()
        self._local_ports: set[int] = set()
        if isinstance(entries, str):  # the text of the environment variable
            entries = entries.split(",")
        for entry in (entry.strip() for entry in entries):
            if not entry:
                continue
            local = _LOCAL_ENTRY.fullmatch(entry)
            if local and int(local[1]) <= 65535:
                self._local_ports.add(int(local[1]))
                continue
            name = ascii_host(entry)
            if name is None:
                raise ValueError(
                    f"{setting}: {entry!r} is neither a host name like images.example.com nor http://127.0.0.1:PORT"
                )
            self._names.add(name)

    def check(self, url: str) -> CheckedUrl:
        """Return the parts of `url` without its fragment. Raises RefusedError with the reason unless it may be fetched.
        Does not use the network."""
        if not self._names and not self._local_ports:
            raise RefusedError(f"No image host is allowed yet: set {self._setting} to the host names to fetch from.")
        if len(url) > 4096 or any(ord(c) < 32 or ord(c) == 127 for c in url) or url != url.strip():
            raise RefusedError("The image URL is malformed: it has control characters or spaces, or is too long.")
        try:
            parts = urlsplit(url)
            port = parts.port
            target = _target(parts)
        except ValueError:
            raise RefusedError("The image URL is malformed.") from None
        if "\\" in url or "@" in parts.netloc or " " in parts.netloc or not parts.netloc:
            raise RefusedError("The image URL is malformed: a plain https://host/path is needed.")
        if parts.scheme == "http" and _LOCAL_ENTRY.fullmatch(f"http://{parts.netloc}") and port in self._local_ports:
            return CheckedUrl(scheme="http", host="127.0.0.1", port=port, target=target)
        if parts.scheme != "https":
            raise RefusedError(f"The image URL must begin with https://, not {parts.scheme[:20] or 'nothing'}.")
        if port not in (None, 443):
            raise RefusedError("The image URL must not name a port.")
        host = ascii_host(parts.hostname or "")
        if host is None or host not in self._names:
            raise RefusedError(f"The image host {(parts.hostname or '')[:100]!r} is not listed in {self._setting}.")
        return CheckedUrl(scheme="https", host=host, port=443, target=target)


def as_requested(url: str) -> str:
    """Return an image's address in the very form in which it is requested here: escaped, its host in ASCII. One that
    could not be requested stays as it is."""
    try:
        parts = urlsplit(url)
        host, port, target = ascii_host(parts.hostname or ""), parts.port, _target(parts)
    except ValueError:
        return url
    if host and parts.scheme == "https" and port in (None, 443):
        return str(CheckedUrl(scheme="https", host=host, port=443, target=target))
    if host and parts.scheme == "http" and port:
        return str(CheckedUrl(scheme="http", host=host, port=port, target=target))
    return url


def _target(parts: SplitResult) -> str:
    """Return path and query as they are requested. What is escaped already stays so."""
    target = quote(parts.path or "/", safe=_KEPT_IN_PATHS)
    return f"{target}?{quote(parts.query, safe=_KEPT_IN_PATHS + '?')}" if parts.query else target


def is_public(address: str, nat64: Iterable[ipaddress.IPv6Network] = (WELL_KNOWN,)) -> bool:
    """Return whether `address` is an ordinary internet address: not private, loopback, link-local, shared, multicast,
    reserved, unspecified or for documentation, and no IPv6 form that stands for an IPv4 address. Behind a prefix of
    NAT64 the IPv4 address counts, which is where a connection ends."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if prefix := next((network for network in nat64 if ip in network), None):
            return is_public(str(embedded(ip, prefix)))
        if any(ip in network for network in _CARRIERS):
            return False
    elif any(ip in network for network in _RELAYS):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_private or ip.is_link_local)
