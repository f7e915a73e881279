"""Settings: documented one by one, read from the environment, and each with an effect.

Effects that need a running gateway or Dagster are tested with those."""

import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from pydantic import SecretStr, ValidationError

from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import PermanentError, RateLimited, RefusedError, TransientError
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.settings import Settings, postgres_url, several
from smi_pipeline.wiring import alert_post, build_context, build_dispatcher
from smi_pipeline_tests.contract.adapters.conftest import ScriptedServer

ROOT = Path(__file__).parents[2]

# All settings are listed here, so that none is added or lost unnoticed.
NAMES = """
SMI_DATABASE_URL DAGSTER_POSTGRES_URL SMI_STORAGE_URL SMI_PUBLIC_URL SMI_API_KEY SMI_ADMIN_API_KEY SMI_SHOP_ORIGIN
SMI_SECRET_KEY SMI_UI_USER SMI_UI_PASSWORD UPSAMPLER_BASE_URL UPSAMPLER_API_KEY UPSAMPLER_WIRE STRIPE_API_KEY
STRIPE_API_BASE STRIPE_WEBHOOK_SECRET SMI_PAYMENT_METHODS SMTP_HOST SMTP_PORT SMTP_USER SMTP_PASSWORD SMTP_STARTTLS
SMI_MAIL_FROM SMI_SUPPORT_EMAIL SMI_ADMIN_EMAIL SMI_MAX_PROCESSING_SECONDS SMI_POLL_SECONDS SMI_DOWNLOAD_TTL_HOURS
SMI_MONTHLY_CREDIT_BUDGET SMI_ALLOWED_SOURCE_HOSTS SMI_ALLOWED_RESULT_HOSTS SMI_GATEWAY_PORT SMI_DAGSTER_PORT
SMI_MAX_WAIT_SECONDS SMI_MAX_IN_FLIGHT SMI_AMBIGUOUS_GRACE_SECONDS SMI_MAX_HOLD_HOURS SMI_MAX_SOURCE_BYTES
SMI_MAX_OUTPUT_MEGAPIXELS SMI_UNSOLD_DAYS SMI_CURRENCY SMI_MINIMUM_PRICE_CENTS SMI_MARKUP_PERCENT
SMI_CREDIT_CENTS SMI_STRIPE_FEE_PERCENT
SMI_STRIPE_FEE_FIXED_CENTS SMI_MARGIN_FLOOR_PERCENT SMI_COMPLETION_FLOOR_PERCENT SMI_FIDELITY SMI_BUDGET_HOLD
SMI_ALERT_WEBHOOK_URL
""".split()  # noqa: SIM905 - fifty names read better as a text
BESIDES = [
    "SMI_HOME",
    "SMI_BROKER_URL",
    "SMI_WORKERS",
    "SMI_MAX_OUTAGE_HOURS",
    "SMI_MAX_RESUBMISSIONS",
    "SMI_REPORTS_FRESH_MINUTES",
    "UPSAMPLER_REQUESTS_PER_MINUTE",
    "UPSAMPLER_REQUESTS_PER_HOUR",
    "UPSAMPLER_STATUS_CALLS_PER_MINUTE",
    "SMI_FAILPOINTS",
    "SMI_KEEP_METADATA",
    "SMI_SOURCE_CHANGED",
    "SMI_TEAM_URL",
    "SMI_ANALYSTS_URL",
    "SMI_ANALYSTS_USER",
    "SMI_ANALYSTS_PASSWORD",
    "SMI_ANALYSTS_PORT",
    "SMI_TRUSTED_PROXIES",
    "SMI_FRONT_PROXIES",
    "SMI_DISPATCH_URL",
    "SMI_NAT64_PREFIXES",
    "SMTP_CA_FILE",
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NAMES, *BESIDES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def example() -> dict[str, str]:
    """Variables of .env.example with the values it gives them."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_settings_are_those_of_the_design_and_all_are_documented() -> None:
    fields = {name.upper() for name in Settings.model_fields}
    assert fields == {*NAMES, *BESIDES}
    assert set(example()) == fields


def test_every_variable_of_the_example_has_its_line_of_explanation_and_stands_there_once() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = [line.split("=")[0] for line in lines if re.match(r"[A-Z_]+=", line)]
    assert len(names) == len(set(names))
    for number, line in enumerate(lines):
        assert len(line) <= 120
        if re.match(r"[A-Z_]+=", line):
            assert re.match(r"# \S.*[.…]$", lines[number - 1]), line


def test_the_example_is_a_valid_env_file_and_shows_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert Settings() == Settings(_env_file=None)  # type: ignore[call-arg]
    for name, value in example().items():
        default = Settings.model_fields[name.lower()].default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        assert (value == "") == (default in (None, "", ())), f"{name} is shown as {value!r}, its default is {default!r}"


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SMI_GATEWAY_PORT=9000\nSMI_DAGSTER_PORT=9001\n")
    monkeypatch.setenv("SMI_GATEWAY_PORT", "9100")
    assert (Settings().smi_gateway_port, Settings().smi_dagster_port) == (9100, 9001)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
    for name in secrets:
        monkeypatch.setenv(name.upper(), "geheim")
    assert sorted(secrets) == [
        "smi_admin_api_key",
        "smi_analysts_password",
        "smi_api_key",
        "smi_secret_key",
        "smi_ui_password",
        "smtp_password",
        "stripe_api_key",
        "stripe_webhook_secret",
        "upsampler_api_key",
    ]
    assert "geheim" not in repr(Settings()) + str(Settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMI_DATABASE_URL", "mysql://x/y"),
        ("DAGSTER_POSTGRES_URL", "x"),
        ("SMI_PUBLIC_URL", "shop.example.com"),
        ("UPSAMPLER_BASE_URL", "ftp://x"),
        ("STRIPE_API_BASE", "http://"),
        ("SMI_ALERT_WEBHOOK_URL", "mailto:x@example.com"),
        ("UPSAMPLER_WIRE", "both"),
        ("SMI_FIDELITY", "maybe"),
        ("SMI_SOURCE_CHANGED", "deliver"),
        ("SMI_KEEP_METADATA", "copyright,place"),
        ("SMTP_STARTTLS", "perhaps"),
        ("SMI_GATEWAY_PORT", "0"),
        ("SMI_DAGSTER_PORT", "65536"),
        ("SMTP_PORT", "-1"),
        ("SMI_MAIL_FROM", "shop"),
        ("SMI_MAIL_FROM", "Shop <shop@>"),
        ("SMI_MAIL_FROM", "björn@example.com"),
        ("SMI_SUPPORT_EMAIL", "help at example.com"),
        ("SMI_SUPPORT_EMAIL", "hilfe@-köln-.example"),
        ("SMI_ADMIN_EMAIL", "björn@köln.example"),
        ("SMI_WORKERS", "0"),
        ("SMI_TRUSTED_PROXIES", "*"),
        ("SMI_TRUSTED_PROXIES", "10.0.0.0/8, proxy.local"),
        ("SMI_FRONT_PROXIES", "cdn.example.com"),
        ("SMI_FRONT_PROXIES", "10.0.0.0/8, ::/0"),
        ("SMI_FRONT_PROXIES", "10.0.0.0/8; real_ip_header X-Real-IP"),
        ("SMI_DISPATCH_URL", "dagster:3000"),
        ("SMI_NAT64_PREFIXES", "10.0.0.0/8"),
        ("SMI_NAT64_PREFIXES", "2001:67c:2b0:db32::/80"),
        ("SMI_MAX_PROCESSING_SECONDS", "0"),
        ("SMI_MAX_WAIT_SECONDS", "1e9"),
        ("SMI_POLL_SECONDS", "inf"),
        ("SMI_POLL_SECONDS", "nan"),
        ("SMI_DOWNLOAD_TTL_HOURS", "1e300"),
        ("SMI_MAX_HOLD_HOURS", "-1"),
        ("SMI_MAX_OUTAGE_HOURS", "-1"),
        ("SMI_MAX_RESUBMISSIONS", "4"),
        ("SMI_AMBIGUOUS_GRACE_SECONDS", "-1"),
        ("SMI_MAX_IN_FLIGHT", "0"),
        ("SMI_MAX_SOURCE_BYTES", "50 MB"),
        ("SMI_MAX_OUTPUT_MEGAPIXELS", "0"),
        ("SMI_MARKUP_PERCENT", "-1"),
        ("SMI_CURRENCY", "euro"),
        ("SMI_CURRENCY", "xxx"),
        ("SMI_MINIMUM_PRICE_CENTS", "-1"),
        ("SMI_CREDIT_CENTS", "NaN"),
        ("SMI_STRIPE_FEE_PERCENT", "101"),
        ("SMI_STRIPE_FEE_FIXED_CENTS", "0.5"),
        ("SMI_MARGIN_FLOOR_PERCENT", "101"),
        ("SMI_COMPLETION_FLOOR_PERCENT", "-1"),
        ("SMI_REPORTS_FRESH_MINUTES", "0"),
        ("SMI_MONTHLY_CREDIT_BUDGET", "0"),
        ("UPSAMPLER_REQUESTS_PER_MINUTE", "-1"),
        ("UPSAMPLER_REQUESTS_PER_HOUR", "many"),
        ("UPSAMPLER_STATUS_CALLS_PER_MINUTE", "-1"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [str(problem["loc"][0]).upper() for problem in refused.value.errors()] == [variable]


@pytest.mark.parametrize("url", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"])
def test_every_spelling_of_a_postgres_url_means_psycopg2(url: str) -> None:
    assert postgres_url(url) == "postgresql+psycopg2://u:p@h/d"


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("SMI_PUBLIC_URL", "https://shop.example/", "public_url", "https://shop.example"),
        ("SMI_GATEWAY_PORT", "9000", "public_url", "http://127.0.0.1:9000"),
        ("SMI_CURRENCY", "EUR", "currency", "eur"),
        ("SMI_MAIL_FROM", "Shop <shop@example.com>", "mail_domain", "example.com"),
        ("SMI_MAIL_FROM", "Müller, Söhne <shop@köln.example>", "mail_domain", "xn--kln-sna.example"),
        ("SMI_MAX_PROCESSING_SECONDS", "60", "max_processing", timedelta(minutes=1)),
        ("SMI_MAX_WAIT_SECONDS", "60", "max_wait", timedelta(minutes=1)),
        ("SMI_POLL_SECONDS", "0.5", "poll_every", timedelta(seconds=0.5)),
        ("SMI_AMBIGUOUS_GRACE_SECONDS", "7", "ambiguous_grace", timedelta(seconds=7)),
        ("SMI_DOWNLOAD_TTL_HOURS", "0.5", "download_ttl", timedelta(minutes=30)),
        ("SMI_MAX_HOLD_HOURS", "2", "max_hold", timedelta(hours=2)),
        ("SMI_MAX_OUTAGE_HOURS", "2", "max_outage", timedelta(hours=2)),
        ("SMI_MAX_IN_FLIGHT", "3", "max_in_flight", 3),
        ("SMI_MAX_RESUBMISSIONS", "0", "max_resubmissions", 0),
        ("SMI_MAX_SOURCE_BYTES", "1000", "max_source_bytes", 1000),
        ("SMI_MAX_OUTPUT_MEGAPIXELS", "1.5", "max_output_megapixels", 1.5),
        ("UPSAMPLER_REQUESTS_PER_MINUTE", "5", "submissions", Allowance(per_minute=5, per_hour=1800)),
        ("UPSAMPLER_REQUESTS_PER_HOUR", "50", "submissions", Allowance(per_minute=60, per_hour=50)),
        ("UPSAMPLER_STATUS_CALLS_PER_MINUTE", "7", "status_calls", Allowance(per_minute=7)),
        ("SMI_UNSOLD_DAYS", "3", "unsold_days", 3),
        ("SMI_SOURCE_CHANGED", "ask", "source_changed", "ask"),
        ("SMI_MONTHLY_CREDIT_BUDGET", "100", "monthly_credit_budget", 100),
        ("SMI_BUDGET_HOLD", "true", "budget_hold", True),
    ],
)
def test_settings_become_promises(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: Any
) -> None:
    assert getattr(Settings().policy, field) != expected
    monkeypatch.setenv(variable, value)
    assert getattr(Settings().policy, field) == expected


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("SMI_CURRENCY", "hkd", "price_cents"),
        ("SMI_MINIMUM_PRICE_CENTS", "999", "price_cents"),
        ("SMI_MARKUP_PERCENT", "900", "price_cents"),
        ("SMI_CREDIT_CENTS", "40", "cost_cents"),
        ("SMI_STRIPE_FEE_PERCENT", "20", "stripe_fee_cents"),
        ("SMI_STRIPE_FEE_FIXED_CENTS", "99", "stripe_fee_cents"),
    ],
)
def test_settings_become_prices(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str) -> None:
    before = getattr(Settings().prices.quote(2000, 1500, 4), field)
    monkeypatch.setenv(variable, value)
    assert getattr(Settings().prices.quote(2000, 1500, 4), field) > before


def test_the_price_list_is_the_plugins() -> None:
    quote = Settings().prices.quote(2000, 1500, 4)
    assert (quote.credits, quote.cost_cents, quote.price_cents) == (12, 48, 144)
    assert Settings().smi_margin_floor_percent == Decimal(30)


def ctx(**changes: Any):
    """The wired service context; nothing in it connects before it is used."""
    given = {
        "smi_secret_key": "s" * 32,
        "smi_database_url": "postgresql://127.0.0.1:9/x",
        "smi_mail_from": "shop@example.com",
        "smi_support_email": "help@example.com",
    }
    return build_context(Settings(**(given | changes)), actor="test")


def test_a_short_secret_key_builds_no_world() -> None:
    with pytest.raises(RefusedError, match="SMI_SECRET_KEY"):
        ctx(smi_secret_key="s" * 31)


def test_several_keys_stand_in_one_setting_the_newest_first_and_none_of_them_is_short() -> None:
    assert ctx(smi_secret_key=f"{'n' * 32}, {'o' * 40},").secret_keys == ("n" * 32, "o" * 40)
    for name, shortest in (("smi_secret_key", 32), ("smi_api_key", 16), ("smi_admin_api_key", 16)):
        given = Settings.model_validate({name: f"{'n' * shortest},{'o' * shortest}"})
        assert several(getattr(given, name)) == ("n" * shortest, "o" * shortest)
        with pytest.raises(ValidationError, match=f"one has fewer than {shortest} characters"):
            Settings.model_validate({name: f"{'n' * shortest},{'o' * (shortest - 1)}"})


def test_the_secret_key_decides_links() -> None:
    from smi_pipeline.core.lifecycle import view_token

    links = {view_token(ctx(smi_secret_key=key * 32).secret_key, "f" * 32) for key in "ab"}
    assert len(links) == 2


@pytest.mark.parametrize(
    ("change", "kind", "url"),
    [
        ({"smi_allowed_source_hosts": "a.example, http://127.0.0.1:81"}, "source", "http://127.0.0.1:81/x.png"),
        ({"smi_allowed_result_hosts": "http://127.0.0.1:81"}, "result", "http://127.0.0.1:81/x.png"),
    ],
)
def test_only_allowed_hosts_are_fetched_from(change: dict[str, str], kind: str, url: str) -> None:
    def fetch(url: str, **change: str) -> None:
        with ctx(**change).fetcher.fetch(url, kind=kind, max_bytes=1):
            pass

    with pytest.raises(PermanentError, match=f"set SMI_ALLOWED_{kind.upper()}_HOSTS"):
        fetch(url)
    with pytest.raises(TransientError, match="refused"):  # nothing listens on port 81
        fetch(url, **change)
    with pytest.raises(PermanentError):
        fetch("https://other.example/x.png", **change)


def test_the_limits_of_images_reach_the_checks(tmp_path: Path) -> None:
    from PIL import Image

    from smi_pipeline.core.errors import PermanentError

    path = tmp_path / "x.png"
    Image.new("RGB", (100, 100), "red").save(path)
    assert ctx().images.check_source(path).width == 100
    for change in ({"smi_max_source_bytes": 100}, {"smi_max_output_megapixels": 0.1}):
        with pytest.raises(PermanentError) as refused:
            ctx(**change).images.check_source(path)
        assert refused.value.reason == "source_too_large"


def test_what_delivered_files_keep_is_a_setting(tmp_path: Path) -> None:
    from PIL import Image

    tags = Image.Exif()
    tags[0x013B] = "Jane Doe"
    for change, kept in (({}, False), ({"smi_keep_metadata": "artist, copyright"}, True)):
        path = tmp_path / "x.jpg"
        Image.new("RGB", (10, 10)).save(path, exif=tags)
        ctx(**change).images.clean_result(path)
        assert (b"Jane Doe" in path.read_bytes()) is kept


def test_the_storage_url_decides_where_files_are(tmp_path: Path) -> None:
    ctx(smi_storage_url=str(tmp_path / "a")).storage.put_bytes("k", b"x")
    assert (tmp_path / "a" / "k").read_bytes() == b"x"
    ctx(smi_home=tmp_path / "b").storage.put_bytes("k", b"x")
    assert (tmp_path / "b" / "storage" / "k").read_bytes() == b"x"


def test_sender_support_address_and_copy_to_the_owner_are_in_the_mails() -> None:
    from datetime import UTC, datetime

    made = ctx(
        smi_mail_from="Photos <p@shop.example>", smi_support_email="sos@shop.example", smi_admin_email="o@x.example"
    )
    mail = made.mailer.render(
        "refund",
        to="customer@example.org",
        message_id="<1@shop.example>",
        context={"job_id": "f" * 32, "customer_name": None, "amount_cents": 50, "currency": "usd",
                 "reason": "It failed.", "refund_state": "succeeded", "status_url": "https://shop.example/x"},
        at=datetime.now(UTC),
    )  # fmt: skip
    assert mail.sender == "p@shop.example"
    assert mail.recipients == ("customer@example.org", "o@x.example")
    assert b"sos@shop.example" in mail.content


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("not a certificate", "no certificate in PEM")])
def test_a_file_of_authorities_that_cannot_be_used_is_refused_at_start(
    tmp_path: Path, content: str | None, why: str
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ValidationError, match=why) as refused:
        ctx(smtp_ca_file=tmp_path / "ca.pem")
    assert refused.value.errors()[0]["loc"] == ("smtp_ca_file",)


def test_the_file_of_authorities_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SMTP_CA_FILE", "ca.pem")
    assert Settings().smtp_ca_file == tmp_path / "ca.pem"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.mark.parametrize(("api_format", "scale"), [("documented", "scale_factor"), ("live", "input")])
def test_address_key_and_api_format_of_upsampler_decide_the_call(
    server: ScriptedServer, api_format: str, scale: str
) -> None:
    from smi_pipeline.core.models import SubmitRequest

    server.says(200, {"job_id": "up_1", "id": "up_1", "status": "queued"})
    made = ctx(upsampler_base_url=f"{server.url}/api/", upsampler_api_key="the-key", upsampler_wire=api_format)
    request = SubmitRequest(job_id="f" * 32, image_url="https://x.example/a.png", scale=4, webhook_url="https://g/x")
    made.upscaler.submit(request)
    (call,) = server.requests
    assert (call.path, call.headers["Authorization"]) == ("/api/precise-upscale", "Bearer the-key")
    assert scale in call.json


def test_immediate_dispatch_goes_to_its_own_address(server: ScriptedServer) -> None:
    server.says(200, {"data": {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "r1"}}}})
    from smi_pipeline.core.models import Queue

    settings = Settings(smi_dispatch_url=f"{server.url}/dagster/", smi_dagster_port=1)
    dispatcher = build_dispatcher(settings, ctx())
    assert dispatcher._runs.launch(Queue.SUBMIT, "f" * 32, 1) == "r1"
    assert [call.path for call in server.requests] == ["/dagster/graphql"]
    assert Settings(smi_dagster_port=3456).dispatch_url == "http://127.0.0.1:3456"


def test_address_and_key_of_stripe_decide_the_call(server: ScriptedServer) -> None:
    server.says(200, {"id": "re_1", "object": "refund", "amount": 5, "currency": "usd", "status": "succeeded"})
    ctx(stripe_api_base=server.url, stripe_api_key="sk_test_the_key").payments.refund("re_1")
    (call,) = server.requests
    assert (call.path, call.headers["Authorization"]) == ("/v1/refunds/re_1", "Bearer sk_test_the_key")


def test_the_webhook_secret_decides_which_events_are_believed() -> None:
    import hmac
    import json
    import time

    event = {"id": "evt_1", "object": "event", "type": "x", "created": 1, "data": {"object": {}}}
    body, at = json.dumps(event).encode(), int(time.time())
    signature = hmac.new(b"whsec_right", f"{at}.".encode() + body, "sha256").hexdigest()
    header = f"t={at},v1={signature}"
    assert ctx(stripe_webhook_secret="whsec_right").payments.parse_webhook(body, header).event_id == "evt_1"
    with pytest.raises(RefusedError):
        ctx(stripe_webhook_secret="whsec_wrong").payments.parse_webhook(body, header)


@pytest.mark.parametrize(
    ("setting", "purpose", "other"),
    [
        ("upsampler_requests_per_minute", CallPurpose.SUBMIT, CallPurpose.POLL),
        ("upsampler_requests_per_hour", CallPurpose.SUBMIT, CallPurpose.POLL),
        ("upsampler_status_calls_per_minute", CallPurpose.URGENT_POLL, CallPurpose.SUBMIT),
    ],
)
def test_each_allowance_is_kept(state_url: str, setting: str, purpose: CallPurpose, other: CallPurpose) -> None:
    none = {"upsampler_requests_per_minute": 0, "upsampler_requests_per_hour": 0}
    none |= {"upsampler_status_calls_per_minute": 0}
    made = ctx(smi_database_url=state_url, **(none | {setting: 3}))
    for _ in range(3):
        made.limiter.acquire(purpose)
    with pytest.raises(RateLimited):
        made.limiter.acquire(purpose)
    made.limiter.acquire(other)


def test_the_mail_settings_decide_the_connection() -> None:
    import socket

    from smi_pipeline.core.errors import TransientError

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(5)

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"554 not today\r\n")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(TransientError, match="554 not today"):
            ctx(smtp_host="127.0.0.1", smtp_port=port, smtp_starttls=False).mailer.check()
        thread.join()


def test_alerts_are_posted_only_where_told(server: ScriptedServer) -> None:
    assert alert_post(Settings()) is None
    post = alert_post(Settings(smi_alert_webhook_url=f"{server.url}/alerts"))
    assert post is not None
    server.says(200)
    post("one thing", ["look"])
    (call,) = server.requests
    assert call.path == "/alerts"
    assert "one thing" in call.body.decode()


def test_the_payment_methods_of_checkout_are_a_setting() -> None:
    def offered(**values: Any) -> tuple[str, ...]:
        return Settings(_env_file=None, **values).policy.payment_methods

    assert offered() == ("card",)
    assert offered(smi_payment_methods="card,sepa_debit") == ("card", "sepa_debit")
    assert offered(smi_payment_methods="") == ()
