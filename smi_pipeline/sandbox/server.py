"""Run the sandbox in a background thread with one event loop and sockets on 127.0.0.1; with a client for tests.

::

    with Sandbox(folder, processing_seconds=0.2, rate_minute=0, rate_hour=0, rate_status=0) as sandbox:
        sandbox.urls.upsampler, sandbox.urls.stripe, sandbox.urls.smtp_port, sandbox.urls.mail, sandbox.urls.origin
        sandbox.fault("upsampler", "truncated", match={"job_id": "7"})
        sandbox.configure("stripe", webhook_url="http://127.0.0.1:8000/stripe")
        sandbox.pay(session_id)
        sandbox.ledger("stripe")["refunds"]
"""

import asyncio
import logging
import socket
import ssl
import threading
from functools import partial
from pathlib import Path
from typing import Any, Self

import requests
import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from smi_pipeline.sandbox.base import SandboxService
from smi_pipeline.sandbox.connections import RememberingProtocol
from smi_pipeline.sandbox.mail.service import Mail
from smi_pipeline.sandbox.options import HOST, SERVICES, Options, Urls
from smi_pipeline.sandbox.origin import Origin
from smi_pipeline.sandbox.stripe.service import Stripe
from smi_pipeline.sandbox.upsampler.service import Upsampler

_SERVICES: dict[str, type[SandboxService]] = {each.name: each for each in (Upsampler, Stripe, Mail, Origin)}
_START_SECONDS = 20
_STOP_SECONDS = 5

logger = logging.getLogger(__name__)


class Sandbox:
    """The running services. A second start on the same folder resumes where the first one stopped.

    Keyword arguments are the fields of :class:`Options`; ``tls`` makes the mail server offer STARTTLS.
    """

    urls: Urls

    def __init__(self, state: Path | str, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        self.state = Path(state)
        self.options = Options(**options)
        if unknown := set(self.options.only) - set(SERVICES):
            raise ValueError(f"no such service: {sorted(unknown)}; choose from {', '.join(SERVICES)}")
        self._tls = tls
        self._http = requests.Session()
        self._http.trust_env = False
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start, and return once all ports are open. Raises OSError if a port is taken, TimeoutError."""
        self._listening.clear()
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._thread.start()
        if not self._listening.wait(_START_SECONDS):
            raise TimeoutError("the sandbox did not start")
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Stop; requests in progress get a second."""
        if self._thread is None or not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_SECONDS)
        self._http.close()

    # --- a client for tests

    def url_of(self, service: str) -> str:
        """Return the HTTP address of ``upsampler``, ``stripe``, ``mail`` or ``origin``."""
        return str(getattr(self.urls, service))

    def ledger(self, service: str) -> dict[str, Any]:
        """Return the ledger of a service: what it was asked to do, and what it did."""
        return self._call("GET", service, "/_ledger")

    def fault(self, service: str, kind: str, *, match: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
        """Add a fault; ``rest`` are ``times`` and the parameters of the kind."""
        return self._call("POST", service, "/_faults", {"kind": kind, "match": match or {}, **rest})

    def faults(self, service: str) -> dict[str, Any]:
        """Return the faults of a service, and the counts of injected ones."""
        return self._call("GET", service, "/_faults")

    def clear_faults(self, service: str) -> None:
        """Remove all faults of a service."""
        self._call("DELETE", service, "/_faults")

    def configure(self, service: str, **settings: Any) -> dict[str, Any]:
        """Change settings of a running service; return all settings."""
        return self._call("POST", service, "/_config", settings)

    def pay(self, session: str, **rest: Any) -> dict[str, Any]:
        """Pay a Checkout session; return the PaymentIntent."""
        return self._call("POST", "stripe", "/_pay", {"session": session, **rest})

    def control(self, service: str, path: str, **body: Any) -> dict[str, Any]:
        """Call another control endpoint, such as ``/_dispute``."""
        return self._call("POST", service, path, body)

    def _call(self, method: str, service: str, path: str, body: Any = None) -> dict[str, Any]:
        reply = self._http.request(method, self.url_of(service) + path, json=body, timeout=30)
        if reply.status_code >= 400:
            raise ValueError(f"{service}{path}: {reply.status_code} {reply.text}")
        answer: dict[str, Any] = reply.json()
        return answer

    # --- the background thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
            if self._listening.is_set():
                logger.exception("the sandbox failed")
        finally:
            self._listening.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        sockets = {name: _listen(getattr(self.options, f"{name}_port")) for name in self.options.only}
        smtp_socket = _listen(self.options.smtp_port) if "mail" in sockets else None
        urls: dict[str, Any] = {name: f"http://{HOST}:{sock.getsockname()[1]}" for name, sock in sockets.items()}
        if "upsampler" in urls:
            urls["upsampler_cdn"] = urls["upsampler"] + "/cdn"
            other = _listen(self.options.upsampler_other_port)
            urls["upsampler_other"] = f"http://{HOST}:{other.getsockname()[1]}"
        if smtp_socket is not None:
            urls["smtp_port"] = smtp_socket.getsockname()[1]
        self.urls = Urls(**urls)
        services = [_SERVICES[name](self.state / name, self.options.settings_of(name)) for name in self.options.only]
        servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []
        smtp_server = None
        for service in services:
            service.base_url = urls[service.name]
            listening = [sockets[service.name]]
            if isinstance(service, Upsampler):
                service.other_url = urls["upsampler_other"]
                listening.append(other)
            await service.start()
            server = uvicorn.Server(_config(service))
            servers.append((server, asyncio.create_task(server.serve(sockets=listening))))
            if isinstance(service, Mail) and smtp_socket is not None:
                smtp_server = await self._loop.create_server(partial(service.smtp, self._tls), sock=smtp_socket)
        while not all(server.started or task.done() for server, task in servers):
            await asyncio.sleep(0.005)
        self._listening.set()
        await self._stopping.wait()
        if smtp_server is not None:
            smtp_server.close()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*(task for _, task in servers), return_exceptions=True)
        for service in services:
            await service.stop()


def _listen(port: int) -> socket.socket:
    return socket.create_server((HOST, port), backlog=512)


def _config(service: SandboxService) -> uvicorn.Config:
    return uvicorn.Config(
        service.app,
        http=RememberingProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
    )
