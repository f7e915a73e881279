"""An operator's browser that is logged in at Dagster's UI: the UI works through the front, pages of others get nothing
done. Judged by Dagster's runs and Stripe's ledger."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from smi_pipeline.settings import Settings
from smi_pipeline_tests.attack.weakened import blocking_by_name, for_any_page
from smi_pipeline_tests.end_to_end.conftest import RunningShop, wait_until
from smi_pipeline_tests.end_to_end.hostile import TAG, mutation, page, serving
from smi_pipeline_tests.gateway.nginx import TEAM, free_port, front, needs_nginx, site_variables

CHROMIUM = shutil.which("chromium") or ""
SCREENSHOTS = Path("screenshots")
SAME_SITE, CROSS_SITE = "www.shop.localhost", "evil.localhost"
pytestmark = [
    needs_nginx,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # the sandbox's mail server
]


def in_front(shop: RunningShop, **changes: Any) -> Any:
    """Return an nginx before this product, its team's site under a name whose neighbours are the same site."""
    values = {
        name.lower(): value
        for name, value in (shop.variables | site_variables()).items()
        if name != "SMI_ANALYSTS_PORT"
    }
    values["smi_team_url"] = f"http://team.shop.localhost:{free_port()}"
    values["smi_analysts_port"] = shop.variables["SMI_ANALYSTS_PORT"]
    settings = Settings(_env_file=None, **values)  # type: ignore[call-arg, arg-type]
    return settings, front(settings, **changes)


@pytest.fixture(scope="module")
def sites(running_shop: RunningShop) -> Iterator[Settings]:
    """The running front."""
    settings, running = in_front(running_shop)
    with running:
        yield settings


@pytest.fixture(scope="module")
def order(running_shop: RunningShop) -> dict[str, Any]:
    """A paid and delivered order: what hostile pages want to refund."""
    placed = running_shop.storefront.order("coffee-400.png")
    running_shop.storefront.pay(placed)
    wait_until("the delivery", lambda: running_shop.storefront.status(placed) == "completed")
    return placed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def logged_in(browser: Browser, url: str, login: tuple[str, str]) -> tuple[BrowserContext, Page]:
    """Return a browser's session with a page of the UI open."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, http_credentials={"username": login[0], "password": login[1]}
    )
    context.set_default_timeout(40_000)
    opened = context.new_page()
    opened.goto(f"{url}/runs")
    opened.get_by_text("Runs").first.wait_for()
    return context, opened


def launched_by(shop: RunningShop) -> set[str]:
    """Return by which means hostile pages launched runs."""
    found = shop.graphql("{ runsOrError(limit: 500) { ... on Runs { results { tags { key value } } } } }")
    return {tag["value"] for run in found["runsOrError"]["results"] for tag in run["tags"] if tag["key"] == TAG}


def reported(shop: RunningShop) -> int:
    """Return how often hostile pages reported an asset."""
    found = shop.graphql(
        f"""{{ assetOrError(assetKey: {{path: ["{TAG}"]}}) {{
            ... on Asset {{ assetMaterializations {{ runId }} }} }} }}"""
    )
    return len(found["assetOrError"].get("assetMaterializations", ()))


def visit(context: BrowserContext, host: str, content: str) -> list[int]:
    """Open the hostile page and wait until it has tried everything. Returns what was answered to its mutations."""
    answers: list[int] = []
    context.on("response", lambda reply: answers.append(reply.status) if TAG in reply.url else None)
    with serving(content) as port:
        hostile = context.new_page()
        hostile.goto(f"http://{host}:{port}/")
        hostile.wait_for_function('document.title === "done"')
        hostile.close()
    return answers


@pytest.mark.parametrize("host", [SAME_SITE, CROSS_SITE])
def test_a_page_of_another_origin_gets_nothing_done(
    running_shop: RunningShop, sites: Settings, order: dict[str, Any], browser: Browser, host: str
) -> None:
    url = sites.smi_team_url or ""
    context, opened = logged_in(browser, url, TEAM)
    answers = visit(context, host, page(url, order["job_id"]))
    assert len(answers) > 20, "the page reaches the front"
    assert set(answers) <= {400, 401, 403, 404, 405}
    opened.reload()
    opened.get_by_text("Runs").first.wait_for()
    context.close()
    assert launched_by(running_shop) == set()
    assert reported(running_shop) == 0
    assert running_shop.sandbox.ledger("stripe")["refunds"] == []
    assert running_shop.storefront.status(order) == "completed"


def test_an_operator_launches_a_job_and_reads_its_log_while_it_is_written(
    running_shop: RunningShop, sites: Settings, order: dict[str, Any], browser: Browser
) -> None:
    url = sites.smi_team_url or ""
    context, opened = logged_in(browser, url, TEAM)
    complaints: list[str] = []
    frames: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    config = f"ops:\n  admin_resend_action:\n    config:\n      job_id: {order['job_id']}\n"
    opened.goto(f"{url}/locations/fulfilment/jobs/admin_resend/playground/setup?config={quote(config)}")
    opened.get_by_role("button", name="Launch run").wait_for()
    _shoot(opened, "front-launchpad")
    opened.get_by_role("button", name="Launch run").click()
    opened.wait_for_url("**/runs/*")
    opened.get_by_text("completion mail accepted by the mail server").first.wait_for()
    opened.get_by_text("RUN_SUCCESS").first.wait_for()
    assert any("STEP_START" in frame or "ExecutionStepStartEvent" in frame for frame in frames), "by the WebSocket"
    _shoot(opened, "front-launched-run")
    opened.reload()
    opened.get_by_text("RUN_SUCCESS").first.wait_for()
    for path in (
        "/overview",
        "/jobs",
        "/assets",
        "/automation",
        "/deployment",
        "/locations/reporting/assets",
        "/guess/admin_resend",
    ):
        opened.goto(url + path)
        opened.wait_for_load_state("networkidle")
    assert complaints == []
    context.close()


def test_a_page_of_the_site_itself_launches_by_post_and_not_by_its_web_socket(
    running_shop: RunningShop, sites: Settings, order: dict[str, Any], browser: Browser
) -> None:
    context, opened = logged_in(browser, sites.smi_team_url or "", TEAM)
    ask = """async (query) => {
        const options = {method: "POST", body: JSON.stringify({query}), headers: {"Content-Type": "application/json"}};
        return await (await fetch("/graphql", options)).json();
    }"""
    tell = """(query) => new Promise((resolve, reject) => {
        const socket = new WebSocket(location.origin.replace("http", "ws") + "/graphql", "graphql-ws");
        socket.onopen = () => {
            socket.send(JSON.stringify({type: "connection_init"}));
            socket.send(JSON.stringify({type: "start", id: "1", payload: {query}}));
        };
        socket.onmessage = (message) => { if (JSON.parse(message.data).id) resolve(message.data); };
        socket.onclose = reject;
    })"""
    refused = json.loads(opened.evaluate(tell, mutation("own web socket", order["job_id"])))
    assert refused["type"] == "error"
    harmless = 'mutation { deletePipelineRun(runId: "no-such-run") { __typename } }'
    assert opened.evaluate(ask, harmless)["data"]["deletePipelineRun"]["__typename"] == "RunNotFoundError"
    context.close()
    assert launched_by(running_shop) == set()
    assert running_shop.sandbox.ledger("stripe")["refunds"] == []


def test_the_same_page_refunds_the_order_where_the_front_lacks_these_rules(
    running_shop: RunningShop, order: dict[str, Any], browser: Browser
) -> None:
    """Last: it shows that the page means it."""
    settings, running = in_front(running_shop, change=lambda text: for_any_page(blocking_by_name(text)))
    with running:
        url = settings.smi_team_url or ""
        context, _ = logged_in(browser, url, TEAM)
        visit(context, SAME_SITE, page(url, order["job_id"]))
        context.close()
    means = launched_by(running_shop)
    assert "img line break" in means
    assert any(one.startswith("form") for one in means) and any(one.startswith("fetch no-cors POST") for one in means)
    assert reported(running_shop) > 0
    wait_until("the refund", lambda: running_shop.sandbox.ledger("stripe")["refunds"])


def _shoot(opened: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    opened.wait_for_timeout(700)  # animations of the Dagster UI
    opened.screenshot(path=str(SCREENSHOTS / f"{name}.png"))
