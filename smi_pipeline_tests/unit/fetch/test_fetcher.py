"""Fetching from real servers on loopback."""

import gzip
import hashlib
import os
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from smi_pipeline.adapters.fetching.fetcher import MAX_REDIRECTS, HttpFetcher
from smi_pipeline.core.errors import PermanentError, TransientError
from smi_pipeline.core.faults import Scope
from smi_pipeline.core.models import Fetched
from smi_pipeline_tests.unit.fetch.servers import PUBLIC, Loopback, Origin, serving

IMAGE = os.urandom(200_000)
Make = Callable[..., HttpFetcher]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(Origin()) as origin:
        yield origin


@pytest.fixture
def temp_dir(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def make(origin: Origin, temp_dir: Path) -> Make:
    def make(**settings: Any) -> HttpFetcher:
        defaults: dict[str, Any] = {
            "allowed_source_hosts": [origin.url],
            "allowed_result_hosts": [origin.url],
            "temp_dir": temp_dir,
            "connect_timeout": 1,
            "read_timeout": 1,
            "total_timeout": 5,
        }
        return HttpFetcher(**(defaults | settings))

    return make


def get(fetcher: HttpFetcher, url: str, kind: str = "source", max_bytes: int = 10_000_000) -> Fetched:
    with fetcher.fetch(url, kind=kind, max_bytes=max_bytes) as fetched:
        return fetched


def test_a_file_is_fetched_whole_and_gone_after_use(make: Make, origin: Origin, temp_dir: Path) -> None:
    origin.on("/a.png", IMAGE, Content_Type="image/png; charset=binary")
    with make().fetch(f"{origin.url}/a.png", kind="source", max_bytes=len(IMAGE)) as fetched:
        assert fetched.path.read_bytes() == IMAGE
        assert fetched.path.stat().st_mode & 0o077 == 0
        assert fetched.bytes == len(IMAGE)
        assert fetched.sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert list(temp_dir.iterdir()) == []


def test_the_temporary_file_goes_also_when_the_user_fails_or_moves_it(
    make: Make, origin: Origin, temp_dir: Path
) -> None:
    origin.on("/a.png", IMAGE)
    with pytest.raises(ZeroDivisionError), make().fetch(f"{origin.url}/a.png", kind="source", max_bytes=10**6):
        raise ZeroDivisionError
    with make().fetch(f"{origin.url}/a.png", kind="source", max_bytes=10**6) as fetched:
        fetched.path.unlink()
    assert list(temp_dir.iterdir()) == []


def test_the_request_is_plain_and_ignores_proxies_and_credentials_of_the_environment(
    make: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    origin.on("/a.png", IMAGE, Set_Cookie="a=b")
    fetcher = make()
    get(fetcher, f"{origin.url}/a.png")
    get(fetcher, f"{origin.url}/a.png#fragment")
    for path, headers in origin.requests:
        assert path == "/a.png"
        assert headers["Host"] == f"127.0.0.1:{origin.port}"
        assert headers["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_a_chunked_body_is_fetched_whole(make: Make, origin: Origin) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    origin.raw("/a", head, b"5\r\nhello\r\n", b"6\r\n world\r\n", b"0\r\n\r\n", pause=0.01)
    assert get(make(), f"{origin.url}/a").sha256 == hashlib.sha256(b"hello world").hexdigest()


def test_a_body_without_a_length_ends_with_the_connection(make: Make, origin: Origin) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert get(make(), f"{origin.url}/a").bytes == 5


def test_a_server_that_keeps_the_connection_open_is_not_waited_for(make: Make, origin: Origin) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", stay=10)
    started = time.monotonic()
    assert get(make(), f"{origin.url}/a").bytes == 5
    assert time.monotonic() - started < 5


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(make: Make, origin: Origin, status: int) -> None:
    origin.on("/a", b"moved", status=status, Location="/folder/b?x=1")
    origin.on("/folder/b?x=1", IMAGE)
    fetched = get(make(), f"{origin.url}/a")
    assert (fetched.bytes, origin.requests[-1][0]) == (len(IMAGE), "/folder/b?x=1")


def test_five_redirects_are_followed_and_a_sixth_is_not(make: Make, origin: Origin) -> None:
    for number in range(MAX_REDIRECTS + 1):
        origin.on(f"/{number}", status=302, Location=f"/{number + 1}")
    origin.on(f"/{MAX_REDIRECTS + 1}", IMAGE)
    assert get(make(), f"{origin.url}/1").bytes == len(IMAGE)
    with pytest.raises(PermanentError, match="more than 5 times") as caught:
        get(make(), f"{origin.url}/0")
    assert caught.value.reason == "source_unreachable"


def test_a_redirect_loop_ends(make: Make, origin: Origin) -> None:
    origin.on("/a", status=302, Location="/a")
    with pytest.raises(PermanentError, match="redirects"):
        get(make(), f"{origin.url}/a")
    assert len(origin.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/", "//evil.example/", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        "http://127.0.0.1:1/", "http://localhost/", "https://user@evil.example/", "http://[::1]/", "http://[",
        "\\\\evil", "http://2130706433/", "ftp://127.0.0.1/",
    ],
)  # fmt: skip
def test_a_redirect_to_a_place_that_is_not_allowed_is_refused(make: Make, origin: Origin, location: str) -> None:
    origin.on("/a", status=302, Location=location)
    with pytest.raises(PermanentError) as caught:
        get(make(), f"{origin.url}/a", kind="result")
    assert caught.value.reason == "result_unreachable"
    assert len(origin.requests) == 1


def test_a_redirect_to_another_server_of_this_machine_is_refused(make: Make, origin: Origin) -> None:
    with serving(Origin()) as inside:
        origin.on("/a", status=302, Location=f"{inside.url}/secret")
        inside.on("/secret", b"secret")
        with pytest.raises(PermanentError):
            get(make(), f"{origin.url}/a")
        assert inside.connections == 0


def test_a_redirect_with_an_unescaped_utf8_path_is_followed(make: Make, origin: Origin) -> None:
    origin.raw("/a", "HTTP/1.1 302 Found\r\nLocation: /Köln.png\r\nContent-Length: 0\r\n\r\n".encode())
    origin.on("/K%C3%B6ln.png", IMAGE)
    assert get(make(), f"{origin.url}/a").bytes == len(IMAGE)


# Statuses


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 300, 304, 302])
@pytest.mark.parametrize(("kind", "reason"), [("source", "source_unreachable"), ("result", "result_unreachable")])
def test_a_status_that_says_the_file_is_not_there_is_final(
    make: Make, origin: Origin, status: int, kind: str, reason: str
) -> None:
    origin.on("/a", status=status)
    with pytest.raises(PermanentError, match=str(status)) as caught:
        get(make(), f"{origin.url}/a", kind=kind)
    assert caught.value.reason == reason


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 206])
def test_a_status_that_may_pass_is_worth_another_try(make: Make, origin: Origin, status: int) -> None:
    origin.on("/a", b"busy", status=status)
    with pytest.raises(TransientError, match=str(status)) as caught:
        get(make(), f"{origin.url}/a")
    assert caught.value.counts is (status != 429)
    assert caught.value.retry_after is None


def test_a_part_that_is_the_whole_file_is_taken(make: Make, origin: Origin) -> None:
    origin.on("/a", b"picture", status=206, Content_Range="bytes 0-6/7")
    fetched = get(make(), f"{origin.url}/a")
    assert (fetched.bytes, fetched.sha256) == (7, hashlib.sha256(b"picture").hexdigest())


@pytest.mark.parametrize(
    "content_range", ["bytes 0-6/8", "bytes 1-7/8", "bytes 0-6/*", "bytes 0-7/8", "bytes */7", "items 0-6/7"]
)
def test_a_part_that_is_not_the_whole_file_is_worth_another_try(make: Make, origin: Origin, content_range: str) -> None:
    origin.on("/a", b"picture", status=206, Content_Range=content_range)
    with pytest.raises(TransientError):
        get(make(), f"{origin.url}/a")


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("999999", 900, 900),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("in 100 seconds", 60, 100),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(
    make: Make, origin: Origin, value: str, low: float, high: float
) -> None:
    if value == "in 100 seconds":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    origin.on("/a", status=503, Retry_After=value)
    with pytest.raises(TransientError) as caught:
        get(make(), f"{origin.url}/a")
    assert caught.value.retry_after is not None
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("value", ["soon", "-5", "", "²", "Wed, 99 Oct 2015"])
def test_an_unreadable_retry_after_is_ignored(make: Make, origin: Origin, value: str) -> None:
    origin.raw("/a", f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(TransientError) as caught:
        get(make(), f"{origin.url}/a")
    assert caught.value.retry_after is None


# Bodies


@pytest.mark.parametrize(("kind", "reason"), [("source", "source_too_large"), ("result", "result_rejected")])
def test_a_body_announced_too_large_is_refused_without_reading_it(
    make: Make, origin: Origin, kind: str, reason: str
) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\nContent-Length: 10000001\r\n\r\n", stay=10)
    started = time.monotonic()
    with pytest.raises(PermanentError, match="larger than 10,000,000 bytes") as caught:
        get(make(), f"{origin.url}/a", kind=kind)
    assert caught.value.reason == reason
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_grows_too_large_is_cut_off_while_streaming(
    make: Make, origin: Origin, temp_dir: Path, chunked: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * chunked + b"\r\n"
    block = b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536
    origin.raw("/a", head, *([block] * 200))
    with pytest.raises(PermanentError, match="larger than 100,000 bytes") as caught:
        get(make(), f"{origin.url}/a", max_bytes=100_000)
    assert caught.value.reason == "source_too_large"
    assert list(temp_dir.iterdir()) == []


def test_a_body_of_exactly_the_limit_passes(make: Make, origin: Origin) -> None:
    origin.on("/a", b"x" * 100)
    assert get(make(), f"{origin.url}/a", max_bytes=100).bytes == 100


@pytest.mark.parametrize(("kind", "reason"), [("source", "source_unreachable"), ("result", "result_unreachable")])
@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_body_is_not_there_now(make: Make, origin: Origin, kind: str, reason: str, status: int) -> None:
    origin.on("/a", b"", status=status)
    with pytest.raises(PermanentError, match="is empty") as caught:
        get(make(), f"{origin.url}/a", kind=kind)
    assert caught.value.reason == reason


def test_a_body_shorter_than_announced_is_worth_another_try(make: Make, origin: Origin) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"x" * 60)
    with pytest.raises(TransientError, match="60 of 100 bytes"):
        get(make(), f"{origin.url}/a")


def test_a_chunked_body_that_breaks_off_is_worth_another_try(make: Make, origin: Origin) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nxxxx")
    with pytest.raises(TransientError):
        get(make(), f"{origin.url}/a")


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("kind", ["source", "result"])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-Gzip", gzip.compress),
        ("identity, gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:999]) + gzip.compress(body[999:])),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
    ],
    ids=["gzip", "x-gzip", "in a list", "in two members", "deflate", "deflate without a header"],
)
def test_an_encoded_body_is_decoded_although_none_was_asked_for(
    make: Make, origin: Origin, kind: str, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    origin.on("/a", pack(IMAGE), Content_Encoding=encoding)
    with make().fetch(f"{origin.url}/a", kind=kind, max_bytes=len(IMAGE)) as fetched:
        assert fetched.path.read_bytes() == IMAGE
    assert (fetched.bytes, fetched.sha256) == (len(IMAGE), hashlib.sha256(IMAGE).hexdigest())


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 200])
def test_an_encoding_that_nobody_asked_for_is_not_there_now(make: Make, origin: Origin, encoding: str) -> None:
    origin.on("/a", IMAGE, Content_Encoding=encoding)
    with pytest.raises(PermanentError, match="encoded as") as caught:
        get(make(), f"{origin.url}/a")
    assert caught.value.reason == "source_unreachable"


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(IMAGE)[:1000], gzip.compress(IMAGE)[:-9]])
def test_an_encoded_body_that_cannot_be_decoded_is_worth_another_try(
    make: Make, origin: Origin, temp_dir: Path, body: bytes
) -> None:
    origin.on("/a", body, Content_Encoding="gzip")
    with pytest.raises(TransientError, match="gzip"):
        get(make(), f"{origin.url}/a")
    assert list(temp_dir.iterdir()) == []


@pytest.mark.parametrize(("kind", "reason"), [("source", "source_too_large"), ("result", "result_rejected")])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_unpacked_up_to_the_limit_and_no_further(
    make: Make, origin: Origin, temp_dir: Path, kind: str, reason: str, encoding: str
) -> None:
    content = bytes(50_000_000)
    bomb = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    origin.on("/announced", bomb, Content_Encoding=encoding)
    tracemalloc.start()
    with pytest.raises(PermanentError, match="larger than 3,000,000 bytes") as caught:
        get(make(), f"{origin.url}/announced", kind=kind, max_bytes=3_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == reason
    assert peak < 3_000_000, "no more is unpacked at once than is written"
    assert list(temp_dir.iterdir()) == []


def test_a_bomb_without_an_encoding_or_as_a_transfer_is_never_unpacked(make: Make, origin: Origin) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    origin.on("/bare", bomb, Content_Type="image/png")
    assert get(make(), f"{origin.url}/bare").bytes == len(bomb), "what it is, is asked of the image checks"
    origin.raw("/transfer", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + bomb)
    with pytest.raises(PermanentError, match="encoded as 'gzip, chunked'"):
        get(make(), f"{origin.url}/transfer")


PAGE = b"<!DOCTYPE html><title>Just a moment...</title>"


@pytest.mark.parametrize(("kind", "reason"), [("source", "source_unreachable"), ("result", "result_unreachable")])
@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("text/html; charset=utf-8", PAGE),
        ("image/png", b"\xef\xbb\xbf \n" + PAGE.lower()),
        ("application/octet-stream", b"<html><body>Maintenance"),
        ("application/json", b'{"error": "Not ready"}'),
        ("application/octet-stream", b' {"error": "Not ready"}'),
        ("text/plain", b"Not found"),
        ("application/xml", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
    ],
)
def test_a_page_or_json_instead_of_an_image_is_not_there_now(
    make: Make, origin: Origin, media_type: str, body: bytes, kind: str, reason: str
) -> None:
    origin.on("/a", body, Content_Type=media_type)
    origin.on("/packed", gzip.compress(body), Content_Type=media_type, Content_Encoding="gzip")
    for path in ("/a", "/packed"):
        with pytest.raises(PermanentError, match="instead of") as caught:
            get(make(), f"{origin.url}{path}", kind=kind)
        assert (caught.value.reason, caught.value.scope) == (reason, Scope.UNKNOWN)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("text/html", b"\x89PNG\r\n\x1a\n" + IMAGE),
        ("text/plain", b"\xff\xd8\xff" + IMAGE),
        ("application/json", b"RIFF\0\0\0\0WEBP" + IMAGE),
        ("application/octet-stream", IMAGE),
        ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("image/gif", b"GIF89a" + IMAGE),
        ("text/html", b"GIF89a" + IMAGE),
    ],
)
def test_an_image_under_a_wrong_type_passes(make: Make, origin: Origin, media_type: str, body: bytes) -> None:
    origin.on("/a", body, Content_Type=media_type)
    assert get(make(), f"{origin.url}/a").bytes == len(body), "what it is, is asked of the image checks"


@pytest.mark.parametrize("how", ["chunks", "one chunk without end", "no length", "headers"])
def test_a_body_without_end_is_cut_off_and_leaves_nothing(make: Make, origin: Origin, temp_dir: Path, how: str) -> None:
    sent = 0

    def endless(request: Any) -> None:
        nonlocal sent
        block = b"x" * 65_536
        head = {"chunks": b"Transfer-Encoding: chunked\r\n\r\n", "headers": b"", "no length": b"\r\n"}
        chunk = b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n"
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + head.get(how, chunk))
        while True:
            piece = {"chunks": b"10000\r\n" + block + b"\r\n", "headers": b"X-More: " + block[:1000] + b"\r\n"}
            sent += request.wfile.write(piece.get(how, block))

    origin.paths["/endless"] = endless
    with pytest.raises((PermanentError, TransientError)):
        get(make(total_timeout=20), f"{origin.url}/endless", max_bytes=3_000_000)
    assert sent < 60_000_000
    assert list(temp_dir.iterdir()) == []


def test_a_body_encoded_as_identity_passes(make: Make, origin: Origin) -> None:
    origin.on("/a", IMAGE, Content_Encoding="Identity")
    assert get(make(), f"{origin.url}/a").bytes == len(IMAGE)


@pytest.mark.parametrize(
    "head",
    [
        b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx", b"", b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello", b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_an_unreadable_answer_is_worth_another_try(make: Make, origin: Origin, head: bytes) -> None:
    origin.raw("/a", head)
    with pytest.raises(TransientError):
        get(make(), f"{origin.url}/a")


# Time


def test_a_server_that_is_not_there_is_worth_another_try(make: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(TransientError, match="refused"):
            get(make(allowed_source_hosts=[url]), f"{url}/a")


def test_a_silent_server_is_given_up_after_the_read_timeout(make: Make, origin: Origin) -> None:
    origin.raw("/a", stay=10)
    with pytest.raises(TransientError, match="no answer in time"):
        get(make(read_timeout=0.2), f"{origin.url}/a")


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",  # cut off by us, this one looks complete
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",  # trickles in the headers
        b"HTT",
    ],
)
def test_a_server_that_trickles_is_cut_off_at_the_deadline(make: Make, origin: Origin, start: bytes) -> None:
    origin.raw("/a", start, *([b"x"] * 500), pause=0.02)
    started = time.monotonic()
    with pytest.raises(TransientError, match="within the time allowed"):
        get(make(total_timeout=0.4, read_timeout=5), f"{origin.url}/a")
    assert time.monotonic() - started < 5


def test_the_deadline_covers_all_redirects_together(make: Make, origin: Origin) -> None:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /a\r\n\r\n"
    origin.raw("/a", b"", head, pause=0.15)
    started = time.monotonic()
    with pytest.raises(TransientError):
        get(make(total_timeout=0.4), f"{origin.url}/a")
    assert time.monotonic() - started < 5


def test_a_full_disk_is_worth_another_try(make: Make, origin: Origin) -> None:
    origin.on("/a", IMAGE)
    with pytest.raises(TransientError, match="No temporary file") as caught:
        get(make(temp_dir=Path("/dev/null/x")), f"{origin.url}/a")
    assert caught.value.counts is False


# Names and addresses


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def https(authority: trustme.CA) -> Iterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.example.com", "xn--kln-sna.example").configure_cert(context)
    with serving(Origin(), context) as origin:
        yield origin


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def over_tls(temp_dir: Path, client: Loopback, hosts: list[str], total_timeout: float = 5) -> HttpFetcher:
    return HttpFetcher(hosts, hosts, temp_dir, total_timeout=total_timeout, http=client)


def test_https_is_verified_against_the_name_and_connects_to_the_address_that_was_checked(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    https.on("/a.png", IMAGE)
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: [PUBLIC])
    fetched = get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a.png")
    assert fetched.bytes == len(IMAGE)
    assert client.dialled == [(PUBLIC, 443)]
    assert https.requests[0][1]["Host"] == "images.example.com"


def test_a_name_beyond_ascii_is_resolved_and_verified_in_its_ascii_form(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    https.on("/a.png", IMAGE)
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC]

    client = Loopback(https.port, tls_context=trusting, resolver=resolver)
    get(over_tls(temp_dir, client, ["köln.example"]), "https://KÖLN.example/a.png")
    assert asked == ["xn--kln-sna.example"]


def test_a_certificate_for_another_name_is_not_accepted(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: [PUBLIC])
    with pytest.raises(TransientError, match="certificate"):
        get(over_tls(temp_dir, client, ["other.example.com"]), "https://other.example.com/a.png")
    assert https.requests == []


def test_a_certificate_of_an_unknown_authority_is_not_accepted(https: Origin, temp_dir: Path) -> None:
    client = Loopback(https.port, resolver=lambda host, port: [PUBLIC])
    with pytest.raises(TransientError, match="certificate"):
        get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a.png")
    assert https.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"], ["10.0.0.7"], ["169.254.169.254"], ["0.0.0.0"], ["::1"], ["::ffff:10.0.0.7"], ["fe80::1%eth0"],
        ["64:ff9b::a00:7"], ["2002:a00:7::1"], ["224.0.0.1"], [PUBLIC, "10.0.0.7"], ["fd00:ec2::254", PUBLIC],
    ],
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused_and_not_connected_to(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path, answer: list[str]
) -> None:
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: answer)
    with pytest.raises(PermanentError, match="not on the public internet") as caught:
        get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a.png", kind="result")
    assert caught.value.reason == "result_unreachable"
    assert client.dialled == []
    assert https.connections == 0


def test_dns_that_changes_its_answer_changes_nothing(https: Origin, trusting: ssl.SSLContext, temp_dir: Path) -> None:
    """Rebinding: the first answer is public, every later one leads inside."""
    https.on("/a.png", IMAGE)
    answers = iter([[PUBLIC]])
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: next(answers, ["169.254.169.254"]))
    fetcher = over_tls(temp_dir, client, ["images.example.com"])
    assert get(fetcher, "https://images.example.com/a.png").bytes == len(IMAGE)
    with pytest.raises(PermanentError):
        get(fetcher, "https://images.example.com/a.png")
    assert client.dialled == [(PUBLIC, 443)]


def test_dns_that_changes_between_redirects_is_looked_at_again(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    https.on("/a", status=302, Location="/b")
    https.on("/b", IMAGE)
    answers = iter([[PUBLIC], ["10.0.0.7"]])
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: next(answers))
    with pytest.raises(PermanentError, match="not on the public internet"):
        get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a")
    assert [path for path, _ in https.requests] == ["/a"]


def test_a_redirect_from_https_to_plain_http_is_refused(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    https.on("/a", status=302, Location="http://images.example.com/b")
    client = Loopback(https.port, tls_context=trusting, resolver=lambda host, port: [PUBLIC])
    with pytest.raises(PermanentError, match="must begin with https"):
        get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a")


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "169.254.169.254",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[fe80::1%25lo]", "[::127.0.0.1]",
        "localhost", "localhost.", "127.0.0.1.nip.io", "１２７.0.0.1", "0.0.0.0", "0", "user@127.0.0.1",
        "images.example.com@127.0.0.1", "images.example.com:80@127.0.0.1", "127.0.0.1#@images.example.com",
        "127.0.0.1\\@images.example.com", "images.example.com%00.evil.example", "images.example.com%2eevil.example",
        "images.example.com:8443", "xn--images.example.com", "images.example.com..",
    ],
)  # fmt: skip
def test_no_hop_of_a_redirect_leads_inside_however_it_is_spelt(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path, spelling: str
) -> None:
    """The second hop is asked for as strictly as the first: nothing of it is resolved or connected to."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC]

    https.on("/a", status=302, Location="/b")
    https.raw("/b", f"HTTP/1.1 302 Found\r\nLocation: https://{spelling}/c\r\nContent-Length: 0\r\n\r\n".encode())
    client = Loopback(https.port, tls_context=trusting, resolver=resolve)
    for kind in ("source", "result"):
        with pytest.raises(PermanentError) as caught:
            get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a", kind=kind)
        assert caught.value.reason == f"{kind}_unreachable"
    assert set(asked) == {"images.example.com"}
    assert [path for path, _ in https.requests] == ["/a", "/b"] * 2


def test_the_systems_own_resolver_may_change_its_answer_as_it_likes(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding against the real resolving: the answer that is checked is the one that is connected to."""
    answers = iter([PUBLIC, "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.7"])
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "images.example.com":
            return real(host, port, *rest, **options)
        asked.append(host)
        address = next(answers)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    https.on("/a.png", IMAGE)
    client = Loopback(https.port, tls_context=trusting)
    fetcher = over_tls(temp_dir, client, ["images.example.com"])
    assert get(fetcher, "https://images.example.com/a.png").bytes == len(IMAGE)
    for _ in range(3):
        with pytest.raises(PermanentError, match="not on the public internet"):
            get(fetcher, "https://images.example.com/a.png")
    assert len(asked) == 4, "once for each request"
    assert client.dialled == [(PUBLIC, 443)]
    assert len(https.requests) == 1


def test_an_allowed_address_is_refused_when_it_is_not_public(temp_dir: Path) -> None:
    """Somebody lists an address of the metadata service: it is looked at like any answer of a resolver."""
    client = Loopback(1, resolver=lambda host, port: [host])
    with pytest.raises(PermanentError, match="not on the public internet"):
        get(over_tls(temp_dir, client, ["169.254.169.254"]), "https://169.254.169.254/latest/meta-data/")
    assert client.dialled == []


def test_a_name_that_does_not_resolve_is_worth_another_try(temp_dir: Path) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    def nothing(host: str, port: int) -> list[str]:
        return []

    for resolver in (unknown, nothing):
        client = Loopback(1, resolver=resolver)
        with pytest.raises(TransientError, match="could not be resolved"):
            get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a.png")


def test_a_resolver_that_hangs_is_given_up(temp_dir: Path) -> None:
    release = threading.Event()

    def resolver(host: str, port: int) -> list[str]:
        release.wait(30)
        return [PUBLIC]

    started = time.monotonic()
    with pytest.raises(TransientError, match="not resolved in time"):
        get(
            over_tls(temp_dir, Loopback(1, resolver=resolver), ["images.example.com"], total_timeout=0.2),
            "https://images.example.com/a.png",
        )
    release.set()
    assert time.monotonic() - started < 5


def test_the_next_address_is_tried_when_one_does_not_answer(
    https: Origin, trusting: ssl.SSLContext, temp_dir: Path
) -> None:
    https.on("/a.png", IMAGE)

    class FirstIsDead(Loopback):
        def _endpoint(self, address: str, port: int) -> tuple[str, int]:
            good = super()._endpoint(address, port)
            return good if address == PUBLIC else ("127.0.0.1", 1)

    client = FirstIsDead(https.port, tls_context=trusting, resolver=lambda host, port: ["2606:4700::1", PUBLIC])
    assert get(over_tls(temp_dir, client, ["images.example.com"]), "https://images.example.com/a.png").bytes
    assert [address for address, _ in client.dialled] == ["2606:4700::1", PUBLIC]


def test_a_handshake_that_trickles_is_cut_off(trusting: ssl.SSLContext, temp_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Loopback(silent.getsockname()[1], tls_context=trusting, resolver=lambda host, port: [PUBLIC])
        started = time.monotonic()
        with pytest.raises(TransientError):
            get(
                over_tls(temp_dir, client, ["images.example.com"], total_timeout=0.3),
                "https://images.example.com/a.png",
            )
    assert time.monotonic() - started < 5


# The two lists


def test_each_kind_has_its_own_list(make: Make, origin: Origin) -> None:
    origin.on("/a", IMAGE)
    fetcher = make(allowed_result_hosts=["cdn.example.com"])
    assert get(fetcher, f"{origin.url}/a", kind="source").bytes == len(IMAGE)
    with pytest.raises(PermanentError) as caught:
        get(fetcher, f"{origin.url}/a", kind="result")
    assert caught.value.reason == "result_unreachable"


@pytest.mark.parametrize(
    ("kind", "setting"), [("source", "SMI_ALLOWED_SOURCE_HOSTS"), ("result", "SMI_ALLOWED_RESULT_HOSTS")]
)
def test_an_unset_list_refuses_and_names_the_setting(make: Make, origin: Origin, kind: str, setting: str) -> None:
    fetcher = make(**{f"allowed_{kind}_hosts": []})
    with pytest.raises(PermanentError, match=setting):
        get(fetcher, f"{origin.url}/a", kind=kind)
    assert origin.connections == 0


def test_no_query_of_a_url_is_told_in_an_error(make: Make, origin: Origin) -> None:
    origin.on("/a?signature=s3cret", status=500)
    with pytest.raises(TransientError) as caught:
        get(make(), f"{origin.url}/a?signature=s3cret")
    assert "s3cret" not in str(caught.value)


def test_left_over_downloads_are_swept_when_old(make: Make, temp_dir: Path) -> None:
    temp_dir.mkdir()
    old, fresh, other = (temp_dir / name for name in ("smi-fetch-old", "smi-fetch-fresh", "other"))
    for path in (old, fresh, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    assert make().sweep(older_than_seconds=3600) == 1
    assert sorted(path.name for path in temp_dir.iterdir()) == ["other", "smi-fetch-fresh"]
