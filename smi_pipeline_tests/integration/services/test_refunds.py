"""Rule 3: money goes back once, in full, whoever asks and whatever gets lost on the way."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    AnsweredError,
    PermanentError,
    TransientError,
    Unavailable,
)
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.models import Queue
from smi_pipeline.gateway import progress
from smi_pipeline.services import admin, alerts, intake, refund
from smi_pipeline.services.reconciliation import stripe_payments
from smi_pipeline.services.reconciliation.stripe_events import reconcile_events
from smi_pipeline_tests.integration.services.steps import Steps


def payment_of(shop: Steps, job_id: str) -> str:
    payment_intent = shop.job(job_id).payment_intent_id
    assert payment_intent is not None
    return payment_intent


def states(shop: Steps, job_id: str) -> list[tuple[str, str]]:
    return [(r.kind, r.state) for r in shop.state.refunds.of_job(job_id)]


def test_the_key_and_the_amount_are_committed_before_stripe_is_called(shop: Steps) -> None:
    job_id = shop.failed()
    seen: list[tuple] = []
    create = shop.payments.create_refund

    def look(**call: object) -> object:
        row = shop.state.refunds.of_job(job_id)[0]
        seen.append((row.state, row.idempotency_key, row.amount_cents))
        return create(**call)  # type: ignore[arg-type]

    shop.payments.create_refund = look  # type: ignore
    shop.refund_due()
    assert seen == [("owed", f"refund:{job_id}:1", shop.job(job_id).price_cents)]


def test_a_refund_whose_answer_was_lost_is_adopted_not_repeated(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.after_effect.append(AmbiguousError("no answer"))
    shop.refund_due()
    assert states(shop, job_id) == [("failure", "owed")]
    shop.later(minutes=1)
    shop.refund_due()
    assert states(shop, job_id) == [("failure", "succeeded")]
    assert len(shop.payments.refunds) == 1
    assert len(shop.payments.keys) == 1, "looked up, not asked again"


def test_an_answer_that_never_came_and_no_effect_is_asked_again_with_the_same_key(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.faults.extend([None, None, AmbiguousError("500")])  # payment, refunds_of, create_refund
    shop.refund_due()
    shop.later(minutes=1)
    shop.refund_due()
    assert shop.payments.keys == [f"refund:{job_id}:1"]
    assert shop.job(job_id).status == "refunded"


def test_after_23_hours_a_new_key_is_used_if_no_refund_is_found(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.faults.extend([None, None, AmbiguousError("500")])
    shop.refund_due()
    shop.later(hours=24)
    shop.refund_due()
    assert shop.payments.keys == [f"refund:{job_id}:2"]
    assert shop.payments.returned_cents(payment_of(shop, job_id)) == shop.job(job_id).price_cents


def test_after_a_5xx_and_no_refund_a_new_key_is_used_at_once(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refusals.append(AnsweredError("500"))
    shop.refund_due()
    shop.later(minutes=1)
    shop.refund_due()
    assert shop.payments.keys == [f"refund:{job_id}:1", f"refund:{job_id}:2"]
    assert shop.job(job_id).status == "refunded"


def test_after_a_5xx_that_hid_a_refund_it_is_adopted(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.after_effect.append(AnsweredError("500"))
    shop.refund_due()
    shop.later(minutes=1)
    shop.refund_due()
    assert shop.payments.keys == [f"refund:{job_id}:1"]
    assert shop.job(job_id).status == "refunded"


def test_a_refund_that_a_dispute_refused_has_a_new_key_when_the_dispute_is_won(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refusals.append(PermanentError("charge_disputed", "disputed between look and call"))
    shop.refund_due()
    shop.later(minutes=1)
    shop.refund_due()
    assert shop.payments.keys == [f"refund:{job_id}:1", f"refund:{job_id}:2"]
    assert shop.job(job_id).status == "refunded"


def test_refunds_that_the_balance_does_not_allow_are_tried_for_days_and_one_task_names_it(shop: Steps) -> None:
    job_ids = [shop.failed() for _ in range(4)]
    for _ in range(4 * 3 * 24):
        shop.payments.refusals.append(PermanentError("insufficient_balance", "Insufficient funds"))
    for _ in range(3):
        shop.refund_due()
        shop.later(hours=24)
        alerts.raise_alarms(shop.ctx)
        assert shop.tasks() == ["balance"]
        assert all(states(shop, job_id) == [("failure", "owed")] for job_id in job_ids)
    shop.payments.refusals.clear()
    shop.refund_due()
    assert {shop.job(job_id).status for job_id in job_ids} == {"refunded"}
    assert shop.tasks() == []


def test_a_refund_that_needs_the_customer_tells_the_customer_what_to_do(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refund_status = "requires_action"
    shop.refund_due()
    shop.mail_due()
    assert states(shop, job_id) == [("failure", "pending")]
    assert shop.mailer.subjects() == ["refund_action"]
    (shown,) = progress.snapshot(shop.ctx, shop.job(job_id), full=True)["refunds"]
    assert shown["action_needed"]
    shop.payments.set_refund("re_1", "succeeded")
    shop.later(hours=2)
    shop.refund_due()
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund", "refund_action"]
    assert shop.job(job_id).status == "refunded"


def test_a_pending_refund_that_needs_the_customer_later_tells_the_customer_then(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refund_status = "pending"
    shop.refund_due()
    shop.payments.set_refund("re_1", "requires_action")
    body = {"object": "refund", "id": "re_1", "payment_intent": payment_of(shop, job_id)}
    shop.tell("refund.updated", body)
    shop.mail_due()
    assert shop.mailer.subjects() == ["refund", "refund_action"]


def test_a_late_failure_is_learned_from_the_event_of_older_api_versions(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refund_status = "pending"
    shop.refund_due()
    shop.payments.set_refund("re_1", "failed", "expired_or_canceled_card")
    body = {"object": "refund", "id": "re_1", "payment_intent": payment_of(shop, job_id)}
    shop.tell("charge.refund.updated", body)
    assert states(shop, job_id) == [("failure", "failed")]
    assert shop.tasks() == ["refund_failed"]


@pytest.mark.parametrize("status", ["", "reviewing"])
def test_a_state_of_a_refund_that_is_not_known_counts_as_on_its_way_and_is_a_persons_task(
    shop: Steps, status: str
) -> None:
    job_ids = [shop.failed(), shop.failed()]
    shop.payments.refund_status = status
    shop.refund_due()
    assert [states(shop, job_id) for job_id in job_ids] == [[("failure", "pending")]] * 2
    assert shop.tasks() == ["unknown_word"], "one task for the word"
    for name in ("re_1", "re_2"):
        shop.payments.set_refund(name, "succeeded")
    shop.later(hours=2)
    shop.refund_due()
    assert {shop.job(job_id).status for job_id in job_ids} == {"refunded"}


def test_a_refused_api_key_stops_the_refunds_until_one_of_them_gets_through(shop: Steps) -> None:
    for _ in range(3):
        shop.failed()
    shop.payments.faults.append(AccountError("Stripe refuses the account"))
    lease_id, keys = shop.begin(Queue.REFUND) or ("", [])
    assert len(keys) == 3
    assert {refund.process(shop.ctx, key, lease_id).state for key in keys} == {"later"}
    assert shop.tasks() == ["breaker"]
    assert shop.payments.calls.count("payments.payment") == 3 + 1, "payments of the orders, and one call"
    shop.later(minutes=2)
    _, probes = shop.take(Queue.REFUND)
    assert len(probes) == 1
    shop.later(minutes=2)
    shop.refund_due()
    assert shop.tasks() == []
    shop.later(minutes=2)
    shop.refund_due()
    assert shop.payments.keys and len(shop.payments.refunds) == 3


def test_three_refused_refunds_in_a_row_are_no_fault_of_theirs(shop: Steps) -> None:
    job_ids = [shop.failed() for _ in range(5)]
    for _ in range(5):
        shop.payments.refusals.append(PermanentError("stripe_refused", "account under review"))
    shop.refund_due()
    assert [states(shop, job_id)[0][1] for job_id in job_ids] == ["failed", "failed", "owed", "owed", "owed"]
    assert shop.tasks() == ["refund_failed", "refund_failed", "breaker"]
    shop.payments.refusals.clear()
    for _ in range(3):
        shop.later(minutes=2)
        shop.refund_due()
    assert [states(shop, job_id)[0][1] for job_id in job_ids[2:]] == ["succeeded"] * 3
    assert "breaker" not in shop.tasks()


def test_a_partial_refund_made_by_hand_is_completed_not_repeated(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    shop.payments.refund_by_hand(payment_intent, 20)
    shop.refund_due()
    amounts = sorted(r.amount_cents for r in shop.payments.refunds_in(payment_intent))
    assert amounts == sorted([20, shop.job(job_id).price_cents - 20])
    assert shop.job(job_id).status == "refunded"


def test_a_partial_refund_by_hand_that_failed_does_not_count(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refund_by_hand(payment_of(shop, job_id), 20, status="failed")
    shop.refund_due()
    assert shop.payments.returned_cents(payment_of(shop, job_id)) == shop.job(job_id).price_cents


def test_a_full_refund_by_hand_before_delivery_is_the_outcome(shop: Steps) -> None:
    job_id = shop.paid()
    shop.submit_due()
    shop.payments.refund_by_hand(payment_of(shop, job_id), shop.job(job_id).price_cents)
    shop.tell("charge.refunded", {"object": "charge", "payment_intent": payment_of(shop, job_id)})
    assert shop.job(job_id).status == "refunded"
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    shop.refund_due()
    shop.mail_due()
    assert shop.outcomes(job_id) == [(1, "refund")]
    assert shop.payments.returned_cents(payment_of(shop, job_id)) == shop.job(job_id).price_cents
    assert shop.mailer.subjects() == ["refund"]


def test_a_partial_refund_by_hand_after_delivery_mails_nobody(shop: Steps) -> None:
    job_id = shop.delivered()
    made = shop.payments.refund_by_hand(payment_of(shop, job_id), 20, status="pending")
    body = {"object": "refund", "id": made.refund_id, "payment_intent": made.payment_intent_id}
    shop.tell("refund.created", {**body, "status": "pending"})
    shop.payments.set_refund(made.refund_id, "succeeded")
    shop.tell("refund.updated", {**body, "status": "succeeded"})
    shop.mail_due()
    assert states(shop, job_id) == [("outside", "succeeded")]
    assert shop.mailer.subjects() == ["completion"]
    assert shop.job(job_id).status == "completed"


def test_the_webhook_may_come_before_the_answer_to_our_own_call(shop: Steps) -> None:
    job_id = shop.failed()
    create = shop.payments.create_refund

    def webhook_first(**call: object) -> object:
        facts = create(**call)  # type: ignore[arg-type]
        shop.tell("charge.refunded", {"object": "charge", "payment_intent": facts.payment_intent_id})
        body = {"object": "refund", "id": facts.refund_id, "payment_intent": facts.payment_intent_id}
        shop.tell("refund.created", {**body, "status": facts.status})
        return facts

    shop.payments.create_refund = webhook_first  # type: ignore
    shop.refund_due()
    shop.mail_due()
    assert states(shop, job_id) == [("failure", "succeeded")]
    assert shop.mailer.subjects() == ["refund"]
    assert shop.events(job_id).count("refund_succeeded") == 1


@pytest.mark.parametrize("told_by", ["webhook", "look"])
def test_a_pending_refund_is_told_as_started_and_follows_what_becomes_of_it(shop: Steps, told_by: str) -> None:
    job_id = shop.failed()
    shop.payments.refund_status = "pending"
    shop.refund_due()
    shop.mail_due()
    assert shop.job(job_id).status == "failed"
    assert shop.mailer.contexts[-1]["refund_state"] == "pending"
    made = shop.payments.set_refund("re_1", "succeeded")
    if told_by == "webhook":
        body = {"object": "refund", "id": made.refund_id, "payment_intent": made.payment_intent_id}
        shop.tell("refund.updated", {**body, "status": "succeeded"})
    else:
        shop.later(minutes=61)
        shop.refund_due()
    shop.mail_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"], "one closing mail"


def test_a_refund_that_fails_later_is_a_persons_task_and_can_be_repeated(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.refund_status = "pending"
    shop.refund_due()
    failed = shop.payments.set_refund("re_1", "failed", "expired_or_canceled_card")
    body = {"object": "refund", "id": "re_1", "payment_intent": failed.payment_intent_id, "status": "failed"}
    shop.tell("refund.failed", body)
    assert shop.tasks() == ["refund_failed"]
    assert shop.job(job_id).status == "failed"
    shop.payments.refund_status = "succeeded"
    admin.refund_job(shop.ctx, job_id)
    assert states(shop, job_id) == [("failure", "failed"), ("failure", "succeeded")]
    assert shop.payments.keys == [f"refund:{job_id}:1", f"refund:{job_id}:2"]
    assert shop.job(job_id).status == "refunded"
    assert shop.tasks() == [], "the money is back: nothing is left for a person"


@pytest.mark.parametrize("why", ["the upscale failed", "the amount was wrong"])
def test_money_that_a_person_returns_after_ours_failed_closes_the_job_and_the_customer_is_told(
    shop: Steps, why: str
) -> None:
    job_id = shop.failed() if why == "the upscale failed" else shop.register().job_id
    if why == "the amount was wrong":
        shop.pay(job_id, 70)
        (told,) = shop.state.manual_tasks.opened()
        admin.close_task(shop.ctx, told.task_id)
    shop.payments.refund_status = "failed"
    shop.refund_due()
    assert shop.tasks() == ["refund_failed"]
    for part in (20, shop.payments.intents[payment_of(shop, job_id)].amount_received_cents - 20):
        assert shop.job(job_id).status == "failed"
        shop.payments.refund_by_hand(payment_of(shop, job_id), part)
        stripe_payments.compare_payments(shop.ctx)
    shop.mail_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"]
    assert shop.tasks() == []


def test_a_part_that_did_not_go_back_is_a_persons_task_until_it_is_back_too(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    part = shop.payments.refund_by_hand(payment_intent, 20, status="pending")
    shop.payments.refund_status = "pending"
    shop.refund_due()
    (rest,) = (r for r in shop.payments.refunds_in(payment_intent) if r.refund_id != part.refund_id)
    stripe_payments.compare_payments(shop.ctx)
    for made, status in ((part, "failed"), (rest, "succeeded")):
        shop.payments.set_refund(made.refund_id, status)
        stripe_payments.compare_payments(shop.ctx)
        assert shop.tasks() == ["refund_failed"]
    (told,) = shop.state.manual_tasks.opened()
    assert "smi jobs" not in told.next_step, "ours is made already"
    shop.payments.refund_by_hand(payment_intent, 20)
    stripe_payments.compare_payments(shop.ctx)
    assert shop.tasks() == []


def test_a_refund_of_another_payment_with_the_same_key_settles_nothing(shop: Steps) -> None:
    job_id = shop.failed()
    (owed,) = shop.state.refunds.of_job(job_id)
    second = shop.payments.pay(job_id, shop.job(job_id).price_cents)
    made = shop.payments.refund_by_hand(second, shop.job(job_id).price_cents)
    # as one that we made before the database was restored
    key = {"idempotency_key": owed.idempotency_key or ""}
    shop.payments.refunds[made.refund_id] = replace(made, metadata=key)
    shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": second}, job_id)
    shop.refund_due()
    assert [shop.payments.returned_cents(name) for name in (owed.payment_intent_id, second)] == [
        shop.job(job_id).price_cents
    ] * 2


def test_an_older_event_about_a_refund_changes_nothing(shop: Steps) -> None:
    job_id = shop.failed()
    shop.refund_due()
    body = {"object": "refund", "id": "re_1", "payment_intent": payment_of(shop, job_id)}
    shop.payments.set_refund("re_1", "pending")
    shop.tell("refund.updated", {**body, "status": "pending"})
    assert states(shop, job_id) == [("failure", "succeeded")]


def test_an_open_dispute_blocks_the_refund_and_tells_a_person(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    shop.payments.dispute(payment_intent, refundable=False)
    shop.tell("charge.dispute.created", {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent})
    shop.refund_due()
    assert states(shop, job_id) == [("failure", "owed")]
    assert shop.payments.keys == []
    assert shop.tasks() == ["dispute"]
    assert shop.state.refunds.of_job(job_id)[0].attempts == 0


def test_an_inquiry_that_leaves_the_charge_refundable_blocks_nothing(shop: Steps) -> None:
    job_id = shop.failed()
    shop.payments.dispute(payment_of(shop, job_id), refundable=True)
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"


@pytest.mark.parametrize(("status", "refund_calls"), [("lost", 0), ("won", 1), ("warning_closed", 1)])
def test_a_lost_dispute_has_refunded_and_a_won_one_lets_the_refund_go_on(
    shop: Steps, status: str, refund_calls: int
) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent}
    shop.payments.dispute(payment_intent, refundable=False)
    shop.tell("charge.dispute.created", {**body, "status": "needs_response"})
    shop.refund_due()
    shop.payments.dispute(payment_intent, refundable=status != "lost")
    shop.tell("charge.dispute.closed", {**body, "status": status})
    shop.refund_due()
    shop.mail_due()
    assert len(shop.payments.keys) == refund_calls
    assert shop.job(job_id).status == "refunded"
    assert shop.mailer.subjects() == ["refund"]
    assert shop.tasks() == [], "a closed dispute needs nobody"


def test_a_dispute_event_that_comes_after_its_end_opens_nothing(shop: Steps) -> None:
    job_id = shop.delivered()
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_of(shop, job_id)}
    shop.tell("charge.dispute.closed", {**body, "status": "won"})
    shop.tell("charge.dispute.created", {**body, "status": "needs_response"})
    assert shop.tasks() == []


def test_a_lost_dispute_stays_lost_when_the_end_of_an_inquiry_before_it_is_told_late(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    shop.payments.dispute(payment_intent, refundable=False)
    for name, status in (("dp_2", "lost"), ("dp_1", "warning_closed")):
        body = {"object": "dispute", "id": name, "payment_intent": payment_intent, "status": status}
        shop.tell("charge.dispute.closed", body)
    shop.refund_due()
    assert shop.job(job_id).status == "refunded"
    assert shop.payments.keys == []


def test_a_payment_disputed_again_after_an_inquiry_has_ended_is_a_persons_task_again(shop: Steps) -> None:
    payment_intent = payment_of(shop, shop.delivered())
    inquiry = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent, "created": 1_800_000_000}
    chargeback = inquiry | {"id": "dp_2", "created": 1_800_900_000}
    told = [
        ("charge.dispute.created", inquiry | {"status": "warning_needs_response"}, ["dispute"]),
        ("charge.dispute.closed", inquiry | {"status": "warning_closed"}, []),
        ("charge.dispute.created", chargeback | {"status": "needs_response"}, ["dispute"]),
        ("charge.dispute.closed", inquiry | {"status": "warning_closed"}, ["dispute"]),  # told late
        ("charge.dispute.closed", chargeback | {"status": "won"}, []),
        ("charge.dispute.created", chargeback | {"status": "needs_response"}, []),  # told late
        ("charge.dispute.created", inquiry | {"status": "warning_needs_response"}, []),
    ]
    for event, dispute, tasks in told:
        shop.tell(event, dispute)
        assert shop.tasks() == tasks, (event, dispute)


def test_news_of_a_payment_and_of_its_refunds_at_once_do_not_wait_for_each_other(shop: Steps) -> None:
    job_id = shop.paid()
    payment_intent = payment_of(shop, job_id)

    def tell_payments() -> None:
        for _ in range(60):
            intake.learn_of_payment(shop.ctx, payment_intent, job_id, event=None, source="test")

    def tell_refunds() -> None:
        for _ in range(20):
            made = shop.payments.refund_by_hand(payment_intent, 1)
            shop.state.refunds.settle_by_facts(made, event=None, actor="test")

    with ThreadPoolExecutor(3) as pool:  # a deadlock is a TransientError
        for told in [pool.submit(tell) for tell in (tell_payments, tell_payments, tell_refunds)]:
            told.result(timeout=60)


def test_two_workers_refund_once(shop: Steps) -> None:
    job_id = shop.failed()
    lease_id, (key,) = shop.take(Queue.REFUND)
    assert refund.refund_now(shop.ctx, job_id) == [], "another worker has it"
    assert refund.process(shop.ctx, key, lease_id).state == "done"
    assert len(shop.payments.keys) == 1


def test_a_refund_worker_that_lost_its_lease_asks_nothing_of_stripe(shop: Steps) -> None:
    shop.failed()
    zombie, (key,) = shop.take(Queue.REFUND)
    shop.later(seconds=60)
    shop.take(Queue.REFUND)
    assert refund.process(shop.ctx, key, zombie).state == "lost"
    assert shop.payments.keys == []


def test_a_prevented_dispute_has_returned_the_money(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    shop.payments.dispute(payment_intent, refundable=False)
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent, "status": "prevented"}
    shop.tell("charge.dispute.created", body)
    shop.refund_due()
    assert shop.payments.keys == []
    assert shop.job(job_id).status == "refunded"
    assert shop.tasks() == []


def test_an_appeal_opens_a_lost_dispute_again(shop: Steps) -> None:
    payment_intent = payment_of(shop, shop.delivered())
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent}
    shop.tell("charge.dispute.closed", body | {"status": "lost"})
    assert shop.tasks() == []
    shop.tell("charge.dispute.updated", body | {"status": "appeal_needs_response"})
    assert shop.tasks() == ["dispute"]
    shop.tell("charge.dispute.closed", body | {"status": "won"})
    assert shop.tasks() == []


def test_a_state_of_a_dispute_that_is_not_known_counts_as_open_and_is_a_persons_task(shop: Steps) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    shop.payments.dispute(payment_intent, refundable=False)
    body = {"object": "dispute", "id": "dp_1", "payment_intent": payment_intent, "status": "arbitrated"}
    shop.tell("charge.dispute.closed", body)
    shop.refund_due()
    assert states(shop, job_id) == [("failure", "owed")], "it is not taken for lost"
    assert sorted(shop.tasks()) == ["dispute", "unknown_word"]


def test_lost_answers_about_refunds_are_no_fault_of_the_shop_before_a_minute(shop: Steps) -> None:
    for _ in range(4):
        shop.failed()
    shop.payments.after_effect.extend([AmbiguousError("no answer")] * 4)
    shop.refund_due()
    assert shop.tasks() == []
    shop.later(minutes=2)
    shop.refund_due()
    assert {row["state"] for row in shop.sql("SELECT state FROM smi.refunds")} == {"succeeded"}


def stripe_is_open(shop: Steps) -> bool:
    return shop.state.breakers.get("stripe").is_open


def test_reading_stripes_events_closes_the_breaker_when_no_refund_can(shop: Steps) -> None:
    shop.state.breakers.note(Failure(breaker="stripe", work_key="x", message="401", scope=Scope.SHOP))
    shop.payments.faults.append(TransientError("no connection"))
    with pytest.raises(TransientError):
        reconcile_events(shop.ctx)
    assert stripe_is_open(shop)
    reconcile_events(shop.ctx)
    assert not stripe_is_open(shop)


def test_comparing_payments_closes_the_breaker_when_no_refund_can(shop: Steps) -> None:
    shop.state.breakers.note(Failure(breaker="stripe", work_key="x", message="401", scope=Scope.SHOP))
    stripe_payments.compare_payments(shop.ctx)
    assert not stripe_is_open(shop)


def test_a_refund_that_waits_tells_more_than_reading(shop: Steps) -> None:
    shop.failed()
    shop.payments.faults.append(AccountError("403: this key may not read payments"))
    shop.refund_due()
    assert stripe_is_open(shop)
    reconcile_events(shop.ctx)
    assert stripe_is_open(shop)


def test_a_key_that_may_not_read_events_keeps_no_customer_from_ordering(shop: Steps) -> None:
    for _ in range(10):
        shop.payments.faults.append(AccountError("403 the key may not read events"))
        with pytest.raises(AccountError):
            reconcile_events(shop.ctx)
        shop.later(seconds=20)
    assert not stripe_is_open(shop)
    shop.register()


def test_a_silent_stripe_counts_once_however_often_it_is_asked(shop: Steps) -> None:
    for _ in range(10):
        shop.payments.faults.append(TransientError("no connection"))
        with pytest.raises(TransientError):
            reconcile_events(shop.ctx)
        shop.later(seconds=20)
    assert not stripe_is_open(shop)
    assert len(shop.state.breakers.get("stripe").failed) == 1


@pytest.mark.parametrize("reads", ["one made by hand", "one that is pending", "one that is disputed"])
def test_a_refund_that_only_reads_does_not_close_the_breaker_of_a_key_that_may_not_refund(
    shop: Steps, reads: str
) -> None:
    job_id = shop.failed()
    payment_intent = payment_of(shop, job_id)
    if reads == "one that is pending":
        shop.payments.refund_status = "pending"
        shop.refund_due()
    other = shop.failed()

    def refused(**_: object) -> None:
        raise AccountError("403: this key may not make refunds")

    create, shop.payments.create_refund = shop.payments.create_refund, refused  # type: ignore
    if reads == "one that is disputed":
        shop.payments.dispute(payment_intent, refundable=False)
    elif reads == "one made by hand":
        shop.refund_due()
        shop.payments.refund_by_hand(payment_intent, shop.job(job_id).price_cents)
    for _ in range(6):
        shop.change("UPDATE smi.refunds SET next_attempt_at = smi.now() WHERE state IN ('owed', 'pending')")
        shop.refund_due()
        shop.later(seconds=67)
    assert stripe_is_open(shop)
    assert times_opened(shop) == ["stripe"]
    shop.payments.create_refund, shop.payments.refund_status = create, "succeeded"  # type: ignore
    shop.refund_due()
    assert not stripe_is_open(shop)
    assert states(shop, other) == [("failure", "succeeded")]


def test_a_single_refund_is_made_within_a_minute_after_stripe_is_back(shop: Steps) -> None:
    job_id = shop.failed()
    for _ in range(12):
        shop.payments.faults.append(TransientError("no connection"))
        shop.refund_due()
        assert not shop.payments.faults
        shop.later(minutes=16)
    shop.payments.faults.append(TransientError("no connection"))
    shop.refund_due()
    assert not stripe_is_open(shop)
    shop.later(seconds=67)
    shop.refund_due()
    assert states(shop, job_id) == [("failure", "succeeded")]


def test_what_can_be_read_between_does_not_hide_that_no_refund_is_carried_out(shop: Steps) -> None:
    for _ in range(3):
        shop.failed()

    def fails(**_: object) -> None:
        raise AnsweredError("500 of Stripe")

    shop.payments.create_refund = fails  # type: ignore
    for _ in range(2):
        shop.refund_due()
        reconcile_events(shop.ctx)
        shop.later(seconds=67)
    shop.refund_due()
    assert stripe_is_open(shop)
    assert shop.tasks() == ["breaker"]


@pytest.mark.parametrize("waits_for", ["a dispute", "the balance"])
def test_a_refund_that_waits_for_something_else_does_not_keep_the_breaker_open(shop: Steps, waits_for: str) -> None:
    job_id = shop.failed()
    if waits_for == "a dispute":
        shop.payments.dispute(payment_of(shop, job_id), refundable=False)
    else:
        shop.payments.refusals.append(PermanentError(refund.INSUFFICIENT_BALANCE, "too little"))
    shop.refund_due()
    shop.later(seconds=30)
    shop.state.breakers.note(Failure(breaker="stripe", work_key="x", message="401", scope=Scope.SHOP))
    reconcile_events(shop.ctx)
    assert not stripe_is_open(shop)
    assert shop.begin(Queue.REFUND) is None


@pytest.mark.parametrize("closed_by", ["a refund", "an operator"])
def test_refunds_that_wait_are_made_within_a_minute_when_stripe_carries_them_out_again(
    shop: Steps, closed_by: str
) -> None:
    for _ in range(3):
        shop.failed()
    for _ in range(30):
        shop.payments.faults.append(AccountError("401"))
        shop.refund_due()
        shop.payments.faults.clear()
        shop.later(seconds=67)
    assert stripe_is_open(shop)
    shop.payments.faults.append(AccountError("401"))
    shop.refund_due()
    if closed_by == "an operator":
        admin.close_breaker(shop.ctx, "stripe", "the key is renewed")
    shop.later(seconds=67)
    shop.refund_due()
    assert not stripe_is_open(shop)
    assert {row["state"] for row in shop.sql("SELECT state FROM smi.refunds")} == {"succeeded"}


def times_opened(shop: Steps) -> list[str]:
    rows = shop.sql("SELECT details ->> 'breaker' AS name FROM smi.job_events WHERE event = 'breaker_opened'")
    return [row["name"] for row in rows]


def test_a_key_that_may_open_no_checkout_session_is_one_breaker_until_a_session_can_be_opened(shop: Steps) -> None:
    owed = shop.failed()
    create = shop.payments.create_checkout

    def refused(_: object) -> None:
        raise AccountError("403: this key may not open Checkout sessions")

    shop.payments.create_checkout = refused  # type: ignore
    for _ in range(8):
        with pytest.raises(Unavailable):
            shop.register()
        reconcile_events(shop.ctx)
        stripe_payments.compare_payments(shop.ctx)
        shop.refund_due()
        shop.later(seconds=40)
    assert times_opened(shop) == ["checkout"]
    assert shop.tasks() == ["breaker"]
    assert states(shop, owed) == [("failure", "succeeded")], "refunds do not wait for it"
    shop.payments.create_checkout = create  # type: ignore
    shop.later(minutes=2)
    shop.register()
    assert shop.tasks() == []
    shop.register()


def test_while_no_session_can_be_opened_one_order_a_minute_tries_it(shop: Steps) -> None:
    asked = []

    def refused(request: object) -> None:
        asked.append(request)
        raise AccountError("403: this key may not open Checkout sessions")

    shop.payments.create_checkout = refused  # type: ignore
    for _ in range(30):
        with pytest.raises(Unavailable):
            shop.register()
        shop.later(seconds=10)
    assert 3 <= len(asked) <= 6
