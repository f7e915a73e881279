"""A real HTTP server on loopback that answers what a test scripted, byte by byte if it must."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest


@dataclass
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What the server says next. `cut` promises more body than it sends, `drop` sends nothing at all, `hold` waits so
    many seconds first, `drip` pauses so many seconds between bytes of the body."""

    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    cut: bool = False
    hold: float = 0
    drip: float = 0


class ScriptedServer:
    """Answers requests in the order of `answers`; the last one again and again."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.stopping = Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.requests.append(
                    Request(self.command, self.path, dict(self.headers), body, self.client_address[1])
                )
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                script.stopping.wait(answer.hold)
                if answer.drop or script.stopping.is_set():
                    self.close_connection = True
                    return
                content = json.dumps(answer.body).encode() if isinstance(answer.body, dict) else answer.body
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) + (100 if answer.cut else 0)))
                self.end_headers()
                try:
                    self._send(content, answer)
                except OSError:
                    self.close_connection = True
                if answer.cut:
                    self.close_connection = True

            def _send(self, content: bytes, answer: Answer) -> None:
                if not answer.drip:
                    self.wfile.write(content)
                    return
                for at in range(len(content)):
                    self.wfile.write(content[at : at + 1])
                    self.wfile.flush()
                    if script.stopping.wait(answer.drip):
                        return

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def says(self, status: int = 200, body: bytes | dict[str, Any] = b"", **more: Any) -> "ScriptedServer":
        """Adds an answer."""
        self.answers.append(Answer(status, body, **more))
        return self

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def closed_port() -> str:
    """A base URL where nobody listens."""
    scripted = ScriptedServer()
    scripted.close()
    time.sleep(0)
    return scripted.url
