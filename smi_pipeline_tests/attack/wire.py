"""Sends bytes that no client library would send, over connections that are kept, and reads what is answered."""

import socket
import struct
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from smi_pipeline_tests.attack.requests import Attempt, attempt
from smi_pipeline_tests.attack.sites import Target

THREADS = 8
PATIENCE = 2.0
"""So many seconds an answer may take; the front under attack waits less for the rest of a request."""
_RESET = struct.pack("ii", 1, 0)


class _Connection:
    """A connection to a site that is opened when it is needed."""

    def __init__(self, authority: str) -> None:
        host, _, port = authority.partition(":")
        self._address = (host, int(port))
        self._socket: socket.socket | None = None

    def ask(self, sent: Attempt) -> str:
        """Return the status of the answer, or "closed", "silent" or "unreadable"."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=PATIENCE)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # no port stays taken
            self._socket.sendall(sent.raw)
            status, goes_on = self._answer(self._socket, sent.method)
        except TimeoutError:
            status, goes_on = "silent", False
        except OSError:
            status, goes_on = "closed", False
        if not goes_on or not sent.reusable:
            self.close()
        return status

    def close(self) -> None:
        """Close it, if it is open."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    @staticmethod
    def _answer(connection: socket.socket, method: str) -> tuple[str, bool]:
        said = b""
        while True:
            while b"\r\n\r\n" not in said:
                block = connection.recv(65536)
                if not block:
                    return ("unreadable" if said else "closed"), False
                said += block
            head, _, rest = said.partition(b"\r\n\r\n")
            status, _, fields = head.decode("latin-1").lower().partition("\r\n")
            code = status.split(" ")[1]
            if code != "100":
                break
            said = rest
        headers = dict(line.split(": ", 1) for line in fields.split("\r\n") if ": " in line)
        length = int(headers.get("content-length", -1))
        if method == "HEAD" or code in ("204", "304"):
            length = 0
        while 0 <= len(rest) < length:
            block = connection.recv(65536)
            if not block:
                break
            rest += block
        return code, length >= 0 and len(rest) == length and headers.get("connection") != "close"


def send(target: Target, seed: int, numbers: Iterable[int]) -> Counter[str]:
    """Send these requests of a seed. Returns how often each status was answered."""
    answers: Counter[str] = Counter()
    connection = _Connection(target.authority)
    with suppress(KeyboardInterrupt):
        for number in numbers:
            answers[connection.ask(attempt(target, seed, number))] += 1
    connection.close()
    return answers


def send_all(target: Target, seed: int, numbers: range) -> Counter[str]:
    """Send these requests by several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [pool.submit(send, target, seed, numbers[n::THREADS]) for n in range(THREADS)]
        return sum((part.result() for part in parts), Counter())
