"""Send one GET to the very address that was checked. No redirects, no proxies, no cookies, no credentials.

Written by hand rather than with an HTTP library, because two things must be certain: the socket goes to an
address that was checked (a name may resolve differently a moment later), and one time covers name, handshake, headers
and body, however slowly a server trickles them.
"""

import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import certifi

from smi_pipeline.adapters.fetching.allowed_hosts import CheckedUrl, is_public
from smi_pipeline.adapters.fetching.connecting import connect, in_turn
from smi_pipeline.adapters.fetching.nat64 import Nat64
from smi_pipeline.adapters.fetching.time_allowed import TimeAllowed
from smi_pipeline.core.errors import RefusedError, SmiError, TransientError

MAX_ADDRESSES = 4
Resolver = Callable[[str, int], list[str]]


def system_resolver(host: str, port: int) -> list[str]:
    """Return the addresses of `host` in the system's order of preference. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class ConnectionLost(TransientError):
    """The connection, or what came over it, has broken off: the rest may be had over another one."""


class PinnedHttp:
    """Make single requests; timeouts in seconds. `resolver` and `tls_context` replace the system's. `nat64_prefixes`:
    those of the network's own NAT64."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        read_timeout: float,
        resolver: Resolver = system_resolver,
        tls_context: ssl.SSLContext | None = None,
        nat64_prefixes: Iterable[str] = (),
    ) -> None:
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._resolver = resolver
        self._nat64 = Nat64(self._resolved, nat64_prefixes)
        self._tls_context = tls_context

    @contextmanager
    def get(
        self, url: CheckedUrl, allowed: TimeAllowed, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer with its body unread; `allowed` also ends the reading of the body. `headers` come beside the
        usual ones.

        Raises RefusedError when the host is not on the public internet, TransientError for every other failure until
        the context ends (ConnectionLost for one that another connection may mend), except for our own errors raised
        inside the context.
        """
        allowed.waiting()
        addresses = self._addresses(url, allowed)
        sock: socket.socket | None = None
        with _watchdog(lambda: sock, allowed) as expired:
            try:
                sock = self._connect(addresses, url.port, allowed)
                if not url.is_local:
                    # Handshake after wrapping, so that the watchdog holds the socket in use.
                    sock = self._tls().wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False)
                    sock.do_handshake()
                sock.settimeout(self._read_timeout)
                connection = http.client.HTTPConnection(url.host, url.port)
                connection.sock = sock
                connection.request("GET", url.target, headers={**_headers(url), **(headers or {})})
                with connection.getresponse() as response:
                    sock.settimeout(allowed.stall)
                    yield response
                if expired():
                    raise TimeoutError  # a body without a length that we cut off looks complete
            except (OSError, http.client.HTTPException, SmiError) as error:
                if expired():
                    raise TransientError(f"{url.host} {allowed.why()}.") from error
                if isinstance(error, SmiError):
                    raise
                kind = TransientError if isinstance(error, TimeoutError) else ConnectionLost
                raise kind(f"{url.host} could not be read: {_cause(error)}.") from error
            finally:
                if sock is not None:
                    sock.close()

    def _addresses(self, url: CheckedUrl, allowed: TimeAllowed) -> list[str]:
        """Resolve once. The addresses returned are the ones connected to, so that a second answer changes nothing."""
        if url.is_local:
            return ["127.0.0.1"]
        answer = self._resolved(url.host, url.port, allowed)
        nat64 = self._nat64.prefixes(allowed) if any(":" in address for address in answer) else []
        if not all(is_public(address, nat64) for address in answer):
            raise RefusedError(f"The host {url.host} is not on the public internet.")
        return in_turn(answer)[:MAX_ADDRESSES]

    def _resolved(self, host: str, port: int, allowed: TimeAllowed) -> list[str]:
        """Return the addresses of a name. Raises TransientError when it has none."""
        answers: queue.Queue[list[str] | Exception] = queue.Queue()

        def resolve() -> None:
            try:
                answers.put(self._resolver(host, port))
            except Exception as error:
                answers.put(error)

        # In a thread, because the system's resolver has no timeout.
        threading.Thread(target=resolve, daemon=True, name="smi-resolve").start()
        try:
            answer = answers.get(timeout=max(0.0, min(self._read_timeout, allowed.left())))
        except queue.Empty:
            raise TransientError(f"The name {host} was not resolved in time.") from None
        if isinstance(answer, Exception) or not answer:
            raise TransientError(f"The name {host} could not be resolved.")
        return answer

    def _connect(self, addresses: list[str], port: int, allowed: TimeAllowed) -> socket.socket:
        # The timeout stays on the socket and bounds the handshake, too.
        return connect((self._endpoint(each, port) for each in addresses), self._connect_timeout, allowed.left)

    def _endpoint(self, address: str, port: int) -> tuple[str, int]:
        """Return the address to connect to, the checked one. Tests, which have no public address, replace it."""
        return address, port

    def _tls(self) -> ssl.SSLContext:
        if self._tls_context is None:
            context = ssl.create_default_context()
            context.load_verify_locations(certifi.where())  # slim images have no system store
            self._tls_context = context
        return self._tls_context


@contextmanager
def _watchdog(current: Callable[[], socket.socket | None], allowed: TimeAllowed) -> Iterator[Callable[[], bool]]:
    """Shut the connection down when the time is over: socket timeouts start anew with each byte."""
    expired, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while (left := allowed.left()) > 0:  # which grows with what arrives, and shrinks when a body begins
            if ended.wait(min(left, allowed.stall)):
                return
        expired.set()
        if (sock := current()) is not None:
            with suppress(OSError):
                # Below TLS: the reading thread sees the end of the stream and keeps its state.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    threading.Thread(target=watch, daemon=True, name="smi-watchdog").start()
    try:
        # The time may be over before the thread has run.
        yield lambda: expired.is_set() or allowed.left() <= 0
    finally:
        ended.set()


def _headers(url: CheckedUrl) -> dict[str, str]:
    """Return the headers of a plain program: a host that chooses the format by `Accept` must show us the file that it
    shows Upsampler."""
    return {
        "Host": url.host_header,
        "User-Agent": "smi-pipeline",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:100]
    return "the connection was lost" if isinstance(error, OSError) else "its answer is broken"
