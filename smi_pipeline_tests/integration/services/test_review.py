"""What a second look at the way of the money found: each of these once ended wrong."""

import time

import pytest

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Queue, Stage, StripeEvent, StripePayment, UpscaleReply
from smi_pipeline.services import admin, alerts, submit
from smi_pipeline.services.completions import check_completions
from smi_pipeline.services.reconciliation import stripe_events
from smi_pipeline_tests.integration.services.steps import Steps


def test_a_run_that_never_starts_is_no_attempt(shop: Steps) -> None:
    job_id = shop.paid()
    for _ in range(8):  # all workers are gone for some minutes: sensors lease, nobody works
        assert shop.take(Queue.SUBMIT)[1] == [job_id]
        shop.later(seconds=50)
    shop.submit_due()
    assert shop.job(job_id).stage == "queued"
    assert len(shop.upscaler.submissions) == 1


def test_a_mail_whose_run_never_starts_is_not_given_up(shop: Steps) -> None:
    shop.failed()
    shop.refund_due()
    for _ in range(15):
        assert shop.take(Queue.MAIL)[1]
        shop.later(seconds=50)
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund"]


def test_new_work_does_not_keep_the_rows_of_a_dead_worker_waiting(shop: Steps) -> None:
    first = shop.paid()
    shop.take(Queue.SUBMIT)
    shop.later(minutes=2)
    second = shop.paid()
    assert shop.take(Queue.SUBMIT)[1] == [first]
    assert shop.take(Queue.SUBMIT)[1] == [second]


def test_a_rejection_without_id_whose_second_commit_was_lost_is_refunded(shop: Steps) -> None:
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    submit.prepare(shop.ctx, job_id, lease_id)
    begun = shop.state.submissions.begin(job_id, lease_id, actor="test")
    assert begun
    refused = UpscaleReply(external_id=None, stage=Stage.FAILED, error="no")
    shop.state.submissions.accepted(begun[0], refused, policy=shop.policy, actor="test")  # and here the worker dies
    for _ in range(25):
        shop.later(minutes=1)
        check_completions(shop.ctx)
    shop.everything()
    assert shop.job(job_id).status == "refunded"


def test_calls_about_closed_jobs_do_not_go_before_the_last_call_of_an_open_one(shop: Steps) -> None:
    closed = shop.paid()
    shop.submit_due()
    shop.later(seconds=shop.policy.max_processing.total_seconds() + 1)
    check_completions(shop.ctx)
    shop.everything()
    assert shop.job(closed).status == "refunded"
    shop.paid()
    shop.submit_due()
    shop.later(seconds=shop.policy.max_processing.total_seconds() - 10)
    shop.change("UPDATE smi.submissions SET next_poll_at = smi.now() - interval '1 minute' WHERE state = 'timed_out'")
    shop.change("UPDATE smi.submissions SET next_poll_at = smi.now() WHERE state = 'accepted'")
    assert [call.state for call in shop.state.submissions.claim_due_polls(1)] == ["accepted"]


def test_the_refund_of_a_second_payment_that_failed_can_be_repeated(shop: Steps) -> None:
    job_id = shop.delivered()
    first = shop.job(job_id).payment_intent_id or ""
    second = shop.pay(job_id, shop.job(job_id).price_cents)
    shop.payments.refund_status = "failed"
    shop.refund_due()
    task = next(task for task in shop.state.manual_tasks.opened() if task.kind == "refund_failed")
    assert f"smi jobs refund-payment {second}" in task.next_step, "`smi jobs refund` would return the first payment"
    shop.payments.refund_status = "succeeded"
    admin.refund_payment(shop.ctx, second)
    shop.refund_due()
    assert (shop.payments.returned_cents(first), shop.payments.returned_cents(second)) == (
        0,
        shop.job(job_id).price_cents,
    )
    assert "refund_failed" not in shop.tasks()


def test_a_closed_job_is_not_on_hold_any_more(shop: Steps) -> None:
    job_id = shop.paid()
    admin.hold(shop.ctx, job_id, "a question to the customer")
    shop.payments.refund_status = "failed"
    admin.cancel(shop.ctx, job_id)
    assert shop.job(job_id).hold_reason is None
    shop.sql("UPDATE smi.person_tasks SET closed_at = smi.now() RETURNING task_id")  # of the refund that failed
    shop.later(minutes=70)
    assert [row.job_id for row in shop.state.queries.alarms(shop.policy)] == [job_id]


def test_ours_is_made_when_a_refund_made_outside_that_had_settled_it_fails(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = shop.job(job_id).payment_intent_id or ""
    by_hand = shop.payments.refund_by_hand(payment_intent, shop.job(job_id).price_cents, status="pending")
    shop.refund_due()  # nothing is left to return; no event has told of it yet
    assert shop.job(job_id).status == "refunded"
    shop.payments.set_refund(by_hand.refund_id, "failed")
    shop.tell("refund.failed", {"object": "refund", "id": by_hand.refund_id, "payment_intent": payment_intent})
    shop.refund_due()
    assert shop.payments.returned_cents(payment_intent) == shop.job(job_id).price_cents


def test_a_refund_asked_for_during_a_second_round_is_made(shop: Steps) -> None:
    job_id = shop.delivered()
    admin.retry(shop.ctx, job_id, admin_override=True)
    admin.refund_job(shop.ctx, job_id)
    shop.refund_due()
    assert shop.payments.returned_cents(shop.job(job_id).payment_intent_id or "") == shop.job(job_id).price_cents


def test_ending_a_second_round_does_not_promise_money(shop: Steps) -> None:
    job_id = shop.delivered()
    admin.retry(shop.ctx, job_id, admin_override=True)
    assert "without any payment or refund" in admin.cancel(shop.ctx, job_id)
    assert shop.state.refunds.of_job(job_id) == []


def test_what_every_order_and_every_run_asks_does_not_read_the_whole_history(shop: Steps) -> None:
    shop.delivered()
    shop.change(
        """INSERT INTO smi.upscale_jobs (job_id, status, source_url, file_name, resolution, scale, customer_email,
               source_format, source_width, source_height, source_bytes, source_sha256, price_cents, currency,
               expected_credits, created_at, processing_at, completed_at)
           SELECT md5(i::text), 'completed', 'https://images.example/old.png', 'old', '4x', 4, 'c@example.org', 'PNG',
               100, 80, 9, '', 50, 'usd', 2, t, t, t + interval '30 s'
           FROM (SELECT i, now() - interval '1 day' - i * interval '1 minute' AS t
                 FROM generate_series(1, 30000) i) AS old"""
    )
    shop.change("ANALYZE smi.upscale_jobs")
    before = _rows_read(shop)
    shop.state.submissions.recent_seconds(0.128)
    shop.state.queries.forecast_wait_seconds(shop.ctx.policy)
    assert _rows_read(shop) - before < 3000


def _rows_read(shop: Steps) -> int:
    shop.change("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    return shop.sql(
        """SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS n FROM pg_stat_user_tables
           WHERE schemaname = 'smi' AND relname = 'upscale_jobs'"""
    )[0]["n"]


def test_a_slow_stripe_does_not_make_a_tick_longer_than_dagster_lets_it_live(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for number in range(100):
        job_id = shop.register().job_id
        body = {"object": "payment_intent", "id": shop.payments.pay(job_id, shop.job(job_id).price_cents)}
        shop.payments.events.append(
            StripeEvent(
                event_id=f"evt_{number}",
                type="payment_intent.succeeded",
                created_at=shop.state.submissions.now(),
                object=body | {"metadata": {"source": "sell-my-images", "job_id": job_id}},
            )
        )
    read = shop.payments.payment

    def slow(payment_intent_id: str) -> StripePayment:
        clock[0] += 1
        return read(payment_intent_id)

    monkeypatch.setattr(shop.payments, "payment", slow)
    started = 0
    for _ in range(6):
        began = clock[0]
        started += stripe_events.reconcile_events(shop.ctx)["order"]
        assert clock[0] - began < 45
    assert started == 100


def test_a_refund_that_cannot_be_made_for_an_hour_is_told_whatever_it_is_for(shop: Steps) -> None:
    job_id = shop.delivered()
    second = shop.pay(job_id, shop.job(job_id).price_cents)
    for _ in range(8):
        shop.payments.faults.append(TransientError("Stripe does not answer", counts=False))
        shop.refund_due()
        shop.later(minutes=10)
    assert alerts.raise_alarms(shop.ctx) == 0, "the job itself is delivered"
    assert "refund_late" in shop.tasks()
    shop.refund_due()
    assert shop.payments.returned_cents(second) == shop.job(job_id).price_cents
    alerts.raise_alarms(shop.ctx)
    assert "refund_late" not in shop.tasks()
