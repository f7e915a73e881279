"""After a day on which everything happened that the demo knows, and all that money can do besides, the reports are what
the ledgers of the sandbox say: to the cent and to the credit."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, build_sensor_context

from smi_pipeline.core.models import Queue, Status
from smi_pipeline.demo.scenario import SPECIAL, Case
from smi_pipeline.reporting.jobs import stripe_bookings
from smi_pipeline.services import admin
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.intake import SOURCE
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events
from smi_pipeline.state.reports.checks import ReportChecks
from smi_pipeline.state.reports.store import Reports
from smi_pipeline_tests.orchestration.conftest import Shop
from smi_pipeline_tests.orchestration.reporting.conftest import build, stripe_says

CASES = [case for case in SPECIAL if all(fault.match_by for fault in case.faults)]
"""Those whose fault hits no other order, too."""
CLOSED = (Status.COMPLETED, Status.REFUNDED)


def order(shop: Shop, case: Case) -> str:
    """Of a small image, paid, with the faults of the case."""
    swapped = any(fault.kind == "swap" for fault in case.faults)
    photo = f"{'gravel' if swapped else 'coffee'}-200.jpg?order={case.name}"
    job_id = shop.order(photo, case.resolution, pay=False)
    of_order = {"image_url": photo, "job_id": job_id, "path": "gravel-200.jpg", "to": "ann@customer.example"}
    for fault in case.faults:
        match = dict(fault.match)
        if fault.match_by:
            match[fault.match_by] = of_order[fault.match_by]
        shop.sandbox.fault(fault.service, fault.kind, match=match, **fault.params)
    shop.sandbox.pay(shop.job(job_id).checkout_session_id or "")
    return job_id


def work_off(shop: Shop, jobs: list[str]) -> None:
    """All that the sensors do, again and again as the clock goes on, until each job is closed and nothing owed."""
    for _ in range(60):
        reconcile_events(shop.ctx)
        check_completions(shop.ctx)
        ran = [len(shop.run(queue)) for queue in SENSORS]
        if not any(ran) and all(shop.job(job_id).status in CLOSED for job_id in jobs):
            return
        shop.shift_clock(seconds=60)
    raise AssertionError([shop.job(job_id) for job_id in jobs if shop.job(job_id).status not in CLOSED])


SENSORS = (Queue.SUBMIT, Queue.FULFIL, Queue.REFUND, Queue.MAIL)


def test_after_a_day_of_everything_the_reports_equal_the_ledgers_to_the_cent_and_to_the_credit(
    shop: Shop, reports: Reports, reports_db: Any, instance: DagsterInstance
) -> None:
    control = shop.sandbox.control
    jobs = {case.name: order(shop, case) for case in CASES}
    jobs |= {name: shop.order(f"rocket-200.jpg?order={name}", pay=False) for name in ("disputed", "goodwill", "twice")}
    shop.sandbox.fault("upsampler", "accept_then_drop", match={"image_url": "order=unanswered"})
    jobs["unanswered"] = shop.order("rocket-200.jpg?order=unanswered", pay=False)
    for name in ("disputed", "goodwill", "twice", "unanswered"):
        shop.sandbox.pay(shop.job(jobs[name]).checkout_session_id or "")
    reconcile_events(shop.ctx)  # so that this one is the second
    control("stripe", "/_pay", amount=500, currency="usd", metadata={"source": SOURCE, "job_id": jobs["twice"]})
    nobody = control("stripe", "/_pay", amount=700, currency="usd", metadata={"source": SOURCE, "job_id": "0" * 32})
    gift = shop.order("coffee-200.jpg?order=gift", pay=False)
    admin.retry(shop.ctx, gift, admin_override=True)
    work_off(shop, [*jobs.values(), gift])

    admin.refund_job(shop.ctx, jobs["goodwill"])
    control("stripe", "/_dispute", payment_intent=shop.job(jobs["disputed"]).payment_intent_id)
    by_hand = shop.job(jobs["api-429"]).payment_intent_id
    control("stripe", "/_refund", payment_intent=by_hand, amount=20)
    work_off(shop, [*jobs.values(), gift])

    stripe_bookings(build_sensor_context(instance=instance, resources={"reports_db": reports_db}))
    today = datetime.now(UTC).date()
    first, last = today - timedelta(days=1), today + timedelta(days=1)  # midnight may have passed
    build(reports, first, last, periods=("day",))
    money, credits = (
        sum(
            (Counter({k: v for k, v in row.items() if type(v) is int}) for row in whole(reports, table, first, last)),
            Counter(),
        )
        for table in ("profit_margin", "credit_usage")
    )
    stripe, upsampler = (shop.sandbox.ledger(name) for name in ("stripe", "upsampler"))
    assert money["paid_jobs"] == len(jobs)
    assert Counter(shop.job(job_id).status for job_id in jobs.values()) == {
        # Here no image is submitted again, so that what needs it in the demo is refunded.
        Status.COMPLETED: sum(case.expected == "delivered" and case.submissions == 1 for case in CASES) + 4,
        Status.REFUNDED: sum(case.expected == "refunded" or case.submissions > 1 for case in CASES),
    }
    received = sum(intent["amount_received"] for intent in stripe["intents"])
    returned = sum(refund["amount"] for refund in stripe["refunds"] if refund["status"] == "succeeded")
    assert (money["revenue_cents"], money["refunds_cents"]) == (received, returned)
    gone = sum(money[f"{name}_cents"] for name in ("refunds", "disputes", "stripe_fees"))
    (balance,) = stripe_says(shop, "balance")["available"]
    assert money["revenue_cents"] - gone == balance["amount"]
    assert money["disputes_cents"] == shop.job(jobs["disputed"]).price_cents
    taken = sum(one["credits"] or 0 for one in upsampler["submissions"])
    assert credits["credits"] + credits["credits_assumed"] == taken
    assert credits["credits_assumed"] == shop.job(jobs["unanswered"]).expected_credits
    assert ReportChecks(shop.ctx.state.database).stripe_differences(first, last) == []  # type: ignore[attr-defined]
    assert nobody["id"] in {row["subject"] for row in reports.rows("other_money", first, last)}


def whole(reports: Reports, table: str, first: Any, last: Any) -> list[dict[str, Any]]:
    return [row for row in reports.rows(table, first, last) if row["resolution"] == "all"]
