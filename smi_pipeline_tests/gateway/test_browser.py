"""The pages in a real browser: an order from Checkout to the saved file, and how the pages look on small and large
screens. Screenshots go to `screenshots/gateway/` when SMI_SCREENSHOTS is set."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smi_pipeline.core.models import Queue, Status
from smi_pipeline.services import completions, fulfil, submit
from smi_pipeline_tests.gateway.shop import Shop, wait_for
from smi_pipeline_tests.gateway.test_ops import fault
from smi_pipeline_tests.gateway.test_waiting import path

CHROMIUM = Path("/usr/bin/chromium")
SIZES = ((390, 844), (1280, 900))
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens an address at a width; every complaint of the browser (also about the content policy) fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def start(url: str, size: tuple[int, int] = SIZES[1], **options: Any) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    start.complaints = complaints  # type: ignore[attr-defined]
    yield start
    for context in contexts:
        context.close()
    assert complaints == []


def look_at(page: Any, url: str, name: str) -> None:
    """Nothing may be wider than the screen, small or large; keeps pictures for people."""
    if url:
        page.goto(url)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide on a screen of {width}"
        if os.environ.get("SMI_SCREENSHOTS"):
            folder = Path("screenshots/gateway")
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name}-{width}.png", full_page=True)


def link(shop: Shop, job_id: str) -> str:
    return f"{shop.url}/smi/v1/jobs/{job_id}?view={shop.view(job_id)}"


def test_an_order_goes_from_checkout_to_the_saved_file_while_the_customer_watches(
    whole_shop: Shop, open_page: Any
) -> None:
    shop, sandbox = whole_shop, whole_shop.sandbox
    assert sandbox
    sandbox.configure("stripe", webhook_url=f"{shop.url}/smi-webhook/stripe")
    data = shop.register().json()["data"]
    job_id = data["job_id"]

    page = open_page(data["status_url"])
    assert page.locator("h1").inner_text() == "Waiting for your payment"
    sandbox.pay(data["checkout_url"].rpartition("/")[2])
    page.get_by_role("heading", name="Your order is in line").wait_for(timeout=10_000)
    wait_for(lambda: shop.dispatched == [Queue.SUBMIT])

    lease = shop.state.leases.lease_one(Queue.SUBMIT, job_id) or ""
    assert submit.prepare(shop.ctx, job_id, lease).state == "done"
    assert submit.submit(shop.ctx, job_id, lease).state == "done"
    wait_for(lambda: Queue.FULFIL in shop.dispatched)  # Upsampler's webhook came
    assert completions.check_completions(shop.ctx)["ready"] == 1
    lease = shop.state.leases.lease_one(Queue.FULFIL, job_id) or ""
    assert fulfil.verify_result(shop.ctx, job_id, lease).state == "done"
    assert fulfil.deliver(shop.ctx, job_id, lease).state == "done"
    assert shop.job(job_id).status is Status.COMPLETED

    page.reload()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download your image").click()
    content = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "coffee-200-4x.jpg"
    with Image.open(BytesIO(content)) as image:
        assert image.size == (data["output_width"], data["output_height"])


def test_the_page_follows_the_order_by_itself(shop: Shop, open_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smi_pipeline.gateway.progress.POLL_SECONDS", 0.2)
    job_id = shop.submitted()
    page = open_page(link(shop, job_id))
    shop.sql("UPDATE smi.clock SET shift = '30 seconds'")
    wait_for(lambda: page.evaluate("document.getElementById('bar').value") >= 50)
    assert 50 <= int(page.locator("#percent").inner_text()) < 95
    refund_heading = page.get_by_role("heading", name="Refund started: $2.49")
    shop.state.jobs.cancel(job_id, reason="timed_out", message="x", actor="test")
    page.get_by_role("heading", name="Your image could not be delivered").wait_for()
    monkeypatch.setattr("smi_pipeline.gateway.progress.POLL_SECONDS_REFUND", 0.2)
    page.reload()
    shop.settle_refund(job_id, "pending")
    refund_heading.wait_for()
    shop.settle_refund(job_id, "succeeded")
    page.get_by_role("heading", name="Refunded: $2.49").wait_for()
    assert page.locator("script").count() == 0


def test_the_page_says_when_the_connection_is_lost_and_recovers(
    shop: Shop, open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smi_pipeline.gateway.progress.POLL_SECONDS", 0.2)
    page = open_page(link(shop, shop.submitted()))
    page.route("**/job-status/**", lambda route: route.abort())
    page.locator("#trouble").wait_for(state="visible")
    page.unroute("**/job-status/**")
    page.locator("#trouble").wait_for(state="hidden")
    open_page.complaints.clear()  # the browser's own word about the lost connection


def test_without_script_the_page_refreshes_itself(shop: Shop, open_page: Any) -> None:
    page = open_page(link(shop, shop.submitted()), java_script_enabled=False)
    assert page.locator("progress").count() == 1
    assert 'http-equiv="refresh" content="10"' in page.content()


def test_a_customer_rates_with_the_keyboard(shop: Shop, open_page: Any) -> None:
    job_id = shop.delivered()
    page = open_page(link(shop, job_id))
    page.get_by_role("link", name="4 of 5 stars: Very good").click()
    assert page.locator("input:checked").get_attribute("value") == "4"
    page.locator("input:checked").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Anything else you would like to tell us?").fill("Lovely <b>grain</b>")
    page.get_by_role("button", name="Send rating").click()
    page.get_by_role("heading", name="Thank you!").wait_for()
    assert shop.state.dashboard.rating(job_id)["score"] == 5  # type: ignore[index]


def test_an_operator_closes_a_breaker_in_the_browser(shop: Shop, open_page: Any) -> None:
    fault(shop)
    page = open_page(f"{shop.url}/ops", http_credentials={"username": "operator", "password": "correct horse"})
    page.get_by_role("link", name="Close by hand").click()
    page.get_by_label("What has changed").fill("credits were bought")
    page.get_by_role("button", name="Close it").click()
    page.get_by_role("heading", name="submissions: closed").wait_for()
    assert not any(breaker.is_open for breaker in shop.state.breakers.all())


def test_every_page_fits_small_and_large_screens(shop: Shop, open_page: Any) -> None:
    name = "A rather long name of a photograph taken at the lake"
    jobs = {
        "awaiting": shop.ordered(),
        "queued": shop.paid(),
        "processing": shop.submitted(),
        "checking": shop.checking(),
        "completed": shop.delivered(bytes(4_321_000), file_name=name),
        "refund-owed": shop.failed(),
        "refund-started": shop.refunded("pending"),
        "refund-failed": shop.refunded("failed"),
        "refunded": shop.refunded(),
    }
    done = jobs["completed"]
    shop.sql("UPDATE smi.clock SET shift = '24 seconds'")
    page = open_page(link(shop, done), http_credentials={"username": "operator", "password": "correct horse"})
    for state, job_id in jobs.items():
        look_at(page, link(shop, job_id), state)
    look_at(page, f"{shop.url}/smi/v1/jobs/{done}", "completed-without-view")
    look_at(page, f"{shop.url}/smi/v1/rate/{done}?key={shop.rating_key(done)}&stars=4", "rating")
    page.get_by_role("button").click()
    look_at(page, "", "thanks")
    shop.state.jobs.hold(jobs["queued"], "the owner asked", policy=shop.ctx.policy, actor="test")
    look_at(page, f"{shop.url}/ops", "ops")
    for state in ("completed", "refund-failed"):
        look_at(page, f"{shop.url}/ops/jobs/{jobs[state]}", f"ops-job-{state}")
    shop.sql("UPDATE smi.clock SET shift = '23 hours'")
    waiting = shop.paid()
    fault(shop)
    look_at(page, f"{shop.url}/ops", "ops-alarms")
    look_at(page, f"{shop.url}/ops/breakers", "ops-breakers")
    look_at(page, link(shop, waiting), "waiting")
    shop.sql("UPDATE smi.clock SET shift = '24 hours'")
    look_at(page, link(shop, waiting), "waiting-late")
    look_at(page, shop.url + path(shop, waiting), "end-waiting")
    page.get_by_role("button", name="Cancel and refund $2.49").click()
    look_at(page, "", "end-waiting-ended")
    look_at(page, shop.url + path(shop, jobs["processing"]), "end-waiting-too-late")
    shop.sql("UPDATE smi.clock SET shift = '25 hours'")
    look_at(page, link(shop, done), "expired")
    assert open_page.complaints == []
    look_at(page, f"{shop.url}/smi/v1/download/{shop.token(done)}", "error-410")
    look_at(page, f"{shop.url}/smi/v1/jobs/{'e' * 32}", "error-404")
    open_page.complaints.clear()  # the browser's own words about the statuses
