"""Connect to the first of several addresses that answers, both families in turn (RFC 8305, "Happy Eyeballs").

Of a host with IPv6 and IPv4 one may not be reachable from here, and an address may swallow packets: the next one is
tried a moment later, without giving up the first.
"""

import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from errno import EINPROGRESS
from itertools import chain, zip_longest

STAGGER_SECONDS = 0.25
"""How long an address has before the next one is tried beside it (RFC 8305, section 5)."""

Endpoint = tuple[str, int]


def in_turn(addresses: Iterable[str]) -> list[str]:
    """Return the addresses with the families in turn, beginning with that of the first one."""
    addresses = list(addresses)
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    first, second = (six, four) if addresses[:1] == six[:1] else (four, six)
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


def connect(endpoints: Iterable[Endpoint], timeout: float, left: Callable[[], float]) -> socket.socket:
    """Return a socket connected to one of the endpoints, whose timeout is `timeout`. Each may take so many seconds, and
    all together what is `left()`. Raises OSError, the last one, when none can be reached."""
    waiting, failure = iter(endpoints), OSError("no address")
    with selectors.DefaultSelector() as begun:  # each with the time by which it must have answered
        try:
            more, next_at = True, time.monotonic()
            while left() > 0:
                now = time.monotonic()
                for key in _keys(begun):
                    if key.data <= now:
                        _end(begun, key).close()
                        failure = TimeoutError()
                if more and (now >= next_at or not _keys(begun)):
                    endpoint = next(waiting, None)
                    more, next_at = endpoint is not None, now + STAGGER_SECONDS
                    try:
                        if endpoint:
                            begun.register(_begin(endpoint), selectors.EVENT_WRITE, now + timeout)
                    except OSError as error:
                        failure, next_at = error, now
                    continue
                if not _keys(begun):
                    raise failure
                moments = [key.data for key in _keys(begun)] + ([next_at] if more else [])
                for key, _ in begun.select(max(0.0, min(left(), min(moments) - now))):
                    sock = _end(begun, key)
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not number:
                        sock.settimeout(max(0.001, min(timeout, left())))
                        return sock
                    sock.close()
                    failure, next_at = OSError(number, os.strerror(number)), now
            raise TimeoutError
        finally:
            for key in _keys(begun):
                _end(begun, key).close()


def _begin(endpoint: Endpoint) -> socket.socket:
    """Return a socket that is being connected."""
    sock = socket.socket(socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    number = sock.connect_ex(endpoint)
    if number not in (0, EINPROGRESS):
        sock.close()
        raise OSError(number, os.strerror(number))
    return sock


def _keys(begun: selectors.BaseSelector) -> list[selectors.SelectorKey]:
    return list(begun.get_map().values())


def _end(begun: selectors.BaseSelector, key: selectors.SelectorKey) -> socket.socket:
    """Take a socket out of those that were begun."""
    assert isinstance(key.fileobj, socket.socket)
    begun.unregister(key.fileobj)
    return key.fileobj
