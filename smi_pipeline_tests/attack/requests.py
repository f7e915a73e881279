"""Hostile requests. Each follows from the seed, the site and its number, so that any of them can be made again."""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random

from smi_pipeline_tests.attack import corpus
from smi_pipeline_tests.attack.sites import Target

OUTER, INNER = "smi-attack/", "smi-inner/"
PARTS = ("path", "path", "path", "line", "method", "host", "login", "origin", "site", "mode", "header", "header")
RARE_PARTS = ("socket", "framing", "malformed", "ends")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The bytes of one request. `headers` ends where its head does, which may be early. `right_login`: it shows the
    login of its site. `reusable`: an HTTP client would go on using the connection after it."""

    raw: bytes
    method: str
    headers: tuple[str, ...]
    right_login: bool
    reusable: bool

    def values(self, name: str) -> list[str]:
        """Return the values of a header that is spelt rightly, in the order in which they were sent."""
        return [line.partition(":")[2].strip(" ") for line in self.headers if line.startswith(f"{name}:")]


def attempt(target: Target, seed: int, number: int) -> Attempt:
    """Return request `number` of this seed: one that the site would take, or nearly, with some of its parts odd."""
    random = Random(f"{seed}/{target.site}/{number}")
    odd = set(random.sample(PARTS, random.choice((0, 1, 1, 1, 2, 2, 3, 5))))
    odd |= {part for part in RARE_PARTS if random.random() < 0.06}
    path = random.choice(corpus.PATHS[target.site])
    writes = path.startswith(("/graphql", "/report_asset_", "/smi/v1/", "/smi-webhook/"))
    method = "POST" if writes and "socket" not in odd and random.random() < 0.75 else "GET"
    if "method" in odd:
        method = random.choice(corpus.METHODS if random.random() < 0.7 else corpus.ODD_METHODS)
    headers = _headers(random, target, odd, writes)
    if "socket" in odd:
        headers += [header for header in corpus.HANDSHAKE if random.random() < 0.9]
    framing, body = _body(random, method, odd, number)
    headers += [*framing, *["Content-Type: application/json"] * bool(body)]
    random.shuffle(headers)
    first = [_line(random, target, method, path, odd, number), f"User-Agent: {OUTER}{number}", ""]
    marked = "\r\n".join(first).encode("latin-1", "replace")
    rest = "\r\n".join([*headers, "", ""]).encode("latin-1", "replace") + body
    if "ends" in odd:  # but the mark stays whole
        marked = marked.replace(b"\r\n", random.choice((b"\n", b"\r\n")))
        rest = rest.replace(b"\r\n", random.choice(corpus.LINE_ENDS), random.randrange(1, 4))
    raw = marked + rest
    sent = list(takewhile(bool, re.split(r"\r*\n", raw.decode("latin-1"))[1:]))
    return Attempt(
        raw=raw,
        method=method,
        headers=tuple(sent),
        right_login=bool(target.login) and f"Authorization: {_basic(target.login)}" in sent,
        reusable=not odd & {"line", "socket", "framing", "malformed", "ends"},
    )


def _basic(login: str) -> str:
    return "Basic " + b64encode(login.encode()).decode()


def number_of(agent: str) -> int | None:
    """Return the number of the request that carries this User-Agent, None for one that nobody sent as such."""
    found = re.fullmatch(rf"{OUTER}(\d+)", agent)
    return int(found[1]) if found else None


def _line(random: Random, target: Target, method: str, path: str, odd: set[str], number: int) -> str:
    if "path" in odd:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            path = random.choice(CHANGES)(random, path)
    if random.random() < 0.4:
        path += "?" + random.choice(corpus.QUERIES) + f"&n={number}"
    if "line" not in odd:
        return f"{method} {path} HTTP/1.1"
    form = random.random()
    version = "HTTP/1.1" if random.random() < 0.6 else random.choice(corpus.VERSIONS)
    if form < 0.5:
        host = random.choice((target.authority, target.authority, "evil.example", f"x@{target.authority}", "", "[::1]"))
        path = f"{random.choice((target.origin.partition(':')[0], *corpus.SCHEMES))}://{host}{path}"
    elif form < 0.7:
        path = random.choice((target.authority, "*", "", path.lstrip("/"), f"//{target.authority}{path}", "x:y", " "))
    return f"{method}{random.choice(corpus.SPACES)}{path}{random.choice(corpus.SPACES)}{version}"


def _headers(random: Random, target: Target, odd: set[str], writes: bool) -> list[str]:
    values = {"own": target.origin, "upper": target.origin.upper(), "host": target.authority}

    def several(name: str, choices: Sequence[tuple[str, ...]], usual: tuple[str, ...]) -> list[str]:
        chosen = random.choice(choices) if name in odd else usual
        return [value.format(**values) for value in chosen]

    headers = [f"Host: {host}" for host in several("host", corpus.HOSTS, ("{host}",))]
    own, other = target.login or "x:y", target.other_login or "y:z"
    logins: Sequence[tuple[str, ...]] = (
        (),
        (other,),
        (own, "x:y"),
        ("x:y", own),
        ("x:" + "y" * 500,),
        ("",),
        (own + " ",),
    )
    shown = random.choice(logins) if "login" in odd else (own,) * bool(target.login)
    headers += [f"Authorization: {_basic(login)}" for login in shown]
    headers += [f"Cookie: smi_{target.site}={target.cookie}"] * (random.random() < 0.3)
    by_origin = random.random() < 0.6
    usual_site = ("same-origin",) if writes else ("none",)
    headers += [
        f"Origin: {origin}" for origin in several("origin", corpus.ORIGINS, ("{own}",) * (writes and by_origin))
    ]
    if "site" in odd or not by_origin:
        headers += [f"Sec-Fetch-Site: {site}" for site in several("site", corpus.FETCH_SITES, usual_site)]
    if "mode" in odd:
        headers.append("Sec-Fetch-Mode: " + random.choice(corpus.FETCH_MODES))
        headers.append("Sec-Fetch-Dest: " + random.choice(corpus.FETCH_DESTS))
    if "header" in odd:
        headers += [random.choice(corpus.HEADERS).format(**values) for _ in range(random.choice((1, 1, 2, 4)))]
    if "malformed" in odd:
        headers.append(random.choice(corpus.MALFORMED).format(**values))
    return headers


def _body(random: Random, method: str, odd: set[str], number: int) -> tuple[list[str], bytes]:
    """Return headers that say how long the body is, and a body that is often a request of its own."""
    first = random.choice(
        ("GET /metrics", "POST /graphql?query=x", "GET /graphql%0a?query=x", "POST /report_asset_check/x")
    )
    inner = f"{first} HTTP/1.1\r\nHost: inner.example\r\nUser-Agent: {INNER}{number}\r\n\r\n".encode()
    body = inner if random.random() < 0.4 else b'{"query": "mutation { x }"}'
    if "framing" in odd:
        return random.choice(corpus.framings(body, inner))
    if method != "POST" and random.random() < 0.95:
        return [], b""
    return [f"Content-Length: {len(body)}"], body


def _encoded(text: str, random: Random) -> str:
    code = "".join(f"%{byte:02x}" for byte in text.encode())
    return code.upper() if random.random() < 0.3 else code


def _somewhere(random: Random, path: str, what: str) -> str:
    place = random.choice((len(path), len(path), random.randrange(len(path) + 1), 1))
    return path[:place] + what + path[place:]


def _encode_one(random: Random, path: str) -> str:
    place = random.randrange(max(len(path), 1))
    return path[:place] + _encoded(path[place : place + 1], random) + path[place + 1 :]


def _encode_again(random: Random, path: str) -> str:
    return path.replace("%", "%25") if "%" in path else _encode_one(random, path).replace("%", "%25")


def _overlong(random: Random, path: str) -> str:
    place = random.randrange(max(len(path), 1))
    code = ord(path[place : place + 1] or "/") & 0x7F
    forms = (f"%{0xC0 | code >> 6:02x}%{0x80 | code & 63:02x}", f"%e0%{0x80 | code >> 6:02x}%{0x80 | code & 63:02x}")
    return path[:place] + random.choice(forms) + path[place + 1 :]


def _control(random: Random, path: str) -> str:
    character = random.choice(corpus.CONTROL) if random.random() < 0.6 else "\n"
    raw = random.random() < 0.2
    return _somewhere(random, path, character if raw else _encoded(character, random))


def _look_alike(random: Random, path: str) -> str:
    letters = [place for place, letter in enumerate(path) if letter.isalpha() and letter.isascii()]
    if not letters:
        return path
    place = random.choice(letters)
    wide = chr(ord(path[place]) + 0xFEE0)  # the full-width letter, which NFKC turns into this one
    return path[:place] + _encoded(wide, random) + path[place + 1 :]


def _noise(random: Random, path: str) -> str:
    return _somewhere(random, path, "".join(chr(random.randrange(1, 256)) for _ in range(random.randrange(1, 6))))


CHANGES: Sequence[Callable[[Random, str], str]] = (
    _control,
    _control,
    _encode_one,
    _encode_one,
    lambda random, path: "/" + "".join(_encoded(letter, random) for letter in path[1:]),
    _encode_again,
    _overlong,
    _look_alike,
    _noise,
    lambda random, path: random.choice((path.upper(), path.title(), path.swapcase())),
    lambda random, path: path + random.choice(corpus.ENDS),
    lambda random, path: path + random.choice(corpus.ENDS),
    lambda random, path: random.choice(corpus.STARTS) + path.lstrip("/"),
    lambda random, path: random.choice(corpus.STARTS) + path.lstrip("/"),
    lambda random, path: path + random.choice(("/" + "a" * 5000, "/.." * 900, "%0a" * 400, "a" * 17000, "/a" * 3000)),
    lambda random, path: _somewhere(random, path, random.choice(("/", "//", "/./", "/x/../", "%2f", ".", "%2e", "\\"))),
)
