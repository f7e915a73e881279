"""What holds for every answer, and the server itself: headers, logs without secrets, patience with an end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from smi_pipeline.gateway import bodies, server
from smi_pipeline.gateway.__main__ import main
from smi_pipeline_tests.gateway.shop import API_KEY, SECRET_KEY, Shop, signed, wait_for

BROWSER = {"Accept": "text/html,*/*;q=0.8"}


def test_every_answer_carries_the_headers_that_protect_it(shop: Shop) -> None:
    job_id = shop.delivered()
    view, key = shop.view(job_id), shop.rating_key(job_id)
    paths = [
        f"/smi/v1/jobs/{job_id}?view={view}",
        f"/smi/v1/job-status/{job_id}?view={view}",
        f"/smi/v1/download/{shop.token(job_id)}",
        f"/smi/v1/rate/{job_id}?key={key}",
        "/smi/v1/download/nonsense",
        "/ops",
        "/metrics",
        "/health",
        "/static/page.css",
        "/static/../app.py",
        "/nothing",
        "/",
    ]
    for path in paths:
        headers = shop.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "unsafe-inline" not in headers["content-security-policy"], path
        assert "server" not in headers, path
        assert "set-cookie" not in headers, path
        cached = "max-age" in headers["cache-control"]
        assert cached == path.startswith("/static/page"), path
    assert shop.client.get("/static/../app.py").status_code == 404


def test_pages_hold_no_inline_style_or_script(shop: Shop) -> None:
    job_id = shop.submitted()
    pages = [shop.page(job_id), shop.page(shop.refunded("pending")), shop.page(shop.delivered())]
    for path in ("/ops", f"/ops/jobs/{job_id}"):
        pages.append(shop.client.get(path, auth=("operator", "correct horse")).text)
    for html in pages:
        assert "style=" not in html
        assert "<style" not in html
        assert " on" + "click=" not in html
        assert "<script>" not in html


def test_behind_https_browsers_are_told_to_stay_there(make_shop) -> None:
    assert "strict-transport-security" not in make_shop().client.get("/health").headers
    shop = make_shop(smi_public_url="https://shop.example")
    assert "max-age" in shop.client.get("/health").headers["strict-transport-security"]


def test_errors_are_one_json_form_and_a_page_for_browsers(shop: Shop) -> None:
    for path, status in (("/nothing", 404), ("/smi/v1/download/x", 404), ("/smi-webhook/stripe", 405)):
        reply = shop.client.get(path)
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json()["error"]) == {"code", "message"}
        page = shop.client.get(path, headers=BROWSER)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert "help@shop.example" in page.text


def test_there_is_no_documentation_of_the_interface_and_no_redirect(shop: Shop) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/ops/", "/smi/v1/jobs/", "/static", "/static/"):
        assert shop.client.get(path).status_code == 404, path


def test_a_bug_is_a_500_without_its_words(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job_id: str) -> None:
        raise RuntimeError("anna.smith@example.com")

    monkeypatch.setattr(shop.state.queries, "job", broken)
    with capture_logs() as logs:
        reply = shop.client.get("/smi/v1/job-status/" + "e" * 32)
        page = shop.client.get("/smi/v1/jobs/" + "e" * 32, headers=BROWSER)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert page.status_code == 500
    said = str(logs) + reply.text + page.text
    assert "anna" not in said
    assert "RuntimeError" in str(logs)


def test_logs_name_patterns_never_tokens_keys_or_addresses(whole_shop: Shop) -> None:
    shop = whole_shop
    with capture_logs() as logs:
        registered = shop.register(email="secret.person@example.com").json()["data"]
        job_id = shop.delivered()
        shop.client.get(f"/smi/v1/download/{shop.token(job_id)}")
        shop.page(job_id)
        shop.status(job_id, view=True)
        shop.client.post(f"/smi/v1/rate/{job_id}?key={shop.rating_key(job_id)}", data={"stars": "5"})
        shop.submitted()
        shop.client.post(f"/smi-webhook/upsampler/{shop.callback}", json={"id": "u", "status": "SUCCESS"})
        shop.client.post("/smi-webhook/stripe", content=b"x", headers=signed(b"x", secret="wrong"))
        shop.client.get("/ops", auth=("operator", "correct horse"))
    said = json.dumps(logs, default=str)
    secrets = [
        shop.token(job_id),
        shop.view(job_id),
        shop.rating_key(job_id),
        shop.callback,
        API_KEY,
        SECRET_KEY,
        "correct horse",
        "@",
        registered["checkout_url"],
    ]
    for secret in secrets:
        assert secret not in said
    assert all(entry["action"] for entry in logs)
    assert '"/smi/v1/download/{token}"' in said


def answer_to(url: str, sent: bytes, *, seconds: float = 5) -> bytes:
    """What the server says to these bytes until it closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(sent)
        said = b""
        while block := connection.recv(65536):
            said += block
        return said


def test_a_head_that_never_ends_is_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    started = time.monotonic()
    assert answer_to(shop.url, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    assert answer_to(shop.url, b"") == b""
    second = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"
    assert answer_to(shop.url, second).count(b"HTTP/1.1") == 1
    assert time.monotonic() - started < 10


def test_an_endless_head_is_refused(shop: Shop) -> None:
    said = answer_to(shop.url, b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 100_000)
    assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


def test_a_body_that_never_ends_is_a_408(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    head = b"POST /smi-webhook/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
    said = answer_to(shop.url, head)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in said.lower()


def test_a_length_that_lies_does_not_help(shop: Shop) -> None:
    for length in (b"99999999999999999999999", b"1000001"):
        head = b"POST /smi-webhook/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n"
        assert answer_to(shop.url, head + b"x" * 1000).split()[1] in (b"413", b"400")


def test_a_client_that_leaves_breaks_nothing(shop: Shop) -> None:
    host, port = shop.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /smi-webhook/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    token = shop.token(shop.delivered(bytes(5_000_000)))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /smi/v1/download/{token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1000)
    assert shop.client.get("/health").status_code == 200
    time.sleep(0.1)
    assert shop.sql("SELECT sum(downloads) AS n FROM smi.download_tokens") == [{"n": 0}]


def test_a_client_that_does_not_read_its_answer_is_cut(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.3)
    token = shop.token(shop.delivered(bytes(30_000_000)))
    host, port = shop.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET /smi/v1/download/{token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: shop.connections() == 1)
        wait_for(lambda: shop.connections() == 0)
        connection.settimeout(10)
        got = 0
        with suppress(ConnectionError):
            while block := connection.recv(1_000_000):
                got += len(block)
    assert got < 30_000_000
    assert shop.sql("SELECT sum(downloads) AS n FROM smi.download_tokens") == [{"n": 0}]
    assert len(shop.client.get(f"/smi/v1/download/{token}").content) == 30_000_000, "who reads gets it all"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(state_url: str, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SMI_DATABASE_URL": state_url,
        "SMI_HOME": str(folder),
        "SMI_SECRET_KEY": SECRET_KEY,
        "SMI_MAIL_FROM": "shop@shop.example",
        "SMI_SUPPORT_EMAIL": "help@shop.example",
        "SMI_GATEWAY_PORT": str(free_port()),
    }


def test_the_module_serves_on_its_port_logs_json_and_stops_on_a_signal(state_url: str, tmp_path: Path) -> None:
    values = environment(state_url, tmp_path)
    command = [sys.executable, "-m", "smi_pipeline.gateway"]
    with subprocess.Popen(command, env=values, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{values['SMI_GATEWAY_PORT']}"
        ends = time.monotonic() + 20
        with httpx.Client(trust_env=False) as client:
            while True:
                try:
                    assert client.get(f"{url}/health").status_code == 200
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < ends
                    time.sleep(0.05)
            assert client.get(f"{url}/smi/v1/download/{'f' * 64}").status_code == 404
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    entries = [json.loads(line) for line in said.splitlines()]
    assert all("action" in entry for entry in entries)
    assert any(entry.get("route") == "/smi/v1/download/{token}" for entry in entries)
    assert "f" * 64 not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMI_SECRET_KEY", "short"),
        ("SMI_DATABASE_URL", "mysql://x"),
        ("SMI_GATEWAY_PORT", "many"),
        ("SMI_MAIL_FROM", "x"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_said_in_one_line(
    state_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, setting in (environment(state_url, tmp_path) | {variable: value}).items():
        monkeypatch.setenv(name, setting)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert variable in said
    assert len(said.strip().splitlines()) == 1
