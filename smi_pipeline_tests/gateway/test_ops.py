"""What operators and machines see: /ops behind its password, /metrics, /health."""

import re
from decimal import Decimal
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from smi_pipeline.core import faults
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.gateway.auth import require_operator
from smi_pipeline.gateway.ops import without_query
from smi_pipeline.gateway.rendering import masked_address
from smi_pipeline_tests.gateway.shop import Shop, wait_for
from smi_pipeline_tests.gateway.test_pages import text

AUTH = ("operator", "correct horse")


def fault(shop: Shop, name: str = faults.SUBMISSIONS, scope: Scope = Scope.SHOP) -> None:
    """A fault of the shop."""
    shop.state.breakers.note(Failure(breaker=name, work_key="x", message="402: no credits", scope=scope))
    shop.app.state.overview.forget()


def ops(shop: Shop, path: str = "/ops") -> Any:
    reply = shop.client.get(path, auth=AUTH)
    assert reply.status_code == 200, reply.text
    return reply.text


@pytest.mark.parametrize(
    "auth", [None, ("operator", "wrong"), ("wrong", "correct horse"), ("", ""), ("operator", ""), ("öperator", "x")]
)
def test_the_pages_of_operators_ask_for_user_and_password(shop: Shop, auth: tuple[str, str] | None) -> None:
    for path in ("/ops", f"/ops/jobs/{shop.delivered()}"):
        reply = shop.client.get(path, auth=auth)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"].startswith("Basic ")
        assert "sunset" not in reply.text


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic b3BlcmF0b3I=", "Bearer x", "Basic /w=="])
def test_an_unreadable_authorization_is_a_401(shop: Shop, header: str) -> None:
    assert shop.client.get("/ops", headers={"Authorization": header}).status_code == 401


OWN, FOREIGN = ("Origin", "https://shop.example"), ("Origin", "https://www.shop.example")
SAME, CROSS = ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "same-site")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ([OWN], True),
        ([SAME], True),
        ([OWN, SAME], True),
        ([], False),
        ([CROSS], False),
        ([("Sec-Fetch-Site", "none")], False),
        ([FOREIGN], False),
        ([FOREIGN, SAME], False),
        ([("Origin", "null"), SAME], False),
        ([OWN, OWN], False),
        ([OWN, FOREIGN], False),
        ([SAME, SAME], False),
        ([OWN, SAME, CROSS], False),
    ],
)
def test_what_an_operator_changes_must_come_from_a_page_of_this_site(
    make_shop: Any, headers: list[tuple[str, str]], allowed: bool
) -> None:
    shop = make_shop(smi_public_url="https://Shop.Example:443")

    async def change(request: Request) -> PlainTextResponse:
        require_operator(request)
        return PlainTextResponse("changed")

    shop.app.router.routes.insert(0, Route("/ops/change", change, methods=["POST", "GET"]))
    assert shop.client.post("/ops/change", auth=AUTH, headers=headers).status_code == (200 if allowed else 403)
    assert shop.client.get("/ops/change", auth=AUTH, headers=headers).status_code == 200


@pytest.mark.parametrize("unset", ["smi_ui_user", "smi_ui_password"])
def test_without_a_configured_password_the_pages_stay_closed(make_shop, unset: str) -> None:
    shop = make_shop(**{unset: ""})
    for auth in (AUTH, ("", ""), ("operator", ""), None):
        reply = shop.client.get("/ops", auth=auth)
        assert reply.status_code == 503
        assert "SMI_UI_USER" in reply.json()["error"]["message"]


def test_the_overview_of_an_empty_shop_is_calm(shop: Shop) -> None:
    page = text(ops(shop))
    assert "Nothing needs a person" in page
    assert "Error rate –" in page
    assert "No job yet." in page


def test_the_overview_shows_what_is_going_on(shop: Shop) -> None:
    shop.paid()
    shop.submitted()
    shop.delivered()
    shop.delivered()
    shop.delivered()
    shop.failed()
    shop.settle_refund(shop.refunded("pending"), "succeeded")
    html = ops(shop)
    page = text(html)
    assert '<meta http-equiv="refresh" content="10">' in html
    for words in (
        "Waiting to submit 1",
        "At Upsampler 1",
        "Refunds owed 1",
        "Delivered 3",
        "Not delivered 2",
        "Error rate 40.0 %",
        "upscale failed (2)",
        "Revenue $17.43 7 payments",
        "Refunded $2.49",
        "Upscaling cost $0.40 10 credits",
        "Submissions, last minute 0 of 60 allowed",
    ):
        assert words in page, words
    assert "Paid to delivered 0." in page
    assert html.count("/ops/jobs/") == 7
    assert "anna" not in html.lower()


def test_costs_are_those_of_the_price_at_which_an_order_was_made(shop: Shop) -> None:
    job_id = shop.delivered(credit_cents=Decimal("7.25"))
    shop.delivered(currency="jpy", credit_cents=Decimal(600))
    shop.delivered()
    assert "Upscaling cost $0.23 6 credits" in text(ops(shop)), "14.5 and 8"
    assert "Cost so far $0.15" in text(ops(shop, f"/ops/jobs/{job_id}"))


def test_the_overview_shows_alarms_tasks_and_a_stopped_service(shop: Shop) -> None:
    job_id = shop.submitted()
    fault(shop)
    shop.sql("UPDATE smi.clock SET shift = '2 hours'")
    page = text(ops(shop))
    assert "1 overdue" in page
    assert job_id in page
    assert "Upsampler takes no submissions: 0 orders wait" in page
    assert "1 manual task" in page
    assert "Check UPSAMPLER_API_KEY" in page


def test_a_daemon_that_stopped_is_told_where_it_does_not_run(shop: Shop) -> None:
    assert "smi_sensors_seconds_ago -1.0" in shop.client.get("/metrics").text
    shop.state.submissions.expire_unstarted(policy=shop.ctx.policy)  # a sensor's sign of life
    assert "Nothing needs a person" in text(ops(shop))
    shop.sql("UPDATE smi.clock SET shift = '7 minutes'")
    shop.app.state.overview._taken_at = float("-inf")
    assert "No sensor has looked for work for 7 minutes" in text(ops(shop))
    found = re.search(r"^smi_sensors_seconds_ago (\S+)$", shop.client.get("/metrics").text, re.M)
    assert found
    assert 420 <= float(found.group(1)) < 600


def test_many_open_overviews_cost_no_more_than_one(shop: Shop) -> None:
    assert "No job yet." in ops(shop)
    shop.paid()
    assert "No job yet." in ops(shop)
    shop.app.state.overview._taken_at = float("-inf")
    assert "Waiting to submit 1" in text(ops(shop))


def test_the_page_of_a_job_shows_everything_and_no_address(shop: Shop) -> None:
    job_id = shop.refunded("pending")
    shop.state.deliveries.rate(job_id, 2, "too slow")
    shop.sql("UPDATE smi.job_events SET actor = 'run 01234567-89ab-cdef-0123-456789abcdef' WHERE event = 'submitted'")
    html = ops(shop, f"/ops/jobs/{job_id}")
    page = text(html)
    for words in (
        "Wait for the refund",
        "upscale failed",
        "cuda error at node-7",
        "a***@e***.com",
        "2 of 5: too slow",
        "paid awaiting payment",
        f"up-{job_id}",
        "$2.49",
        "pending",
    ):
        assert words in page, words
    assert "anna" not in html.lower()
    assert "of-the-shop" not in html  # the query of the source's address
    assert "http://127.0.0.1:3000/runs/01234567-89ab-cdef-0123-456789abcdef" in html
    assert shop.callback not in html


def test_addresses_in_the_words_of_other_servers_are_masked(shop: Shop) -> None:
    job_id = shop.delivered()
    said = "550 5.1.1 <anna.smith@example.com>: no such user"
    shop.sql("UPDATE smi.emails SET last_error = %(said)s", said=said)
    shop.sql("UPDATE smi.upscale_jobs SET last_error = %(said)s", said=said)
    shop.sql("UPDATE smi.job_events SET details = jsonb_build_object('why', %(said)s::text)", said=said)
    shop.state.manual_tasks.open(kind="mail_failed", subject=job_id, job_id=job_id, message=said, next_step=said)
    for path in ("/ops", f"/ops/jobs/{job_id}"):
        html = ops(shop, path)
        assert "anna.smith" not in html
        assert "550 5.1.1 &lt;a***@e***.com&gt;: no such user" in html


def test_an_open_task_takes_the_place_of_the_usual_next_step(shop: Shop) -> None:
    html = ops(shop, f"/ops/jobs/{shop.refunded('failed')}")
    [task] = shop.state.manual_tasks.opened()
    assert task.next_step.replace("`", "") in html.replace("<code>", "").replace("</code>", "")
    assert "Wait for the refund" not in html
    assert "<code>smi jobs refund" in html


def test_the_page_of_a_delivered_job_shows_mails_and_downloads_without_the_token(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.client.get(f"/smi/v1/download/{shop.token(job_id)}")
    html = ops(shop, f"/ops/jobs/{job_id}")
    assert "completion" in text(html)
    assert "0.970" in text(html)
    assert shop.token(job_id) not in html
    assert shop.view(job_id) not in html


def test_an_unknown_job_is_a_404_there_too(shop: Shop) -> None:
    assert shop.client.get("/ops/jobs/" + "e" * 32, auth=AUTH).status_code == 404


def test_looking_at_the_operators_pages_changes_nothing(shop: Shop) -> None:
    job_id = shop.refunded()
    before = shop.everything()
    ops(shop)
    ops(shop, f"/ops/jobs/{job_id}")
    ops(shop, "/ops/breakers")
    shop.client.get("/metrics")
    assert shop.everything() == before
    assert shop.client.post("/ops", auth=AUTH).status_code == 405


def test_addresses_are_masked() -> None:
    assert masked_address("anna.smith@example.co.uk") == "a***@e***.uk"
    assert without_query("https://u.example/a.png?key=1#x") == "https://u.example/a.png"


def test_metrics_are_read_from_the_state_at_the_scrape(shop: Shop) -> None:
    assert "smi_in_flight 0.0" in shop.client.get("/metrics").text
    shop.paid()
    shop.submitted()
    shop.failed()
    shop.delivered()
    reply = shop.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    for line in (
        "smi_database_up 1.0",
        'smi_jobs{status="pending"} 1.0',
        'smi_jobs{status="abandoned"} 0.0',
        'smi_queue{queue="submit"} 1.0',
        "smi_in_flight 1.0",
        "smi_refunds_owed 1.0",
        "smi_mails_owed 1.0",
        "smi_alarms 0.0",
        'smi_api_allowance{calls="submissions",window="minute"} 60.0',
    ):
        assert line in reply.text, line
    shop.sql("UPDATE smi.clock SET shift = '3 hours'")
    assert "smi_alarms 3.0" in shop.client.get("/metrics").text


def test_metrics_hold_no_path_of_a_customer(shop: Shop) -> None:
    job_id = shop.delivered()
    shop.client.get(f"/smi/v1/download/{shop.token(job_id)}")
    shop.client.get("/nothing/" + job_id)
    metrics = shop.client.get("/metrics").text
    assert 'route="/smi/v1/download/{token}",status="200"' in metrics
    assert 'route="unknown",status="404"' in metrics
    assert job_id not in metrics


def test_without_a_database_metrics_say_so(dead_shop: Shop) -> None:
    reply = dead_shop.client.get("/metrics")
    assert reply.status_code == 200
    assert "smi_database_up 0.0" in reply.text
    assert "smi_in_flight" not in reply.text


def test_health_is_200_while_the_database_answers_and_503_when_not(shop: Shop, dead_shop: Shop) -> None:
    reply = shop.client.get("/health")
    assert (reply.status_code, reply.json()["data"]["status"]) == (200, "ok")
    reply = dead_shop.client.get("/health")
    assert (reply.status_code, reply.json()["success"]) == (503, False)


def test_a_database_without_tables_is_not_healthy(make_shop, postgres) -> None:
    shop = make_shop(smi_database_url=postgres.url("postgres"))
    assert shop.client.get("/health").status_code == 503
    assert "smi_database_up 0.0" in shop.client.get("/metrics").text


def test_pages_and_files_of_the_reports_are_handed_to_operators_alone(shop: Shop) -> None:
    storage = shop.ctx.storage
    storage.put_bytes("reports/day/2026-11-20/index.html", b"<style>p{}</style><p>94.0 % delivered")
    storage.put_bytes("reports/day/2026-11-20/job_facts.csv", b"day,job_id")
    storage.put_bytes("results/secret.html", b"no")
    page = shop.client.get("/ops/reports/day/2026-11-20/index.html", auth=AUTH)
    assert (page.status_code, "94.0 % delivered" in page.text) == (200, True)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.headers["content-security-policy"]
    table = shop.client.get("/ops/reports/day/2026-11-20/job_facts.csv", auth=AUTH)
    assert table.headers["content-type"].startswith("text/csv")
    assert shop.client.get("/ops/reports/day/2026-11-20/index.html").status_code == 401
    for path in ("day/2026-11-21/index.html", "../results/secret.html", "day/2026-11-20/../../../results/secret.html"):
        assert shop.client.get(f"/ops/reports/{path}", auth=AUTH).status_code == 404


def test_the_overview_tells_of_an_open_breaker_what_it_is_and_what_to_do(shop: Shop) -> None:
    shop.paid()
    shop.paid()
    fault(shop)
    page = text(ops(shop))
    for words in (
        "Upsampler takes no submissions: 2 orders wait",
        "402: no credits",
        "Next step: Check UPSAMPLER_API_KEY",
        "Open since",
        "Next probe",
        "no probes failed so far",
        "Close by hand",
    ):
        assert words in page, words
    assert "Nothing needs a person" not in page


def test_the_overview_tells_of_a_part_that_has_begun_to_fail(shop: Shop) -> None:
    fault(shop, faults.RESULTS, Scope.UNKNOWN)
    page = text(ops(shop))
    assert "Failing: results" in page
    assert "1 failed in a row" in page
    assert "Open by hand" in page


def act(shop: Shop, **form: str) -> Any:
    return shop.client.post("/ops/breakers", data=form, auth=AUTH, headers={"Origin": shop.url})


def test_an_operator_opens_and_closes_a_breaker_on_its_page(shop: Shop) -> None:
    assert "Nothing needs a person" in text(ops(shop))
    reply = act(shop, action="open", name="submissions", reason="the account is moved")
    assert (reply.status_code, reply.headers["location"]) == (303, "/ops/breakers")
    page = text(ops(shop, "/ops/breakers"))
    assert "submissions : open" in page
    assert "by hand, until it is closed by hand" in page
    assert "the account is moved" in text(ops(shop)), "the overview is read anew"
    assert act(shop, action="close", name="submissions", reason="it is moved").status_code == 303
    assert "submissions : closed" in text(ops(shop, "/ops/breakers"))
    [event] = shop.sql("SELECT actor FROM smi.job_events WHERE event = 'breaker_closed'")
    assert event["actor"] == "operator, /ops: it is moved"


def test_a_breaker_is_not_changed_without_the_password_from_another_site_or_by_an_unreadable_form(shop: Shop) -> None:
    form = {"action": "open", "name": "mail", "reason": "why"}
    own = {"Origin": shop.url}
    assert shop.client.post("/ops/breakers", data=form, headers=own).status_code == 401
    assert shop.client.post("/ops/breakers", data=form, auth=AUTH).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    assert shop.client.post("/ops/breakers", data=form, auth=AUTH, headers=foreign).status_code == 403
    assert shop.client.post("/ops/breakers", json=form, auth=AUTH, headers=own).status_code == 415
    for changes, status in (
        ({"action": "burn"}, 400),
        ({"name": "nonsense"}, 400),
        ({"reason": ""}, 400),
        ({"reason": " \n"}, 400),
        ({"action": "close"}, 409),
    ):
        assert act(shop, **(form | changes)).status_code == status, changes
    assert shop.state.breakers.all() == []


def test_metrics_tell_which_breaker_is_open_and_how_much_waits(shop: Shop) -> None:
    page = shop.client.get("/metrics").text
    assert 'smi_breaker_open{name="submissions"} 0.0' in page
    shop.paid()
    fault(shop)
    fault(shop, "source:shop.example")
    fault(shop, faults.MAIL, Scope.UNKNOWN)
    page = shop.client.get("/metrics").text
    for line in (
        'smi_breaker_open{name="submissions"} 1.0',
        'smi_breaker_waiting_orders{name="submissions"} 1.0',
        'smi_breaker_open{name="source:shop.example"} 1.0',
        'smi_breaker_waiting_orders{name="source:shop.example"} 1.0',
        'smi_breaker_open{name="mail"} 0.0',
        'smi_breaker_waiting_orders{name="stripe"} 0.0',
    ):
        assert line in page, line


def test_health_names_the_open_breakers_and_stays_200(shop: Shop) -> None:
    assert shop.client.get("/health").json()["data"]["open_breakers"] == []
    fault(shop)
    reply = shop.client.get("/health")
    assert (reply.status_code, reply.json()["data"]["open_breakers"]) == (200, ["submissions"])


def test_health_is_degraded_and_still_200_while_the_daemon_or_a_pool_of_workers_is_silent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shop.client.get("/health").json()["data"]
    assert (data["status"], data["silent"]) == ("ok", [])
    shop.state.process_heartbeats.record("workers-reports")
    shop.app.state.watch.look()
    monkeypatch.setattr("smi_pipeline.services.watch.SILENCE_SECONDS", 0.0)
    reply = shop.client.get("/health")
    assert (reply.status_code, reply.json()["data"]["status"]) == (200, "degraded")
    assert reply.json()["data"]["silent"] == ["daemon", "workers-reports"]


def test_the_running_gateway_watches_by_itself(make_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smi_pipeline.services.watch.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr("smi_pipeline.gateway.threads.WATCH_SECONDS", 0.05)
    shop = make_shop()
    wait_for(lambda: [task.subject for task in shop.state.manual_tasks.opened()] == ["daemon"])
