"""Receive one body into a file, over as many connections as it takes: limits, encodings, resumption by Range."""

import hashlib
import http.client
import re
import zlib
from typing import BinaryIO

from smi_pipeline.adapters.fetching.bodies import LONGEST_HEAD, Decoder, encoding_of, instead_of_image
from smi_pipeline.adapters.fetching.pinned_http import ConnectionLost
from smi_pipeline.adapters.fetching.time_allowed import TimeAllowed
from smi_pipeline.adapters.retry_after import http_date
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import LocalError, PermanentError, TransientError

UNREACHABLE = {"source": reasons.SOURCE_UNREACHABLE, "result": reasons.RESULT_UNREACHABLE}
NOUN = {"source": "image", "result": "upscaled image"}
_TOO_LARGE = {"source": reasons.SOURCE_TOO_LARGE, "result": reasons.RESULT_REJECTED}
_CHUNK = 64 * 1024
_PART = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]*"')
_SURE_AFTER = 60.0
"""A time of change is a strong validator when it lies so many seconds before the answer (RFC 9110, 8.8.2.2)."""


class Body:
    """One body on its way into `file`. `kind` is 'source' or 'result'; over `max_bytes` it is refused."""

    def __init__(self, file: BinaryIO, *, kind: str, max_bytes: int) -> None:
        self._file, self._kind, self._max_bytes = file, kind, max_bytes
        self._begin()

    def _begin(self) -> None:
        self._digest, self.size, self._received, self._head = hashlib.sha256(), 0, 0, b""
        self._encoding = self._media_type = self._validator = ""
        self._total: int | None = None
        self._decoder = Decoder("")

    @property
    def sha256(self) -> str:
        """The hash of what was received, decoded."""
        return self._digest.hexdigest()

    @property
    def resumable(self) -> bool:
        """Whether the rest can be asked for: a part is there, and the host has named its version."""
        return self._received > 0 and bool(self._validator)

    def request_headers(self) -> dict[str, str]:
        """Return what asks for the rest if it is still the same version, else for the whole."""
        if not self.resumable:
            return {}
        return {"Range": f"bytes={self._received}-", "If-Range": self._validator}

    def receive(self, response: http.client.HTTPResponse, host: str, allowed: TimeAllowed) -> None:
        """Read an answer to its end. A whole one replaces what is there. Raises ConnectionLost when it breaks off."""
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and self.resumable:
            self._go_on(response, host)
        else:
            self._start_anew(response, host)
        until = self._total
        if until is not None and until > self._sent_limit():
            raise self._too_large()
        allowed.receiving()
        # read1 returns what has arrived, so that the limit holds at once. Nothing is read beyond the announced length:
        # a server may keep the connection open in spite of our `Connection: close`.
        while until is None or self._received < until:
            block = response.read1(_CHUNK if until is None else min(_CHUNK, until - self._received))
            if not block:
                break
            allowed.arrived(len(block))
            self._take(block, host)
        _write(self._file, b"")
        noun = NOUN[self._kind]
        if until is not None and self._received != until:
            raise ConnectionLost(f"{host} sent {self._received:,} of {until:,} bytes of the {noun}.")
        if not self._decoder.complete:
            raise TransientError(f"{host} sent the {noun} as {self._encoding} that breaks off.")
        if self.size == 0:
            raise PermanentError(UNREACHABLE[self._kind], f"The {noun} at {host} is empty.")
        if other := instead_of_image(self._media_type, self._head):
            raise PermanentError(UNREACHABLE[self._kind], f"{host} sent {other} instead of the {noun}.")

    def _start_anew(self, response: http.client.HTTPResponse, host: str) -> None:
        if self._received:
            self._file.seek(0)
            self._file.truncate()
        self._begin()
        headers = response.headers
        self._encoding = encoding_of(*(headers.get(name, "") for name in ("Content-Encoding", "Transfer-Encoding")))
        if not Decoder.can_decode(self._encoding):
            words = f"{host} sent the {NOUN[self._kind]} encoded as {self._encoding[:20]!r}."
            raise PermanentError(UNREACHABLE[self._kind], words)
        self._decoder = Decoder(self._encoding)
        self._media_type = headers.get("Content-Type", "")
        self._total = None if response.chunked else _content_length(response)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            self._total = length_of_whole(headers)
        if not self._encoding and headers.get("Accept-Ranges", "").strip().lower() != "none":
            self._validator = _validator(headers)

    def _go_on(self, response: http.client.HTTPResponse, host: str) -> None:
        """Accept a part only if it is the one that was asked for."""
        headers = response.headers
        part = _PART.fullmatch(headers.get("Content-Range", "").strip())
        start, last, total = (part[1], part[2], part[3]) if part else ("", "", "")
        same = (
            part is not None
            and int(start) == self._received <= int(last)
            and total != "*"
            and int(last) < int(total)
            and self._total in (None, int(total))
            and not encoding_of(headers.get("Content-Encoding", ""), "")
        )
        if self._validator.startswith('"'):
            same = same and headers.get("ETag", self._validator).strip() == self._validator
        if not same:
            raise TransientError(f"{host} sent another part of the {NOUN[self._kind]} than was asked for.")
        self._total = int(total)

    def _take(self, block: bytes, host: str) -> None:
        self._received += len(block)
        if self._received > self._sent_limit():
            raise self._too_large()
        try:
            for piece in self._decoder.pieces(block):
                self.size += len(piece)
                if self.size > self._max_bytes:
                    raise self._too_large()
                self._head = self._head or piece[:LONGEST_HEAD]
                self._digest.update(piece)
                _write(self._file, piece)
        except zlib.error:
            words = f"{host} sent the {NOUN[self._kind]} as {self._encoding} that cannot be decoded."
            raise TransientError(words) from None

    def _sent_limit(self) -> int:
        # What cannot be compressed grows a little.
        return self._max_bytes + (self._max_bytes // 100 + 1000 if self._encoding else 0)

    def _too_large(self) -> PermanentError:
        words = f"The {NOUN[self._kind]} is larger than {self._max_bytes:,} bytes."
        return PermanentError(_TOO_LARGE[self._kind], words)


def _write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        if not block:
            file.flush()
    except OSError as error:
        raise LocalError(f"The download could not be written to disk: {error.strerror}.", retry_after=60.0) from error


def length_of_whole(headers: http.client.HTTPMessage) -> int | None:
    """Return the length of a body whose `Content-Range` says that it is the whole file, None for any other. Some hosts
    answer a plain request by 206; a part says itself what it is (RFC 9110, 15.3.7)."""
    part = _PART.fullmatch(headers.get("Content-Range", "").strip())
    whole = part is not None and int(part[1]) == 0 and part[3] != "*" and int(part[2]) + 1 == int(part[3])
    return int(part[3]) if part and whole else None


def _validator(headers: http.client.HTTPMessage) -> str:
    """Return what names the version of a body for sure; empty when nothing does."""
    tag = headers.get("ETag", "").strip()
    if _STRONG_TAG.fullmatch(tag):
        return tag
    if tag:  # a weak one: the bytes may differ
        return ""
    changed = headers.get("Last-Modified", "").strip()
    at, sent = http_date(changed), http_date(headers.get("Date"))
    return changed if at and sent and (sent - at).total_seconds() >= _SURE_AFTER else ""


def _content_length(response: http.client.HTTPResponse) -> int | None:
    values = {value.strip() for value in response.headers.get_all("Content-Length", [])}
    if not values:
        return None
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise http.client.HTTPException("unreadable Content-Length")
    return int(value)
