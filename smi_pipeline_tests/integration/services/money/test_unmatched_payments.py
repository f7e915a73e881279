"""Rules 3 and 8: payments and refunds that were not ours to begin with, are found, and are taken over once."""

import pytest

from smi_pipeline.core.errors import AmbiguousError, Conflict
from smi_pipeline.core.models import StripePayment
from smi_pipeline.services import admin
from smi_pipeline.services.reconciliation import stripe_events, stripe_payments
from smi_pipeline_tests.integration.services.steps import Steps

PAID = "payment_intent.succeeded"


def refunded_before_we_know(shop: Steps, *, cents: int | None = None) -> tuple[str, str]:
    """An order whose payment and hand-made refund nobody has told us yet: job and payment."""
    job_id = shop.register().job_id
    price = shop.job(job_id).price_cents
    payment_intent = shop.payments.pay(job_id, price, at=shop.state.submissions.now())
    shop.payments.refund_by_hand(payment_intent, price if cents is None else cents)
    return job_id, payment_intent


def told_of_the_refund(shop: Steps, payment_intent: str) -> str:
    (refund,) = shop.payments.refunds_in(payment_intent)
    body = {"object": "refund", "id": refund.refund_id, "payment_intent": payment_intent}
    return shop.tell("refund.created", body, event_id="evt_refund")


def an_orphan(shop: Steps, cents: int = 70) -> str:
    payment_intent = shop.payments.pay("f" * 32, cents)
    shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    return payment_intent


def recorded(shop: Steps) -> list[tuple[str, str, int]]:
    rows = shop.sql("SELECT stripe_refund_id, state, amount_cents FROM smi.refunds ORDER BY refund_row")
    return [(row["stripe_refund_id"], row["state"], row["amount_cents"]) for row in rows]


@pytest.mark.parametrize("found_by", ["its webhook", "stripe's events", "the comparison"])
def test_a_refund_told_before_its_payment_is_taken_up_with_the_payment_and_once(shop: Steps, found_by: str) -> None:
    job_id, payment_intent = refunded_before_we_know(shop)
    assert told_of_the_refund(shop, payment_intent) == "not ours"
    shop.state.webhook_inbox.note("evt_refund", "refund.created", "not ours")  # as a look at Stripe's events does
    if found_by == "its webhook":
        shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, job_id)
    elif found_by == "stripe's events":
        shop.payments.events = [shop.stripe_event(PAID, {"object": "payment_intent", "id": payment_intent}, job_id)]
        stripe_events.reconcile_events(shop.ctx)
    else:
        stripe_payments.compare_payments(shop.ctx)
    told_of_the_refund(shop, payment_intent)
    shop.everything()
    stripe_payments.compare_payments(shop.ctx)
    assert shop.upscaler.submissions == [], "nobody pays for it any more"
    assert shop.job(job_id).status == "refunded"
    assert recorded(shop) == [("re_hand1", "succeeded", shop.job(job_id).price_cents)]
    assert shop.mailer.subjects() == ["refund"]
    assert shop.payments.keys == []


def test_a_payment_whose_refunds_stripe_does_not_name_is_told_again(shop: Steps) -> None:
    job_id, payment_intent = refunded_before_we_know(shop)
    told_of_the_refund(shop, payment_intent)
    shop.payments.faults.extend([None, AmbiguousError("500")])  # the payment is read, its refunds are not
    with pytest.raises(AmbiguousError):
        shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, job_id)
    shop.everything()
    assert shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, job_id) == "order"
    shop.everything()
    assert shop.upscaler.submissions == []
    assert shop.job(job_id).status == "refunded"


def test_a_refund_told_before_its_payment_is_found_by_the_comparison_after_a_crash_between(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, payment_intent = refunded_before_we_know(shop)
    told_of_the_refund(shop, payment_intent)

    def killed(*_: object, **__: object) -> str:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(shop.state.refunds, "settle_by_facts", killed)
    with pytest.raises(KeyboardInterrupt):
        shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, job_id)
    assert shop.job(job_id).status == "pending"
    assert recorded(shop) == []
    for _ in range(2):
        stripe_payments.compare_payments(shop.ctx)
    assert shop.job(job_id).status == "refunded"
    assert [state for _, state, _ in recorded(shop)] == ["succeeded"]


def test_a_part_given_back_before_the_payment_was_known_is_completed_when_the_job_fails(shop: Steps) -> None:
    job_id, payment_intent = refunded_before_we_know(shop, cents=20)
    shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, job_id)
    assert [amount for _, _, amount in recorded(shop)] == [20]
    admin.cancel(shop.ctx, job_id)
    assert sorted(r.amount_cents for r in shop.payments.refunds_in(payment_intent)) == sorted(
        [20, shop.job(job_id).price_cents - 20]
    )


def test_an_orphan_that_somebody_adopts_meanwhile_is_not_returned(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = shop.register().job_id
    payment_intent = an_orphan(shop, shop.job(job_id).price_cents)
    look = admin._require_unmatched

    def adopted_right_after(ctx, name):  # type: ignore[no-untyped-def]
        look(ctx, name)
        monkeypatch.setattr(admin, "_require_unmatched", look)
        admin.adopt(ctx, payment_intent, job_id)

    monkeypatch.setattr(admin, "_require_unmatched", adopted_right_after)
    with pytest.raises(Conflict):
        admin.refund_payment(shop.ctx, payment_intent)
    shop.everything()
    assert shop.payments.refunds == {}
    assert shop.job(job_id).status == "processing"


def test_an_orphan_that_is_being_returned_is_not_adopted(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = shop.register().job_id
    payment_intent = an_orphan(shop, shop.job(job_id).price_cents)
    read = shop.payments.payment

    def returned_right_before(name: str) -> StripePayment:
        monkeypatch.setattr(shop.payments, "payment", read)
        admin.refund_payment(shop.ctx, payment_intent)
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", returned_right_before)
    with pytest.raises(Conflict):
        admin.adopt(shop.ctx, payment_intent, job_id)
    shop.everything()
    assert shop.job(job_id).status == "awaiting_payment"
    assert shop.payments.returned_cents(payment_intent) == shop.job(job_id).price_cents


def test_an_orphan_that_went_back_unnoticed_is_not_adopted(shop: Steps) -> None:
    job_id = shop.register().job_id
    price = shop.job(job_id).price_cents
    payment_intent = an_orphan(shop, price)
    shop.payments.refund_by_hand(payment_intent, price)
    with pytest.raises(Conflict):
        admin.adopt(shop.ctx, payment_intent, job_id)
    assert shop.job(job_id).status == "awaiting_payment"
    assert shop.tasks() == []


def test_an_orphan_goes_back_whole_when_a_part_by_hand_fails_before_ours_is_made(shop: Steps) -> None:
    payment_intent = an_orphan(shop)
    part = shop.payments.refund_by_hand(payment_intent, 30, status="pending")
    stripe_payments.compare_payments(shop.ctx)
    admin.refund_payment(shop.ctx, payment_intent)
    shop.payments.set_refund(part.refund_id, "failed", "expired_card")
    stripe_payments.compare_payments(shop.ctx)
    shop.refund_due()
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    assert shop.payments.returned_cents(payment_intent) == 70
    assert shop.tasks() == []


@pytest.mark.parametrize("before", ["a part went back by hand", "its return failed"])
def test_an_orphan_is_adopted_with_what_is_known_of_its_refunds(shop: Steps, before: str) -> None:
    job_id = shop.register().job_id
    price = shop.job(job_id).price_cents
    payment_intent = an_orphan(shop, price)
    if before == "its return failed":
        shop.payments.refund_status = "failed"
        admin.refund_payment(shop.ctx, payment_intent)
        shop.refund_due()
        shop.payments.refund_status = "succeeded"
    else:
        shop.payments.refund_by_hand(payment_intent, 20)
    shop.payments.dispute(payment_intent, refundable=True)
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent, "status": "warning_needs_response"}
    shop.tell("charge.dispute.created", body)
    stripe_payments.compare_payments(shop.ctx)
    assert "order" in admin.adopt(shop.ctx, payment_intent, job_id)
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None and payment.dispute == "open"
    assert len(shop.state.refunds.of_job(job_id)) == 1
    shop.submit_due()
    assert shop.job(job_id).status == "processing"
    admin.cancel(shop.ctx, job_id)
    assert shop.payments.returned_cents(payment_intent) == price
    assert shop.job(job_id).status == "refunded"


def test_an_orphan_returned_in_the_dashboard_needs_nobody_any_more_unless_that_fails(shop: Steps) -> None:
    payment_intent = an_orphan(shop)
    shop.payments.refund_by_hand(payment_intent, 30)
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == ["orphan_payment"], "a part of it is still kept"
    rest = shop.payments.refund_by_hand(payment_intent, 40, status="pending")
    for _ in range(2):
        stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == []
    shop.payments.set_refund(rest.refund_id, "failed", "expired_card")
    stripe_payments.compare_payments(shop.ctx)
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    assert sorted(shop.tasks()) == ["orphan_payment", "refund_failed"]
    assert all(
        f"smi jobs refund-payment {payment_intent}" in task.next_step for task in shop.state.manual_tasks.opened()
    )
    admin.refund_payment(shop.ctx, payment_intent)
    shop.refund_due()
    stripe_payments.compare_payments(shop.ctx)
    assert shop.payments.returned_cents(payment_intent) == 70
    assert shop.tasks() == []


@pytest.mark.parametrize("known", ["since it was begun", "when it had failed"])
def test_a_second_payment_whose_refund_by_hand_fails_goes_back_by_itself(shop: Steps, known: str) -> None:
    job_id = shop.delivered()
    price = shop.job(job_id).price_cents
    second = shop.payments.pay(job_id, price)
    if known == "when it had failed":
        shop.tell(PAID, {"object": "payment_intent", "id": second}, job_id)
    made = shop.payments.refund_by_hand(second, price, status="pending")
    shop.tell(PAID, {"object": "payment_intent", "id": second}, job_id)
    shop.refund_due()
    shop.payments.set_refund(made.refund_id, "failed", "expired_card")
    stripe_payments.compare_payments(shop.ctx)
    shop.refund_due()
    assert shop.payments.returned_cents(second) == price
    assert shop.payments.returned_cents(shop.job(job_id).payment_intent_id or "") == 0
    assert shop.tasks() == []


def test_a_task_about_a_second_payment_names_the_command_that_returns_that_payment(shop: Steps) -> None:
    job_id = shop.delivered()
    price = shop.job(job_id).price_cents
    second = shop.pay(job_id)
    shop.payments.refund_status = "failed"
    shop.refund_due()
    made = shop.payments.refund_by_hand(second, price, status="pending")
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == [], "it is on its way back"
    shop.payments.set_refund(made.refund_id, "failed", "expired_card")
    stripe_payments.compare_payments(shop.ctx)
    (told,) = shop.state.manual_tasks.opened()
    assert f"smi jobs refund-payment {second}" in told.next_step


def test_an_orphan_that_is_adopted_while_it_is_being_named_is_nobodys_task(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shop.register().job_id
    payment_intent = an_orphan(shop, shop.job(job_id).price_cents)
    shop.change("DELETE FROM smi.person_tasks")
    opened = shop.state.manual_tasks.open

    def adopted_right_before(**task: str) -> None:
        monkeypatch.setattr(shop.state.manual_tasks, "open", opened)
        admin.adopt(shop.ctx, payment_intent, job_id)
        opened(**task)

    monkeypatch.setattr(shop.state.manual_tasks, "open", adopted_right_before)
    stripe_payments.compare_payments(shop.ctx)
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == []


def test_however_many_payments_are_without_a_job_each_is_named(shop: Steps) -> None:
    for _ in range(60):
        payment_intent = shop.payments.pay("f" * 32, 70)
        shop.tell(PAID, {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    shop.later(minutes=11)
    for _ in range(2):
        stripe_payments.compare_payments(shop.ctx)
    assert {task.subject for task in shop.state.manual_tasks.opened()} == set(shop.payments.intents)
