"""The alarm and the comparisons where they are looked at: as asset checks, as metrics, as manual tasks."""

from pathlib import Path
from typing import Any

from dagster import AssetCheckEvaluation

from smi_pipeline.core.models import Queue
from smi_pipeline.gateway.metrics import Metrics
from smi_pipeline.services import admin
from smi_pipeline.services.alerts import raise_alarms
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline_tests.orchestration.conftest import Shop


def run(shop: Shop, job: str) -> Any:
    result = shop.defs.resolve_job_def(job).execute_in_process(instance=shop.instance)
    assert result.success
    return result


def checks(shop: Shop) -> dict[str, AssetCheckEvaluation]:
    """What the scheduled checks say."""
    found = run(shop, "check_operations").get_asset_check_evaluations()
    return {f"{each.asset_key.to_user_string()}.{each.check_name}": each for each in found}


def metric(shop: Shop, line: str) -> float:
    page = Metrics(shop.ctx, Settings()).page().decode()  # type: ignore[call-arg]
    (value,) = [each.rsplit(" ", 1)[1] for each in page.splitlines() if each.startswith(line + " ")]
    return float(value)


def said(check: AssetCheckEvaluation) -> str:
    return " ".join(str(value.value) for value in check.metadata.values())


def test_the_alarm_is_the_same_as_a_task_as_a_check_and_as_a_metric(shop: Shop):
    quiet = checks(shop)["upscale_jobs.no_overdue_paid_job"]
    assert quiet.passed
    assert metric(shop, "smi_alarms") == raise_alarms(shop.ctx) == 0
    job_ids = {shop.order(), shop.order("rocket-200.jpg")}
    shop.shift_clock(hours=2)
    overdue = checks(shop)["upscale_jobs.no_overdue_paid_job"]
    assert not overdue.passed
    assert overdue.metadata["overdue jobs"].value == 2
    assert all(job_id in said(overdue) for job_id in job_ids)
    assert "smi jobs refund" in said(overdue)
    assert metric(shop, "smi_alarms") == raise_alarms(shop.ctx) == 2
    assert {task.subject for task in shop.ctx.state.manual_tasks.opened()} == job_ids


def test_a_prevented_dispute_an_appeal_and_a_warning_of_the_sandbox_reach_the_team(shop: Shop):
    def kinds() -> list[str]:
        reconcile_events(shop.ctx)
        return [str(task.kind) for task in shop.ctx.state.manual_tasks.opened()]

    def dispute_of(job_id: str) -> str | None:
        payment = shop.ctx.state.queries.payment(shop.job(job_id).payment_intent_id or "")
        return payment.dispute if payment else None

    prevented, appealed, warned = shop.order(), shop.order("rocket-200.jpg"), shop.order("coffee-200.jpg")
    intents = [shop.job(job_id).payment_intent_id for job_id in (prevented, appealed, warned)]
    shop.sandbox.control("stripe", "/_dispute", payment_intent=intents[0], prevented=True)
    assert kinds() == []
    assert dispute_of(prevented) == "lost"
    dispute = shop.sandbox.control("stripe", "/_dispute", payment_intent=intents[1])["id"]
    shop.sandbox.control("stripe", "/_dispute", dispute=dispute, outcome="lost")
    kinds()
    assert dispute_of(appealed) == "lost"
    shop.sandbox.control("stripe", "/_dispute", dispute=dispute, appeal="appeal_under_review")
    assert kinds() == ["dispute"]
    shop.sandbox.control("stripe", "/_dispute", dispute=dispute, outcome="won")
    assert kinds() == []
    assert dispute_of(appealed) == "won"
    shop.sandbox.control("stripe", "/_warn", payment_intent=intents[2])
    assert kinds() == ["fraud_warning"]


def test_a_comparison_without_payments_says_that_it_compared_nothing(shop: Shop):
    reconcile_events(shop.ctx)
    run(shop, "clean_up")
    found = checks(shop)["stripe_payments.stripe_agrees"]
    assert (found.passed, found.description) == (True, "compared nothing: there were no payments")


def test_differences_from_stripe_and_the_storage_are_shown_with_what_to_do(shop: Shop, tmp_path: Path):
    before = checks(shop)
    for name in ("stripe_payments.stripe_agrees", "deliveries.files_agree"):
        assert not before[name].passed, "what was never compared does not agree"
        assert "never" in said(before[name])
    assert metric(shop, 'smi_compared_seconds_ago{compared="payments"}') == -1
    job_id = shop.order()
    shop.run(Queue.SUBMIT)
    shop.until_ready(job_id)
    shop.run(Queue.FULFIL)
    run(shop, "clean_up")
    agreed = checks(shop)
    assert agreed["stripe_payments.stripe_agrees"].passed
    assert agreed["stripe_payments.stripe_agrees"].metadata["payments: compared"].value == 1
    assert agreed["deliveries.files_agree"].passed
    assert 0 <= metric(shop, 'smi_compared_seconds_ago{compared="files"}') < 600

    lost = tmp_path / "storage" / (shop.job(job_id).result_key or "")
    lost.unlink()
    # Received otherwise at Stripe than recorded here.
    with Database(shop.ctx.state.database.url).transaction() as tx:  # type: ignore[attr-defined]
        tx.run("UPDATE smi.payments SET received_cents = received_cents + 1")
    shop.shift_clock(hours=2)
    run(shop, "clean_up")
    after = checks(shop)
    stripe, files = after["stripe_payments.stripe_agrees"], after["deliveries.files_agree"]
    assert not stripe.passed and not files.passed
    assert stripe.metadata["differences"].value == files.metadata["differences"].value == 1
    assert "we recorded" in said(stripe) and "smi jobs show" in said(stripe)
    assert "is missing from the storage" in said(files) and "--admin-override" in said(files)
    assert metric(shop, 'smi_differences{compared="payments",kind="payment_differs"}') == 1
    assert metric(shop, 'smi_differences{compared="files",kind="file_missing"}') == 1
    assert len(shop.sandbox.ledger("stripe")["refunds"]) == 0


def test_an_open_breaker_is_shown_as_a_check_with_what_waits_and_what_to_do(shop: Shop):
    assert checks(shop)["upscale_jobs.no_open_breaker"].passed
    shop.order()
    admin.open_breaker(shop.ctx, "submissions", "the account is moved")
    shut = checks(shop)["upscale_jobs.no_open_breaker"]
    assert not shut.passed
    assert shut.metadata["open breakers"].value == 1
    for words in ("the account is moved", "1 order", "smi breakers close submissions REASON"):
        assert words in said(shut)
    assert metric(shop, 'smi_breaker_open{name="submissions"}') == 1
