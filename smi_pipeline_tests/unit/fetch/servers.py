"""HTTP servers on loopback that behave well or badly, and a client that reaches them under public addresses."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from smi_pipeline.adapters.fetching.pinned_http import PinnedHttp

PUBLIC = "93.184.215.14"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Origin:
    """A server whose paths are functions; it keeps what it was asked."""

    def __init__(self) -> None:
        self.paths: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, body: bytes = b"", *, status: int = 200, **headers: str) -> None:
        """Answers `path` with a whole body; header names with `_` for `-`."""
        fields = {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in fields.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body)

        self.paths[path] = answer

    def raw(self, path: str, *pieces: bytes, pause: float = 0.0, stay: float = 0.0) -> None:
        """Answers `path` with these very bytes, with pauses between them; then stays connected for a while."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            for piece in pieces:
                request.wfile.write(piece)
                request.wfile.flush()
                time.sleep(pause)
            time.sleep(stay)

        self.paths[path] = answer


@contextmanager
def serving(origin: Origin, tls: ssl.SSLContext | None = None) -> Iterator[Origin]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            origin.requests.append((self.path, dict(self.headers.items())))
            self.close_connection = True
            with suppress(OSError):
                if answer := origin.paths.get(self.path):
                    answer(self)
                else:
                    self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, address = super().get_request()
            origin.connections += 1
            return connection, address

        def finish_request(self, request: Any, client_address: Any) -> None:
            if tls is not None:
                request = tls.wrap_socket(request, server_side=True)
            with suppress(OSError):
                super().finish_request(request, client_address)
            request.close()

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    origin.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield origin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Loopback(PinnedHttp):
    """Connects to loopback what was meant for a public address, and notes which addresses those were."""

    def __init__(self, port: int, **settings: Any) -> None:
        super().__init__(**({"connect_timeout": 2, "read_timeout": 2} | settings))
        self._port = port
        self.dialled: list[tuple[str, int]] = []

    def _endpoint(self, address: str, port: int) -> tuple[str, int]:
        self.dialled.append((address, port))
        return "127.0.0.1", self._port
