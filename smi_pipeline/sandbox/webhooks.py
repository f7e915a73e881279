"""Send webhooks off the event loop. What is sent, when and how often is up to the services."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import local

import requests

TIMEOUT_SECONDS = 10.0
THREADS = 12


class WebhookSender:
    """Posts to a client's webhook endpoint, with keep-alive as the real services do."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"{name}-webhook")
        self._local = local()

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        """POST without following redirects; return the status (0: no response) and the seconds until the response."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._post, url, body, headers)

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # bypass a proxy of the machine
        began = time.monotonic()
        try:
            reply = session.post(url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException:
            return 0, time.monotonic() - began
        return reply.status_code, time.monotonic() - began

    def close(self) -> None:
        """Send nothing more; a request under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
