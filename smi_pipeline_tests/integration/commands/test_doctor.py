"""`smi doctor` and `smi migrate`: every line names what is wrong and what to do, and nothing secret."""

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.services.intake import HANDLED_EVENTS
from smi_pipeline.stack.process_plan import free_port
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline_tests import servers
from smi_pipeline_tests.integration.commands.conftest import Smi


def found(smi: Smi) -> dict[str, tuple[str, str]]:
    """State and line of every check, by its name."""
    ran = smi("doctor", "--json")
    assert ran.code == (0 if ran.json["ok"] else 1)
    for check in ran.json["checks"]:
        assert check["to_do"] or check["state"] == "ok", "says what to do"
    return {check["name"]: (check["state"], f"{check['message']}; {check['to_do']}") for check in ran.json["checks"]}


def test_a_whole_configuration_passes_in_one_line_each(smi: Smi, configured: Sandbox) -> None:
    ran = smi("doctor")
    assert ran.code == 0, ran.out
    assert ran.out.splitlines()[-1].startswith("all ")
    lines = ran.out.splitlines()
    for name in ("SMI_SECRET_KEY", "database", "storage", "mail server", "Stripe", "Upsampler"):
        assert sum(line.startswith(f"ok     {name} ") for line in lines) == 1, name
    assert "test mode" in ran.out
    for secret in ("s" * 40, "storefront-key-1", "administrator-key", "sk_test_sandbox", "whsec_sandbox"):
        assert secret not in ran.out


def test_without_any_setting_every_required_one_is_named(smi: Smi, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("SMI_DATABASE_URL", "postgresql://127.0.0.1:9/smi")
    monkeypatch.setenv("UPSAMPLER_BASE_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:9")
    monkeypatch.setenv("SMI_STORAGE_URL", str(tmp_path))
    for name in ("SMI_GATEWAY_PORT", "SMI_DAGSTER_PORT"):
        monkeypatch.setenv(name, str(free_port()))
    checks = found(smi)
    wrong = {name for name, (state, _) in checks.items() if state == "wrong"}
    assert wrong == {
        "SMI_SECRET_KEY", "SMI_API_KEY", "SMI_ADMIN_API_KEY", "UPSAMPLER_API_KEY", "STRIPE_API_KEY",
        "STRIPE_WEBHOOK_SECRET", "SMTP_HOST", "SMI_MAIL_FROM", "SMI_SUPPORT_EMAIL", "SMI_ALLOWED_SOURCE_HOSTS",
        "SMI_ALLOWED_RESULT_HOSTS", "database", "mail server", "Stripe", "Upsampler",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "check", "words"),
    [
        ("SMI_SECRET_KEY", "short", "SMI_SECRET_KEY", "has 5 characters, at least 32"),
        ("SMI_SECRET_KEY", "n" * 40 + ",short", "SMI_SECRET_KEY", "one has fewer than 32 characters"),
        ("SMI_API_KEY", "tiny", "SMI_API_KEY", "at least 16"),
        ("SMI_API_KEY", "storefront-key-2,tiny", "SMI_API_KEY", "one has fewer than 16 characters"),
        ("SMI_ADMIN_API_KEY", "administrator-key-2,storefront-key-1", "SMI_ADMIN_API_KEY", "same as SMI_API_KEY"),
        ("SMI_ADMIN_API_KEY", "storefront-key-1", "SMI_ADMIN_API_KEY", "same as SMI_API_KEY"),
        ("SMI_ALLOWED_SOURCE_HOSTS", "https://images.example", "SMI_ALLOWED_SOURCE_HOSTS", "neither a host name"),
        ("SMI_ALLOWED_RESULT_HOSTS", " , ", "SMI_ALLOWED_RESULT_HOSTS", "every image is refused"),
        ("SMI_MAIL_FROM", "shop", "SMI_MAIL_FROM", "not an e-mail address"),
        ("SMI_UI_USER", "ops", "SMI_UI_USER", "set both or none"),
        ("STRIPE_API_KEY", "sk_test_wrong", "Stripe", "refuses the account"),
        ("UPSAMPLER_API_KEY", "wrong", "Upsampler", "refuses the account"),
        ("UPSAMPLER_BASE_URL", "http://127.0.0.1:9/api", "Upsampler", "cannot be reached"),
        ("SMTP_PORT", "9", "mail server", "No connection"),
        ("SMTP_STARTTLS", "true", "mail server", "not"),
        ("SMTP_CA_FILE", "/nowhere/ca.pem", "SMTP_CA_FILE", "/nowhere/ca.pem cannot be read"),
        ("SMTP_PASSWORD", "geheim", "SMTP_USER", "set both or none"),
        ("SMI_STORAGE_URL", "/proc/nowhere", "storage", "could not be stored"),
        ("SMI_STORAGE_URL", "nosuch://x", "storage", ""),
        ("DAGSTER_POSTGRES_URL", "postgresql://127.0.0.1:9/x", "Dagster's database", "refused"),
        ("SMI_DATABASE_URL", "postgresql://u:geheim@127.0.0.1:9/x", "database", "did not answer"),
        ("SMI_STORAGE_URL", "gs://a-bucket", "storage", "Please install gcsfs"),
        ("SMI_BROKER_URL", "redis://:geheim@127.0.0.1:9/0", "broker", "Connection refused"),
        ("SMI_BROKER_URL", "nosuch://x", "broker", ""),
        ("SMI_BROKER_URL", "sqla+postgresql+psycopg2://u:geheim@127.0.0.1:9/x", "broker", "refused"),
        ("SMI_GATEWAY_PORT", "99999", "SMI_GATEWAY_PORT", "less than or equal to 65535"),
    ],
)
def test_what_is_wrong_is_said_beside_its_name(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, check: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    checks = found(smi)
    state, line = checks[check]
    assert state == "wrong"
    assert words in line
    assert "geheim" not in line
    assert [name for name, (state, _) in checks.items() if state == "wrong"] == [check]


@pytest.mark.parametrize(
    ("public_url", "words"),
    [(None, "neither customers nor webhooks"), ("http://shop.example.com", "not https"), ("https://shop.example", "")],
)
def test_in_earnest_the_public_address_must_be_reachable_and_encrypted(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, public_url: str | None, words: str
) -> None:
    monkeypatch.setenv("UPSAMPLER_BASE_URL", "https://upsampler.invalid/api/v1")
    if public_url:
        monkeypatch.setenv("SMI_PUBLIC_URL", public_url)
    state, line = found(smi)["SMI_PUBLIC_URL"]
    assert state == ("wrong" if words else "ok")
    assert words in line


def test_a_currency_other_than_the_accounts_is_noted(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(smi)["SMI_CURRENCY"] == ("ok", "usd, the default currency of the Stripe account; ")
    monkeypatch.setenv("SMI_CURRENCY", "eur")
    state, line = found(smi)["SMI_CURRENCY"]
    assert state == "note"
    assert "is eur" in line and "Stripe account is usd" in line
    configured.fault("stripe", "status", match={"endpoint": "account"}, code=403, times=None)
    assert "not known" in found(smi)["SMI_CURRENCY"][1]
    configured.clear_faults("stripe")
    monkeypatch.setenv("SMI_CURRENCY", "dem")
    state, line = found(smi)["SMI_CURRENCY"]
    assert (state, "'dem' is not a currency that Stripe charges in" in line) == ("wrong", True)


def test_the_events_that_the_webhook_endpoint_does_not_get_are_named(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_PUBLIC_URL", "https://shop.example")
    state, line = found(smi)["Stripe webhook"]
    assert state == "note" and "no enabled webhook endpoint https://shop.example/smi-webhook/stripe" in line
    try:
        configured.configure("stripe", webhook_url="https://shop.example/smi-webhook/stripe")
        assert found(smi)["Stripe webhook"][0] == "ok"
        configured.configure("stripe", webhook_events=",".join(HANDLED_EVENTS))
        assert found(smi)["Stripe webhook"][0] == "ok"
        configured.configure("stripe", webhook_events=",".join(HANDLED_EVENTS[2:]))
        state, line = found(smi)["Stripe webhook"]
        assert state == "wrong"
        assert f"does not get {HANDLED_EVENTS[0]}, {HANDLED_EVENTS[1]};" in line
        configured.fault("stripe", "status", match={"endpoint": "webhook_endpoints"}, code=403, times=None)
        state, line = found(smi)["Stripe webhook"]
        assert state == "note" and "cannot be listed" in line
    finally:
        configured.clear_faults("stripe")
        configured.configure("stripe", webhook_url="", webhook_events="*")


def test_a_misspelt_variable_is_noted(smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMI_POL_SECONDS", "3")
    assert found(smi)["SMI_POL_SECONDS"][0] == "note"


def test_a_shifted_clock_and_an_old_schema_are_wrong(
    smi: Smi, configured: Sandbox, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_DATABASE_URL", state_url)
    engine = create_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE smi.clock SET shift = '1 hour'"))
    assert "shifted" in found(smi)["database"][1]
    with engine.begin() as connection:
        connection.execute(text("UPDATE smi_schema_version SET version_num = '0001'"))
    assert "run `smi migrate`" in found(smi)["database"][1]
    engine.dispose()


def test_a_database_clock_that_runs_off_is_wrong(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    monkeypatch.setattr("smi_pipeline.commands.diagnostics.MAX_SKEW", timedelta(seconds=-1))
    assert "clock differs" in found(smi)["database"][1]


def test_little_space_is_wrong(smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smi_pipeline.commands.diagnostics.LITTLE_SPACE", 10**18)
    assert "GB are free" in found(smi)["storage"][1]


def test_the_probe_leaves_nothing_behind(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("SMI_STORAGE_URL", str(tmp_path / "files"))
    assert found(smi)["storage"][0] == "ok"
    assert list((tmp_path / "files").iterdir()) == []


def test_migrate_creates_the_databases_and_says_its_revision(
    smi: Smi, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_DATABASE_URL", postgres.url("fresh_state"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres.url("fresh_dagster"))
    assert "nothing" in smi("doctor").out or "did not answer" in smi("doctor").out
    first = smi("migrate", "--json")
    assert first.code == 0
    assert smi("migrate").out == f"the schema of the state is at revision {first.json['revision']}\n"
    with create_engine(postgres.url("postgres")).connect() as connection:
        names = {row[0] for row in connection.execute(text("SELECT datname FROM pg_database"))}
    assert {"fresh_state", "fresh_dagster"} <= names


def test_an_open_breaker_is_said_with_what_to_do(smi: Smi, configured: Sandbox) -> None:
    assert found(smi)["circuit breakers"] == ("ok", "none is open; ")
    assert smi("breakers", "open", "submissions", "the account is moved").code == 0
    state, line = found(smi)["circuit breakers"]
    assert state == "wrong"
    assert "the account is moved (0 orders waiting); Close it when the work is done" in line


def test_several_keys_are_noted_until_the_older_ones_are_removed(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMI_SECRET_KEY", f"{'n' * 40}, {'s' * 40}")
    state, line = found(smi)["SMI_SECRET_KEY"]
    assert (state, line) == ("note", "has 2 keys, all of them are accepted; remove the older ones: docs/keys.md")


def test_folders_and_files_that_others_may_read_are_named_with_the_command_that_closes_them(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "a home"
    monkeypatch.setenv("SMI_HOME", str(home))
    assert found(smi)["SMI_HOME"][0] == found(smi)[".env"][0] == "ok", "nothing is there yet"
    monkeypatch.setattr("smi_pipeline.privileges.accounts.own_home", lambda home: None)  # it would close the folder
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    (tmp_path / ".env").touch(0o644)
    assert found(smi)["SMI_HOME"] == ("wrong", f"other users may look into {home} (mode 755); chmod 700 '{home}'")
    assert found(smi)[".env"] == ("wrong", "every user of this machine may read its secrets (mode 644); chmod 600 .env")
    home.chmod(0o700)
    (tmp_path / ".env").chmod(0o640)
    assert found(smi)["SMI_HOME"][0] == found(smi)[".env"][0] == "ok"


def test_a_storage_elsewhere_that_every_user_may_read_is_named(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        files = Path(parent, "the files")
        monkeypatch.setenv("SMI_STORAGE_URL", str(files))
        files.mkdir(mode=0o755)
        assert "SMI_STORAGE_URL" not in found(smi), "nobody else enters the folder around it"
        Path(parent).chmod(0o755)
        what = f"every user of this machine may read customers' files in {files}; chmod o-rwx '{files}'"
        assert found(smi)["SMI_STORAGE_URL"] == ("wrong", what)
        files.chmod(0o750)
        assert "SMI_STORAGE_URL" not in found(smi)


def test_a_port_that_another_program_has_is_wrong_and_one_of_ours_is_not(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, programs: Callable[[dict[str, Any]], int]
) -> None:
    other, gateway = programs({}), programs({"/health": {"success": True}})
    monkeypatch.setenv("SMI_GATEWAY_PORT", str(other))
    assert found(smi)["SMI_GATEWAY_PORT"] == (
        "wrong",
        f"{other} is taken by another program; end that program, or choose another SMI_GATEWAY_PORT",
    )
    monkeypatch.setenv("SMI_GATEWAY_PORT", str(gateway))
    assert found(smi)["SMI_GATEWAY_PORT"] == ("ok", f"{gateway}, in use by this product; ")
    monkeypatch.setenv("SMI_DAGSTER_PORT", str(gateway))
    checks = found(smi)
    assert checks["SMI_GATEWAY_PORT"][0] == "ok"
    assert checks["SMI_DAGSTER_PORT"][1] == f"{gateway} is the port of SMI_GATEWAY_PORT, too; choose another one"


def test_a_daemon_without_a_heartbeat_is_wrong_and_one_that_is_not_started_is_noted(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, programs: Callable[[dict[str, Any]], int]
) -> None:
    monkeypatch.setenv("SMI_DAGSTER_PORT", str(free_port()))
    assert found(smi)["Dagster daemon"][0] == "note"
    statuses = [
        {"daemonType": "SENSOR", "required": True, "healthy": True},
        {"daemonType": "BACKFILL", "required": False, "healthy": False},
    ]
    answer = {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}}
    dagster = programs({"/graphql": answer, "/server_info": {"dagster_webserver_version": "1"}})
    monkeypatch.setenv("SMI_DAGSTER_PORT", str(dagster))
    assert found(smi)["Dagster daemon"] == ("ok", "1 daemons, with heartbeats; ")
    statuses[0]["healthy"] = False
    state, line = found(smi)["Dagster daemon"]
    assert state == "wrong"
    assert "no heartbeat of sensor" in line and "restart the daemon" in line
    assert found(smi)["SMI_DAGSTER_PORT"] == ("ok", f"{dagster}, in use by this product; ")


def test_the_daemon_is_asked_for_where_immediate_dispatch_goes(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, programs: Callable[[dict[str, Any]], int]
) -> None:
    statuses = [{"daemonType": "SENSOR", "required": True, "healthy": True}]
    answer = {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}}
    monkeypatch.setenv("SMI_DAGSTER_PORT", str(free_port()))
    monkeypatch.setenv("SMI_DISPATCH_URL", f"http://127.0.0.1:{programs({'/graphql': answer})}")
    assert found(smi)["Dagster daemon"] == ("ok", "1 daemons, with heartbeats; ")
    monkeypatch.setenv("SMI_DISPATCH_URL", "http://127.0.0.1:9")
    state, line = found(smi)["Dagster daemon"]
    assert state == "note"
    assert "does not answer at http://127.0.0.1:9; start it, or correct SMI_DISPATCH_URL" in line


def test_the_certificate_of_a_broker_is_verified_as_its_address_asks_for(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with servers.redis_with_tls(tmp_path) as (url, authority):
        monkeypatch.setenv("SMI_BROKER_URL", url)
        state, line = found(smi)["broker"]
        assert state == "note"
        assert "its certificate is not verified; add ?ssl_cert_reqs=required to SMI_BROKER_URL" in line
        monkeypatch.setenv("SMI_BROKER_URL", f"{url}?ssl_cert_reqs=required")
        state, line = found(smi)["broker"]
        assert state == "wrong" and "certificate verify failed" in line
        monkeypatch.setenv("SMI_BROKER_URL", f"{url}?ssl_cert_reqs=required&ssl_ca_certs={authority}")
        assert found(smi)["broker"] == ("ok", "redis, connected; ")


def test_what_libraries_read_from_the_environment_may_stand_in_env_too(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SMI_TEST_OF_A_LIBRARY", raising=False)
    (tmp_path / ".env").write_text("SMI_TEST_OF_A_LIBRARY=x\n")
    (tmp_path / ".env").chmod(0o600)
    try:
        assert found(smi)["SMI_TEST_OF_A_LIBRARY"][0] == "note"
    finally:
        os.environ.pop("SMI_TEST_OF_A_LIBRARY", None)


@pytest.fixture
def programs() -> Iterator[Callable[[dict[str, Any]], int]]:
    """Starts programs that answer JSON by path, else 404; returns their ports."""
    with contextlib.ExitStack() as running:

        def start(answers: dict[str, Any]) -> int:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    body = json.dumps(answers.get(self.path, {})).encode()
                    self.send_response(200 if self.path in answers else 404)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                do_POST = do_GET

                def log_message(self, *_: object) -> None:
                    """Say nothing."""

            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            running.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return server.server_port

        yield start


def test_it_says_who_is_told_when_no_mail_can_be_sent_and_what_the_mail_server_takes(
    smi: Smi, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = found(smi)
    assert checks["SMI_ALERT_WEBHOOK_URL"][0] == "note"
    assert "nobody is told when no mail can be sent" in checks["SMI_ALERT_WEBHOOK_URL"][1]
    assert "SMTPUTF8" not in checks["mail server"][1]
    monkeypatch.setenv("SMI_ALERT_WEBHOOK_URL", "https://hooks.example/x")
    configured.configure("mail", smtputf8=0)
    try:
        checks = found(smi)
        assert checks["SMI_ALERT_WEBHOOK_URL"][0] == "ok"
        assert "no SMTPUTF8" in checks["mail server"][1]
    finally:
        configured.configure("mail", smtputf8=1)
