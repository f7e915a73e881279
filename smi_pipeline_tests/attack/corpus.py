"""What hostile requests are made of. In headers, {own} is the site's origin, {host} its host and port."""

from smi_pipeline_tests.attack.sites import ANALYSTS, CUSTOMERS, TEAM

_DAGSTER = (
    *("/graphql",) * 12,
    *("/report_asset_materialization/x", "/report_asset_check/x", "/report_asset_observation/x") * 2,
    *("/dagit_info", "/notebook", "/dagit/notebook", "/server_info", "/download_debug/x", "/logs/x/out"),
    *("/", "/runs/x", "/assets/a/b", "/_next/static/x.js", "/vendor/graphiql/x.js", "/favicon.svg", "/index.html"),
)
PATHS = {
    CUSTOMERS: (
        *("/metrics",) * 12,
        *("/ops", "/ops/jobs/x", "/ops/reports/x", "/health", "/smi/v1/jobs", "/smi/v1/jobs/x", "/static/page.css"),
        *("/smi/v1/admin/jobs/x/refund", "/smi-webhook/stripe", "/smi-webhook/upsampler/x", "/smi/v1/download/x"),
        *("/", "/not-found", "/graphql"),
    ),
    TEAM: _DAGSTER,
    ANALYSTS: _DAGSTER,
}
QUERIES = (
    *("query=mutation%7Bx%7D", "query=mutation{x}", "path=x.ipynb", "a=%0a", "#", "?", "/../graphql", "\xff", "a=%00"),
)
CONTROL = (*(chr(n) for n in range(0x20)), "\x7f", *(chr(n) for n in range(0x80, 0xA0)))
ENDS = (
    *("/", "//", "/.", "/..", "/../graphql", "/../metrics", "%2f", "%2F..", "%2e", "/%2e", "/%2e%2e", ";x", ";/.."),
    *("#", "#x", "%23", "%3f", "\\", "%5c", "%20", " ", "+", "%", "%0", "%g1", "%u000a", "%uff0a", "%00.js", ".css"),
    *("%E2%80%A8", "%E2%80%A9", "%EF%BB%BF", "%C2%A0", "%C2%85", "%0a%0a", "%0d%0a", "%0a/", "%250a", "%25250a"),
    *("%c0%8a", "$", "|", ":", "%0A", "%0D", "%0B", "%0C", "%1C"),
)
STARTS = (
    *("//", "/./", "/x/../", "/runs/../", "/runs/..;/", "/runs/%2e%2e/", "/runs/.%2e/", "/runs%2f..%2f", "/runs/..%2f"),
    *("\\", "/\\", "/runs\\..\\", "/;/", "/.;/", "/_next/../", "/_next/%2e%2e/", "/_next/..%5c", "/static/../", "%2f"),
    *("/static/..%2f", "/smi/v1/../../", "/%00/../", "/%0a/../", "/ops/../", "/ops/%2e%2e/", "/vendor/..%252f", ""),
    *("/%2e/", "/ops/..%252f", "/runs/\xa0/../", "/static/x/../../"),
)
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "QUERY")
ODD_METHODS = ("get", "Post", "GRAPHQL", "M-SEARCH", "GET\x0b", "P\x00ST", "", "PRI", "X" * 40, "G_T", "POST,GET")
VERSIONS = ("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", "HTTP/1.1 x", "HTTP/1.10", "HTTP/01.1", "", "HTTP/1.1\t")
SPACES = (" ", " ", " ", "  ", "\t", "\x0b", "\xa0")
SCHEMES = ("http", "https", "HTTP", "ws", "file", "gopher", "http:")
LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r\n", b"\x00\r\n")

HOSTS = (
    *((), ("evil.example",), ("{host}", "evil.example"), ("evil.example", "{host}"), ("x@{host}",), ("{host}/x",)),
    *(("localhost",), ("127.0.0.1",), ("127.0.0.1.",), ("",), ("{host}, evil.example",), ("{host} ",), ("[::1]",)),
)
ORIGINS = (
    *((), ("https://evil.example",), ("null",), ("",), ("{own}/",), ("{own}.evil.example",), ("http://127.0.0.1",)),
    *(("{own}", "https://evil.example"), ("https://evil.example", "{own}"), ("{own}, https://evil.example",)),
    *(("{upper}",), ("{own} ",), ("{own}@evil.example",), ("file://",), ("{own}\x00",), ("{own}", "{own}")),
)
FETCH_SITES = (
    *((), ("none",), ("same-site",), ("cross-site",), ("",), ("SAME-ORIGIN",), ("same-origin, cross-site",), ("x",)),
    *(("same-origin", "cross-site"), ("cross-site", "same-origin"), ("same-origin",), ("same-origin;x",)),
)
FETCH_MODES = ("navigate", "no-cors", "cors", "same-origin", "websocket", "x", "navigate, no-cors", "")
FETCH_DESTS = ("document", "image", "iframe", "frame", "empty", "script", "object", "embed", "x", "")
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
HEADERS = (
    *("X-HTTP-Method-Override: POST", "X-HTTP-Method: GET", "X-Original-URL: /graphql", "X-Rewrite-URL: /metrics"),
    *("X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: evil.example", "TE: trailers"),
    *("X-Forwarded-Proto: https", "X-Forwarded-Prefix: /x", "X-Forwarded-Path: /graphql", "X-Forwarded-Port: 1"),
    *("Forwarded: for=127.0.0.1;host=evil.example", "X-Real-IP: 127.0.0.1", "Connection: close, Authorization"),
    *("Connection: Origin, Sec-Fetch-Site", "Connection: Content-Length", "Connection: X-Forwarded-For, Host"),
    *("Keep-Alive: x", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eDp5", "Trailer: Origin"),
    *("Expect: 100-continue", "Expect: x", "Range: bytes=0-0", "X-Accel-Redirect: /metrics", "If-None-Match: *"),
    *("X-Accel-Internal: /graphql", "Accept: text/html", "Content-Type: application/graphql", "Content-Type: x"),
    *("Content-Type: text/plain", "Cookie: a=b; a=c", "If-Modified-Since: x", "Referer: {own}/", "Upgrade: h2c"),
    *("HTTP2-Settings: AAMAAABkAAQAAP__", "Upgrade: websocket", "upgrade: WebSocket", "Upgrade: websocket, h2c"),
    *("Connection: Upgrade", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: x", "Sec-WebSocket-Protocol: graphql-ws"),
    *("Sec-WebSocket-Extensions: x", "X_Forwarded_For: 127.0.0.1", "Sec_Fetch_Site: same-origin", "Content_Length: 5"),
    *("Transfer_Encoding: chunked", "X: " + "y" * 9000, "User_Agent: smi-inner/1", "Authorization: Bearer x"),
)
MALFORMED = (
    *("Origin : {own}", "Origin\t: {own}", " Origin: {own}", "Origin:\x0b{own}", "Or\x00igin: {own}", "X", ": x", ""),
    *(
        "Host : evil.example",
        "Content-Length : 5",
        "\x00",
        "X: \x00",
        "X: \xff",
        "X: a\x7fb",
        "X\xff: y",
        "X: " + "y" * 40000,
    ),
)


def framings(body: bytes, inner: bytes) -> list[tuple[list[str], bytes]]:
    """Return headers that say in a doubtful way how long a body is, each with the bytes that follow. `inner` is a
    request of its own."""
    length = len(body)
    chunked = f"{length:x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return [
        ([], b""),
        (["Transfer-Encoding: chunked"], chunked),
        (["Transfer-Encoding: chunked", f"Content-Length: {length}"], chunked),
        (["Transfer-Encoding: chunked", "Content-Length: 0"], b"0\r\n\r\n" + inner),
        (["Content-Length: 0"], inner),
        (["Content-Length: 5"], b"0\r\n\r\n" + inner),
        (["Content-Length: 0", f"Content-Length: {length}"], body),
        ([f"Content-Length: {length}", "Content-Length: 0"], body),
        ([f"Content-Length: 0, {length}"], body),
        ([f"Content-Length: +{length}"], body),
        ([f"Content-Length: 0x{length:x}"], body),
        ([f"Content-Length: -{length}"], body),
        ([f"Content-Length : {length}"], body),
        ([f"Content-Length: {length + 100}"], body),
        (["Content-Length: 99999999999999999999"], body),
        (["Transfer-Encoding: chunked, identity"], chunked),
        (["Transfer-Encoding: identity, chunked"], chunked),
        (["Transfer-Encoding: xchunked", f"Content-Length: {length}"], body),
        (["Transfer-Encoding:\x0bchunked"], b"0\r\n\r\n" + inner),
        (["Transfer-Encoding : chunked"], b"0\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked"], b"0;x=\r\ny\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked"], b"-1\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked"], b"5\r\nab\r\n0\r\n\r\n" + inner),
        (["Transfer-Encoding: chunked"], b"ffffffffffffffff1\r\n" + body),
        (["Transfer-Encoding: chunked", "Trailer: Origin"], b"0\r\nOrigin: x\r\nHost: y\r\n\r\n"),
    ]
