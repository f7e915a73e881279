"""Deliver webhooks: the faults of delivery, attempts with growing pauses, and a log. Services say what is sent."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import TYPE_CHECKING, Any

import requests

from smi_pipeline.sandbox.faults import Kind

if TYPE_CHECKING:
    from smi_pipeline.sandbox.base import SandboxService

TIMEOUT_SECONDS = 10.0
THREADS = 12
WEBHOOK_KINDS: Mapping[str, Kind] = {
    "lose_webhook": Kind(),
    "repeat_webhook": Kind(defaults={"n": 3}),
    "delay_webhook": Kind(defaults={"seconds": 5.0}),
}
_LONGEST_PAUSE_SECONDS = 60.0


class Webhooks:
    """Posts to a client's webhook endpoint, off the event loop and with keep-alive as the real services do.

    ``subject`` names what a webhook is about, in the log ``webhooks``; its ``id`` goes to the service's timer
    ``deliver``, which calls :meth:`send`.
    """

    def __init__(self, service: "SandboxService") -> None:
        self._service = service
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"{service.name}-webhook")
        self._local = local()

    def plan(self, subject: Mapping[str, Any], taken: Mapping[str, Mapping[str, Any]], *, later: float = 0) -> None:
        """Schedule the first attempt under the faults ``taken``, ``later`` seconds from now."""
        if "lose_webhook" in taken:
            self._log(subject, 0, "lost")
            return
        due = time.time() + later + taken.get("delay_webhook", {}).get("seconds", 0)
        for _ in range(taken.get("repeat_webhook", {}).get("n", 1)):
            self.resend(subject["id"], due)

    def resend(self, id: str, due: float) -> None:
        """Schedule a first attempt at ``due`` (unix seconds)."""
        self._service.timers.at(due, "deliver", id=id, attempt=1)

    async def send(
        self,
        subject: Mapping[str, Any],
        url: str,
        body: bytes,
        headers: dict[str, str],
        *,
        attempt: int,
        attempts: int,
        method: str = "POST",
    ) -> None:
        """Send once, without following redirects; schedule the next of ``attempts`` unless the response is 2xx."""
        loop = asyncio.get_running_loop()
        status, seconds = await loop.run_in_executor(self._pool, self._post, method, url, body, headers)
        self._log(subject, attempt, status, seconds)
        if not 200 <= status < 300 and attempt < attempts:
            pause = min(self._service.settings["webhook_retry_seconds"] * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
            self._service.timers.at(time.time() + pause, "deliver", id=subject["id"], attempt=attempt + 1)

    def _post(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        """Return the status (0: no response) and the seconds until the response."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # bypass a proxy of the machine
        began = time.monotonic()
        try:
            reply = session.request(
                method, url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException:
            return 0, time.monotonic() - began
        return reply.status_code, time.monotonic() - began

    def _log(self, subject: Mapping[str, Any], attempt: int, status: int | str, seconds: float = 0.0) -> None:
        entry = {"at": time.time(), **subject, "attempt": attempt, "status": status, "seconds": seconds}
        self._service.ledger.append("webhooks", entry)

    def close(self) -> None:
        """Send nothing more; a request under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
