"""Debian's nginx with the configuration that `smi front` writes."""

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from smi_pipeline.settings import Settings
from smi_pipeline.stack.nginx import write_front

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin") or ""
needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed")

TEAM = ("team", "tall-trees-in-spring")
ANALYSTS = ("analyst", "quiet-rivers-in-june")
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


_DATA, _HEADERS, _RESET, SETTINGS = 0, 1, 3, 4  # types of HTTP/2's frames


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def site_variables() -> dict[str, str]:
    """The variables of the three sites, on ports of loopback."""
    return {
        "SMI_PUBLIC_URL": f"http://127.0.0.1:{free_port()}",
        "SMI_TEAM_URL": f"http://127.0.0.1:{free_port()}",
        "SMI_ANALYSTS_URL": f"http://127.0.0.1:{free_port()}",
        "SMI_UI_USER": TEAM[0],
        "SMI_UI_PASSWORD": TEAM[1],
        "SMI_ANALYSTS_USER": ANALYSTS[0],
        "SMI_ANALYSTS_PASSWORD": ANALYSTS[1],
        "SMI_ANALYSTS_PORT": str(free_port()),
    }


def configured(**changes: Any) -> Settings:
    """Return settings with all three sites on loopback; keyword arguments change them."""
    values: dict[str, Any] = {name.lower(): value for name, value in site_variables().items()}
    return Settings(_env_file=None, **values | changes)  # type: ignore[call-arg]


def certified(folder: Path) -> tuple[Path, Path, ssl.SSLContext]:
    """Return the files of a certificate for localhost and its key, and a client's context that trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key = folder / "chain.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return certificate, key, context


def encrypted(settings: Settings) -> Settings:
    """Return the settings with all three sites on https://localhost."""
    names = ("smi_public_url", "smi_team_url", "smi_analysts_url")
    return settings.model_copy(
        update={name: getattr(settings, name).replace("http://127.0.0.1", "https://localhost") for name in names}
    )


def http2(origin: str, context: ssl.SSLContext, *requests: dict[str, str]) -> list[tuple[int, bytes]]:
    """Return the frames, type and content, that answer these requests until each stream has ended. Client libraries
    leave out headers that HTTP/2 forbids; here a request is what its dictionary says."""
    port = int(origin.rpartition(":")[2])
    context.set_alpn_protocols(["h2"])
    frames: list[tuple[int, bytes]] = []
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
        connection.makefile("rb") as answers,
    ):
        sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b"")
        for number, fields in enumerate(requests):
            block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
            sent += _frame(_HEADERS, 0x05, 2 * number + 1, block)
        connection.sendall(sent)
        ended = 0
        while ended < len(requests):
            head = answers.read(9)
            assert len(head) == 9, f"the connection has ended after {frames}"
            frames.append((head[3], answers.read(int.from_bytes(head[:3], "big"))))
            ended += head[3] == _RESET or (head[3] in (_DATA, _HEADERS) and head[4] & 1)
    return frames


def _text(said: str) -> bytes:
    """Return a string of HPACK, uncompressed."""
    assert len(said) < 127
    return bytes([len(said)]) + said.encode()


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def without_login_limit(text: str) -> str:
    """Return the configuration with next to no limit on logins, which has a test of its own."""
    for name in ("team", "analysts"):
        line = f"limit_req_zone $smi_{name}_guesser zone={name}_logins:10m rate=20r/m"
        assert line in text
        text = text.replace(line, line.replace("20r/m", "100000r/s"))
    return text


@contextmanager
def front(
    settings: Settings,
    *,
    change: Callable[[str], str] = lambda text: text,
    certificate: Path | None = None,
    key: Path | None = None,
    prefix: str = "smi-front-",
) -> Iterator[Path]:
    """Runs nginx in a folder that its workers may enter, which pytest's are not always; gives that folder."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        configuration = write_front(settings, folder, certificate=certificate, key=key)[0]
        configuration.write_text(change(configuration.read_text()))
        command = [NGINX, "-c", str(configuration), "-g", "daemon off;"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            ends = time.monotonic() + 20
            while not (folder / "nginx.pid").exists() or not (folder / "nginx.pid").read_text().strip():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < ends, "nginx does not start"
                time.sleep(0.01)
            yield folder
        finally:
            process.terminate()
            process.communicate(timeout=20)
