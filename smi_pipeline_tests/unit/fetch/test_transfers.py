"""Transfers that take long, stand still or break off, from real servers on loopback."""

import gzip
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.adapters.fetching.fetcher import MAX_RESUMPTIONS, HttpFetcher
from smi_pipeline.adapters.fetching.time_allowed import TimeAllowed
from smi_pipeline.core.errors import PermanentError, TransientError
from smi_pipeline.core.models import Fetched
from smi_pipeline_tests.unit.fetch.servers import Answer, Origin, serving

IMAGE = os.urandom(200_000)
Make = Callable[..., HttpFetcher]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smi_pipeline.adapters.fetching.fetcher.RESUME_PAUSE", 0)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(Origin()) as origin:
        yield origin


@pytest.fixture
def make(origin: Origin, tmp_path: Path) -> Make:
    def make(**settings: Any) -> HttpFetcher:
        defaults: dict[str, Any] = {"connect_timeout": 1, "read_timeout": 5, "total_timeout": 5}
        return HttpFetcher([origin.url], [origin.url], tmp_path / "downloads", **(defaults | settings))

    return make


def get(fetcher: HttpFetcher, url: str, kind: str = "source", max_bytes: int = 10_000_000) -> Fetched:
    with fetcher.fetch(url, kind=kind, max_bytes=max_bytes) as fetched:
        return fetched


# Time by what arrives


def body_in_pieces(count: int, size: int, pause: float, *, head: bytes = b"") -> Answer:
    """An answer whose pieces come with a pause after each."""
    head = head or f"HTTP/1.1 200 OK\r\nContent-Length: {count * size}\r\n\r\n".encode()

    def answer(request: Any) -> None:
        request.wfile.write(head)
        for _ in range(count):
            request.wfile.write(b"x" * size)
            request.wfile.flush()
            time.sleep(pause)

    return answer


def test_what_arrives_gives_more_time(make: Make, origin: Origin) -> None:
    """20 MB in a second and a half, where half a second is given and each 500 kB another one."""
    origin.paths["/a"] = body_in_pieces(20, 1_000_000, 0.075)
    assert get(make(total_timeout=0.5), f"{origin.url}/a", max_bytes=30_000_000).bytes == 20_000_000


def test_400_mb_at_5_mb_per_second_arrive() -> None:
    """On a moved clock: so long would no test run."""
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smi_pipeline.adapters.fetching.time_allowed.time.monotonic", lambda: now[0])
        allowed = TimeAllowed(60)
        allowed.receiving()
        for _ in range(800):
            now[0] += 0.1
            assert allowed.left() > 0
            allowed.arrived(500_000)
        assert now[0] == pytest.approx(80)
        now[0] += 29
        assert allowed.left() > 0
        now[0] += 1.1
        assert allowed.left() <= 0
        assert "30 seconds" in allowed.why()


def test_a_host_that_drips_holds_nobody_much_longer_than_a_minute() -> None:
    for rate, ends in ((8_000, 30), (12_000, 62), (100_000, 75), (400_000, 300), (10_000_000, 600)):
        now = [0.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("smi_pipeline.adapters.fetching.time_allowed.time.monotonic", lambda now=now: now[0])
            allowed = TimeAllowed(60)
            allowed.receiving()
            while allowed.left() > 0:
                now[0] += 0.5
                allowed.arrived(rate // 2)
        assert now[0] == pytest.approx(ends, abs=1.5), rate


def test_a_body_that_stands_still_is_given_up(make: Make, origin: Origin) -> None:
    origin.raw("/a", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x" * 100, stay=10)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"no answer in time|sent less than"):
        get(make(stall_timeout=0.3), f"{origin.url}/a")
    assert time.monotonic() - started < 3
    assert len(origin.requests) == 1, "nothing is resumed that stands still"


def test_a_body_that_only_drips_is_given_up(make: Make, origin: Origin) -> None:
    origin.paths["/a"] = body_in_pieces(500, 10, 0.02)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"sent less than 300,000 bytes in 0\.3 seconds"):
        get(make(stall_timeout=0.3), f"{origin.url}/a")
    assert time.monotonic() - started < 3


def test_an_order_is_not_kept_waiting_by_what_arrives(make: Make, origin: Origin) -> None:
    origin.paths["/a"] = body_in_pieces(100, 1_000_000, 0.05)
    started = time.monotonic()
    with (
        pytest.raises(TransientError, match="within the time allowed"),
        make().fetch(f"{origin.url}/a", kind="source", max_bytes=10**9, seconds=0.4),
    ):
        pass
    assert time.monotonic() - started < 3


# Resumption


class Versions:
    """A file behind a host that cuts its connections after so many bytes."""

    def __init__(self, body: bytes, *cuts: int, **headers: str) -> None:
        self.body, self.cuts, self.headers = body, list(cuts), {k.replace("_", "-"): v for k, v in headers.items()}
        self.ranges: list[tuple[str | None, str | None]] = []
        self.answer_ranges = True
        self.content_range = "bytes {start}-{last}/{total}"

    def __call__(self, request: Any) -> None:
        asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.ranges.append((asked, condition))
        start = int(asked[6:-1]) if asked and self.answer_ranges else 0
        part = asked is not None and self.answer_ranges
        body = self.body[start:]
        request.send_response(206 if part else 200)
        request.send_header("Content-Length", str(len(body)))
        for name, value in self.headers.items():
            request.send_header(name, value)
        if part:
            last, total = len(self.body) - 1, len(self.body)
            request.send_header("Content-Range", self.content_range.format(start=start, last=last, total=total))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


TAG = {"ETag": '"v1"'}
CHANGED = {"Last_Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}


@pytest.mark.parametrize("headers", [TAG, CHANGED, {**TAG, **CHANGED}], ids=["etag", "date", "both"])
@pytest.mark.parametrize("cuts", [(1,), (70_000,), (70_000, 1000, 90_000), (199_999,)])
def test_a_transfer_that_breaks_off_is_resumed(
    make: Make, origin: Origin, headers: dict[str, str], cuts: tuple[int, ...]
) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, *cuts, **headers)
    with make().fetch(f"{origin.url}/a", kind="result", max_bytes=len(IMAGE)) as fetched:
        assert fetched.path.read_bytes() == IMAGE
        assert (fetched.bytes, fetched.sha256) == (len(IMAGE), hashlib.sha256(IMAGE).hexdigest())
    expected = [sum(cuts[:n]) for n in range(1, len(cuts) + 1)]
    condition = headers.get("ETag", CHANGED["Last_Modified"])
    assert host.ranges == [(None, None), *((f"bytes={start}-", condition) for start in expected)]


@pytest.mark.parametrize(
    "headers",
    [{}, {"ETag": 'W/"v1"'}, {"ETag": 'W/"v1"', **CHANGED}, {**TAG, "Accept_Ranges": "none"}, {"ETag": "v1"}],
)
def test_what_has_no_sure_version_is_not_resumed(make: Make, origin: Origin, headers: dict[str, str]) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, 70_000, **headers)
    with pytest.raises(TransientError, match="70,000 of 200,000 bytes"):
        get(make(), f"{origin.url}/a")
    assert len(host.ranges) == 1


@pytest.mark.parametrize(
    "date", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2020 00:00:00 +99999999999999999", "today"]
)
def test_a_date_that_is_none_is_no_version(make: Make, origin: Origin, date: str) -> None:
    origin.paths["/a"] = Versions(IMAGE, Last_Modified=date)
    assert get(make(), f"{origin.url}/a").bytes == len(IMAGE)


def test_a_file_that_was_changed_just_now_is_not_resumed_by_its_date(make: Make, origin: Origin) -> None:
    origin.paths["/a"] = Versions(
        IMAGE, 70_000, Last_Modified=time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    )
    with pytest.raises(TransientError):
        get(make(), f"{origin.url}/a")
    assert len(origin.requests) == 1


def test_another_version_meanwhile_starts_anew(make: Make, origin: Origin) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, 70_000, ETag='"v1"')
    other = os.urandom(150_000)

    def changed(request: Any) -> None:
        host(request)
        origin.paths["/a"] = Versions(other, ETag='"v2"')
        origin.paths["/a"].answer_ranges = False  # type: ignore[attr-defined]  # If-Range does not hold

    origin.paths["/a"] = changed
    with make().fetch(f"{origin.url}/a", kind="source", max_bytes=10**6) as fetched:
        assert fetched.path.read_bytes() == other
        assert (fetched.bytes, fetched.sha256) == (len(other), hashlib.sha256(other).hexdigest())


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-{last}/{total}", "bytes 69999-{last}/{total}", "bytes {start}-{last}/300000", "bytes {start}-{last}/*",
     "bytes {start}-{total}/{total}", "bytes */{total}", "items {start}-{last}/{total}", ""],
)  # fmt: skip
def test_another_part_than_was_asked_for_is_refused(make: Make, origin: Origin, content_range: str) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, 70_000, ETag='"v1"')
    host.content_range = content_range
    with pytest.raises(TransientError, match="another part"):
        get(make(), f"{origin.url}/a")
    assert len(host.ranges) == 2


def test_a_part_of_another_version_is_refused(make: Make, origin: Origin) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, 70_000, ETag='"v1"')

    def careless(request: Any) -> None:
        host(request)
        host.headers["ETag"] = '"v2"'

    origin.paths["/a"] = careless
    with pytest.raises(TransientError, match="another part"):
        get(make(), f"{origin.url}/a")


@pytest.mark.parametrize("status", [304, 403, 404, 416, 503])
def test_a_host_that_refuses_the_rest_is_asked_again_later(make: Make, origin: Origin, status: int) -> None:
    host = Versions(IMAGE, 70_000, ETag='"v1"')

    def then_refuses(request: Any) -> None:
        host(request)
        origin.on("/a", status=status)

    origin.paths["/a"] = then_refuses
    with pytest.raises(TransientError, match=str(status)):
        get(make(), f"{origin.url}/a")


def test_a_host_that_always_breaks_off_is_given_up(make: Make, origin: Origin) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, *[100] * 50, ETag='"v1"')
    with pytest.raises(TransientError, match="bytes of the image"):
        get(make(), f"{origin.url}/a")
    assert len(host.ranges) == MAX_RESUMPTIONS + 1


def test_a_resumed_transfer_is_bounded_like_any_other(make: Make, origin: Origin) -> None:
    host = origin.paths["/a"] = Versions(IMAGE, 70_000, ETag='"v1"')
    host.content_range = "bytes {start}-{last}/{total}"
    with pytest.raises(PermanentError, match="larger than 100,000 bytes"):
        get(make(), f"{origin.url}/a", max_bytes=100_000)


def test_the_rest_of_a_redirected_file_is_asked_for_where_it_is_and_checked_again(make: Make, origin: Origin) -> None:
    origin.on("/a", status=302, Location="/b")
    host = origin.paths["/b"] = Versions(IMAGE, 70_000, ETag='"v1"')
    assert get(make(), f"{origin.url}/a").bytes == len(IMAGE)
    assert [path for path, _ in origin.requests] == ["/a", "/b", "/b"]

    def moves(request: Any) -> None:
        host(request)
        origin.on("/b", status=302, Location="http://169.254.169.254/")

    host.cuts, origin.paths["/b"] = [70_000], moves
    with pytest.raises(PermanentError, match="must begin with https"):
        get(make(), f"{origin.url}/a")


def test_an_encoded_body_is_not_resumed(make: Make, origin: Origin) -> None:
    host = origin.paths["/a"] = Versions(gzip.compress(IMAGE), 70_000, ETag='"v1"', Content_Encoding="gzip")
    with pytest.raises(TransientError):
        get(make(), f"{origin.url}/a")
    assert len(host.ranges) == 1


def test_a_host_that_chooses_by_accept_shows_us_what_a_plain_program_gets(make: Make, origin: Origin) -> None:
    def negotiating(request: Any) -> None:
        body = b"RIFF-webp" if "image/webp" in request.headers.get("Accept", "") else b"\xff\xd8\xff-jpeg"
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    origin.paths["/a.jpg"] = negotiating
    with make().fetch(f"{origin.url}/a.jpg", kind="source", max_bytes=100) as fetched:
        assert fetched.path.read_bytes().endswith(b"-jpeg")
    assert origin.requests[0][1]["Accept"] == "*/*"
