"""Stripe's payments and refunds against ours, both ways: what the rules settle is settled, the rest is a person's."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import AmbiguousError, NotFound, UnreadableError
from smi_pipeline.core.models import ManualTask, StripeRefund
from smi_pipeline.services.reconciliation.stripe_payments import compare_payments
from smi_pipeline_tests.integration.services.steps import Steps


def task(shop: Steps) -> ManualTask:
    """The one task of the comparison, which says the same however often it is made."""
    (found,) = [each for each in shop.state.manual_tasks.opened() if each.kind == "payment_differs"]
    compare_payments(shop.ctx)
    assert [each.task_id for each in shop.state.manual_tasks.opened() if each.kind == "payment_differs"] == [
        found.task_id
    ]
    return found


def money_moves(shop: Steps) -> int:
    return shop.payments.calls.count("payments.create_refund")


def test_what_agrees_is_no_difference(shop: Steps) -> None:
    shop.delivered()
    shop.failed()
    shop.refund_due()
    shop.payments.refund_status = "pending"
    shop.failed()
    shop.refund_due()
    made = money_moves(shop)
    assert compare_payments(shop.ctx) == {"known": 3}
    assert shop.tasks() == []
    assert money_moves(shop) == made


def test_a_payment_that_stripe_does_not_know_is_told_with_what_keeps_the_job_back(shop: Steps) -> None:
    job_id = shop.paid()
    gone = shop.job(job_id).payment_intent_id or ""
    kept = shop.payments.intents.pop(gone)
    assert compare_payments(shop.ctx)["differs"] == 1
    told = task(shop)
    assert "Stripe does not know it" in told.message
    assert (told.subject, told.job_id) == (gone, job_id)
    assert f"smi jobs hold {job_id}" in told.next_step
    assert "STRIPE_API_KEY" in told.next_step
    shop.payments.intents[gone] = kept
    compare_payments(shop.ctx)
    assert shop.tasks() == [], "it ends by itself when it is no more true"


@pytest.mark.parametrize("status", ["canceled", "requires_payment_method", "processing"])
def test_a_payment_that_stripe_shows_as_not_paid_is_told(shop: Steps, status: str) -> None:
    name = shop.job(shop.delivered()).payment_intent_id or ""
    shop.payments.intents[name] = replace(shop.payments.intents[name], status=status)
    compare_payments(shop.ctx)
    assert f"it is {status} at Stripe" in task(shop).message
    assert "smi jobs show" in task(shop).next_step


@pytest.mark.parametrize("change", [{"amount_received_cents": 7}, {"currency": "eur"}])
def test_another_amount_or_currency_is_told(shop: Steps, change: dict) -> None:
    name = shop.job(shop.delivered()).payment_intent_id or ""
    shop.payments.intents[name] = replace(shop.payments.intents[name], **change)
    compare_payments(shop.ctx)
    assert "we recorded" in task(shop).message
    assert money_moves(shop) == 0


def test_a_dispute_whose_event_was_lost_is_told(shop: Steps) -> None:
    name = shop.job(shop.delivered()).payment_intent_id or ""
    shop.payments.dispute(name, refundable=False)
    compare_payments(shop.ctx)
    assert "a dispute" in task(shop).message


def test_a_refund_made_outside_whose_event_was_lost_is_recorded(shop: Steps) -> None:
    job_id = shop.paid()
    name = shop.job(job_id).payment_intent_id or ""
    amount = shop.job(job_id).price_cents
    shop.payments.refund_by_hand(name, amount)
    shop.payments.intents[name] = replace(shop.payments.intents[name], refunded_cents=amount)
    assert compare_payments(shop.ctx) == {"known": 1}
    assert shop.job(job_id).status == "refunded", "a full refund before delivery is the outcome"
    assert money_moves(shop) == 0


def test_a_refund_that_failed_later_unnoticed_becomes_a_persons_task(shop: Steps) -> None:
    job_id = shop.failed()
    shop.refund_due()
    made = money_moves(shop)
    (refund,) = shop.payments.refunds.values()
    shop.payments.set_refund(refund.refund_id, "failed", "lost_or_stolen_card")
    compare_payments(shop.ctx)
    (told,) = shop.state.manual_tasks.opened()
    assert told.kind == "refund_failed"
    assert f"smi jobs refund {job_id}" in told.next_step
    assert money_moves(shop) == made, "it is not repeated by itself"


def test_a_refund_that_stripe_does_not_know_is_told(shop: Steps) -> None:
    shop.failed()
    shop.refund_due()
    made = money_moves(shop)
    (refund_id,) = shop.payments.refunds
    shop.payments.refunds.clear()
    shop.payments.refund = unknown  # type: ignore[method-assign]
    compare_payments(shop.ctx)
    told = task(shop)
    assert f"Stripe does not know the refund {refund_id}" in told.message
    assert "Stripe dashboard" in told.next_step
    assert money_moves(shop) == made


def unknown(refund_id: str):
    raise NotFound(refund_id)


def test_a_refund_that_is_alive_at_stripe_and_failed_here_is_told(shop: Steps) -> None:
    shop.failed()
    shop.refund_due()
    shop.change("UPDATE smi.refunds SET state = 'failed'")
    compare_payments(shop.ctx)
    assert "is failed here and succeeded at Stripe" in task(shop).message


def test_what_happens_while_it_compares_is_no_difference(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.failed()
    listed = shop.payments.refunds_of

    def meanwhile(name: str):
        before = listed(name)
        if not shop.payments.refunds:
            shop.refund_due()
        return before

    monkeypatch.setattr(shop.payments, "refunds_of", meanwhile)
    compare_payments(shop.ctx)
    assert [each for each in shop.tasks() if each == "payment_differs"] == []


def test_a_restored_database_names_what_it_has_lost_and_pays_nothing_back(shop: Steps) -> None:
    job_id = shop.delivered()
    name = shop.job(job_id).payment_intent_id or ""
    shop.change("ALTER TABLE smi.upscale_jobs DISABLE TRIGGER USER")
    for table in ("emails", "download_tokens", "outcomes", "submissions", "job_events", "payments", "upscale_jobs"):
        shop.change(f"DELETE FROM smi.{table}")
    shop.change("ALTER TABLE smi.upscale_jobs ENABLE TRIGGER USER")
    assert compare_payments(shop.ctx)["missed"] == 1
    shop.later(minutes=11)
    compare_payments(shop.ctx)
    (told,) = shop.state.manual_tasks.opened()
    assert (told.kind, told.subject) == ("orphan_payment", name)
    assert f"smi jobs assign {name}" in told.next_step
    shop.refund_due()
    assert money_moves(shop) == 0


def test_payments_of_imported_jobs_are_another_systems(shop: Steps) -> None:
    job_id = shop.delivered()
    shop.change("UPDATE smi.upscale_jobs SET imported_from = 'wordpress'")
    name = shop.job(job_id).payment_intent_id or ""
    shop.payments.intents[name] = replace(shop.payments.intents[name], amount_received_cents=1)
    compare_payments(shop.ctx)
    shop.payments.intents.clear()
    compare_payments(shop.ctx)
    assert shop.tasks() == []


def test_a_payment_without_an_answer_keeps_no_other_from_being_compared(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        shop.delivered()
    first, *others = shop.payments.intents
    for name in others:
        del shop.payments.intents[name]
    read = shop.payments.payment
    shop.payments.intents[first] = replace(shop.payments.intents[first], refunded_cents=1)

    def payment(name: str):
        if name == first:
            raise AmbiguousError("no answer")
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", payment)
    assert compare_payments(shop.ctx) == {"unanswered": 1, "differs": 2}


def test_an_outage_ends_the_comparison_and_the_round_goes_on_later(shop: Steps) -> None:
    shop.delivered()
    shop.payments.faults.append(AmbiguousError("500"))
    with pytest.raises(AmbiguousError):
        compare_payments(shop.ctx)
    assert shop.state.reconciliation.standing()["payments"].age_seconds is None
    compare_payments(shop.ctx)
    age = shop.state.reconciliation.standing()["payments"].age_seconds
    assert age is not None and age < 60


def test_a_round_that_takes_longer_than_its_time_goes_on_where_it_was(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = shop.state.submissions.now()
    for n in range(20):
        job_id = shop.register().job_id
        made = now - timedelta(hours=n)
        shop.payments.pay(job_id, shop.job(job_id).price_cents, at=made)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    read = shop.payments.payment

    def slow(name: str):
        clock[0] += 6
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", slow)
    missed = 0
    for _ in range(20):
        missed += compare_payments(shop.ctx)["missed"]
        if missed == 20:
            break
    assert missed == 20
    assert shop.state.queries.counts() == {"pending": 20}


def test_a_refund_of_last_month_is_still_compared_but_not_every_time(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[timedelta] = []
    read = shop.payments.payments_since

    def since(start, end=None):
        asked.append(shop.state.submissions.now() - start)
        return read(start, end)

    monkeypatch.setattr(shop.payments, "payments_since", since)
    for _ in range(3):
        compare_payments(shop.ctx)
    shop.later(hours=7)
    compare_payments(shop.ctx)
    assert [round(span / timedelta(days=1)) for span in asked] == [30, 1, 1, 30]


@pytest.mark.parametrize("status", ["", "reviewing"])
def test_a_refund_in_a_state_that_is_not_known_stops_no_comparison(shop: Steps, status: str) -> None:
    names = [shop.job(shop.delivered()).payment_intent_id or "" for _ in range(3)]
    shop.payments.refund_by_hand(names[0], 20, status=status)
    missed = shop.register().job_id
    shop.payments.pay(missed, shop.job(missed).price_cents)
    assert compare_payments(shop.ctx)["order"] + compare_payments(shop.ctx)["known"] >= 3
    assert shop.job(missed).status == "pending"
    assert shop.tasks() == ["unknown_word"]


def test_what_fails_about_one_payment_is_its_task_and_the_others_are_compared(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = shop.job(shop.delivered()).payment_intent_id or ""
    shop.payments.refund_by_hand(odd, 20)
    missed = [shop.register().job_id for _ in range(2)]
    for job_id in missed:
        shop.payments.pay(job_id, shop.job(job_id).price_cents)
    read = shop.payments.refunds_of
    errors: list[Exception] = [KeyError("status")]

    def refunds_of(name: str) -> list[StripeRefund]:
        if name == odd and errors:
            raise errors[0]
        return read(name)

    monkeypatch.setattr(shop.payments, "refunds_of", refunds_of)
    compare_payments(shop.ctx)
    assert {shop.job(job_id).status for job_id in missed} == {"pending"}
    assert "could not be compared" in task(shop).message
    errors.clear()
    compare_payments(shop.ctx)
    compare_payments(shop.ctx)
    assert shop.tasks() == []
    errors.append(UnreadableError("Stripe's answer is not readable (TypeError)"))
    compare_payments(shop.ctx)
    assert shop.tasks() == [], "it may be an outage"
    shop.later(hours=2)
    compare_payments(shop.ctx)
    assert "not readable" in task(shop).message


def test_an_older_payment_is_compared_while_a_refund_of_it_is_open(shop: Steps) -> None:
    job_id = shop.delivered()
    name = shop.job(job_id).payment_intent_id or ""
    shop.payments.intents[name] = replace(shop.payments.intents[name], created_at=shop.state.submissions.now())
    made = shop.payments.refund_by_hand(name, 20, status="pending")
    compare_payments(shop.ctx)
    shop.later(days=40)
    shop.payments.set_refund(made.refund_id, "failed", "expired_or_canceled_card")
    compare_payments(shop.ctx)
    assert [refund.state for refund in shop.state.refunds.of_job(job_id)] == ["failed"]
    assert shop.tasks() == ["refund_failed"]
