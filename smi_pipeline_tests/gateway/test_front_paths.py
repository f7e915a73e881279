"""Which requests the front hands on, and that it decides about the same path as what stands behind it."""

import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster_webserver.webserver
import pytest
from starlette.routing import Route

from smi_pipeline_tests.attack.recorder import WEBSOCKET, Recorded, dagster_routes, gateway_routes, recorders
from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, SITES, TEAM
from smi_pipeline_tests.gateway import nginx
from smi_pipeline_tests.gateway.nginx import HANDSHAKE, configured, front, needs_nginx, without_login_limit

pytestmark = needs_nginx
LOGINS = {TEAM: nginx.TEAM, ANALYSTS: nginx.ANALYSTS}


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """The front before a recorder for each site. `ask` says the status of a request, `say`
    the answer to these bytes, both with what arrived behind."""
    arrived: list[Recorded] = []
    with recorders(arrived.append) as ports:
        settings = configured(
            smi_gateway_port=ports[CUSTOMERS], smi_dagster_port=ports[TEAM], smi_analysts_port=ports[ANALYSTS]
        )
        origins = {
            CUSTOMERS: settings.public_url,
            TEAM: settings.smi_team_url or "",
            ANALYSTS: settings.smi_analysts_url or "",
        }

        def say(site: str, sent: bytes) -> tuple[bytes, list[Recorded]]:
            name, port = origins[site].removeprefix("http://").split(":")
            before, said = len(arrived), b""
            with socket.create_connection((name, int(port)), timeout=20) as connection, suppress(ConnectionResetError):
                connection.sendall(sent)
                while b"\r\n\r\n" not in said and (block := connection.recv(65536)):
                    said += block
            return said, arrived[before:]

        def ask(site: str, line: str, *headers: str, host: str | None = None) -> tuple[int, list[Recorded]]:
            head = [f"{line} HTTP/1.1", f"Host: {host or origins[site].removeprefix('http://')}", *headers]
            if "Upgrade: websocket" not in headers:
                head.append("Connection: close")
            if site in LOGINS:
                head.append("Authorization: Basic " + b64encode(":".join(LOGINS[site]).encode()).decode())
            answer, seen = say(site, "\r\n".join([*head, "", ""]).encode("latin-1"))
            return int(answer.split()[1]) if answer else 0, seen

        with front(settings, change=without_login_limit) as folder:
            yield SimpleNamespace(ask=ask, say=say, origins=origins, folder=folder)


def test_a_newline_in_the_path_does_not_bring_a_get_to_graphql(running: Any) -> None:
    for site in LOGINS:
        status, arrived = running.ask(site, "GET /graphql%0a?query=mutation")
        assert [one.route for one in arrived] == []
        assert status == 400


def test_a_newline_in_the_path_does_not_open_the_metrics(running: Any) -> None:
    status, arrived = running.ask(CUSTOMERS, "GET /metrics%0a")
    assert [one.route for one in arrived] == []
    assert status == 400


CONTROL = [*(f"%{n:02x}" for n in (*range(0x20), 0x7F)), *(f"%C2%{n:02X}" for n in range(0x80, 0xA0))]
AMBIGUOUS = [
    "%2f", "%2F", "%5c", "%5C", "\\", "%2e", "%2E%2e", "%25", "%252f", "%250a", "//", "/./", "/../", "/..", "/.",
    "%c0%af", "%c0%8a", "%e0%80%8a", "%ed%a0%80", "%f4%90%80%80", "%ff", "%80", "%c3", "%c3%28", "\xe4", "%", "%4",
    "%zz", "%u000a", "#", "#x", "<", '"', "`", "{", "\x01", "\x7f",
]  # fmt: skip


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("what", [*CONTROL, *AMBIGUOUS])
def test_a_path_that_can_be_read_in_two_ways_is_refused(running: Any, site: str, what: str) -> None:
    for path in (f"/runs{what}", f"/{what}runs", f"/ru{what}ns")[: 2 if what in ("/.", "/..") else 3]:
        assert running.ask(site, f"GET {path}") == (400, []), path


@pytest.mark.parametrize(
    "path", ["/runs/a%20b", "/assets/%C3%A9t%C3%A9/%E2%82%AC", "/assets/a.b..c", "/jobs/x~y@z:1;v='[|]'"]
)
def test_other_paths_arrive_as_they_were_sent(running: Any, path: str) -> None:
    status, (arrived,) = running.ask(TEAM, f"GET {path}?x=%0a")
    assert (status, arrived.path, arrived.query) == (200, path.encode(), b"x=%0a")


def test_requests_without_headers_are_refused(running: Any) -> None:
    for line in ("GET {own}/health", "GET {own}/health HTTP/0.9"):
        answer, arrived = running.say(CUSTOMERS, f"{line.format(own=running.origins[CUSTOMERS])}\r\n\r\n".encode())
        assert (b"400 Bad Request" in answer, arrived) == (True, [])


def test_a_request_line_with_another_host_does_not_choose_what_is_behind(running: Any) -> None:
    own = running.origins[TEAM]
    status, (arrived,) = running.ask(TEAM, f"GET {own}/runs", host="evil.example")
    assert (status, arrived.path, arrived.values("host")) == (200, b"/runs", [own.removeprefix("http://")])
    assert running.ask(TEAM, "GET http://evil.example/runs") == (0, [])


@pytest.mark.parametrize("site", LOGINS)
def test_graphql_is_reached_by_post_and_by_web_socket_of_the_own_site_alone(running: Any, site: str) -> None:
    own = f"Origin: {running.origins[site]}"
    json = ("Content-Type: application/json", "Content-Length: 0")
    status, (arrived,) = running.ask(site, "POST /graphql?op=Name", own, *json)
    assert (status, arrived.route, arrived.method) == (200, "/graphql", "POST")
    status, (arrived,) = running.ask(site, "GET /graphql", own, *HANDSHAKE)
    assert (status, arrived.route, arrived.method) == (101, "/graphql", WEBSOCKET)
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "TRACE"):
        assert running.ask(site, f"{method} /graphql?query=x", own) == (405, [])
    for missing in HANDSHAKE[::2]:
        rest = tuple(header for header in HANDSHAKE if header != missing)
        assert running.ask(site, "GET /graphql?query=x", own, *rest, "Connection: close") == (405, [])
    assert running.ask(site, "GET /graphql?query=x", own, *HANDSHAKE, "Content-Length: 2") == (405, [])
    for path in ("/graphql/", "/GraphQL", "/graphql;x", "/graphql%20", "/graphql%3f"):
        assert running.ask(site, f"POST {path}", own, *json) == (404, [])


FROM = [  # Origin, Sec-Fetch-Site, allowed to write
    ("own", None, True),
    ("own", "same-origin", True),
    (None, "same-origin", True),
    (None, None, False),
    (None, "none", False),
    (None, "same-site", False),
    (None, "cross-site", False),
    (None, "same-origin x", False),
    (None, "same-origin, same-origin", False),
    (None, "same-originx", False),
    (None, "x same-origin", False),
    (None, "same-origin  navigate document", False),
    ("https://evil.example", None, False),
    ("https://evil.example", "same-origin", False),
    ("null", "same-origin", False),
]


@pytest.mark.parametrize(("origin", "fetch_site", "allowed"), FROM)
@pytest.mark.parametrize("site", LOGINS)
def test_what_changes_state_must_come_from_the_own_site(
    running: Any, site: str, origin: str | None, fetch_site: str | None, allowed: bool
) -> None:
    headers = [f"Sec-Fetch-Site: {fetch_site}"] * bool(fetch_site)
    headers += [f"Origin: {running.origins[site] if origin == 'own' else origin}"] * bool(origin)
    status, arrived = running.ask(site, "POST /graphql", *headers, "Content-Length: 0")
    assert (status, len(arrived)) == ((200, 1) if allowed else (403, 0))
    status, arrived = running.ask(site, "GET /graphql", *headers, *HANDSHAKE)
    assert (status, len(arrived)) == ((101, 1) if allowed else (403, 0))


@pytest.mark.parametrize("site", LOGINS)
def test_what_decides_is_what_arrives_even_if_a_header_comes_twice(running: Any, site: str) -> None:
    """nginx before 1.23 looks at the first of two, later ones refuse both."""
    own, foreign = f"Origin: {running.origins[site]}", "Origin: https://evil.example"
    assert running.ask(site, "POST /graphql", foreign, own, "Content-Length: 0") == (403, [])
    for twice in ((own, foreign), ("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site")):
        status, arrived = running.ask(site, "POST /graphql", *twice, "Content-Length: 0")
        assert status in (200, 403)
        assert all(one.values("origin") in ([], [running.origins[site]]) for one in arrived)


NAVIGATION = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
IMAGE = ("Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")
FRAME = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")


@pytest.mark.parametrize("site", LOGINS)
def test_other_sites_may_link_to_a_page_and_not_embed_it(running: Any, site: str) -> None:
    for relation in ("none", "same-origin", "same-site", "cross-site"):
        near = relation in ("none", "same-origin")
        for path in ("/", "/runs/x", "/download_debug/x", "/favicon.svg"):
            assert running.ask(site, f"GET {path}", f"Sec-Fetch-Site: {relation}", *NAVIGATION)[0] == 200
            for embedded in (IMAGE, FRAME):
                status, arrived = running.ask(site, f"GET {path}", f"Sec-Fetch-Site: {relation}", *embedded)
                assert (status, len(arrived)) == ((200, 1) if near else (403, 0))
        assert running.ask(site, "GET /", "Origin: https://evil.example") == (403, [])
    for odd in ("none x", "same-origin x", "none, none", "same-site navigate", "cross-site navigate document"):
        for rest in ((), NAVIGATION):
            assert running.ask(site, "GET /", f"Sec-Fetch-Site: {odd}", *rest) == (403, [])


@pytest.mark.parametrize("site", LOGINS)
def test_of_the_installed_webserver_only_what_the_ui_needs_is_open(running: Any, site: str) -> None:
    closed = {"/dagit_info", "/notebook", "/dagit/notebook", "/csp-header.txt", "/404.html", "/index.html"}
    own = f"Origin: {running.origins[site]}"
    for route in dagster_routes():
        pattern = route.path  # type: ignore[attr-defined]
        if pattern in ("/graphql", "/{path:path}", "/"):
            continue
        path = re.sub(r"\{.*\}", "x", pattern) + ("/x" if not isinstance(route, Route) else "")
        report = pattern.startswith("/report_asset_")
        open_to = {"POST"} if report and site == TEAM else set() if report or pattern in closed else {"GET", "HEAD"}
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, arrived = running.ask(site, f"{method} {path}", own, "Content-Length: 0")
            assert [one.route for one in arrived] == [pattern] * (method in open_to), (method, path)
            assert status == 200 if arrived else status in (404, 405), (method, path)


@pytest.mark.parametrize("site", LOGINS)
def test_each_page_of_the_ui_can_be_opened_by_its_address(running: Any, site: str) -> None:
    chunks = Path(dagster_webserver.webserver.__file__).parent / "webapp/build/_next/static/chunks"
    (text,) = [text for path in chunks.rglob("*.js") if 'path:"/guess/:jobPath"' in (text := path.read_text())]
    found = re.search(r'path:"/asset-groups\(/\?\.\*\)".*?path:"\*"', text, re.DOTALL)
    assert found, "the UI's list of pages is written in another way: look at it and at the front's"
    pages = {name for name in re.findall(r'"/([a-z-]+)[/("]', found[0]) if len(name) > 2}
    assert {"runs", "assets", "locations", "overview", "deployment"} <= pages
    for page in pages:
        for path in (f"/{page}", f"/{page}/", f"/{page}/a/b"):
            assert running.ask(site, f"GET {path}", "Sec-Fetch-Site: none", *NAVIGATION)[0] == 200, path
        assert running.ask(site, f"GET /{page}x") == (404, [])
    for path in ("/metrics", "/api", "/.env", "/runs.php"):
        assert running.ask(site, f"GET {path}") == (404, [])


def test_the_gateway_is_asked_for_its_own_paths_and_for_its_page_of_others(running: Any) -> None:
    for route in gateway_routes():
        pattern = route.path  # type: ignore[attr-defined]
        path = re.sub(r"\{.*?\}", "x", pattern) + ("/x" if not isinstance(route, Route) else "")
        method = next(iter(sorted(getattr(route, "methods", None) or {"GET"})))
        _, (arrived,) = running.ask(CUSTOMERS, f"{method} {path}", "Content-Length: 0")
        if pattern == "/metrics":
            assert (arrived.route, arrived.path) == ("", b"/not-found")
        else:
            assert (arrived.route, arrived.path) == (pattern, path.encode())
    for path in ("/", "/metrics", "/metrics/", "/METRICS", "/graphql", "/smi", "/opsx", "/healthy", "/x?y=z"):
        _, (arrived,) = running.ask(CUSTOMERS, f"GET {path}")
        assert (arrived.route, arrived.path, arrived.query) == ("", b"/not-found", b"")


@pytest.mark.parametrize("site", LOGINS)
def test_only_the_headers_that_dagster_needs_arrive(running: Any, site: str) -> None:
    odd = ("X-Original-URL: /graphql", "X-HTTP-Method-Override: POST", "X-Forwarded-Prefix: /x", "Cookie: a=b", "TE: x")
    _, (arrived,) = running.ask(site, "GET /runs", "Accept: text/html", *odd, "X-Forwarded-For: 192.0.2.1")
    names = {name.decode() for name, _ in arrived.headers}
    assert names == {"host", "accept", "x-forwarded-for", "x-forwarded-proto"}
    assert arrived.values("x-forwarded-for") == ["127.0.0.1"]


def test_headers_in_which_programs_look_for_another_address_or_method_do_not_reach_the_gateway(running: Any) -> None:
    odd = ["X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "Forwarded", "X-Real-IP"]
    odd += ["X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "Proxy"]
    sent = ("Stripe-Signature: t=1", *(f"{name}: evil.example" for name in odd))
    _, (arrived,) = running.ask(CUSTOMERS, "POST /smi-webhook/stripe", *sent, "Content-Length: 0")
    assert not {name.decode() for name, _ in arrived.headers} & {name.lower() for name in odd}
    assert arrived.values("stripe-signature") == ["t=1"]
