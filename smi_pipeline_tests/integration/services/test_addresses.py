"""Orders without an e-mail address: Checkout asks for it, and a paid order without any is processed all the same."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    PermanentError,
    RefusedError,
    TransientError,
    UnreadableError,
)
from smi_pipeline.core.models import Queue
from smi_pipeline.gateway import progress
from smi_pipeline.services import admin, intake, notify
from smi_pipeline.services.reconciliation import stripe_payments
from smi_pipeline_tests.integration.services.steps import IMAGE, Steps


def ordered(shop: Steps) -> str:
    """An order without an address, not paid."""
    return intake.register_job(shop.ctx, intake.JobRequest(image_url=IMAGE, resolution="4x")).job_id


def paid_at_checkout(shop: Steps, job_id: str, address: str = "") -> str:
    """The customer pays and enters an address; nobody tells of it yet."""
    payment_intent = shop.payments.pay(job_id, shop.job(job_id).price_cents, at=shop.state.submissions.now())
    session_id = shop.job(job_id).checkout_session_id or ""
    shop.payments.sessions[session_id] = replace(
        shop.payments.sessions[session_id],
        status="complete",
        payment_status="paid",
        payment_intent_id=payment_intent,
        customer_email=address,
    )
    return payment_intent


def told(shop: Steps, job_id: str, payment_intent: str) -> str:
    return shop.tell("payment_intent.succeeded", {"object": "payment_intent", "id": payment_intent}, job_id)


def test_an_order_without_an_address_lets_checkout_ask_for_it(shop: Steps) -> None:
    asked = []
    create = shop.payments.create_checkout
    shop.payments.create_checkout = lambda request: asked.append(request) or create(request)  # type: ignore
    job_id = ordered(shop)
    assert asked[0].customer_email == shop.job(job_id).customer_email == ""


@pytest.mark.parametrize("found_by", ["webhook", "comparison"])
def test_the_address_entered_at_checkout_is_the_customers(shop: Steps, found_by: str) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, "anna@example.org")
    if found_by == "webhook":
        told(shop, job_id, payment_intent)
    else:
        assert stripe_payments.compare_payments(shop.ctx)["missed"] == 1
    assert shop.job(job_id).customer_email == "anna@example.org"
    assert shop.tasks() == []
    shop.deliver(job_id)
    assert [mail.recipients for mail in shop.mailer.taken] == [("anna@example.org",)]


def test_an_address_given_with_the_order_stays_and_costs_no_call(shop: Steps) -> None:
    job_id = shop.register().job_id
    told(shop, job_id, paid_at_checkout(shop, job_id, "another@example.org"))
    assert shop.job(job_id).customer_email == "customer@example.org"
    assert "payments.checkout_of" not in shop.payments.calls


@pytest.mark.parametrize(
    "wrong", ["", "no address", PermanentError("stripe_refused", "no"), AccountError("no"), UnreadableError("no")]
)
def test_a_paid_order_without_an_address_is_delivered_on_its_page_with_a_task(
    shop: Steps, wrong: str | Exception
) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, wrong if isinstance(wrong, str) else "anna@example.org")
    if isinstance(wrong, Exception):
        look = shop.payments.checkout_of

        def refused(_: str) -> None:
            shop.payments.checkout_of = look  # type: ignore
            raise wrong

        shop.payments.checkout_of = refused  # type: ignore
    told(shop, job_id, payment_intent)
    assert (shop.job(job_id).status, shop.tasks()) == ("pending", ["no_address"])
    shop.deliver(job_id)
    assert shop.mailer.taken == []
    assert shop.tasks() == ["no_address"], "one task, not another one per mail"
    page = progress.snapshot(shop.ctx, shop.job(job_id), full=True)
    assert page["download"]["available"] and not page["order"]["mailed"]

    done = admin.set_address(shop.ctx, job_id, "anna@example.org")
    assert "accepted" in done and "anna" not in done
    assert shop.tasks() == []
    assert [mail.recipients for mail in shop.mailer.taken] == [("anna@example.org",)]


def test_an_address_that_the_mail_server_cannot_write_to_is_refused_where_it_is_given(shop: Steps) -> None:
    request = intake.JobRequest(image_url=IMAGE, resolution="4x", email="björn@example.org")
    job_id = shop.register().job_id
    shop.mailer.takes_utf8 = False
    with pytest.raises(RefusedError, match="before the @") as refused:
        intake.register_job(shop.ctx, request)
    assert refused.value.status == 422
    with pytest.raises(RefusedError, match="before the @"):
        admin.set_address(shop.ctx, job_id, "björn@example.org")
    shop.mailer.takes_utf8 = None
    assert intake.register_job(shop.ctx, request).checkout_url, "what is not known is accepted"


def test_while_stripe_does_not_answer_for_the_address_the_payment_is_told_again(shop: Steps) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, "anna@example.org")
    look = shop.payments.checkout_of

    def silent(_: str) -> None:
        shop.payments.checkout_of = look  # type: ignore
        raise AmbiguousError("no answer")

    shop.payments.checkout_of = silent  # type: ignore
    with pytest.raises(AmbiguousError):
        told(shop, job_id, payment_intent)
    assert shop.job(job_id).status == "awaiting_payment"
    assert told(shop, job_id, payment_intent) == "order"
    assert shop.job(job_id).customer_email == "anna@example.org"


def test_a_payment_on_its_way_is_told_to_the_address_entered_at_checkout(shop: Steps) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, "anna@example.org")
    body = {"object": "checkout.session", "payment_intent": payment_intent, "payment_status": "unpaid"}
    assert shop.tell("checkout.session.completed", body, job_id) == "on its way"
    shop.mail_due()
    assert [(mail.subject, mail.recipients) for mail in shop.mailer.taken] == [
        ("payment_started", ("anna@example.org",))
    ]


def test_an_address_set_by_an_operator_is_checked_and_used_from_then_on(shop: Steps) -> None:
    job_id = ordered(shop)
    with pytest.raises(RefusedError, match="email"):
        admin.set_address(shop.ctx, job_id, "nobody")
    assert admin.set_address(shop.ctx, job_id, "new@example.org").startswith("set; job")
    assert shop.job(job_id).customer_email == "new@example.org"
    assert "new@example.org" not in str(shop.state.queries.events(job_id))


NEW = "new@example.org"


def mails(shop: Steps, job_id: str) -> list[tuple[str, int, str]]:
    return [(mail.kind, mail.sequence, mail.state) for mail in shop.state.emails.of_job(job_id)]


def test_a_mail_that_was_not_taken_goes_to_the_corrected_address_alone_and_is_written_for_it(
    shop: Steps, job_id: str
) -> None:
    shop.mailer.faults.append(TransientError("451 later"))
    shop.mail_due()
    assert "accepted" in admin.set_address(shop.ctx, job_id, NEW)
    shop.later(hours=1)
    shop.mail_due()
    assert [mail.recipients for mail in shop.mailer.taken] == [(NEW,)]
    assert NEW.encode() in shop.mailer.taken[0].content and b"customer@" not in shop.mailer.taken[0].content
    assert mails(shop, job_id) == [("completion", 1, "accepted")]


def test_a_mail_that_may_have_arrived_is_not_repeated_to_the_old_address_but_sent_anew(
    shop: Steps, job_id: str
) -> None:
    shop.mailer.after_effect.append(AmbiguousError("no answer"))
    shop.mail_due()
    admin.set_address(shop.ctx, job_id, NEW)
    shop.later(hours=1)
    shop.mail_due()
    assert [mail.recipients for mail in shop.mailer.taken] == [("customer@example.org",), (NEW,)]
    assert len({mail.message_id for mail in shop.mailer.taken}) == 2
    assert mails(shop, job_id) == [("completion", 1, "failed"), ("completion", 2, "accepted")]
    assert shop.tasks() == []


def test_a_worker_that_read_the_old_address_hands_nothing_over_after_the_correction(shop: Steps, job_id: str) -> None:
    lease_id, (key,) = shop.begin(Queue.MAIL) or ("", [""])
    render = shop.mailer.render

    def corrected_meanwhile(*args, **more):
        shop.mailer.render = render  # type: ignore
        mail = render(*args, **more)
        admin.set_address(shop.ctx, job_id, NEW)
        return mail

    shop.mailer.render = corrected_meanwhile  # type: ignore
    assert notify.send(shop.ctx, key, lease_id).state == "lost"
    assert [mail.recipients for mail in shop.mailer.taken] == [(NEW,)]


WAITS_FOR_A_MAIL = """SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%smi.emails%'"""


def test_a_mail_that_is_handed_over_at_the_moment_of_the_correction_is_replaced(shop: Steps, job_id: str) -> None:
    with ThreadPoolExecutor(1) as pool, shop.database.transaction() as tx:
        tx.run("UPDATE smi.emails SET state = 'handed_over', content = 'old', hand_overs = 1")
        corrected = pool.submit(shop.state.jobs.set_address, job_id, NEW, actor="test")
        while not shop.sql(WAITS_FOR_A_MAIL):
            assert not corrected.done()
    corrected.result(timeout=30)
    assert mails(shop, job_id) == [("completion", 1, "failed"), ("completion", 2, "claimed")]


def test_a_mail_that_failed_is_written_anew_when_the_server_is_asked_once_more(shop: Steps, job_id: str) -> None:
    shop.mailer.faults.append(PermanentError("mail_refused", "550 no such user", breaker="mail"))
    shop.mail_due()
    assert shop.tasks() == ["mail_failed"]
    assert "accepted" in admin.set_address(shop.ctx, job_id, NEW)
    assert shop.tasks() == []
    assert [mail.content is None for mail in shop.state.emails.of_job(job_id)] == [True, False]


def test_the_same_address_once_more_changes_no_mail(shop: Steps, job_id: str) -> None:
    shop.mailer.after_effect.append(AmbiguousError("no answer"))
    shop.mail_due()
    admin.set_address(shop.ctx, job_id, "customer@example.org")
    assert len({mail.message_id for mail in shop.mailer.taken}) == 1


SESSION_TELLS = {
    "object": "checkout.session",
    "payment_status": "paid",
    "customer_details": {"email": "anna@example.org"},
}


def test_the_address_in_the_event_itself_needs_no_call_and_fills_one_that_is_missing(shop: Steps) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, "anna@example.org")

    def silent(_: str) -> None:
        raise AmbiguousError("no answer")

    shop.payments.checkout_of = silent  # type: ignore
    body = {**SESSION_TELLS, "payment_intent": payment_intent}
    assert shop.tell("checkout.session.completed", body, job_id) == "order"
    assert (shop.job(job_id).customer_email, shop.tasks()) == ("anna@example.org", [])


def test_the_second_net_records_a_payment_whose_address_cannot_be_read_and_a_later_event_tells_it(shop: Steps) -> None:
    job_id = ordered(shop)
    payment_intent = paid_at_checkout(shop, job_id, "anna@example.org")

    def silent(_: str) -> None:
        raise AmbiguousError("no answer")

    shop.payments.checkout_of = silent  # type: ignore
    assert stripe_payments.compare_payments(shop.ctx)["unanswered"] == 1
    assert shop.job(job_id).status == "awaiting_payment", "the address may be told in a moment"
    shop.later(minutes=16)
    assert stripe_payments.compare_payments(shop.ctx)["missed"] == 1
    assert (shop.job(job_id).status, shop.tasks()) == ("pending", ["no_address"])
    shop.tell("checkout.session.completed", {**SESSION_TELLS, "payment_intent": payment_intent}, job_id)
    assert (shop.job(job_id).customer_email, shop.tasks()) == ("anna@example.org", [])


def test_the_session_of_an_order_that_is_closed_tells_the_address(shop: Steps) -> None:
    job_id = ordered(shop)
    paid_at_checkout(shop, job_id, "anna@example.org")

    def silent(_: str) -> None:
        raise AmbiguousError("no answer")

    shop.payments.checkout_of = silent  # type: ignore
    shop.later(days=2)
    intake.close_abandoned(shop.ctx)
    assert (shop.job(job_id).status, shop.job(job_id).customer_email) == ("pending", "anna@example.org")
