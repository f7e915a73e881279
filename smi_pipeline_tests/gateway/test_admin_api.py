"""The HTTP admin API: a key of its own, the admin actions on jobs, and nothing changed when it refuses."""

from typing import Any

import pytest

from smi_pipeline_tests.gateway.conftest import MakeShop
from smi_pipeline_tests.gateway.shop import API_KEY, Shop

ADMIN_KEY = "admin-key-of-the-tests"


@pytest.fixture
def shop(make_shop: MakeShop) -> Shop:
    return make_shop(smi_admin_api_key=ADMIN_KEY)


def act(shop: Shop, job_id: str, action: str, key: str = ADMIN_KEY, **body: Any) -> Any:
    return shop.client.post(
        f"/smi/v1/admin/jobs/{job_id}/{action}", json=body, headers={"Authorization": f"Bearer {key}"}
    )


def test_an_admin_holds_and_releases_a_job(shop: Shop) -> None:
    job_id = shop.paid()
    reply = act(shop, job_id, "hold", reason="the customer asked to wait")
    assert (reply.status_code, reply.json()["data"]["done"]) == (200, "held")
    assert shop.job(job_id).hold_reason == "the customer asked to wait"
    assert act(shop, job_id, "release").status_code == 200
    assert shop.job(job_id).hold_reason is None


def test_what_a_database_cannot_store_is_taken_out_of_a_reason(shop: Shop) -> None:
    job_id = shop.paid()
    assert act(shop, job_id, "hold", reason="a\x00 \n b").status_code == 200
    assert shop.job(job_id).hold_reason == "a b"


def test_a_new_link_is_answered_and_leads_to_the_file(shop: Shop) -> None:
    reply = act(shop, shop.delivered(), "token")
    link = reply.json()["data"]["done"]
    assert shop.client.get(link).status_code == 200


@pytest.mark.parametrize("key", [API_KEY, "x", "wrong"])
def test_the_key_of_the_storefront_opens_nothing_here(shop: Shop, key: str) -> None:
    job_id = shop.paid()
    before = shop.everything()
    assert act(shop, job_id, "refund", key).status_code == 401
    assert shop.everything() == before


def test_without_a_configured_key_the_api_is_closed(make_shop: MakeShop) -> None:
    closed = make_shop(smi_admin_api_key="")
    reply = act(closed, "0" * 32, "refund", "x")
    assert reply.status_code == 503
    assert "SMI_ADMIN_API_KEY" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("action", "body", "status", "message"),
    [
        ("explode", {}, 404, "known are retry, check, extend"),
        ("extend", {}, 422, "minutes is missing"),
        ("extend", {"minutes": None}, 422, "minutes is missing"),
        ("extend", {"minutes": True}, 422, "minutes must be a number"),
        ("extend", {"minutes": "5"}, 422, "minutes must be a number"),
        ("extend", {"minutes": -1}, 400, "minutes must be between"),
        ("hold", {"reason": " "}, 400, "reason"),
        ("hold", {"reason": 7}, 422, "reason must be text"),
        ("retry", {"admin_override": "yes"}, 422, "admin_override must be true or false"),
        ("retry", {"override": True}, 422, "unknown field 'override'; known are admin_override"),
        ("release", {}, 409, "not on hold"),
        ("refund", {"amount": 1}, 422, "unknown field 'amount'; none is known here"),
        ("token", {}, 409, "no file"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_changes_nothing(
    shop: Shop, action: str, body: dict[str, Any], status: int, message: str
) -> None:
    job_id = shop.paid()
    before = shop.everything()
    reply = act(shop, job_id, action, **body)
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]["message"]
    assert "\n" not in reply.json()["error"]["message"]
    assert shop.everything() == before


def test_an_unknown_job_is_a_404(shop: Shop) -> None:
    assert act(shop, "0" * 32, "check").status_code == 404


def test_a_breaker_is_opened_and_closed_over_http(shop: Shop) -> None:
    def call(verb: str, **body: Any) -> Any:
        path = f"/smi/v1/admin/breakers/source:shop.example/{verb}"
        return shop.client.post(path, json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"})

    assert call("open").status_code == 422
    reply = call("open", reason="the host is moved")
    assert (reply.status_code, reply.json()["data"]["name"]) == (200, "source:shop.example")
    assert [breaker.is_open for breaker in shop.state.breakers.all()] == [True]
    assert call("close", reason="it is moved").status_code == 200
    assert call("close", reason="it is moved").status_code == 409
    assert call("burn").status_code == 404
    unknown = shop.client.post("/smi/v1/admin/moons/1/hold", json={}, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert unknown.status_code == 404
