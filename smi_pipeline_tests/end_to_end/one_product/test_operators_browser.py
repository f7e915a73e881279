"""An operator's browser that is logged in at Dagster's UI: the UI works through the front, pages of others get nothing
done. Judged by Dagster's runs and Stripe's ledger."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from smi_pipeline.settings import Settings
from smi_pipeline_tests.end_to_end.one_product.conftest import CHROMIUM, RunningShop
from smi_pipeline_tests.end_to_end.one_product.hostile import mutation, page
from smi_pipeline_tests.end_to_end.one_product.operators import (
    CROSS_SITE,
    SAME_SITE,
    in_front,
    launched_by,
    logged_in,
    refunds_of,
    reported,
    visit,
)
from smi_pipeline_tests.gateway.nginx import TEAM, needs_nginx

SCREENSHOTS = Path("screenshots")
pytestmark = [
    needs_nginx,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # the sandbox's mail server
]


@pytest.fixture(scope="module")
def sites(running_shop: RunningShop) -> Iterator[Settings]:
    """The running front."""
    settings, running = in_front(running_shop)
    with running:
        yield settings


@pytest.mark.parametrize("host", [SAME_SITE, CROSS_SITE])
def test_a_page_of_another_origin_gets_nothing_done(
    running_shop: RunningShop, sites: Settings, wanted: dict[str, Any], browser: Browser, host: str
) -> None:
    url = sites.smi_team_url or ""
    context, opened = logged_in(browser, url, TEAM)
    answers = visit(context, host, page(url, wanted["job_id"]))
    assert len(answers) > 20, "the page reaches the front"
    assert set(answers) <= {400, 401, 403, 404, 405}
    opened.reload()
    opened.get_by_text("Runs").first.wait_for()
    context.close()
    assert launched_by(running_shop) == set()
    assert reported(running_shop) == 0
    assert refunds_of(running_shop, wanted) == []
    assert running_shop.storefront.status(wanted) == "completed"


def test_an_operator_launches_a_job_and_reads_its_log_while_it_is_written(
    running_shop: RunningShop, sites: Settings, wanted: dict[str, Any], browser: Browser
) -> None:
    url = sites.smi_team_url or ""
    context, opened = logged_in(browser, url, TEAM)
    complaints: list[str] = []
    frames: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    config = f"ops:\n  admin_resend_action:\n    config:\n      job_id: {wanted['job_id']}\n"
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
    running_shop: RunningShop, sites: Settings, wanted: dict[str, Any], browser: Browser
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
    refused = json.loads(opened.evaluate(tell, mutation("own web socket", wanted["job_id"])))
    assert refused["type"] == "error"
    harmless = 'mutation { deletePipelineRun(runId: "no-such-run") { __typename } }'
    assert opened.evaluate(ask, harmless)["data"]["deletePipelineRun"]["__typename"] == "RunNotFoundError"
    context.close()
    assert launched_by(running_shop) == set()
    assert refunds_of(running_shop, wanted) == []


def _shoot(opened: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    opened.wait_for_timeout(700)  # animations of the Dagster UI
    opened.screenshot(path=str(SCREENSHOTS / f"{name}.png"))
