"""Call the Upsampler API: submissions, status calls and webhooks, and the error that each HTTP answer stands for.

`api_format` reads and writes the JSON. The limiter keeps the rate limits; the services decide on retries of jobs.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.util import Retry

from smi_pipeline.adapters.retry_after import retry_after
from smi_pipeline.adapters.upsampler import api_format
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
from smi_pipeline.core.faults import Scope, scope_of_words
from smi_pipeline.core.models import ApiFormat, Stage, SubmitRequest, UpscaleReply

DEFAULT_RETRY_AFTER = 30.0  # seconds, when a 429 names no time
MAX_RETRY_AFTER = 3600.0  # seconds, the longest window of the API's own limits; a longer wait is taken as this

_NOT_PASSED_ON = frozenset({503, 521, 522, 523, 525, 526})
"""No server behind the proxy was reached; Cloudflare's words for 52x. After 502, 520 or 524 it may have been."""


class UpsamplerClient:
    """Implement `core.ports.UpscalerPort`. Safe to share between threads; build it after a fork, not before.

    `base_url` as https://upsampler.com/api/v1. Timeouts in seconds: `read_timeout` bounds the wait for an answer, and
    then the reading of its body. The environment's proxies and .netrc are not used and redirects are not followed,
    so that the key goes to `base_url` and nowhere else.
    Raises ValueError for an unusable base URL or key.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        api_format: ApiFormat,
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
        self._api_format = ApiFormat(api_format)
        self._timeout = (connect_timeout, read_timeout)
        self._max_reply_bytes = max_reply_bytes
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update(
            {"Authorization": f"Bearer {api_key}", "Accept": "application/json", "User-Agent": "smi-pipeline"}
        )
        # By default urllib3 sleeps through a 429 or 503 and repeats the call itself.
        once = _OnceWhenDropped(
            total=1, status=0, other=0, redirect=0, backoff_factor=0.2, respect_retry_after_header=False
        )
        self._session.mount(self._base_url, HTTPAdapter(pool_maxsize=16, max_retries=once))
        self._session.mount(f"{self._base_url}/precise-upscale", HTTPAdapter(pool_maxsize=16, max_retries=0))

    def __repr__(self) -> str:
        return f"UpsamplerClient({self._base_url!r}, api_format={self._api_format.value!r})"

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def submit(self, request: SubmitRequest) -> UpscaleReply:
        """Start one upscale, which costs credits; never repeated here. See `UpscalerPort.submit` for the errors.

        A page with status 200 comes from something in front of the API, which has carried nothing out.
        A 404, 405 or redirect means that the address is wrong, not the image: AccountError, so that a misconfigured
        base URL stops submissions instead of refunding every order. An upscale that fails at once has stage FAILED,
        possibly without an external id; any other reply has an id.
        """
        answer = self._exchange("POST", "/precise-upscale", api_format.submission(request, self._api_format))
        if not answer.ok:
            raise self._refusal(answer)
        if answer.page:
            raise TransientError("Upsampler's API is not reached: an HTML page answers", counts=False)
        data = api_format.json_object(answer.body)
        if data is None:
            raise AmbiguousError("Upsampler's answer to a submission is not readable")
        reply = self._reply(data, missing=Stage.QUEUED)
        if reply.stage is Stage.FAILED and scope_of_words(reply.error or "") is Scope.SHOP:
            raise AccountError(f"Upsampler refuses the account ({reply.error})")
        if reply.external_id is None and reply.stage is not Stage.FAILED:
            if data.get("success") is False:
                words = reply.error or "no reason given"
                raise PermanentError(
                    reasons.REJECTED_BY_API, f"Upsampler refused the image ({words})", scope=scope_of_words(words)
                )
            raise AmbiguousError("Upsampler's answer to a submission names no id")
        return reply

    def status(self, external_id: str) -> UpscaleReply:
        """Return the current state of one upscale. Raises NotFound (404, 410, and 403: it is not told, but others may
        be), RateLimited, AccountError (401, 402), and TransientError for everything else, other 4xx included:
        a failed call says nothing about the upscale."""
        if not external_id.strip("."):
            raise NotFound("Upsampler knows no upscale without an id")
        try:
            answer = self._exchange("GET", f"/status/{quote(external_id, safe='')}")
            if answer.status in (404, 410):
                raise NotFound(f"Upsampler does not know the upscale {external_id}")
            if answer.status == 403:
                raise NotFound(f"Upsampler does not tell the upscale {external_id} ({self._refusal(answer)})")
            if not answer.ok:
                raise self._refusal(answer)
        except (AmbiguousError, PermanentError) as error:
            raise TransientError(str(error)) from None
        data = api_format.json_object(answer.body)
        if data is None:
            raise TransientError(f"Upsampler's status of {external_id} is not readable")
        reply = self._reply(data, missing=Stage.PROCESSING)
        if reply.external_id not in (None, external_id):  # never deliver another customer's image
            raise TransientError(f"Upsampler answered for {reply.external_id} when asked for {external_id}")
        return reply

    def parse_webhook(self, body: bytes) -> UpscaleReply:
        """Return the unauthenticated content of a webhook of either API format. Raises RefusedError: 400 for anything
        but a JSON object with an id or a status, 413 for more than `max_reply_bytes`."""
        if len(body) > self._max_reply_bytes:
            raise RefusedError("The webhook's body is too long.", status=413)
        data = api_format.json_object(body)
        if data is None:
            raise RefusedError("The webhook's body is not a JSON object.")
        if not any(data.get(name) for name in ("job_id", "id", "status")):
            raise RefusedError("The webhook names neither an upscale nor a status.")
        return self._reply(data, missing=Stage.PROCESSING)

    def _exchange(self, method: str, path: str, payload: dict[str, Any] | None = None) -> "_Answer":
        """Make one call. Raises TransientError when the request certainly did not arrive, AmbiguousError when it may
        have. The messages of the library are left out: they contain addresses."""
        # A pooled connection that was dropped unnoticed would make a submission ambiguous, so each gets a new one.
        # Status calls reuse theirs and are repeated when it is dead.
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
        """Read the body within the size limit and the read timeout. Return b"" for the unreadable body of an error
        answer, where the status alone decides."""
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
        """Return the error that a status outside 2xx means in answer to a submission."""
        code = answer.status
        said = self._without_key(api_format.error_words(answer.body))
        if answer.page:
            said = said or "an HTML page"
        words = f"{code}: {said}" if said else str(code)
        if code == 429:
            return RateLimited("Upsampler's rate limit is reached", retry_after=answer.pause or DEFAULT_RETRY_AFTER)
        if code in (401, 402, 403):
            return AccountError(f"Upsampler refuses the account ({words})")
        if code < 400 or code in (404, 405):
            return AccountError(f"Upsampler's API is not at the configured address ({words})")
        if code in _NOT_PASSED_ON:
            return TransientError(f"Upsampler is unavailable ({words})", retry_after=answer.pause, counts=False)
        if code >= 500:
            return AmbiguousError(f"Upsampler failed ({words})")
        if code in (408, 425):  # about the connection, not about the image
            return TransientError(f"Upsampler did not take the request ({words})")
        return PermanentError(
            reasons.REJECTED_BY_API,
            f"Upsampler refused the image ({words})",
            scope=scope_of_words(said),
        )

    def _reply(self, data: Mapping[str, Any], *, missing: Stage) -> UpscaleReply:
        reply = api_format.reply(data, missing=missing)
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

    @property
    def page(self) -> bool:
        """Return whether an HTML page answers, of a proxy or bot protection in front of the API."""
        return api_format.is_page(self.headers.get("Content-Type", ""), self.body)

    @property
    def pause(self) -> float | None:
        """Return the seconds that the answer asks to wait, None when it names no time."""
        value, sent = (self.headers.get(name) for name in ("Retry-After", "Date"))
        return retry_after(value, sent, shortest=1, longest=MAX_RETRY_AFTER)


class _UnusableBody(Exception):
    """Raised with what is wrong with the body of an answer."""


class _OnceWhenDropped(Retry):
    """Repeat a call once when its connection failed, but not after a read timeout."""

    def increment(self, method=None, url=None, response=None, error=None, *args, **kwargs) -> Self:  # type: ignore[no-untyped-def]
        if isinstance(error, urllib3_errors.ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *args, **kwargs)


def _cause(error: Exception) -> Exception:
    """Return the urllib3 error inside an error of requests."""
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    return reason if isinstance(reason, Exception) else error


def _never_sent(error: Exception) -> bool:
    """Return whether a failed request certainly never reached the server: no connection, or a refused certificate.
    Other TLS errors may occur while the answer is read."""
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
