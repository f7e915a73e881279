"""Idempotency keys as in Stripe's API (https://docs.stripe.com/api/idempotent_requests).

The first response to a key is replayed for 24 hours, also if it was a 500; the same key with other parameters is
refused.
"""

import hashlib
import json
from typing import Any

from starlette.responses import Response

from smi_pipeline.sandbox.ledger import Ledger
from smi_pipeline.sandbox.stripe.forms import Params, StripeError

KEY_LIFE_SECONDS = 24 * 3600


class Idempotency:
    """Stores and replays responses by idempotency key."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def replay(self, key: str, path: str, params: Params, now: float) -> Response | None:
        """Return the response to this key, or None if it is new. Raises StripeError if the parameters differ."""
        kept = self._ledger.get("idempotency", key)
        if kept is None or now - kept["created"] > KEY_LIFE_SECONDS:
            return None
        if kept["path"] != path or kept["fingerprint"] != _fingerprint(params):
            message = (
                f"Keys for idempotent requests can only be used with the same parameters they were first used "
                f"with. Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise StripeError(message, type="idempotency_error")
        reply = Response(kept["body"], status_code=kept["status"], media_type="application/json")
        reply.headers["Idempotent-Replayed"] = "true"
        if kept["status"] >= 500:
            reply.headers["Stripe-Should-Retry"] = "false"  # it would be replayed again
        return reply

    def keep(self, key: str, path: str, params: Params, now: float, reply: Response) -> None:
        """Store a response. ``now`` in unix seconds of the service's clock."""
        record: dict[str, Any] = {
            "path": path,
            "fingerprint": _fingerprint(params),
            "created": now,
            "status": reply.status_code,
            "body": bytes(reply.body).decode(),
        }
        self._ledger.put("idempotency", key, record)

    def overwrite(self, key: str, reply: Response) -> None:
        """Replace the stored response by the error that was sent instead."""
        if self._ledger.get("idempotency", key) is not None:
            body = bytes(reply.body).decode()
            self._ledger.update("idempotency", key, status=reply.status_code, body=body)


def _fingerprint(params: Params) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
