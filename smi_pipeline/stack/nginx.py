"""The front: nginx before the gateway and Dagster's UI, which has no login of its own. Writes its configuration."""

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import socket
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import jinja2

from smi_pipeline.core.errors import RefusedError
from smi_pipeline.settings import Settings

TEMPLATE = Path(__file__).with_name("nginx.conf.j2")
SHORTEST_PASSWORD = 12
_NGINX_USER = "www-data"  # Debian's
PAGES = (
    *("asset-groups", "assets", "automation", "backfills", "concurrency", "config", "deployment", "guess", "health"),
    *("jobs", "locations", "overview", "runs", "snapshots"),
)
"""The first words of the addresses of the UI's pages."""
FILES = (
    *("\\z", "_next/", "vendor/", "favicon[a-z-]*\\.(?:ico|png|svg)\\z", "manifest\\.json\\z", "robots\\.txt\\z"),
    *("Dagster_world\\.mp4\\z", "server_info\\z", "logs/", "download_debug/"),
)
"""What else the UI asks for by GET: expressions for the rest of the path, the first of them for its start page."""
_SEGMENT = (
    r"(?!\.\.?(?:[/?]|\z))(?:[A-Za-z0-9\-._~!$&'()*+,;=:@|^\[\]]"
    r"|%(?:2[0-46-9A-Da-d]|[346][0-9A-Fa-f]|5[0-9ABD-Fabd-f]|7[0-9A-Ea-e])"
    r"|%[Cc]2%[AaBb][0-9A-Fa-f]|%(?:[Cc][3-9A-Fa-f]|[Dd][0-9A-Fa-f])%[89AaBb][0-9A-Fa-f]"
    r"|%(?:[Ee]0%[AaBb]|[Ee][1-9A-CEFa-cef]%[89AaBb]|[Ee][Dd]%[89])[0-9A-Fa-f]%[89AaBb][0-9A-Fa-f]"
    r"|%(?:[Ff]0%[9AaBb]|[Ff][1-3]%[89AaBb]|[Ff]4%8)[0-9A-Fa-f](?:%[89AaBb][0-9A-Fa-f]){2})++"
)
"""A segment of a path that can be read in one way: printable ASCII and well-formed UTF-8, without the controls of
Unicode (C1), and nothing encoded that separates or escapes."""
_SALT = string.ascii_letters + string.digits + "./"


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """The parts of an origin."""

    origin: str
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """The Host header of requests for it."""
        return self.origin.partition("://")[2]

    @property
    def listens(self) -> tuple[str, ...]:
        """What nginx listens on; a loopback name is for this machine only."""
        ending = " ssl http2" if self.tls else ""
        if self.host in ("127.0.0.1", "localhost") or self.host.endswith(".localhost"):
            return (f"127.0.0.1:{self.port}{ending}",)
        six = (f"[::]:{self.port}{ending}",) if socket.has_dualstack_ipv6() else ()
        return (f"{self.port}{ending}", *six)


@dataclass(frozen=True, kw_only=True)
class _Site:
    """A site of Dagster's UI. `upstream` is the port of the UI on 127.0.0.1."""

    address: _Origin
    name: str
    upstream: int
    read_only: bool
    user: str
    password: str = field(repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_policy(self) -> str:
        """Inline scripts are for Dagster's own policy to judge, which knows their nonce."""
        sockets = self.address.origin.replace("http", "ws", 1)  # older Safari does not count them to 'self'
        return (
            f"default-src 'self'; connect-src 'self' {sockets}; img-src 'self' data: blob:; font-src 'self' data:; "
            "script-src 'self' 'unsafe-inline' blob:; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
            "form-action 'self'; frame-src 'none'; frame-ancestors 'none'"
        )


def write_front(
    settings: Settings, folder: Path, *, certificate: Path | None = None, key: Path | None = None
) -> list[Path]:
    """Write nginx.conf and the password files of the sites into `folder`, and return these files.

    Raises RefusedError naming the setting or path that is missing or wrong."""
    customers = _origin("SMI_PUBLIC_URL", settings.public_url)
    sites = list(_sites(settings))
    addresses = [customers, *(site.address for site in sites)]
    if len({address.origin for address in addresses}) < len(addresses):
        raise RefusedError("SMI_PUBLIC_URL, SMI_TEAM_URL and SMI_ANALYSTS_URL must be different addresses")
    tls = any(address.tls for address in addresses)
    if tls and not (certificate and key):
        raise RefusedError("an address is https: name the files of its certificate by --certificate and --key")
    folder = _quotable(folder)
    certificate, key = certificate and _quotable(certificate), key and _quotable(key)
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    template = jinja2.Template(
        TEMPLATE.read_text(), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    written = template.render(
        folder=folder,
        user=_NGINX_USER if os.geteuid() == 0 else None,
        customers=customers,
        gateway_port=settings.smi_gateway_port,
        sites=sites,
        proxies=settings.smi_front_proxies,
        segment=_SEGMENT,
        pages=PAGES,
        files=FILES,
        listened={listen: address.tls for address in addresses for listen in address.listens},
        tls=tls,
        certificate=certificate,
        key=key,
    )
    return [
        _private(folder / "nginx.conf", written),
        *(_private(folder / f"{site.name}.htpasswd", f"{site.user}:{hashed(site.password)}\n") for site in sites),
    ]


def hashed(password: str) -> str:
    """Return the SHA-512 hash of crypt, by the library that nginx checks it with. A slower hash would block nginx: it
    checks each request, and one page of Dagster's UI makes about a hundred."""
    try:
        crypt = ctypes.CDLL("libcrypt.so.1").crypt
    except OSError:
        raise RefusedError("libcrypt.so.1 is missing: install Debian's package libcrypt1") from None
    crypt.argtypes, crypt.restype = (ctypes.c_char_p, ctypes.c_char_p), ctypes.c_char_p
    salt = "".join(secrets.choice(_SALT) for _ in range(16))
    made: bytes | None = crypt(password.encode(), f"$6${salt}".encode())
    if not made or not made.startswith(b"$6$"):
        raise RefusedError("libcrypt.so.1 cannot make SHA-512 hashes: install Debian's package libcrypt1")
    return made.decode()


def _sites(settings: Settings) -> Iterator[_Site]:
    user, password = settings.smi_ui_user, settings.smi_ui_password.get_secret_value()
    if settings.smi_team_url:
        _check_login("SMI_UI", user, password)
        yield _Site(
            address=_origin("SMI_TEAM_URL", settings.smi_team_url),
            user=user,
            password=password,
            name="team",
            upstream=settings.smi_dagster_port,
            read_only=False,
        )
    if settings.smi_analysts_url:
        other, other_password = settings.smi_analysts_user, settings.smi_analysts_password.get_secret_value()
        _check_login("SMI_ANALYSTS", other, other_password)
        if other == user or other_password == password:  # compares what is configured, not what anybody claims
            raise RefusedError("SMI_ANALYSTS_USER and SMI_ANALYSTS_PASSWORD must not be those of the team")
        yield _Site(
            address=_origin("SMI_ANALYSTS_URL", settings.smi_analysts_url),
            user=other,
            password=other_password,
            name="analysts",
            upstream=settings.smi_analysts_port,
            read_only=True,
        )


def _check_login(prefix: str, user: str, password: str) -> None:
    if not user or user.startswith("#") or ":" in user or not user.isprintable():
        raise RefusedError(
            f"{prefix}_USER is missing, begins with #, or has a colon or characters that cannot be typed"
        )
    if len(password) < SHORTEST_PASSWORD or not password.isprintable():
        raise RefusedError(f"{prefix}_PASSWORD needs at least {SHORTEST_PASSWORD} characters, all printable")


def _origin(name: str, url: str) -> _Origin:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedError(f"{name} has no usable port") from None
    host, tls = parts.hostname or "", parts.scheme == "https"
    if parts.path or parts.query or parts.username is not None:
        raise RefusedError(f"{name} must be scheme and host alone for the front, like https://shop.example.com")
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", host):
        raise RefusedError(
            f"{name} must name a host by letters of ASCII, digits and hyphens between single dots; "
            "write other letters in their xn-- form"
        )
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, 443 if tls else 80) else "")
    return _Origin(origin=origin, host=host, port=port or (443 if tls else 80), tls=tls)


def _quotable(path: Path) -> Path:
    """Return the absolute path, which means the same within the quotes of nginx's configuration."""
    path = path.absolute()
    if not str(path).isprintable() or any(c in '$"\\' for c in str(path)):
        problem = 'has a $, a ", a backslash or a character that cannot be printed: choose another path for nginx'
        raise RefusedError(f"the path {str(path)!a} {problem}")
    return path


def _private(path: Path, text: str) -> Path:
    """Readable for its owner, and, when root writes it, for nginx's workers."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o640)
    path.write_text(text)
    if os.geteuid() == 0:
        with contextlib.suppress(LookupError):
            shutil.chown(path, group=_NGINX_USER)
    return path
