"""The verdict of a soak names what is wrong, and lets pass what only looks so."""

from collections.abc import Callable
from typing import Any

import pytest

from smi_pipeline.demo.judge import ReceivedMail, fee_cents
from smi_pipeline.demo.orders import Order
from smi_pipeline_tests.soak.evidence import Seen, subject_of
from smi_pipeline_tests.soak.verdict import judge

JOB, INTENT, EMAIL = "a" * 32, "pi_1", "customer-00001@example.com"
ORIGIN = "http://127.0.0.1:1/photos/coffee-96.jpg?order=00001"
LINK = f"http://127.0.0.1:2/smi/v1/download/{'0' * 64}"
PAID = 50

ORDER = Order(
    number=1, case_name="good-4x", email=EMAIL, source_url=ORIGIN, job_id=JOB, price_cents=PAID, paid_at=1_000.0
)


def mail(text: str, message_id: str = "<1@shop>", to: str = EMAIL) -> ReceivedMail:
    return ReceivedMail(message_id=message_id, to=(to,), subject="Your order", text=f"{JOB} {text}", at=2_000.0)


def submission(*behaviour: str, sha256: str = "good", status: str = "completed") -> dict[str, Any]:
    return {"scale": 4, "behaviour": dict.fromkeys(behaviour), "sha256": sha256, "status": status}


def refund(status: str = "succeeded", key: str = "k1", amount: int = PAID) -> dict[str, Any]:
    return {"id": f"re_{key}", "payment_intent": INTENT, "amount": amount, "status": status, "idempotency_key": key}


def task(kind: str) -> dict[str, Any]:
    return {"kind": kind, "job_id": JOB, "subject": INTENT, "message": "see to it"}


def injection(service: str, kind: str, endpoint: str = "") -> dict[str, Any]:
    return {"service": service, "kind": kind, "endpoint": endpoint}


def seen(**changes: Any) -> Seen:
    """A delivered order, but for the changes."""
    intent = {"id": INTENT, "amount_received": PAID, "metadata": {"job_id": JOB}}
    told: dict[str, Any] = {
        "intents": {JOB: [intent]},
        "all_intents": [intent],
        "refunds": {},
        "disputes": {},
        "submissions": {ORIGIN: [submission()]},
        "mails": {EMAIL: [mail(LINK)]},
        "injections": {},
        "tasks": [],
        "files": {LINK: (200, "good")},
    } | changes
    gone = sum(r["amount"] for each in told["refunds"].values() for r in each if r["status"] == "succeeded")
    gone += sum(d["amount"] for each in told["disputes"].values() for d in each)
    return Seen(**{"balance_cents": PAID - fee_cents(PAID) - gone, **told})


def refunded(**changes: Any) -> Seen:
    """An order that Upsampler failed, and whose money went back."""
    told = {
        "submissions": {ORIGIN: [submission("fail", sha256="", status="failed")]},
        "mails": {EMAIL: [mail("Refund of $0.50")]},
        "refunds": {INTENT: [refund()]},
    }
    return seen(**(told | changes))


RIGHT: dict[str, Callable[[], Seen]] = {
    "delivered": seen,
    "refunded: fail": refunded,
    "returned by the bank": lambda: refunded(
        refunds={}, disputes={INTENT: [{"status": "lost", "amount": PAID}]}, mails={EMAIL: [mail("Refund $0.50")]}
    ),
    "delivered; payment lost to the bank": lambda: seen(disputes={INTENT: [{"status": "lost", "amount": PAID}]}),
    "refund failed; manual task": lambda: refunded(refunds={INTENT: [refund("failed")]}, tasks=[task("refund_failed")]),
}


@pytest.mark.parametrize("end", RIGHT)
def test_a_right_end_is_counted_and_no_violation(end: str) -> None:
    verdict = judge([ORDER], RIGHT[end]())
    assert (dict(verdict.outcomes), verdict.violations) == ({end: 1}, [])


def test_a_mail_that_was_taken_twice_is_one_mail() -> None:
    assert judge([ORDER], seen(mails={EMAIL: [mail(LINK), mail(LINK)]})).violations == []


def test_a_mail_that_the_server_refused_is_right_as_a_task_when_the_page_has_the_file() -> None:
    evidence = seen(
        mails={},
        tasks=[task("mail_failed")],
        injections={EMAIL: [injection("mail", "code")]},
        files={EMAIL: (200, "good")},
    )
    assert judge([ORDER], evidence).violations == []


def test_a_second_submission_is_right_after_one_without_an_answer() -> None:
    twice = {ORIGIN: [submission(), submission()]}
    unanswered = {subject_of(ORDER): [injection("upsampler", "accept_then_drop", "submit")]}
    assert judge([ORDER], seen(submissions=twice, injections=unanswered)).violations == []


WRONG: dict[str, tuple[Callable[[], Seen], str]] = {
    "lost": (lambda: seen(mails={}, files={}), "neither delivered nor refunded"),
    "no mail": (lambda: refunded(mails={}), "0 different mails"),
    "delivered and refunded": (lambda: seen(refunds={INTENT: [refund()]}), "delivered and refunded"),
    "refunded without reason": (
        lambda: refunded(submissions={ORIGIN: [submission()]}),
        "although nothing went wrong",
    ),
    "refunded twice": (
        lambda: refunded(refunds={INTENT: [refund(amount=25), refund(key="k2", amount=25)]}),
        "refunded 2 times",
    ),
    "a part refunded": (lambda: refunded(refunds={INTENT: [refund(amount=20)]}), "did not get all of its money"),
    "a failed refund nobody knows of": (lambda: refunded(refunds={INTENT: [refund("failed")]}), "neither delivered"),
    "mailed twice": (lambda: seen(mails={EMAIL: [mail(LINK), mail(LINK, "<2@shop>")]}), "2 different mails"),
    "submitted twice": (lambda: seen(submissions={ORIGIN: [submission(), submission()]}), "submitted 2 times"),
    "wrong file": (lambda: seen(files={LINK: (200, "another")}), "a wrong file"),
    "spoiled file": (lambda: seen(submissions={ORIGIN: [submission("bit_flip")]}), "a wrong file (bit_flip)"),
    "dead link": (lambda: seen(files={LINK: (404, "")}), "a link that answers 404"),
    "paid twice": (lambda: seen(intents={JOB: [*seen().all_intents, *seen().all_intents]}), "2 payments"),
    "a payment of nobody": (
        lambda: seen(all_intents=[*seen().all_intents, {"id": "pi_9", "amount_received": 1, "metadata": {}}]),
        "belongs to none",
    ),
    "a stranger's mail": (lambda: seen(mails={EMAIL: [mail(LINK)], "x@y.example": [mail("")]}), "x@y.example"),
    "money that is not there": (lambda: seen(balance_cents=1), "the balance is 1 cents"),
    "an overdue job": (lambda: seen(tasks=[task("overdue")]), "an open task of kind overdue"),
    "a mail nobody refused": (lambda: seen(mails={}, tasks=[task("mail_failed")], files={EMAIL: (200, "good")}),
                              "although the mail server took everything"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_end_is_named(fault: str) -> None:
    evidence, words = WRONG[fault]
    assert any(words in line for line in judge([ORDER], evidence()).violations), judge([ORDER], evidence()).violations
