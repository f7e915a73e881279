"""The judge of the state machine names what is planted: each way in which a shop could cheat or forget somebody."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from smi_pipeline.core.models import Queue
from smi_pipeline.core.vocabulary import RefundKind
from smi_pipeline.services import fulfil, intake, notify, refund, submit
from smi_pipeline.services.reconciliation import stripe_payments
from smi_pipeline_tests.integration.services.machine.crew import Interruption
from smi_pipeline_tests.integration.services.machine.customers import Order
from smi_pipeline_tests.integration.services.machine.judge import unsettled, violations
from smi_pipeline_tests.integration.services.machine.stress import Stress
from smi_pipeline_tests.integration.services.steps import Steps


@pytest.fixture
def stress(shop: Steps) -> Iterator[Stress]:
    yield Stress(shop)


def paid(stress: Stress) -> Order:
    order = stress.order()
    stress.pay(order)
    stress.tell_newest()
    return order


def known(stress: Stress, how: str = "good") -> None:
    """Upsampler ends every upscale, and we know it."""
    for external_id in stress.undecided():
        stress.decide(external_id, how)
        stress.hint(external_id)
    stress.poll()


def dies_at(stress: Stress, queue: Queue, moment: str) -> None:
    """A run comes to this moment and no further."""
    stress.work(queue, Interruption(what="wait"))
    while (worker := stress.crew.waiting[0]).passed[-1] != moment:
        stress.crew.wake(worker, Interruption(what="wait"))
    stress.crew.wake(worker, Interruption(what="die"))


def test_an_honest_shop_is_not_accused(stress: Stress) -> None:
    orders = [paid(stress) for _ in range(2)]
    stress.tick()
    stress.decide(stress.undecided()[0], "failed")
    assert violations(stress) == []
    stress.heal()
    assert violations(stress) == unsettled(stress) == []
    assert {stress.shop.job(order.job_id).status for order in orders} == {"completed", "refunded"}


def test_a_double_refund_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    paid(stress)
    stress.tick()
    known(stress, "failed")
    monkeypatch.setattr(refund, "_ours", lambda *_: None)  # does not look for what was lost
    stripe = stress.shop.payments
    monkeypatch.setattr(stripe, "returned_cents", lambda _: 0)  # a Stripe that lets itself be asked twice
    monkeypatch.setattr(stripe, "refunds_of", lambda _: [])
    stress.work(Queue.FULFIL)
    stripe.by_key.clear()
    stress.shop.change("UPDATE smi.refunds SET state = 'owed', next_attempt_at = smi.now()")
    stress.work(Queue.REFUND)
    assert any(found.startswith("double refund") for found in violations(stress))


def test_a_lost_job_is_reported(stress: Stress) -> None:
    order = paid(stress)
    stress.tick()
    stress.shop.change("UPDATE smi.submissions SET next_poll_at = NULL, state = 'rejected'")
    stress.heal(rounds=12)
    assert any(found.startswith(f"lost: {order.job_id}") for found in unsettled(stress))
    assert f"the alarm query names {order.job_id}" in unsettled(stress)


def test_a_double_mail_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    paid(stress)
    stress.tick()
    known(stress)
    rendered, numbers = notify._rendered, iter(range(9))

    def another(ctx, job, email, now):  # type: ignore[no-untyped-def]
        mail = rendered(ctx, job, email, now)
        return replace(mail, message_id=mail.message_id.replace("@", f"{next(numbers)}@"))

    monkeypatch.setattr(notify, "_rendered", another)
    stress.work(Queue.FULFIL)
    stress.shop.change("UPDATE smi.emails SET state = 'claimed', next_attempt_at = smi.now()")
    stress.work(Queue.MAIL)
    assert any(found.startswith("double mail") for found in violations(stress))


def test_a_double_submission_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    paid(stress)
    monkeypatch.setattr(  # repeats at once what was not answered
        submit,
        "_close_unanswered",
        lambda ctx, calls: any(not ctx.state.submissions.mark_lost(c.submission_id, actor="x") for c in calls) or None,
    )
    dies_at(stress, Queue.SUBMIT, "upscaler.submit answered")
    stress.time(50, alive=False)
    stress.work(Queue.SUBMIT)
    assert any("again after" in found for found in violations(stress))


def test_a_wrong_file_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        paid(stress)
    stress.tick()
    known(stress)
    result_of = fulfil._result_of

    def anybodys(job, submissions):  # type: ignore[no-untyped-def]
        url = next(url for url in stress.shop.fetcher.bodies if "result" not in url)
        return replace(result_of(job, submissions), result_url=url)

    monkeypatch.setattr(fulfil, "_result_of", anybodys)
    stress.work(Queue.FULFIL)
    assert any(found.startswith("wrong file") for found in violations(stress))


def test_a_job_that_is_delivered_and_refunded_is_reported(stress: Stress) -> None:
    order = paid(stress)
    stress.tick()
    known(stress)
    stress.work(Queue.FULFIL)
    stress.ctx.state.refunds.owe(
        job_id=order.job_id,
        payment_intent_id=order.payments[0],
        kind=RefundKind.FAILURE,
        currency="usd",
        reason="x",
        actor="x",
    )
    stress.work(Queue.REFUND)
    assert f"{order.job_id} is delivered and refunded" in violations(stress)


def test_a_stray_payment_that_is_returned_by_itself_is_reported(stress: Stress) -> None:
    intent = stress.stray(70).intent
    stress.tell_newest()
    stress.ctx.state.refunds.owe(
        job_id=None, payment_intent_id=intent, kind=RefundKind.UNMATCHED, currency="usd", reason="x", actor="x"
    )
    stress.work(Queue.REFUND)
    assert f"{intent} was returned on nobody's word" in violations(stress)


@pytest.mark.parametrize("told", [True, False])
def test_a_stray_payment_that_nobody_is_told_of_is_reported(
    stress: Stress, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    intent = stress.stray(70, event=told).intent
    stress.heal()
    assert unsettled(stress) == []
    stress.shop.change("DELETE FROM smi.person_tasks")
    monkeypatch.setattr(stripe_payments, "_name_unmatched", lambda _: None)
    stress.heal()
    assert f"the stray payment {intent} is forgotten" in unsettled(stress)


def test_a_refund_that_is_not_taken_over_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    order = paid(stress)
    stress.refund_by_hand(order.payments[0], 20, event=False)
    monkeypatch.setattr(stress.ctx.state.refunds, "settle_by_facts", lambda *_, **__: "ignored")
    stress.heal()
    assert "the refund re_hand1 was not taken up: None" in unsettled(stress)


def test_a_refund_of_ours_that_is_taken_for_one_made_by_hand_is_reported(stress: Stress) -> None:
    paid(stress)
    stress.tick()
    known(stress, "failed")
    stress.work(Queue.FULFIL)
    stress.heal()
    assert unsettled(stress) == []
    stress.shop.change("UPDATE smi.refunds SET kind = 'outside', n = 0")
    assert "the refund re_1 is taken for one of kind outside" in unsettled(stress)


def test_a_delivery_after_the_money_was_seen_to_be_back_is_reported(
    stress: Stress, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = paid(stress)
    stress.tick()
    stress.refund_by_hand(order.payments[0], order.price_cents, event=False)
    monkeypatch.setattr(stress.ctx.state.refunds, "settle_by_facts", lambda *_, **__: "ignored")
    stress.reconcile()
    assert violations(stress) == []
    known(stress)
    stress.work(Queue.FULFIL)
    assert f"{order.job_id} is delivered although its money was seen to be back" in violations(stress)


def test_an_abandoned_order_that_can_still_be_paid_is_reported(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    order = stress.order()
    monkeypatch.setattr(intake, "_closed_session", lambda *_: None)
    stress.time(90_000, alive=False)
    stress.clean_up()
    assert f"{order.job_id} is abandoned and can still be paid" in unsettled(stress)
