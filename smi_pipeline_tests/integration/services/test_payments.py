"""Rules 1 and 8, W1, W2 and W24: what Stripe's events do, odd payments, and what was missed."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    Conflict,
    NotFound,
    PermanentError,
    RefusedError,
    Unavailable,
)
from smi_pipeline.core.policy import Policy
from smi_pipeline.core.pricing import Prices
from smi_pipeline.gateway import progress
from smi_pipeline.services import admin, intake
from smi_pipeline.services.reconciliation import stripe_events, stripe_payments
from smi_pipeline.state.reports.store import FACTS, OTHER_MONEY, Reports
from smi_pipeline_tests.integration.services.steps import IMAGE, Steps


@pytest.mark.parametrize("again", ["the same event", "another event of the same payment"])
def test_a_payment_told_twice_starts_one_job_once(shop: Steps, again: str) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.pay(job_id)
    shop.submit_due()
    if again == "the same event":
        body = {"object": "payment_intent", "id": payment_intent}
        assert shop.tell("payment_intent.succeeded", body, job_id) == "repeated"
    else:
        body = {"object": "checkout.session", "payment_intent": payment_intent, "payment_status": "paid"}
        assert shop.tell("checkout.session.completed", body, job_id) == "known"
    shop.submit_due()
    assert len(shop.upscaler.submissions) == 1
    assert shop.payments.refunds == {}


def test_an_event_that_had_its_effect_is_answered_without_stripe(shop: Steps) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.pay(job_id)
    refund = shop.payments.refund_by_hand(payment_intent, 10)
    told = (
        ("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id),
        ("refund.created", {"object": "refund", "id": refund.refund_id, "payment_intent": payment_intent}, None),
    )
    shop.tell(*told[1])
    before = list(shop.payments.calls)
    assert [shop.tell(*each) for each in told] == ["repeated", "repeated"]
    assert shop.payments.calls == before


def test_a_session_that_is_completed_and_not_paid_starts_nothing(shop: Steps) -> None:
    job_id = shop.register().job_id
    body = {"object": "checkout.session", "payment_intent": "pi_1", "payment_status": "unpaid"}
    assert shop.tell("checkout.session.completed", body, job_id) == "on its way"
    assert shop.job(job_id).status == "awaiting_payment"


def test_the_payment_is_read_again_whatever_the_event_says(shop: Steps) -> None:
    job_id = shop.register().job_id
    with pytest.raises(NotFound):
        shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": "pi_forged"}, job_id)
    assert shop.job(job_id).status == "awaiting_payment"


def test_objects_of_other_shops_are_not_ours(shop: Steps) -> None:
    body = {"object": "payment_intent", "id": "pi_1", "metadata": {"source": "another", "job_id": "x"}}
    assert shop.tell("payment_intent.succeeded", body) == "not ours"
    assert shop.tell("payment_intent.succeeded", {"object": "payment_intent", "metadata": None}) == "not ours"
    for metadata in ("a text", {"source": "another", "job_id": "kitchen sink 12 \0"}):
        assert shop.tell("payment_intent.succeeded", body | {"metadata": metadata}) == "not ours"
    for intent in (None, 7, "pi_\0", "pi_unknown", {"id": "pi_unknown"}):
        assert shop.tell("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": intent}) == "not ours"


@pytest.mark.parametrize(("amount", "currency"), [(1, "usd"), (5000, "usd"), (50, "eur")])
def test_a_wrong_amount_or_currency_is_refunded_and_a_person_told(shop: Steps, amount: int, currency: str) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.pay(job_id, amount, currency=currency)
    shop.everything()
    assert shop.upscaler.submissions == []
    assert shop.payments.returned_cents(payment_intent) == amount
    assert shop.job(job_id).status == "refunded"
    assert shop.tasks() == ["wrong_amount"]
    assert shop.mailer.subjects() == ["refund"]
    assert shop.mailer.contexts[-1]["amount_cents"] == amount


def test_a_second_payment_is_refunded_and_the_job_stays(shop: Steps) -> None:
    job_id = shop.paid()
    second = shop.pay(job_id)
    shop.everything()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.everything()
    first = shop.job(job_id).payment_intent_id or ""
    assert shop.payments.returned_cents(second) == shop.job(job_id).price_cents
    assert shop.payments.returned_cents(first) == 0
    assert shop.job(job_id).status == "completed"
    assert shop.mailer.subjects() == ["completion", "duplicate_payment"]


def test_both_payments_of_a_failed_job_go_back(shop: Steps) -> None:
    job_id = shop.failed()
    second = shop.pay(job_id)
    shop.refund_due()
    first = shop.job(job_id).payment_intent_id or ""
    assert shop.payments.returned_cents(first) == shop.payments.returned_cents(second) == shop.job(job_id).price_cents


def test_a_payment_after_abandoned_brings_the_job_back(shop: Steps) -> None:
    job_id = shop.register().job_id
    shop.later(hours=25)
    assert intake.close_abandoned(shop.ctx) == 1
    assert shop.job(job_id).status == "abandoned"
    assert all(session.status == "expired" for session in shop.payments.sessions.values())
    shop.pay(job_id)
    shop.submit_due()
    assert shop.job(job_id).status == "processing"


def test_a_wrong_amount_after_abandoned_is_refunded(shop: Steps) -> None:
    job_id = shop.register().job_id
    shop.tell("checkout.session.expired", {"object": "checkout.session", "id": "cs_1"}, job_id)
    payment_intent = shop.pay(job_id, 1)
    shop.refund_due()
    assert shop.payments.returned_cents(payment_intent) == 1
    assert shop.job(job_id).status == "refunded"


def test_a_session_that_was_paid_unnoticed_is_not_abandoned(shop: Steps) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    (session_id, session), *_ = shop.payments.sessions.items()
    shop.payments.sessions[session_id] = replace(
        session, status="complete", payment_status="paid", payment_intent_id=payment_intent
    )
    shop.later(hours=25)
    assert intake.close_abandoned(shop.ctx) == 0
    assert shop.job(job_id).status == "pending"


def test_a_session_that_stripe_does_not_know_does_not_keep_the_others_open(shop: Steps) -> None:
    first, second = shop.register().job_id, shop.register().job_id
    shop.payments.sessions.pop(f"cs_{first[:8]}")
    shop.later(hours=25)
    assert intake.close_abandoned(shop.ctx) == 2
    assert shop.job(second).status == "abandoned"


@pytest.mark.parametrize("why", ["its session cannot be closed", "it is paid by a payment that cannot be read"])
def test_orders_that_cannot_be_closed_hide_no_newer_ones(shop: Steps, why: str) -> None:
    stuck = {f"cs_{shop.register().job_id[:8]}" for _ in range(8)}
    newer = [shop.register().job_id for _ in range(3)]
    expire, sessions = shop.payments.expire_checkout, dict(shop.payments.sessions)

    def refuses(session_id: str) -> None:
        if session_id in stuck and why == "its session cannot be closed":
            raise AmbiguousError("500")
        expire(session_id)

    shop.payments.expire_checkout = refuses  # type: ignore[method-assign]
    if why != "its session cannot be closed":
        for name in stuck:
            paid = replace(sessions[name], status="complete", payment_status="paid", payment_intent_id="pi_gone")
            shop.payments.sessions[name] = paid
    shop.later(hours=25)
    assert sum(intake.close_abandoned(shop.ctx, 2) for _ in range(6)) == 3
    assert {shop.job(job_id).status for job_id in newer} == {"abandoned"}
    assert shop.state.queries.counts() == {"awaiting_payment": 8, "abandoned": 3}
    shop.payments.expire_checkout = expire  # type: ignore[method-assign]
    shop.payments.sessions = sessions
    assert intake.close_abandoned(shop.ctx, 50) == 0, "they are left alone for a while"
    shop.later(hours=2)
    assert intake.close_abandoned(shop.ctx, 50) == 8


def test_an_outage_of_stripe_ends_the_closing_of_orders_early(shop: Steps) -> None:
    for _ in range(10):
        shop.register()
    shop.later(hours=25)
    shop.payments.calls.clear()
    shop.payments.faults.extend([AmbiguousError("500")] * 10)
    assert intake.close_abandoned(shop.ctx, 50) == 0
    assert len(shop.payments.calls) == 5


def test_an_order_that_could_not_be_closed_is_started_at_once_when_it_is_paid(shop: Steps) -> None:
    job_id = shop.register().job_id
    shop.later(hours=25)
    shop.payments.faults.append(AmbiguousError("500"))
    assert intake.close_abandoned(shop.ctx) == 0
    shop.pay(job_id)
    shop.submit_due()
    assert shop.job(job_id).status == "processing"


def test_an_order_whose_checkout_cannot_be_opened_is_closed_and_refused(shop: Steps) -> None:
    shop.payments.faults.append(AmbiguousError("500"))
    with pytest.raises(Unavailable):
        shop.register()
    assert shop.state.queries.counts() == {"abandoned": 1}


def test_a_payment_without_a_job_is_never_refunded_by_itself_and_named_after_ten_minutes(shop: Steps) -> None:
    payment_intent = shop.payments.pay("f" * 32, 70)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == []
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    shop.refund_due()
    assert shop.tasks() == ["orphan_payment"]
    assert shop.payments.refunds == {}


def test_an_orphan_is_returned_on_a_persons_word_and_then_settled(shop: Steps) -> None:
    payment_intent = shop.payments.pay("f" * 32, 70)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    admin.refund_payment(shop.ctx, payment_intent)
    shop.refund_due()
    assert shop.payments.returned_cents(payment_intent) == 70
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == [], "settled: no second alert"
    with pytest.raises(Conflict):
        admin.refund_payment(shop.ctx, payment_intent)
    with pytest.raises(Conflict):
        admin.assign_payment(shop.ctx, payment_intent, shop.register().job_id)


def test_an_orphan_is_adopted_by_a_job_and_pays_for_it(shop: Steps) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay("f" * 32, shop.job(job_id).price_cents)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    shop.later(minutes=11)
    stripe_payments.compare_payments(shop.ctx)
    assert "order" in admin.assign_payment(shop.ctx, payment_intent, job_id)
    shop.submit_due()
    assert shop.job(job_id).status == "processing"
    assert shop.tasks() == []


def test_an_adoption_that_fails_half_way_forgets_no_payment(shop: Steps) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay("f" * 32, shop.job(job_id).price_cents)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, "f" * 32)
    shop.payments.faults.append(AmbiguousError("500"))
    with pytest.raises(AmbiguousError):
        admin.assign_payment(shop.ctx, payment_intent, job_id)
    payment = shop.state.queries.payment(payment_intent)
    assert payment is not None and payment.role == "orphan"


@pytest.mark.parametrize("payment_intent", ["pi_unknown", "pi_\x00", "pi_\udcff", ""])
def test_a_payment_that_is_not_on_record_is_not_found(shop: Steps, payment_intent: str) -> None:
    with pytest.raises(NotFound):
        admin.refund_payment(shop.ctx, payment_intent)


def test_a_lost_webhook_is_found_among_stripes_events(shop: Steps) -> None:
    from smi_pipeline.core.models import StripeEvent

    job_id = shop.register().job_id
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    at = shop.state.submissions.now()
    body = {"object": "payment_intent", "id": payment_intent}
    ours = {"metadata": {"source": "sell-my-images", "job_id": job_id}}
    shop.payments.events = [
        StripeEvent(event_id="evt_bad", type="payment_intent.succeeded", created_at=at,
                    object={"object": "payment_intent", "id": "pi_gone", **ours}),
        StripeEvent(event_id="evt_1", type="payment_intent.succeeded", created_at=at, object={**body, **ours}),
    ]  # fmt: skip
    tally = stripe_events.reconcile_events(shop.ctx)
    assert tally["order"] == 1, "an event that cannot be read does not block those behind it"
    assert shop.job(job_id).status == "pending"
    assert stripe_events.reconcile_events(shop.ctx).total() == 0
    assert shop.state.reconciliation.cursor(stripe_events.CURSOR) is not None


def test_a_payment_whose_event_was_missed_too_is_found_among_the_payments(shop: Steps) -> None:
    job_id = shop.register().job_id
    shop.payments.pay(job_id, shop.job(job_id).price_cents)
    assert stripe_payments.compare_payments(shop.ctx)["missed"] == 1
    assert shop.job(job_id).status == "pending"
    assert stripe_payments.compare_payments(shop.ctx)["known"] == 1


def test_an_outage_of_stripe_moves_no_cursor(shop: Steps) -> None:
    shop.payments.faults.append(AmbiguousError("500"))
    with pytest.raises(AmbiguousError):
        stripe_events.reconcile_events(shop.ctx)
    assert shop.state.reconciliation.cursor(stripe_events.CURSOR) is None


def test_a_type_of_event_that_is_not_known_is_a_persons_task_if_it_is_about_a_payment_of_ours(shop: Steps) -> None:
    payment_intent = shop.job(shop.paid()).payment_intent_id
    for number in range(2):
        body = {"object": "charge", "id": f"ch_{number}", "payment_intent": payment_intent}
        assert shop.tell("charge.rerouted", body) == "not handled"
    assert shop.tell("charge.vanished", {"object": "charge", "payment_intent": "pi_of_others"}) == "not handled"
    assert shop.tell("charge.succeeded", {"object": "charge", "payment_intent": payment_intent}) == "not handled"
    assert shop.tasks() == ["unknown_word"]


@pytest.mark.parametrize("status", ["", "reviewing"])
def test_a_payment_in_a_state_that_is_not_known_is_not_paid_yet_and_a_persons_task(shop: Steps, status: str) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    shop.payments.intents[payment_intent] = replace(shop.payments.intents[payment_intent], status=status)
    body = {"object": "payment_intent", "id": payment_intent}
    assert shop.tell("payment_intent.succeeded", body, job_id) == "not paid yet"
    assert shop.job(job_id).status == "awaiting_payment"
    assert shop.tasks() == ["unknown_word"]


def test_events_of_connected_accounts_and_thin_events_change_nothing(shop: Steps) -> None:
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    body = {"object": "payment_intent", "id": payment_intent}
    theirs = replace(shop.stripe_event("payment_intent.succeeded", body, job_id), account="acct_theirs")
    thin = replace(theirs, account=None, object={})
    assert intake.handle_stripe_event(shop.ctx, theirs, source="test") == "not ours"
    assert intake.handle_stripe_event(shop.ctx, thin, source="test") == "not handled"
    assert shop.job(job_id).status == "awaiting_payment"
    stripe_payments.compare_payments(shop.ctx)
    assert shop.job(job_id).status == "pending", "the comparison finds the payment"


def delayed(shop: Steps) -> tuple[str, str]:
    """An order paid by a method whose bank decides later: (job_id, PaymentIntent)."""
    job_id = shop.register().job_id
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    shop.payments.intents[payment_intent] = replace(shop.payments.intents[payment_intent], status="processing")
    session_id = shop.job(job_id).checkout_session_id or ""
    shop.payments.sessions[session_id] = replace(
        shop.payments.sessions[session_id], status="complete", payment_intent_id=payment_intent
    )
    return job_id, payment_intent


@pytest.mark.parametrize("told_by", ["webhook", "clean-up"])
def test_a_payment_on_its_way_is_told_and_nothing_is_abandoned_until_it_is_decided(shop: Steps, told_by: str) -> None:
    job_id, payment_intent = delayed(shop)
    session = {"object": "checkout.session", "id": "cs_1", "payment_intent": payment_intent}
    if told_by == "webhook":
        assert shop.tell("checkout.session.completed", session | {"payment_status": "unpaid"}, job_id) == "on its way"
    for _ in range(4):
        shop.later(hours=25)
        assert intake.close_abandoned(shop.ctx) == 0
    shop.mail_due()
    assert shop.mailer.subjects() == ["payment_started"]
    shown = progress.snapshot(shop.ctx, shop.job(job_id), full=True)
    assert (shown["step"], shown["payment_on_its_way"]) == ("awaiting_payment", True)
    shop.payments.intents[payment_intent] = replace(shop.payments.intents[payment_intent], status="succeeded")
    session["payment_status"] = "paid"
    assert shop.tell("checkout.session.async_payment_succeeded", session, job_id) == "order"
    assert not progress.snapshot(shop.ctx, shop.job(job_id), full=True)["payment_on_its_way"]


@pytest.mark.parametrize("told_by", ["webhook", "clean-up"])
def test_a_payment_on_its_way_that_fails_closes_the_order(shop: Steps, told_by: str) -> None:
    job_id, payment_intent = delayed(shop)
    session = {"object": "checkout.session", "id": "cs_1", "payment_intent": payment_intent, "payment_status": "unpaid"}
    shop.tell("checkout.session.completed", session, job_id)
    failed = replace(shop.payments.intents[payment_intent], status="requires_payment_method")
    shop.payments.intents[payment_intent] = failed
    if told_by == "webhook":
        shop.tell("checkout.session.async_payment_failed", session, job_id)
    else:
        shop.later(hours=25)
        assert intake.close_abandoned(shop.ctx) == 1
    assert shop.job(job_id).status == "abandoned"


@pytest.mark.parametrize(
    ("reason", "field"), [("amount_too_small", "price"), ("amount_too_large", "price"), ("email_invalid", "email")]
)
def test_what_stripe_refuses_of_an_order_is_named_to_the_shop(shop: Steps, reason: str, field: str) -> None:
    shop.payments.faults.append(PermanentError(reason, "Stripe refused: no"))
    with pytest.raises(RefusedError, match=field) as refused:
        shop.register()
    assert refused.value.status == 422
    assert shop.tasks() == (["price_refused"] if reason == "amount_too_small" else [])


def test_a_price_that_is_too_small_for_stripe_names_the_setting_to_the_team(shop: Steps) -> None:
    for _ in range(2):
        shop.payments.faults.append(PermanentError("amount_too_small", "Stripe refused: at least €0.50 eur"))
        with pytest.raises(RefusedError):
            shop.register()
    (task,) = shop.state.manual_tasks.opened()
    assert "$0.50" in task.message and "€0.50" in task.message
    assert "SMI_MINIMUM_PRICE_CENTS above 50" in task.next_step


def test_an_order_is_priced_and_charged_in_the_currency_of_the_shop(state_url: str) -> None:
    shop = Steps(state_url, policy=Policy(currency="jpy"), prices=Prices(currency="jpy", credit_cents=Decimal(60)))
    asked = []
    create = shop.payments.create_checkout
    shop.payments.create_checkout = lambda request: asked.append(request) or create(request)  # type: ignore
    made = shop.register()
    assert (made.price_cents, made.currency) == (180, "jpy")
    assert (asked[0].amount_cents, asked[0].currency) == (180, "jpy")
    shop.pay(made.job_id, 180, currency="jpy")
    assert shop.job(made.job_id).status == "pending"
    assert shop.tasks() == []
    shop.close()


def test_the_figures_of_a_day_stay_when_currency_and_price_of_a_credit_are_changed(state_url: str) -> None:
    shop = Steps(state_url, prices=Prices(credit_cents=Decimal("3.7")))
    shop.delivered()
    given = shop.register().job_id
    admin.retry(shop.ctx, given, admin_override=True)
    shop.deliver(given)
    today = shop.state.submissions.now().date()

    def figures(prices: Prices) -> list[dict[str, object]]:
        reports = Reports(shop.database, prices)
        reports.build_facts(today, today)
        return [row for table in (FACTS, OTHER_MONEY) for row in reports.rows(table, today, today)]

    before = figures(shop.ctx.prices)
    assert [row["api_cost_cents"] for row in before] == [8, 8]  # 7.4, of two credits each
    assert figures(Prices(currency="jpy", credit_cents=Decimal(600))) == before
    shop.close()


def test_the_domain_of_an_address_goes_to_stripe_in_ascii(shop: Steps) -> None:
    asked = []
    create = shop.payments.create_checkout
    shop.payments.create_checkout = lambda request: asked.append(request) or create(request)  # type: ignore
    request = intake.JobRequest(image_url=IMAGE, resolution="4x", email="anna@b\u00fccher.example")
    job_id = intake.register_job(shop.ctx, request).job_id
    assert asked[0].customer_email == "anna@xn--bcher-kva.example"
    assert shop.job(job_id).customer_email == "anna@b\u00fccher.example"


def test_a_refused_key_at_an_order_opens_the_breaker_and_an_order_closes_it(shop: Steps) -> None:
    shop.payments.faults.append(AccountError("Stripe refuses the account"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            shop.register()
    assert shop.payments.calls.count("payments.create_checkout") == 1
    assert shop.tasks() == ["breaker"]
    shop.later(minutes=20)
    shop.register()
    assert shop.tasks() == []


def test_the_time_of_a_payment_is_that_of_its_charge(shop: Steps) -> None:
    job_id = shop.register().job_id
    charged = shop.state.submissions.now()
    first_try = charged - timedelta(hours=5)
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents, at=first_try)
    shop.payments.intents[payment_intent] = replace(shop.payments.intents[payment_intent], charged_at=charged)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id)
    assert shop.job(job_id).paid_at == charged
    recorded = shop.state.queries.payment(payment_intent)
    assert recorded and recorded.paid_at == charged


def test_an_early_fraud_warning_is_a_persons_task(shop: Steps) -> None:
    payment_intent = shop.job(shop.delivered()).payment_intent_id
    body = {"object": "radar.early_fraud_warning", "id": "issfr_1", "payment_intent": payment_intent}
    assert shop.tell("radar.early_fraud_warning.created", body) == "fraud warning"
    assert shop.tell("radar.early_fraud_warning.created", body) == "repeated"
    assert shop.tasks() == ["fraud_warning"]
