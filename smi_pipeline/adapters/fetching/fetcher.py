"""Download images from allowed hosts into temporary files: redirects, statuses, sizes.

`allowed_hosts` decides which URLs and addresses are allowed, `pinned_http` makes a single request, `adapters.images`
checks the file.
"""

import http.client
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin

from smi_pipeline.adapters.fetching.allowed_hosts import AllowedHosts
from smi_pipeline.adapters.fetching.pinned_http import ConnectionLost, PinnedHttp, Resolver, system_resolver
from smi_pipeline.adapters.fetching.receiving import NOUN, UNREACHABLE, Body, length_of_whole
from smi_pipeline.adapters.fetching.time_allowed import LONGEST_SECONDS, STALL_SECONDS, TimeAllowed
from smi_pipeline.adapters.retry_after import retry_after
from smi_pipeline.core.errors import LocalError, PermanentError, RefusedError, TransientError
from smi_pipeline.core.models import Fetched

MAX_REDIRECTS = 5
MAX_RESUMPTIONS, RESUME_PAUSE = 8, 1.0  # the first one at once, each further one a second later
MAX_RETRY_AFTER = 900.0
_TEMPORARY_PREFIX = "smi-fetch-"
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT_STATUS = {408, 425, 429}


class HttpFetcher:
    """Implement `core.ports.FetcherPort`.

    `allowed_source_hosts` and `allowed_result_hosts` are exact host names, or `http://127.0.0.1:PORT`; ValueError for
    anything else, and an empty list refuses every URL. Timeouts in seconds: `total_timeout` covers one `fetch` with all
    its redirects, and grows with what arrives up to `longest`; `stall_timeout` ends a body that stands still
    (`time_allowed`). `resolver` and `tls_context` replace the system's, for tests and private authorities; `http`
    replaces the whole client.
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
        stall_timeout: float = STALL_SECONDS,
        longest: float = LONGEST_SECONDS,
        resolver: Resolver = system_resolver,
        tls_context: ssl.SSLContext | None = None,
        nat64_prefixes: Iterable[str] = (),
        http: PinnedHttp | None = None,
    ) -> None:
        self._hosts = {
            "source": AllowedHosts(allowed_source_hosts, "SMI_ALLOWED_SOURCE_HOSTS"),
            "result": AllowedHosts(allowed_result_hosts, "SMI_ALLOWED_RESULT_HOSTS"),
        }
        self._temp_dir = Path(temp_dir)
        self._total_timeout, self._stall_timeout, self._longest = total_timeout, stall_timeout, longest
        self._http = http or PinnedHttp(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            resolver=resolver,
            tls_context=tls_context,
            nat64_prefixes=nat64_prefixes,
        )

    @contextmanager
    def fetch(self, url: str, *, kind: str, max_bytes: int, seconds: float | None = None) -> Iterator[Fetched]:
        """Stream `url` into a temporary file that lives as long as the context; `kind` is 'source' or 'result'.
        `seconds`: give up after so long, whatever arrives.

        A gzip or deflate body is decoded, although none is asked for. A connection that breaks off is resumed where the
        host can. Raises PermanentError for a refused URL or address, a status that says the file is not there, an empty
        body, a page or a message instead of an image (source: source_unreachable, result: result_unreachable) and a
        body over `max_bytes` when decoded (source: source_too_large, result: result_rejected); TransientError for every
        failure that may pass.
        """
        longest = self._longest if seconds is None else min(seconds, self._longest)
        allowed = TimeAllowed(min(self._total_timeout, longest), stall=self._stall_timeout, longest=longest)
        path = self._temporary()
        try:
            with path.open("wb") as file:
                body = Body(file, kind=kind, max_bytes=max_bytes)
                self._follow(url, body, kind, allowed)
            yield Fetched(path=path, bytes=body.size, sha256=body.sha256)
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
            raise LocalError(f"No temporary file for a download: {error.strerror}.", retry_after=60.0) from error

    def _follow(self, url: str, body: Body, kind: str, allowed: TimeAllowed) -> None:
        redirects = resumed = 0
        while True:
            try:
                checked = self._hosts[kind].check(url)
                with self._http.get(checked, allowed, body.request_headers()) as response:
                    if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                        url = _target(str(checked), location)
                        redirects += 1
                    else:
                        self._check_status(response, checked.host, kind, part=body.resumable)
                        body.receive(response, checked.host, allowed)
                        return
            except RefusedError as error:
                raise PermanentError(UNREACHABLE[kind], str(error)) from None
            except ConnectionLost:
                if not body.resumable or resumed >= MAX_RESUMPTIONS:
                    raise
                time.sleep(RESUME_PAUSE * min(resumed, 5))
                resumed += 1
            if redirects > MAX_REDIRECTS:
                words = f"The {NOUN[kind]}'s URL redirects more than {MAX_REDIRECTS} times."
                raise PermanentError(UNREACHABLE[kind], words)

    def _check_status(self, response: http.client.HTTPResponse, host: str, kind: str, *, part: bool) -> None:
        status = response.status
        said = f"The {NOUN[kind]} could not be fetched: {host} answered {status}."
        if status in _TRANSIENT_STATUS or status >= 500:
            headers = response.headers
            pause = retry_after(headers.get("Retry-After"), headers.get("Date"), longest=MAX_RETRY_AFTER)
            raise TransientError(said, retry_after=pause, counts=status != 429)
        if part and 300 <= status < 500:  # it was there a moment ago
            raise TransientError(said)
        if 300 <= status < 500:
            raise PermanentError(UNREACHABLE[kind], said)
        whole = status == 206 and length_of_whole(response.headers) is not None
        if status not in (200, 203, 204, 205) and not whole and not (part and status == 206):
            raise TransientError(said)


def _target(base: str, location: str) -> str:
    """Return the URL that a redirect leads to. Raises RefusedError when it is not a URL."""
    # http.client reads headers as latin-1; servers that do not escape a path send UTF-8.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(base, location)
    except ValueError:
        raise RefusedError("The image's URL redirects to something that is not a URL.") from None
