"""The front in Debian's nginx, with a stand-in for Dagster's UI behind it; the real one is in end_to_end/."""

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.gateway.throttle import GUESSES
from smi_pipeline.settings import Settings
from smi_pipeline.stack.nginx import hashed, write_front
from smi_pipeline_tests.gateway import nginx
from smi_pipeline_tests.gateway.nginx import (
    ANALYSTS,
    HANDSHAKE,
    SETTINGS,
    TEAM,
    certified,
    encrypted,
    front,
    http2,
    needs_nginx,
    without_login_limit,
)
from smi_pipeline_tests.gateway.shop import Shop


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    """Stands in for Dagster's UI and for the gateway: notes what reaches it, says yes to everything."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append({"line": self.requestline, "headers": headers, "body": body})
            if headers.get("upgrade") == "websocket":
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.end_headers()
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Server", "inner")
            self.end_headers()
            self.wfile.write(b"in")

        do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = _answer

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield SimpleNamespace(port=server.server_address[1], seen=seen)
    server.shutdown()
    server.server_close()


def configured(port: int, **changes: Any) -> Settings:
    ports = {"smi_gateway_port": port, "smi_dagster_port": port, "smi_analysts_port": port}
    return nginx.configured(**ports | changes)


@pytest.fixture(scope="module")
def running(upstream: Any) -> Iterator[Any]:
    """The front before the stand-in; `team`, `analysts` and `customers` are its origins."""
    settings = configured(upstream.port)
    with front(settings, change=without_login_limit) as folder, httpx.Client(trust_env=False, timeout=20) as client:
        yield SimpleNamespace(
            team=settings.smi_team_url,
            analysts=settings.smi_analysts_url,
            customers=settings.public_url,
            client=client,
            folder=folder,
        )


pytestmark = needs_nginx


def test_the_doors_open_to_their_own_password_and_to_no_other(running: Any) -> None:
    answers = {
        (site, who): running.client.get(url, auth=login).status_code
        for site, url in (("team", running.team), ("analysts", running.analysts))
        for who, login in (("team", TEAM), ("analysts", ANALYSTS), ("nobody", None), ("wrong", (TEAM[0], "wrong")))
    }
    opened = {pair for pair, status in answers.items() if status == 200}
    assert opened == {("team", "team"), ("analysts", "analysts")}
    assert set(answers.values()) == {200, 401}
    assert running.client.get(running.team).headers["www-authenticate"].startswith("Basic realm=")


def test_what_is_behind_never_sees_the_password(running: Any, upstream: Any) -> None:
    running.client.get(f"{running.team}/runs", auth=TEAM, headers={"Cookie": "a=b"})
    headers = upstream.seen[-1]["headers"]
    assert "authorization" not in headers
    assert "cookie" not in headers


@pytest.mark.parametrize("path", ["/graphql", "/graphql?query=mutation", "/%67raphql"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_graphql_is_never_asked_by_get(running: Any, upstream: Any, path: str, method: str) -> None:
    before = len(upstream.seen)
    for site, login in ((running.team, TEAM), (running.analysts, ANALYSTS)):
        said = raw(site, f"{method} {path} HTTP/1.1", *basic(login))
        assert said.startswith(b"HTTP/1.1 405"), said
    assert len(upstream.seen) == before


def basic(login: tuple[str, str]) -> tuple[str, ...]:
    request = httpx.Request("GET", "http://x")
    next(httpx.BasicAuth(*login).auth_flow(request))
    return (f"Authorization: {request.headers['Authorization']}",)


def raw(origin: str, line: str, *headers: str, host: str = "", body: bytes = b"") -> bytes:
    """What is said to a request that no client library would make."""
    address = origin.removeprefix("http://")
    head = "\r\n".join([line, f"Host: {host or address}", "Connection: close", *headers, "", ""])
    return answer_to(origin, head.encode() + body)


def answer_to(origin: str, sent: bytes) -> bytes:
    """What is said to these bytes until the connection ends, in whatever way."""
    name, port = origin.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((name, int(port)), timeout=20) as connection, suppress(ConnectionResetError):
        connection.sendall(sent)
        while block := connection.recv(65536):
            said += block
    return said


FOREIGN = ["https://evil.example", "null", "", "http://127.0.0.1", "{own}.evil.example", "https{rest}"]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_post_from_another_site_is_refused(running: Any, upstream: Any, origin: str) -> None:
    before = len(upstream.seen)
    for site, login in ((running.team, TEAM), (running.analysts, ANALYSTS)):
        value = origin.format(own=site, rest=site.removeprefix("http"))
        headers = {"Origin": value} if value else {}
        reply = running.client.post(f"{site}/graphql", json={"query": "{x}"}, auth=login, headers=headers)
        assert reply.status_code == 403
        opening = ("GET /graphql HTTP/1.1", *HANDSHAKE, *basic(login), *(f"Origin: {value}",) * bool(value))
        assert raw(site, *opening).startswith(b"HTTP/1.1 403")
    assert len(upstream.seen) == before


def test_a_post_and_a_web_socket_of_the_own_site_pass(running: Any, upstream: Any) -> None:
    for site, login in ((running.team, TEAM), (running.analysts, ANALYSTS)):
        own = {"Origin": site}
        reply = running.client.post(f"{site}/graphql", json={"query": "{x}"}, auth=login, headers=own)
        assert (reply.status_code, upstream.seen[-1]["body"]) == (200, b'{"query":"{x}"}')
        said = raw(site, "GET /graphql HTTP/1.1", *HANDSHAKE, f"Origin: {site}", *basic(login))
        assert said.startswith(b"HTTP/1.1 101")
        assert upstream.seen[-1]["headers"]["connection"] == "upgrade"


def test_without_the_password_neither_post_nor_web_socket_pass(running: Any) -> None:
    for site in (running.team, running.analysts):
        assert running.client.post(f"{site}/graphql", headers={"Origin": site}).status_code == 401
        said = raw(site, "GET /graphql HTTP/1.1", *HANDSHAKE, f"Origin: {site}")
        assert said.startswith(b"HTTP/1.1 401")


def test_the_analysts_door_takes_nothing_but_questions(running: Any, upstream: Any) -> None:
    before = len(upstream.seen)
    own = {"Origin": running.analysts}
    for path in ("/report_asset_materialization/x", "/report_asset_check/x", "/report_asset_observation/x", "/"):
        assert running.client.post(running.analysts + path, auth=ANALYSTS, headers=own).status_code in (404, 405)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert running.client.request(method, running.analysts, auth=ANALYSTS, headers=own).status_code in (403, 405)
    assert len(upstream.seen) == before
    assert running.client.post(
        f"{running.team}/report_asset_check/x", auth=TEAM, headers={"Origin": running.team}
    ).is_success


def test_answers_of_the_doors_carry_the_headers_that_protect_them(running: Any) -> None:
    for reply in (
        running.client.get(running.team, auth=TEAM),
        running.client.get(running.team),
        running.client.get(f"{running.analysts}/graphql", auth=ANALYSTS),
    ):
        headers = reply.headers
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers.get_list("x-content-type-options") == ["nosniff"]
        assert headers["referrer-policy"] == "same-origin"
        assert headers["server"] == "nginx"
        assert "1.2" not in reply.text


def test_another_name_than_ours_is_not_answered(running: Any, upstream: Any) -> None:
    before = len(upstream.seen)
    for origin in (running.customers, running.team, running.analysts):
        assert raw(origin, "GET / HTTP/1.1", host="evil.example") == b""
    assert len(upstream.seen) == before


def test_large_bodies_are_refused_before_anybody_reads_them(running: Any, upstream: Any) -> None:
    before = len(upstream.seen)
    for origin, size, login in ((running.customers, 1_100_000, None), (running.team, 4_300_000, TEAM)):
        reply = running.client.post(f"{origin}/x", content=b"x" * size, auth=login, headers={"Origin": origin})
        assert reply.status_code == 413
    assert len(upstream.seen) == before


def test_the_access_log_has_no_query_token_password_or_name(running: Any) -> None:
    client, token = running.client, "c0ffee" * 10
    client.get(f"{running.customers}/smi/v1/download/{token}?x=hidden-query")
    client.post(f"{running.customers}/smi-webhook/upsampler/{token}")
    odd = ("/x//smi/v1/download/{}%0a", "/%0a/smi/v1/download/{}", "/smi/v1/download%0a/{}", "/smi/v1/Download/{}")
    for path in (*odd, "/{}", "/smi/v1/down%0aload/{}/x", "/smi-webhook/upsampler/%0A{}", "/static/{}/{}", "/x{}"):
        for shown in (token, token.upper(), token.replace("c", "%63")):
            client.get(running.customers + path.format(shown, shown))
    client.get(f"{running.team}/runs?token=hidden-query", auth=("typed-the-password-here", "wrong-pass"))
    client.get(f"{running.team}/assets/last", auth=TEAM)
    log = running.folder / "access.log"
    ends = time.monotonic() + 10
    while '"/assets/last"' not in log.read_text():
        assert time.monotonic() < ends
        time.sleep(0.02)
    said = log.read_text() + (running.folder / "error.log").read_text()
    for secret in (token, token.upper(), "hidden-query", "typed-the-password-here", "wrong-pass", *TEAM):
        assert secret not in said
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"/smi/v1/download/...", "/smi-webhook/upsampler/...", "/runs"} <= {entry["path"] for entry in entries}


def test_who_guesses_the_password_is_slowed_down_and_who_is_in_is_not(upstream: Any) -> None:
    settings = configured(upstream.port)
    team = settings.smi_team_url or ""
    with front(settings), httpx.Client(trust_env=False) as inside, httpx.Client(trust_env=False) as guesser:
        assert inside.get(team, auth=TEAM).status_code == 200
        answers = [guesser.get(team, auth=(TEAM[0], f"guess-{n}")) for n in range(60)]
        assert {reply.status_code for reply in answers} == {401, 429}
        assert sum(reply.status_code == 401 for reply in answers) <= 30
        last = answers[-1]
        assert (last.status_code, last.headers["retry-after"]) == (429, "60")
        assert guesser.get(team, auth=TEAM).status_code == 429, "a hit looks like a miss"
        assert {inside.get(team, auth=TEAM).status_code for _ in range(60)} == {200}
        assert inside.get(team).status_code == 401, "the cookie opens nothing"
        assert not guesser.cookies


@contextmanager
def open_requests(
    origin: str, count: int, *headers: str, source: str = "127.0.0.1", forwarded: str = "192.0.2.{number}"
) -> Iterator[list[bool]]:
    """Holds so many requests open whose bodies are on their way; gives which of them were not refused at once.
    `forwarded`: the client that each of them claims to be."""
    address = origin.removeprefix("http://")
    lines = ("POST /graphql HTTP/1.1", f"Host: {address}", f"Origin: {origin}", "Content-Length: 9", *headers)
    to = (address.split(":")[0], int(address.split(":")[1]))
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(to, timeout=20, source_address=(source, 0)))
            for _ in range(count)
        ]
        for number, connection in enumerate(held):
            claim = f"X-Forwarded-For: {forwarded.format(number=number)}"
            connection.sendall("\r\n".join([*lines, claim, "", ""]).encode())
        refused: list[socket.socket] = []
        while found := select.select([one for one in held if one not in refused], [], [], 0.5)[0]:
            assert {one.recv(12) for one in found} == {b"HTTP/1.1 429"}
            refused += found
        yield [one not in refused for one in held]


def test_a_client_has_so_many_requests_at_once_at_each_site(upstream: Any) -> None:
    settings = configured(upstream.port)
    customers, team, analysts = settings.public_url, settings.smi_team_url or "", settings.smi_analysts_url or ""

    def patient(text: str) -> str:
        return text.replace("burst=20 ", "burst=1000 ")

    with front(settings, change=patient), httpx.Client(trust_env=False, timeout=20) as client:
        for full, login in ((customers, ()), (team, basic(TEAM)), (analysts, basic(ANALYSTS))):
            with open_requests(full, 70, *login) as served:
                assert sum(served) == 64
                for site, who in ((customers, None), (team, TEAM), (analysts, ANALYSTS)):
                    client.cookies.clear()
                    assert client.get(f"{site}/health", auth=who).status_code == (429 if site == full else 200)


def test_an_office_with_many_tabs_of_the_ui_is_not_shut_out(upstream: Any) -> None:
    settings = configured(upstream.port)
    team = settings.smi_team_url or ""
    with front(settings), httpx.Client(trust_env=False, timeout=20) as client:
        client.get(team, auth=TEAM)
        cookie = f"Cookie: smi_team={client.cookies['smi_team']}"
        with open_requests(team, 200, *basic(TEAM), cookie) as served:
            assert all(served)
            assert client.get(settings.public_url).status_code == 200
            assert client.get(team, auth=TEAM).status_code == 200
            client.cookies.clear()
            assert client.get(team, auth=TEAM).status_code == 200


PROXY, STRANGER = "127.0.0.2", "127.0.0.3"


def test_limits_count_the_clients_behind_a_proxy_and_not_the_proxy(upstream: Any) -> None:
    settings = configured(upstream.port, smi_front_proxies=f"{PROXY}/32, 2001:db8:77::/48")
    customers, team = settings.public_url, settings.smi_team_url or ""
    with front(settings):
        with open_requests(customers, 100, source=PROXY) as served:
            assert all(served), "a hundred clients"
        with open_requests(customers, 70, source=PROXY, forwarded="6.6.6.6, 192.0.2.7") as served:
            assert sum(served) == 64, "one client, whatever it claims"
            with open_requests(customers, 1, source=PROXY, forwarded="192.0.2.8") as other:
                assert other == [True]
            with open_requests(customers, 1, source=PROXY, forwarded="::ffff:192.0.2.7") as same:
                assert same == [False], "the same client"
        with open_requests(customers, 100, source=PROXY, forwarded="::ffff:198.51.100.{number}") as served:
            assert all(served), "IPv4 as a proxy with one socket for both families writes it"
        with open_requests(customers, 70, source=PROXY, forwarded="2001:db8:1:2::{number}") as served:
            assert sum(served) == 64, "one network of IPv6 is one client"
        with open_requests(customers, 100, source=PROXY, forwarded="2001:db8:1:{number}::1") as served:
            assert all(served)
        with open_requests(customers, 70, source=STRANGER) as served:
            assert sum(served) == 64, "who is no proxy is one client, whatever it claims"
        through = httpx.HTTPTransport(local_address=PROXY)
        with httpx.Client(transport=through, trust_env=False, timeout=20) as client:
            for number in range(60):
                wrong = client.get(team, auth=("team", "guess"), headers={"X-Forwarded-For": f"192.0.2.{number % 3}"})
            assert wrong.status_code == 401, "each of three clients has its own guesses"
            for _ in range(30):
                wrong = client.get(team, auth=("team", "guess"), headers={"X-Forwarded-For": "192.0.2.9"})
            assert wrong.status_code == 429
            assert client.get(team, auth=TEAM, headers={"X-Forwarded-For": "192.0.2.10"}).status_code == 200


@pytest.mark.parametrize(
    ("source", "forwarded", "client"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "2001:db8::9", "2001:db8::9"),
        (PROXY, "203.0.113.9:4711", "203.0.113.9"),
        (PROXY, "[2001:db8::9]:4711", "2001:db8::9"),
        (PROXY, "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, 2001:db8:77::1, 127.0.0.2", "203.0.113.9"),
        (PROXY, "nonsense", PROXY),
        (PROXY, "", PROXY),
        (STRANGER, "203.0.113.9", STRANGER),
        (STRANGER, "203.0.113.9, 127.0.0.2", STRANGER),
    ],
)
def test_an_address_is_believed_from_the_proxies_alone(
    upstream: Any, behind_a_proxy: tuple[Settings, Path], source: str, forwarded: str, client: str
) -> None:
    settings, folder = behind_a_proxy
    sites = ((settings.public_url, "/health", None), (settings.smi_team_url or "", "/runs", TEAM))
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(transport=transport, trust_env=False, timeout=20) as browser:
        for site, path, login in sites:
            reply = browser.get(f"{site}{path}", auth=login, headers={"X-Forwarded-For": forwarded})
            assert reply.status_code == 200
            assert upstream.seen[-1]["headers"]["x-forwarded-for"] == client
    assert json.loads((folder / "access.log").read_text().splitlines()[-1])["client"] == client


@pytest.fixture(scope="module")
def behind_a_proxy(upstream: Any) -> Iterator[tuple[Settings, Path]]:
    """A front whose proxies are 127.0.0.2 and those of an IPv6 network."""
    settings = configured(upstream.port, smi_front_proxies=f"{PROXY}, 2001:db8:77::/48")
    with front(settings, change=without_login_limit) as folder:
        yield settings, folder


def test_without_proxies_nobody_is_believed(upstream: Any) -> None:
    settings = configured(upstream.port)
    with front(settings) as folder, httpx.Client(trust_env=False, timeout=20) as client:
        client.get(f"{settings.public_url}/health", headers={"X-Forwarded-For": "203.0.113.9"})
        assert upstream.seen[-1]["headers"]["x-forwarded-for"] == "127.0.0.1"
        assert "real_ip" not in (folder / "nginx.conf").read_text()


def test_a_connection_of_http2_has_no_more_than_32_requests_at_once(upstream: Any, tmp_path: Path) -> None:
    certificate, key, context = certified(tmp_path)
    settings = encrypted(configured(upstream.port))
    with front(settings, certificate=certificate, key=key):
        origin = settings.public_url
        asked = {":method": "GET", ":scheme": "https", ":path": "/", ":authority": origin.removeprefix("https://")}
        said = next(content for kind, content in http2(origin, context, asked) if kind == SETTINGS and content)
    values = {said[at : at + 2]: int.from_bytes(said[at + 2 : at + 6], "big") for at in range(0, len(said), 6)}
    assert values[b"\0\3"] == 32, "the setting MAX_CONCURRENT_STREAMS"


def test_slow_clients_are_cut(upstream: Any) -> None:
    def impatient(text: str) -> str:
        return text.replace("client_header_timeout 10s", "client_header_timeout 1s").replace(
            "client_body_timeout 10s", "client_body_timeout 1s"
        )

    settings = configured(upstream.port)
    with front(settings, change=impatient):
        before = len(upstream.seen)
        customers = settings.public_url
        started = time.monotonic()
        assert answer_to(customers, b"POST /smi-webhook/stripe HTT") == b""
        head = (
            f"POST /x HTTP/1.1\r\nHost: {customers.removeprefix('http://')}\r\nContent-Length: 500\r\n\r\n{{".encode()
        )
        assert answer_to(customers, head) == b""
        assert time.monotonic() - started < 20
        assert len(upstream.seen) == before, "nobody behind is bothered"


def test_the_gateway_is_served_through_it(make_shop) -> None:
    shop: Shop = make_shop()
    settings = configured(int(shop.url.rpartition(":")[2]))
    with front(settings), httpx.Client(base_url=settings.public_url, trust_env=False, timeout=20) as client:
        job_id = shop.delivered(bytes(3_000_000))
        reply = client.get(f"/smi/v1/download/{shop.token(job_id)}")
        assert (reply.status_code, len(reply.content)) == (200, 3_000_000)
        part = client.get(f"/smi/v1/download/{shop.token(job_id)}", headers={"Range": "bytes=0-9"})
        assert (part.status_code, len(part.content)) == (206, 10)
        shop.submitted()
        hint = client.post(f"/smi-webhook/upsampler/{shop.callback}", json={"id": "u", "status": "SUCCESS"})
        assert hint.status_code == 200
        assert client.get("/metrics").status_code == 404
        for path in ("/health", "/nothing", "/metrics"):
            headers = client.get(path).headers
            for name in ("x-frame-options", "x-content-type-options", "referrer-policy", "content-security-policy"):
                assert len(headers.get_list(name)) == 1, (path, name)
        for n in range(GUESSES + 1):
            last = client.get("/ops", auth=("x", "y"), headers={"X-Forwarded-For": f"192.0.2.{n}"})
        assert last.status_code == 429, "an invented address does not help"
        assert len(last.headers.get_list("retry-after")) == 1


def test_https_doors_speak_tls_and_tell_browsers_to_stay_there(upstream: Any, tmp_path: Path) -> None:
    certificate, key, context = certified(tmp_path)
    changed = encrypted(configured(upstream.port))
    team = changed.smi_team_url or ""
    with front(changed, certificate=certificate, key=key), httpx.Client(verify=context, trust_env=False) as client:
        reply = client.get(team, auth=TEAM)
        assert reply.status_code == 200
        assert "max-age" in reply.headers["strict-transport-security"]
        assert "; Secure" in reply.headers["set-cookie"]
        own = {"Origin": team}
        assert client.post(f"{team}/graphql", auth=TEAM, headers=own).status_code == 200
        with pytest.raises(httpx.ConnectError):
            client.get(team.replace("localhost", "127.0.0.1"))


def test_a_get_on_http2_does_not_reach_graphql_whatever_it_asks_to_upgrade_to(upstream: Any, tmp_path: Path) -> None:
    certificate, key, context = certified(tmp_path)
    settings = encrypted(configured(upstream.port))
    with front(settings, certificate=certificate, key=key):
        for site, login in ((settings.smi_team_url or "", TEAM), (settings.smi_analysts_url or "", ANALYSTS)):
            asked = {
                ":method": "GET",
                ":scheme": "https",
                ":path": "/runs",
                ":authority": site.removeprefix("https://"),
            }
            headers = (header.partition(": ") for header in (*basic(login), f"Origin: {site}", *HANDSHAKE))
            asked |= {name.lower(): value for name, _, value in headers if name != "Connection"}
            before = len(upstream.seen)
            http2(site, context, asked, asked | {":path": "/graphql?query=x"})
            assert [one["line"] for one in upstream.seen[before:]] == ["GET /runs HTTP/1.1"]
            assert "upgrade" not in upstream.seen[-1]["headers"]


WRONG = [
    ({"smi_team_url": "https://team.example.com"}, "--certificate"),
    ({"smi_team_url": "http://team.example.com/dagster"}, "SMI_TEAM_URL"),
    ({"smi_team_url": "http://team.example.com:many"}, "SMI_TEAM_URL"),
    ({"smi_team_url": 'http://x"; include /etc/passwd;'}, "SMI_TEAM_URL"),
    ({"smi_public_url": "http://shop.example.com/upscale"}, "SMI_PUBLIC_URL"),
    ({"smi_team_url": "http://a.example", "smi_analysts_url": "http://a.example"}, "different"),
    ({"smi_team_url": "http://bücher.example"}, "xn--"),
    ({"smi_team_url": "http://.team.example"}, "SMI_TEAM_URL"),
    ({"smi_team_url": "http://team.example."}, "SMI_TEAM_URL"),
    ({"smi_team_url": "http://team..example"}, "SMI_TEAM_URL"),
    ({"smi_ui_user": ""}, "SMI_UI_USER"),
    ({"smi_ui_user": "#team"}, "SMI_UI_USER"),
    ({"smi_analysts_user": "#"}, "SMI_ANALYSTS_USER"),
    ({"smi_ui_user": "a:b"}, "SMI_UI_USER"),
    ({"smi_ui_password": "short"}, "SMI_UI_PASSWORD"),
    ({"smi_ui_password": "with a\nline break"}, "SMI_UI_PASSWORD"),
    ({"smi_analysts_password": ""}, "SMI_ANALYSTS_PASSWORD"),
    ({"smi_analysts_password": TEAM[1]}, "those of the team"),
]


@pytest.mark.parametrize(("changes", "word"), WRONG)
def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedError, match=word) as caught:
        write_front(configured(1, **changes), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nginx.conf").exists()


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a\\b", "a\nb", "a\x7fb"])
def test_paths_that_nginx_would_read_otherwise_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    secure = encrypted(configured(1))
    for paths in ((name, "c", "k"), ("f", name, "k"), ("f", "c", name)):
        folder, certificate, key = (tmp_path / path for path in paths)
        with pytest.raises(RefusedError, match="path") as caught:
            write_front(secure, folder, certificate=certificate, key=key)
        assert "\n" not in str(caught.value)
        assert not folder.exists()


def test_other_odd_paths_are_served_from(upstream: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tls {of}; 'é' #"
    folder.mkdir()
    certificate, key, context = certified(folder)
    settings = encrypted(configured(upstream.port))
    with (
        front(settings, certificate=certificate, key=key, prefix="smi front; {é} #'") as served,
        httpx.Client(verify=context, trust_env=False) as client,
    ):
        assert client.get(settings.smi_team_url or "", auth=TEAM).status_code == 200
        assert (served / "access.log").exists()


def test_the_case_of_a_host_name_does_not_count(tmp_path: Path) -> None:
    text = write_front(configured(1, smi_team_url="http://Team.Shop-1.Example:8123"), tmp_path)[0].read_text()
    assert "server_name team.shop-1.example;" in text
    assert '"http://team.shop-1.example:8123" own;' in text


def test_loopback_names_are_served_to_this_machine_alone(tmp_path: Path) -> None:
    names = ("127.0.0.1", "localhost", "team.shop.localhost")
    for name in names:
        text = write_front(configured(1, smi_team_url=f"http://{name}:8123"), tmp_path)[0].read_text()
        assert "listen 127.0.0.1:8123;" in text
        assert "listen 8123;" not in text
    text = write_front(configured(1, smi_team_url="http://localhost.example:8123"), tmp_path)[0].read_text()
    assert "listen 8123;" in text


def test_only_the_doors_that_are_configured_are_there(tmp_path: Path) -> None:
    files = write_front(configured(1, smi_team_url=None, smi_analysts_url=None), tmp_path)
    assert [path.name for path in files] == ["nginx.conf"]
    assert "auth_basic" not in files[0].read_text()


def test_no_password_is_written_and_the_files_are_private(tmp_path: Path) -> None:
    for path in write_front(configured(1), tmp_path):
        assert path.stat().st_mode & 0o007 == 0
        assert not any(login[1] in path.read_text() for login in (TEAM, ANALYSTS))


def test_each_hash_has_its_own_salt() -> None:
    first, second = hashed("tall-trees"), hashed("tall-trees")
    assert first != second
    assert first.startswith("$6$")
