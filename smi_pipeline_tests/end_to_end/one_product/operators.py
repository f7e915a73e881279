"""The team's site as an operator's browser is logged in there, and what a hostile page got done."""

from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

from smi_pipeline.settings import Settings
from smi_pipeline_tests.end_to_end.one_product.conftest import RunningShop
from smi_pipeline_tests.end_to_end.one_product.hostile import TAG, serving
from smi_pipeline_tests.gateway.nginx import free_port, front, site_variables

SAME_SITE, CROSS_SITE = "www.shop.localhost", "evil.localhost"


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


def refunds_of(shop: RunningShop, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Stripe's refunds of an order."""
    ledger = shop.sandbox.ledger("stripe")
    paid = {intent["id"] for intent in ledger["intents"] if intent["metadata"]["job_id"] == order["job_id"]}
    assert len(paid) == 1
    return [refund for refund in ledger["refunds"] if refund["payment_intent"] in paid]
