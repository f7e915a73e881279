"""The Upsampler API over HTTP: submissions, status calls and webhooks, and which error each HTTP answer stands for.

The JSON of both wire formats is read and written in `adapters.upsampler_wire`. Rate limits, retries of jobs and
decisions about them do not belong here: they live in the limiter, the rows and the services.
"""

import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.util import Retry

from smi_pipeline.adapters.upsampler import api_format as wire_format
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    NotFound,
    PermanentError,
    RateLimited,
    RefusedError,
    TransientError,
)
from smi_pipeline.core.models import Stage, SubmitRequest, UpscaleReply, Wire

DEFAULT_RETRY_AFTER = 30.0  # seconds, when a 429 names no time
MAX_RETRY_AFTER = 3600.0  # seconds, the longest window of the API's own limits; a longer wait is taken as this


class UpsamplerClient:
    """Implements `core.ports.UpscalerPort`. Safe to share between threads; build it after a fork, not before.

    `base_url` as https://upsampler.com/api/v1. Timeouts in seconds: `read_timeout` bounds the wait for an answer, and
    then the reading of its body. Proxies and .netrc of the environment are not used and redirects are not followed:
    the key goes to `base_url` and nowhere else.
    Raises ValueError for a base URL or key that no request could be made with.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        wire: Wire,
        connect_timeout: float = 5,
        read_timeout: float = 30,
        max_reply_bytes: int = 1_000_000,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the Upsampler base URL is not an http(s) URL")
        api_key = api_key.strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the Upsampler API key contains characters that no key has")
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._wire = Wire(wire)
        self._timeout = (connect_timeout, read_timeout)
        self._max_reply_bytes = max_reply_bytes
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update(
            {"Authorization": f"Bearer {api_key}", "Accept": "application/json", "User-Agent": "smi-pipeline"}
        )
        # Without respect_retry_after_header=False, urllib3 would itself sleep through a 429 or 503 and ask again.
        once = _OnceWhenDropped(
            total=1, status=0, other=0, redirect=0, backoff_factor=0.2, respect_retry_after_header=False
        )
        self._session.mount(self._base_url, HTTPAdapter(pool_maxsize=16, max_retries=once))
        self._session.mount(f"{self._base_url}/precise-upscale", HTTPAdapter(pool_maxsize=16, max_retries=0))

    def __repr__(self) -> str:
        return f"UpsamplerClient({self._base_url!r}, wire={self._wire.value!r})"

    def close(self) -> None:
        """Closes the pooled connections."""
        self._session.close()

    def submit(self, request: SubmitRequest) -> UpscaleReply:
        """Starts one upscale, which costs credits; never repeated here. See `UpscalerPort.submit` for the errors.

        A 404, 405 or redirect says that the address is wrong, not the image: AccountError, so that a misconfigured
        base URL stops submissions instead of refunding every order. An upscale that fails at once has stage FAILED,
        possibly without an external id; any other reply has an id.
        """
        answer = self._exchange("POST", "/precise-upscale", wire_format.submission(request, self._wire))
        if not answer.ok:
            raise self._refusal(answer)
        data = wire_format.json_object(answer.body)
        if data is None:
            raise AmbiguousError("Upsampler's answer to a submission is not readable")
        reply = self._reply(data, missing=Stage.QUEUED)
        if reply.external_id is None and reply.stage is not Stage.FAILED:
            if data.get("success") is False:
                words = reply.error or "no reason given"
                raise PermanentError(reasons.REJECTED_BY_API, f"Upsampler refused the image ({words})")
            raise AmbiguousError("Upsampler's answer to a submission names no id")
        return reply

    def status(self, external_id: str) -> UpscaleReply:
        """State of one upscale now. Raises NotFound (404, 410), RateLimited, AccountError; everything else, also
        another 4xx, is a TransientError: a question that failed says nothing about the upscale."""
        if not external_id.strip("."):
            raise NotFound("Upsampler knows no upscale without an id")
        try:
            answer = self._exchange("GET", f"/status/{quote(external_id, safe='')}")
            if answer.status in (404, 410):
                raise NotFound(f"Upsampler does not know the upscale {external_id}")
            if not answer.ok:
                raise self._refusal(answer)
        except (AmbiguousError, PermanentError) as error:
            raise TransientError(str(error)) from None
        data = wire_format.json_object(answer.body)
        if data is None:
            raise TransientError(f"Upsampler's status of {external_id} is not readable")
        reply = self._reply(data, missing=Stage.PROCESSING)
        if reply.external_id not in (None, external_id):  # never deliver another customer's image
            raise TransientError(f"Upsampler answered for {reply.external_id} when asked for {external_id}")
        return reply

    def parse_webhook(self, body: bytes) -> UpscaleReply:
        """Reads a webhook of either wire; its content is a hint only. Raises RefusedError: 400 for anything that is
        not a JSON object with an id or a status, 413 when it is longer than `max_reply_bytes`."""
        if len(body) > self._max_reply_bytes:
            raise RefusedError("The webhook's body is too long.", status=413)
        data = wire_format.json_object(body)
        if data is None:
            raise RefusedError("The webhook's body is not a JSON object.")
        if not any(data.get(name) for name in ("job_id", "id", "status")):
            raise RefusedError("The webhook names neither an upscale nor a status.")
        return self._reply(data, missing=Stage.PROCESSING)

    def _exchange(self, method: str, path: str, payload: dict[str, Any] | None = None) -> "_Answer":
        """One call. Raises TransientError when the request certainly did not arrive, AmbiguousError when it may
        have. The library's own messages are left out: they carry addresses."""
        # A pooled connection that a firewall or the other side dropped unnoticed would make a submission ambiguous,
        # so each gets a fresh one. Status calls reuse theirs, and are repeated when it turns out dead.
        headers = {"Connection": "close"} if method == "POST" else None
        try:
            with self._session.request(
                method,
                self._base_url + path,
                json=payload,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return _Answer(response.status_code, response.headers, self._body(response))
        except _UnusableBody as error:
            raise AmbiguousError(f"Upsampler's answer {error}") from None
        except (requests.RequestException, urllib3_errors.HTTPError) as error:
            if _never_sent(error):
                raise TransientError(f"Upsampler cannot be reached ({_kind(error)})", counts=False) from None
            raise AmbiguousError(f"Upsampler gave no answer ({_kind(error)})") from None

    def _body(self, response: requests.Response) -> bytes:
        """The body within the size cap, and within the read timeout even when it drips. Of an error answer the
        status alone decides, so a body that cannot be read is then taken as empty."""
        until = time.monotonic() + self._timeout[1]
        body = bytearray()
        try:
            while chunk := response.raw.read1(65_536, decode_content=True):
                body += chunk
                if len(body) > self._max_reply_bytes:
                    raise _UnusableBody("is too long")
                if time.monotonic() > until:
                    raise _UnusableBody("took too long")
        except (_UnusableBody, urllib3_errors.HTTPError):
            if response.status_code < 400:
                raise
            return b""
        return bytes(body)

    def _refusal(self, answer: "_Answer") -> TransientError | PermanentError:
        """The error that a status outside 2xx stands for when it answers a submission."""
        code = answer.status
        said = self._without_key(wire_format.error_words(answer.body))
        words = f"{code}: {said}" if said else str(code)
        if code == 429:
            return RateLimited("Upsampler's rate limit is reached", retry_after=retry_after(answer.headers))
        if code in (401, 402, 403):
            return AccountError(f"Upsampler refuses the account ({words})")
        if code < 400 or code in (404, 405):
            return AccountError(f"Upsampler's API is not at the configured address ({words})")
        if code == 503:
            after = retry_after(answer.headers) if "Retry-After" in answer.headers else None
            return TransientError(f"Upsampler is unavailable ({words})", retry_after=after, counts=False)
        if code >= 500:
            return AmbiguousError(f"Upsampler failed ({words})")
        if code in (408, 425):  # about the connection, not about the image
            return TransientError(f"Upsampler did not take the request ({words})")
        return PermanentError(reasons.REJECTED_BY_API, f"Upsampler refused the image ({words})")

    def _reply(self, data: Mapping[str, Any], *, missing: Stage) -> UpscaleReply:
        reply = wire_format.reply(data, missing=missing)
        return replace(reply, error=self._without_key(reply.error)) if reply.error else reply

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "***") if self._api_key else text


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class _UnusableBody(Exception):
    """Says in words what is wrong with the body of an answer."""


class _OnceWhenDropped(Retry):
    """Repeats a call once when its connection failed, but not after a read timeout: that time is spent."""

    def increment(self, method=None, url=None, response=None, error=None, *args, **kwargs) -> Self:  # type: ignore[no-untyped-def]
        if isinstance(error, urllib3_errors.ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *args, **kwargs)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by a Retry-After header (RFC 9110: seconds, or a date, which is read against the answer's own
    Date); `DEFAULT_RETRY_AFTER` when absent or unreadable; between 1 and `MAX_RETRY_AFTER`."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        at, now = _http_date(value), _http_date(headers.get("Date", "")) or datetime.now(UTC)
        seconds = (at - now).total_seconds() if at else DEFAULT_RETRY_AFTER
    return min(MAX_RETRY_AFTER, max(1.0, seconds if math.isfinite(seconds) else DEFAULT_RETRY_AFTER))


def _http_date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _cause(error: Exception) -> Exception:
    """What urllib3 says behind an error of requests."""
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    return reason if isinstance(reason, Exception) else error


def _never_sent(error: Exception) -> bool:
    """Whether a failed request certainly never reached the server: no connection, or its certificate was refused.
    Other TLS errors may come while the answer is read, so they prove nothing."""
    cause = _cause(error)
    if isinstance(cause, urllib3_errors.NewConnectionError | urllib3_errors.ConnectTimeoutError):
        return True
    return isinstance(cause, urllib3_errors.SSLError) and any(
        isinstance(arg, ssl.SSLCertVerificationError) for arg in cause.args
    )


def _kind(error: Exception) -> str:
    name = type(_cause(error)).__name__
    return {
        "NewConnectionError": "connection refused",
        "NameResolutionError": "unknown host name",
        "ConnectTimeoutError": "connection timed out",
        "ReadTimeoutError": "timed out",
        "ProtocolError": "connection dropped",
        "IncompleteRead": "connection dropped",
        "SSLError": "TLS failure",
    }.get(name, name)
