"""Servers that a test starts for itself, on a free port of loopback."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests
import trustme

from smi_pipeline.stack.process_plan import free_port

_SECONDS = 60


@contextlib.contextmanager
def started(argv: Sequence[str | Path], port: int) -> Iterator[None]:
    """Run a server, once it listens on `port` of 127.0.0.1."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + _SECONDS
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None and time.monotonic() < ends, f"{argv[0]} did not start"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run an empty Redis, and return the URL of a database in it. Skip the test where there is none."""
    port = free_port()
    with started([*_redis(folder), "--port", str(port)], port):
        yield f"redis://127.0.0.1:{port}/1"


@contextlib.contextmanager
def redis_with_tls(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run an empty Redis that speaks TLS alone; return its URL and the file of the authority of its certificate."""
    port, authority = free_port(), trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    files = {name: folder / f"redis-{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(str(files["ca"]))
    own.cert_chain_pems[0].write_to_path(str(files["cert"]))
    own.private_key_pem.write_to_path(str(files["key"]))
    tls: list[str | Path] = [
        "--tls-cert-file",
        files["cert"],
        "--tls-key-file",
        files["key"],
        "--tls-ca-cert-file",
        files["ca"],
    ]
    tls += ["--tls-port", str(port), "--port", "0", "--tls-auth-clients", "no"]
    with started([*_redis(folder), *tls], port):
        yield f"rediss://127.0.0.1:{port}/1", files["ca"]


def _redis(folder: Path) -> list[str | Path]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs Debian's redis-server")
    return [program, "--bind", "127.0.0.1", "--save", "", "--dir", folder]


@contextlib.contextmanager
def s3(bucket: str) -> Iterator[dict[str, str]]:
    """Run moto's server with an empty bucket, and return the variables by which libraries find it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        requests.put(f"{url}/{bucket}", timeout=30).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key-id",
            "AWS_SECRET_ACCESS_KEY": "secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
