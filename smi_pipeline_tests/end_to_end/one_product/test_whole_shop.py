"""The product as its users meet it: customers at Checkout and on their page, operators in the Dagster UI."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from playwright.sync_api import Browser, Page

from smi_pipeline.core.lifecycle import callback_token, download_token, rating_token, view_token
from smi_pipeline.core.pricing import Prices
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import Reports
from smi_pipeline.wiring import dagster_url
from smi_pipeline_tests.end_to_end.conftest import wait_until
from smi_pipeline_tests.end_to_end.leaks import cells, command_lines, files_below, search
from smi_pipeline_tests.end_to_end.one_product.conftest import CHROMIUM, KEY_OF_THE_SHOP, RunningShop
from smi_pipeline_tests.end_to_end.one_product.dagster_site import DagsterSite
from smi_pipeline_tests.gateway.nginx import ANALYSTS, NGINX, TEAM, needs_nginx

SCREENSHOTS = Path("screenshots")
DELETE = 'mutation { deletePipelineRun(runId: "no-such-run") { __typename } }'
SECRET_ENDINGS = ("_KEY", "_PASSWORD", "_SECRET")
NEEDED = {  # where the state has to keep such things
    ("smi.upscale_jobs.customer_email", "address"),
    ("smi.upscale_jobs.customer_name", "customer's name"),
    ("smi.upscale_jobs.source_url", "images host's key"),
    *(
        ("smi.emails.content", part)
        for part in ("address", "customer's name", "download token", "view key", "rating key")
    ),
}

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings(
        "ignore:Requiring AUTH while not requiring TLS"
    ),  # the sandbox's mail server, on loopback
]
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")


def test_each_paid_order_is_delivered_or_refunded_exactly_once(
    running_shop: RunningShop, orders: dict[str, Any], all_orders: dict[str, Any]
) -> None:
    ledger = running_shop.sandbox.ledger("stripe")
    paid = {intent["metadata"]["job_id"]: intent for intent in ledger["intents"]}
    failed = paid[orders["failed"]["job_id"]]
    assert [(r["payment_intent"], r["amount"], r["status"]) for r in ledger["refunds"]] == [
        (failed["id"], failed["amount_received"], "succeeded")
    ]
    assert len(running_shop.sandbox.ledger("upsampler")["submissions"]) == len(all_orders)
    for name in orders:
        assert len(running_shop.storefront.mails(f"{name}@customer.example")) == 1


def test_no_process_of_the_stack_is_roots_and_everything_in_its_home_is_theirs(
    running_shop: RunningShop, orders: dict[str, Any]
) -> None:
    home = running_shop.stack.home
    postgres = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    family = [
        process
        for pid in (postgres, *(child.pid for child in running_shop.stack.children))
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]
    assert len(family) > len(running_shop.stack.children) + 1
    owner = home.stat().st_uid
    assert owner != 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a backend may end any time
            assert set(process.uids()) == {owner}, process.cmdline()
    assert home.stat().st_mode == 0o40700
    for path in home.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            assert path.lstat().st_uid == owner, path


def test_the_link_of_the_mail_downloads_the_right_file(running_shop: RunningShop, orders: dict[str, Any]):
    from io import BytesIO

    from PIL import Image

    link = re.search(r"http://127\.0\.0\.1:\d+/smi/v1/download/[0-9a-f]{64}", _mail(running_shop, "good@")).group()  # type: ignore[union-attr]
    answer = requests.get(link, timeout=20)
    assert answer.status_code == 200
    with Image.open(BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("PNG", (1600, 1068))
    assert requests.get(link, headers={"Range": "bytes=0-7"}, timeout=20).content == b"\x89PNG\r\n\x1a\n"


def test_the_run_page_of_a_refunded_order_tells_an_operator_what_happened(
    running_shop: RunningShop, orders: dict[str, Any]
):
    run_id = _failed_run(running_shop)
    found = running_shop.graphql(
        """query Logs($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
             ... on MessageEvent { message }
             ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries {
                 label ... on TextMetadataEntry { text } } } } } } } }""",
        run=run_id,
    )["logsForRun"]["events"]
    text = "\n".join(event.get("message", "") for event in found)
    facts = {
        entry["label"]: entry.get("text")
        for event in found
        for entry in (event.get("failureMetadata") or {}).get("metadataEntries", [])
    }
    job_id = orders["failed"]["job_id"]
    (refund,) = running_shop.sandbox.ledger("stripe")["refunds"]
    assert facts["job_id"] == job_id
    assert "The image has no recognisable content" in facts["reason in words"]
    assert facts["next step"]
    line = next(line for line in text.splitlines() if refund["id"] in line)
    assert job_id in line and "is succeeded" in line and "Next step: " in line


def test_a_fulfilment_worker_never_loads_pandas_matplotlib_or_scikit_image(
    running_shop: RunningShop, orders: dict[str, Any]
):
    (parent,) = [child.pid for child in running_shop.stack.children if child.name == "workers"]
    children = [child for child in psutil.Process(parent).children() if child.name() == "smi-fulfilment"]
    assert children
    for child in children:
        loaded = Path(f"/proc/{child.pid}/maps").read_text()
        assert "pyvips" in loaded or "libvips" in loaded or "numpy" in loaded or "_cffi" in loaded
        assert not re.search(r"/(pandas|matplotlib|skimage)/", loaded)


@pytest.fixture
def team(running_shop: RunningShop, front_folder: Path) -> DagsterSite:
    return DagsterSite(running_shop.variables["SMI_TEAM_URL"], TEAM)


@pytest.fixture
def analysts(running_shop: RunningShop, front_folder: Path) -> DagsterSite:
    site = DagsterSite(running_shop.variables["SMI_ANALYSTS_URL"], ANALYSTS)
    wait_until("the read-only UI", lambda: site.get("/server_info").status_code == 200)
    return site


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(40_000)
    yield page
    page.close()


@needs_chromium
def test_the_run_page_shows_the_mapped_steps(running_shop: RunningShop, orders: dict[str, Any], page: Page):
    page.goto(f"{running_shop.stack.addresses['dagster']}/runs/{_failed_run(running_shop)}")
    page.get_by_text(f"verify_result[{orders['failed']['job_id']}]").first.wait_for()
    page.get_by_text("is succeeded").first.wait_for()
    _shoot(page, "run-page")


@needs_chromium
def test_the_customers_page_offers_the_file(running_shop: RunningShop, orders: dict[str, Any], page: Page):
    page.goto(orders["good"]["status_url"])
    page.get_by_role("link", name=re.compile("Download")).wait_for()
    _shoot(page, "customer-page")
    page.goto(orders["failed"]["status_url"])
    page.get_by_text("refund").first.wait_for()
    _shoot(page, "customer-page-refunded")


@needs_chromium
@pytest.mark.parametrize("name", ["good", "failed"])
def test_the_closing_mail_reads_well(running_shop: RunningShop, orders: dict[str, Any], page: Page, name: str):
    page.goto(f"{running_shop.sandbox.urls.mail}/messages/{_number(running_shop, f'{name}@')}.html")
    page.get_by_text("Ann Example").first.wait_for()
    _shoot(page, f"mail-{name}")


@needs_nginx
def test_the_team_reaches_everything_through_its_door(running_shop: RunningShop, team: DagsterSite) -> None:
    assert team.get("/runs").status_code == 200
    assert team.get("/graphql?query={version}").status_code == 405
    assert team.ask("{ version }")["version"]
    assert team.ask(DELETE)["deletePipelineRun"]["__typename"] == "RunNotFoundError"
    assert json.loads(team.ask_by_socket(DELETE))["type"] == "error"


@needs_nginx
def test_the_analysts_door_shows_the_same_and_changes_nothing(
    running_shop: RunningShop, orders: dict[str, Any], analysts: DagsterSite
) -> None:
    run_id = _failed_run(running_shop)
    assert analysts.get("/runs").status_code == 200
    assert analysts.get("/graphql?query={version}").status_code == 405
    assert analysts.ask("{ runsOrError { ... on Runs { count } } }")["runsOrError"]["count"] > 0
    mutation = DELETE.replace("no-such-run", run_id)
    assert analysts.ask(mutation)["deletePipelineRun"]["__typename"] == "UnauthorizedError"
    assert json.loads(analysts.ask_by_socket(mutation))["type"] == "error"
    assert _failed_run(running_shop) == run_id


def test_reports_appear_by_themselves_and_are_what_the_ledgers_say(
    running_shop: RunningShop, all_orders: dict[str, Any]
) -> None:
    """To the cent and to the credit: revenue - refunds - disputes - fees is Stripe's balance."""

    database = Database(running_shop.stack.state_url, pool_size=1)
    reports = Reports(database, Prices())
    month = datetime.now(UTC).date().replace(day=1)

    def agreed() -> bool:
        tables = [reports.rows(name, month, month, period="month") for name in ("profit_margin", "credit_usage")]
        wholes = [row for rows in tables for row in rows if row["resolution"] == "all"]
        if len(wholes) != 2:
            return False
        money, credits = wholes
        gone = sum(money[f"{name}_cents"] for name in ("refunds", "disputes", "stripe_fees"))
        stripe, upsampler = (running_shop.sandbox.ledger(name) for name in ("stripe", "upsampler"))
        return (money["paid_jobs"], money["revenue_cents"] - gone, credits["credits"]) == (
            len(all_orders),
            stripe["balance_cents"],
            sum(one["credits"] or 0 for one in upsampler["submissions"]),
        )

    wait_until("a month that equals the ledgers", agreed, seconds=200)
    database.dispose()


@needs_chromium
def test_the_page_of_a_report_shows_its_chart(running_shop: RunningShop, orders: dict[str, Any], page: Page):
    wait_until("a materialised report", lambda: _materialised(running_shop, "profit_margin"), seconds=120)
    page.goto(f"{running_shop.stack.addresses['dagster']}/assets/profit_margin?view=events")
    chart = page.locator("img[src^='data:image/svg']").first  # without a click
    chart.wait_for()
    box = chart.bounding_box()
    assert box is not None and box["width"] > 200
    _shoot(page, "report-chart")


@needs_nginx
@needs_chromium
def test_the_ui_works_through_the_front(
    running_shop: RunningShop, orders: dict[str, Any], browser: Browser, team: DagsterSite, analysts: DagsterSite
) -> None:
    wait_until("a materialised report", lambda: _materialised(running_shop, "profit_margin"), seconds=120)
    complaints: list[str] = []

    def page_at(site: DagsterSite) -> Page:
        user, password = site.login
        page = browser.new_page(
            viewport={"width": 1280, "height": 900}, http_credentials={"username": user, "password": password}
        )
        page.set_default_timeout(40_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    page = page_at(team)
    page.goto(f"{team.url}/runs/{_failed_run(running_shop)}")
    page.get_by_text("is succeeded").first.wait_for()  # logs come through a WebSocket
    _shoot(page, "front-team-run")
    page.close()
    page = page_at(analysts)
    page.goto(f"{analysts.url}/assets/profit_margin?view=events")
    page.locator("img[src^='data:image/svg']").first.wait_for()
    _shoot(page, "front-analysts-report")
    page.close()
    assert complaints == []


def test_no_secret_and_no_address_is_written_where_it_need_not_be(
    running_shop: RunningShop, all_orders: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    secret = running_shop.variables["SMI_SECRET_KEY"]
    planted = {name: value for name, value in running_shop.variables.items() if name.endswith(SECRET_ENDINGS)}
    assert len(planted) == 9
    planted["images host's key"] = KEY_OF_THE_SHOP
    planted["customer's name"] = "Ann Example"
    for name, order in all_orders.items():
        job_id = order["job_id"]
        planted[f"address of {name}"] = f"{name}@customer.example"
        planted[f"view key of {name}"] = view_token(secret, job_id)
        planted[f"rating key of {name}"] = rating_token(secret, job_id)
        for serial in range(3):
            planted[f"download token of {name}, {serial}"] = download_token(secret, job_id, 1, serial)
    planted |= {f"callback token {n}": callback_token(secret, n) for n in range(1, len(all_orders) + 1)}
    home, state_url = running_shop.stack.home, running_shop.stack.state_url
    history_url = dagster_url(Settings(_env_file=None), state_url)  # type: ignore[call-arg]

    assert search(command_lines(child.pid or 0 for child in running_shop.stack.children), planted) == set()
    assert search(files_below(home, besides=("postgres", "storage")), planted) == set()
    logs = ((name, content) for name, content in files_below(home / "postgres") if "log" in name)
    assert search(logs, planted) == set()
    assert search(cells(history_url), planted) == set()
    if NGINX:
        assert search(files_below(request.getfixturevalue("front_folder")), planted) == set()
    assert {(place, name.partition(" of ")[0]) for place, name in search(cells(state_url), planted)} == NEEDED


def _shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.wait_for_timeout(700)  # animations of the Dagster UI
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"))
    assert (SCREENSHOTS / f"{name}.png").stat().st_size > 10_000


def _failed_run(running_shop: RunningShop) -> str:
    def failed() -> list[dict[str, str]]:  # the order is closed before its run has ended
        found = running_shop.graphql(
            """{ runsOrError(filter: {statuses: [FAILURE], pipelineName: "fulfil_upscales"}) {
                 ... on Runs { results { runId } } } }"""
        )
        return found["runsOrError"]["results"]

    (run,) = wait_until("the failed run", failed)
    return run["runId"]


def _materialised(running_shop: RunningShop, asset: str) -> bool:
    found = running_shop.graphql(
        """query Asset($key: AssetKeyInput!) { assetOrError(assetKey: $key) {
             ... on Asset { assetMaterializations(limit: 1) { runId } } } }""",
        key={"path": [asset]},
    )
    return bool(found["assetOrError"].get("assetMaterializations"))


def _number(running_shop: RunningShop, to: str) -> int:
    messages = running_shop.sandbox.ledger("mail")["messages"]
    (number,) = [n for n, m in enumerate(messages, start=1) if any(address.startswith(to) for address in m["to"])]
    return number


def _mail(running_shop: RunningShop, to: str) -> str:
    from email import message_from_bytes, policy

    raw = requests.get(f"{running_shop.sandbox.urls.mail}/messages/{_number(running_shop, to)}.eml", timeout=10).content
    part = message_from_bytes(raw, policy=policy.default).get_body(("plain",))
    assert part is not None
    return part.get_content()
