"""The page that gets nothing done through the front does everything where the front lacks its rules: it means it.

In the last file, because it changes the money that the reports show.
"""

from typing import Any

import pytest
from playwright.sync_api import Browser

from smi_pipeline_tests.attack.weakened import blocking_by_name, for_any_page
from smi_pipeline_tests.end_to_end.conftest import wait_until
from smi_pipeline_tests.end_to_end.one_product.conftest import CHROMIUM, RunningShop
from smi_pipeline_tests.end_to_end.one_product.hostile import page
from smi_pipeline_tests.end_to_end.one_product.operators import (
    SAME_SITE,
    in_front,
    launched_by,
    logged_in,
    refunds_of,
    reported,
    visit,
)
from smi_pipeline_tests.gateway.nginx import TEAM, needs_nginx

pytestmark = [
    needs_nginx,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # the sandbox's mail server
]


def test_the_same_page_refunds_the_order(running_shop: RunningShop, wanted: dict[str, Any], browser: Browser) -> None:
    settings, running = in_front(running_shop, change=lambda text: for_any_page(blocking_by_name(text)))
    with running:
        url = settings.smi_team_url or ""
        context, _ = logged_in(browser, url, TEAM)
        visit(context, SAME_SITE, page(url, wanted["job_id"]))
        context.close()
    means = launched_by(running_shop)
    assert "img line break" in means
    assert any(one.startswith("form") for one in means) and any(one.startswith("fetch no-cors POST") for one in means)
    assert reported(running_shop) > 0
    wait_until("the refund", lambda: refunds_of(running_shop, wanted))
