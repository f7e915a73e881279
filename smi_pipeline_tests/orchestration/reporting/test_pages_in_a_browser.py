"""The report pages as a browser lays them out: on a large screen, on a small one, and on paper."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline.core.pricing import Prices
from smi_pipeline.reporting import pages
from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import Reports
from smi_pipeline_tests.orchestration.reporting.conftest import build
from smi_pipeline_tests.orchestration.reporting.history import (
    DAY,
    Loose,
    Order,
    delivered,
    failed,
    moment,
    random_orders,
    random_rest,
    write,
)

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")

# Pairs of words of one chart that lie on each other, and words that stick out of their chart, as they were painted
_COLLISIONS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
    return words.flatMap(([name, box], n) => [
        ...words.slice(n + 1).filter(([, other]) => meet(box, other)).map(([other]) => `${name} on ${other}`),
        ...(box.left < frame.left - 3 || box.right > frame.right + 3 ? [`${name} sticks out`] : []),
    ]);
})"""
# Charts, rows of tables and headings that a sheet of A4 would cut through, by the browser's own rules for printing
_MAY_BE_CUT = """() => [...document.querySelectorAll('section, figure, tr')]
    .filter(part => getComputedStyle(part).breakInside !== 'avoid').map(part => part.tagName)"""

HISTORIES: dict[str, Callable[[date], Sequence[Order | Loose]]] = {
    "nothing": lambda day: [],
    "one job": lambda day: [delivered(day)],
    "all failed": lambda day: [failed(day), failed(day, refund="owed"), failed(day, reason="unsupported_format")],
    "only refunds": lambda day: [
        Loose(
            payment={"payment_intent_id": "x", "received_cents": 80, "currency": "usd", "paid_at": moment(day, 5)},
            refunds=[{"state": "succeeded", "amount_cents": 80}],
        )
    ],
    "two currencies": lambda day: [delivered(day, rating=4), delivered(day, currency="jpy", price_cents=7_000_000)],
    "everything": lambda day: [*random_orders(3, days=2, first=day), *random_rest(3, days=2, first=day)],
}


@pytest.fixture
def page() -> Iterator[Any]:
    """A tab that may load nothing, and has nothing to complain of."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: complaints.append(request.url))
        yield page
        browser.close()
    assert complaints == []


def test_no_page_is_wider_than_its_screen_or_sheet_and_no_words_of_a_chart_lie_on_each_other(
    database: Database, page: Any
) -> None:
    reports = Reports(database, Prices(), budget=9)
    days = {name: DAY + timedelta(days=n) for n, name in enumerate(HISTORIES)}
    for name, history in HISTORIES.items():
        write(database, history(days[name]))
    build(reports, DAY, days["everything"])
    looks = [(name, pages.page(reports, "day", day, 900, ["job_facts.csv"])) for name, day in days.items()]
    looks.append(("month", pages.page(reports, "month", DAY.replace(day=1), 900, ["profit_margin.csv"])))
    for media, width in (("screen", 1280), ("screen", 390), ("print", 703)):  # A4 without its margins
        page.emulate_media(media=media)
        page.set_viewport_size({"width": width, "height": 900})
        for name, html in looks:
            page.set_content(html)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert page.evaluate(_COLLISIONS) == [], (name, width)
            assert media == "screen" or page.evaluate(_MAY_BE_CUT) == [], name
