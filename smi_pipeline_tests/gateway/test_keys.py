"""Several keys at once: while one is being replaced, clients and links of both are let in, and of no other."""

from collections.abc import Callable
from typing import Any

import pytest

from smi_pipeline.core.lifecycle import end_waiting_token, rating_token, view_token
from smi_pipeline.services import admin
from smi_pipeline_tests.gateway.conftest import MakeShop
from smi_pipeline_tests.gateway.shop import API_KEY, SECRET_KEY, Shop

NEW, REMOVED = "the-new-secret-key-with-more-than-32-characters", "r" * 40

LINKS: dict[str, tuple[Callable[..., str], str]] = {
    "view": (view_token, "/smi/v1/job-status/{job_id}?view={token}"),
    "rating": (rating_token, "/smi/v1/rate/{job_id}?key={token}"),
    "end of waiting": (end_waiting_token, "/smi/v1/end-waiting/{job_id}?key={token}"),
}


def opens(shop: Shop, link: str, job_id: str, key: str, links_revoked: int = 0) -> bool:
    """Whether a link that is signed with `key` shows what it is for."""
    token, path = LINKS[link]
    reply = shop.client.get(path.format(job_id=job_id, token=token(key, job_id, links_revoked)))
    if link != "view":
        return reply.status_code == 200
    return "order" in reply.json()["data"]


@pytest.mark.parametrize("link", LINKS)
def test_links_of_each_key_open_and_of_a_removed_one_do_not(make_shop: MakeShop, link: str) -> None:
    shop = make_shop(smi_secret_key=f"{NEW}, {SECRET_KEY}")
    job_id = shop.paid()
    assert [opens(shop, link, job_id, key) for key in (NEW, SECRET_KEY, REMOVED, "")] == [True, True, False, False]


@pytest.mark.parametrize("link", LINKS)
def test_a_revoked_link_is_closed_and_its_successor_opens(make_shop: MakeShop, link: str) -> None:
    shop = make_shop(smi_secret_key=f"{NEW},{SECRET_KEY}")
    job_id, other = shop.paid(), shop.paid()
    page = admin.revoke_links(shop.ctx, job_id)
    assert [opens(shop, link, job_id, key) for key in (NEW, SECRET_KEY)] == [False, False]
    assert opens(shop, link, job_id, NEW, 1)
    assert opens(shop, link, other, SECRET_KEY), "the links of other orders stay"
    assert page.endswith(view_token(NEW, job_id, 1))


def test_the_page_of_a_revoked_order_says_its_progress_and_nothing_that_is_private(shop: Shop) -> None:
    job_id = shop.delivered()
    old = view_token(SECRET_KEY, job_id)
    file = shop.status(job_id, view=True)["download"]["url"]
    page = admin.revoke_links(shop.ctx, job_id)
    reply = shop.client.get(f"/smi/v1/jobs/{job_id}?view={old}")
    assert reply.status_code == 200 and "/download/" not in reply.text
    assert shop.client.get(file).status_code == 410
    fresh = shop.client.get(page.replace("/jobs/", "/job-status/")).json()["data"]["download"]["url"]
    assert shop.client.get(fresh).status_code == 200


def test_a_download_link_whose_key_was_removed_is_gone(make_shop: MakeShop) -> None:
    old = make_shop()
    job_id = old.delivered()
    path = f"/smi/v1/download/{old.token(job_id)}"
    assert make_shop(smi_secret_key=f"{NEW},{SECRET_KEY}").client.get(path).status_code == 200
    assert make_shop(smi_secret_key=NEW).client.get(path).status_code == 410


@pytest.mark.parametrize("setting", ["smi_api_key", "smi_admin_api_key"])
def test_each_of_several_api_keys_is_good_and_no_part_of_them(make_shop: MakeShop, setting: str) -> None:
    keys = {"smi_api_key": "another-key-of-the-shop", "smi_admin_api_key": "a-key-of-another-program"}
    shop = make_shop(**(keys | {setting: f"{API_KEY}, the-next-key-for-tests"}))
    job_id = shop.paid()
    path = "/smi/v1/jobs" if setting == "smi_api_key" else f"/smi/v1/admin/jobs/{job_id}/check"

    def status(key: str) -> int:
        body: dict[str, Any] = {}
        return shop.client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code

    assert 401 not in [status(API_KEY), status("the-next-key-for-tests")]
    whole = f"{API_KEY}, the-next-key-for-tests"
    assert [status(key) for key in (whole, ",", API_KEY[:-1], "x")] == [401] * 4


def test_an_admin_program_revokes_the_links_of_an_order(make_shop: MakeShop) -> None:
    shop = make_shop(smi_admin_api_key="admin-key-of-the-tests")
    job_id = shop.paid()
    reply = shop.client.post(
        f"/smi/v1/admin/jobs/{job_id}/revoke", headers={"Authorization": "Bearer admin-key-of-the-tests"}
    )
    assert reply.status_code == 200, reply.text
    page = reply.json()["data"]["done"]
    assert shop.client.get(page).status_code == 200
    assert not opens(shop, "view", job_id, SECRET_KEY)
