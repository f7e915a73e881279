"""NAT64: IPv6 addresses that a network translates to IPv4 (RFC 6052), and how a host learns of them (RFC 7050)."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

WELL_KNOWN = IPv6Network("64:ff9b::/96")
LOCAL_USE = IPv6Network("64:ff9b:1::/48")
"""Its prefixes mean nothing but NAT64, but which one a network uses has to be found out (RFC 8215)."""

LENGTHS = (96, 64, 56, 48, 40, 32)
"""Lengths of prefixes (RFC 6052, 2.2)."""

DISCOVERY_NAME = "ipv4only.arpa"
"""A name that has these IPv4 addresses and no other: an IPv6 address of it was made from one of them by the network."""
_DISCOVERED = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))


def embedded(address: IPv6Address, prefix: IPv6Network) -> IPv4Address:
    """Return the IPv4 address that stands behind a prefix of one of the `LENGTHS`; bits 64 to 71 are left out."""
    start = prefix.prefixlen // 8
    rest = address.packed[start:] if start > 8 else address.packed[start:8] + address.packed[9:]
    return IPv4Address(rest[:4])


def discovered(answers: Iterable[str]) -> Iterator[IPv6Network]:
    """Yield the prefixes that the addresses of `DISCOVERY_NAME` show."""
    for answer in answers:
        try:
            address = IPv6Address(answer)
        except ValueError:
            continue
        for length in LENGTHS:
            prefix = IPv6Network((address, length), strict=False)
            if embedded(address, prefix) in _DISCOVERED and _made_of(address, prefix):
                yield prefix


def _made_of(address: IPv6Address, prefix: IPv6Network) -> bool:
    """Return whether the rest of an address is zero, as that of one that was made from IPv4 is."""
    start = prefix.prefixlen // 8
    after = address.packed[start + 4 :] if start > 8 else address.packed[13 - (8 - start) :] + address.packed[8:9]
    return not any(after)
