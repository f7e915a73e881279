"""Download images from allowed hosts into temporary files: redirects, statuses, sizes.

`allowed_hosts` decides which URLs and addresses are allowed, `pinned_http` makes a single request, `adapters.images`
checks the file.
"""

import hashlib
import http.client
import ssl
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

from smi_pipeline.adapters.fetching.allowed_hosts import AllowedHosts
from smi_pipeline.adapters.fetching.bodies import LONGEST_HEAD, Decoder, encoding_of, instead_of_image
from smi_pipeline.adapters.fetching.pinned_http import PinnedHttp, Resolver, system_resolver
from smi_pipeline.adapters.retry_after import retry_after
from smi_pipeline.core import reasons
from smi_pipeline.core.errors import PermanentError, RefusedError, TransientError
from smi_pipeline.core.models import Fetched

MAX_REDIRECTS = 5
MAX_RETRY_AFTER = 900.0
_CHUNK = 64 * 1024
_TEMPORARY_PREFIX = "smi-fetch-"
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT_STATUS = {408, 425, 429}
_UNREACHABLE = {"source": reasons.SOURCE_UNREACHABLE, "result": reasons.RESULT_UNREACHABLE}
_TOO_LARGE = {"source": reasons.SOURCE_TOO_LARGE, "result": reasons.RESULT_REJECTED}
_NOUN = {"source": "image", "result": "upscaled image"}


class HttpFetcher:
    """Implement `core.ports.FetcherPort`.

    `allowed_source_hosts` and `allowed_result_hosts` are exact host names, or `http://127.0.0.1:PORT`; ValueError for
    anything else, and an empty list refuses every URL. Timeouts in seconds; `total_timeout` covers one `fetch` with all
    its redirects. `resolver` and `tls_context` replace the system's, for tests and private authorities; `http` replaces
    the whole client.
    """

    def __init__(
        self,
        allowed_source_hosts: Iterable[str],
        allowed_result_hosts: Iterable[str],
        temp_dir: Path,
        connect_timeout: float = 5,
        read_timeout: float = 20,
        total_timeout: float = 60,
        *,
        resolver: Resolver = system_resolver,
        tls_context: ssl.SSLContext | None = None,
        http: PinnedHttp | None = None,
    ) -> None:
        self._hosts = {
            "source": AllowedHosts(allowed_source_hosts, "SMI_ALLOWED_SOURCE_HOSTS"),
            "result": AllowedHosts(allowed_result_hosts, "SMI_ALLOWED_RESULT_HOSTS"),
        }
        self._temp_dir = Path(temp_dir)
        self._total_timeout = total_timeout
        self._http = http or PinnedHttp(
            connect_timeout=connect_timeout, read_timeout=read_timeout, resolver=resolver, tls_context=tls_context
        )

    @contextmanager
    def fetch(self, url: str, *, kind: str, max_bytes: int) -> Iterator[Fetched]:
        """Stream `url` into a temporary file that lives as long as the context; `kind` is 'source' or 'result'.

        A gzip or deflate body is decoded, although none is asked for. Raises PermanentError for a refused URL or
        address, a status that says the file is not there, an empty body, a page or a message instead of an image
        (source: source_unreachable, result: result_unreachable) and a body over `max_bytes` when decoded (source:
        source_too_large, result: result_rejected); TransientError for every failure that may pass.
        """
        path = self._temporary()
        try:
            with path.open("wb") as file:
                fetched = self._follow(url, kind, max_bytes, file, path)
            yield fetched
        finally:
            path.unlink(missing_ok=True)

    def sweep(self, older_than_seconds: float = 3600) -> int:
        """Remove temporary files that a killed process left behind, and return how many."""
        removed = 0
        for path in self._temp_dir.glob(f"{_TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - older_than_seconds:
                    path.unlink()
                    removed += 1
        return removed

    def _temporary(self) -> Path:
        try:
            self._temp_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._temp_dir, prefix=_TEMPORARY_PREFIX, delete=False) as file:
                return Path(file.name)
        except OSError as error:
            raise TransientError(f"No temporary file for a download: {error.strerror}.", counts=False) from error

    def _follow(self, url: str, kind: str, max_bytes: int, file: BinaryIO, path: Path) -> Fetched:
        deadline = time.monotonic() + self._total_timeout
        for _ in range(MAX_REDIRECTS + 1):
            try:
                checked = self._hosts[kind].check(url)
                with self._http.get(checked, deadline) as response:
                    if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                        url = _target(str(checked), location)
                        continue
                    self._check_status(response, checked.host, kind)
                    size, digest = self._receive(response, checked.host, kind, max_bytes, file)
            except RefusedError as error:
                raise PermanentError(_UNREACHABLE[kind], str(error)) from None
            return Fetched(path=path, bytes=size, sha256=digest)
        raise PermanentError(_UNREACHABLE[kind], f"The {_NOUN[kind]}'s URL redirects more than {MAX_REDIRECTS} times.")

    def _check_status(self, response: http.client.HTTPResponse, host: str, kind: str) -> None:
        status = response.status
        said = f"The {_NOUN[kind]} could not be fetched: {host} answered {status}."
        if status in _TRANSIENT_STATUS or status >= 500:
            headers = response.headers
            pause = retry_after(headers.get("Retry-After"), headers.get("Date"), longest=MAX_RETRY_AFTER)
            raise TransientError(said, retry_after=pause, counts=status != 429)
        if 300 <= status < 500:
            raise PermanentError(_UNREACHABLE[kind], said)
        if status not in (200, 203, 204, 205):
            raise TransientError(said)

    def _receive(
        self, response: http.client.HTTPResponse, host: str, kind: str, max_bytes: int, file: BinaryIO
    ) -> tuple[int, str]:
        """Stream the body into `file`; return its size and SHA-256."""
        encoding = encoding_of(*(response.headers.get(name, "") for name in ("Content-Encoding", "Transfer-Encoding")))
        if not Decoder.can_decode(encoding):
            raise PermanentError(_UNREACHABLE[kind], f"{host} sent the {_NOUN[kind]} encoded as {encoding[:20]!r}.")
        decoder = Decoder(encoding)
        announced = None if response.chunked else _content_length(response)
        too_large = PermanentError(_TOO_LARGE[kind], f"The {_NOUN[kind]} is larger than {max_bytes:,} bytes.")
        sent_limit = max_bytes + (
            max_bytes // 100 + 1000 if encoding else 0
        )  # what cannot be compressed grows a little
        if announced is not None and announced > sent_limit:
            raise too_large
        digest, size, received, head = hashlib.sha256(), 0, 0, b""
        # read1 returns what has arrived, so that the limit holds at once. Nothing is read beyond the announced length:
        # a server may keep the connection open in spite of our `Connection: close`.
        while announced is None or received < announced:
            block = response.read1(_CHUNK if announced is None else min(_CHUNK, announced - received))
            if not block:
                break
            received += len(block)
            if received > sent_limit:
                raise too_large
            try:
                for piece in decoder.pieces(block):
                    size += len(piece)
                    if size > max_bytes:
                        raise too_large
                    head = head or piece[:LONGEST_HEAD]
                    digest.update(piece)
                    _write(file, piece)
            except zlib.error:
                raise TransientError(f"{host} sent the {_NOUN[kind]} as {encoding} that cannot be decoded.") from None
        _write(file, b"")
        if announced is not None and received != announced:
            raise TransientError(f"{host} sent {received:,} of {announced:,} bytes of the {_NOUN[kind]}.")
        if not decoder.complete:
            raise TransientError(f"{host} sent the {_NOUN[kind]} as {encoding} that breaks off.")
        if size == 0:
            raise PermanentError(_UNREACHABLE[kind], f"The {_NOUN[kind]} at {host} is empty.")
        if other := instead_of_image(response.headers.get("Content-Type", ""), head):
            raise PermanentError(_UNREACHABLE[kind], f"{host} sent {other} instead of the {_NOUN[kind]}.")
        return size, digest.hexdigest()


def _write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        if not block:
            file.flush()
    except OSError as error:
        raise TransientError(f"The download could not be written to disk: {error.strerror}.", counts=False) from error


def _target(base: str, location: str) -> str:
    """Return the URL that a redirect leads to. Raises RefusedError when it is not a URL."""
    # http.client reads headers as latin-1; servers that do not escape a path send UTF-8.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(base, location)
    except ValueError:
        raise RefusedError("The image's URL redirects to something that is not a URL.") from None


def _content_length(response: http.client.HTTPResponse) -> int | None:
    values = {value.strip() for value in response.headers.get_all("Content-Length", [])}
    if not values:
        return None
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise http.client.HTTPException("unreadable Content-Length")
    return int(value)
