"""Judge whether every paid order ended correctly, by pure functions of the evidence.

Correct ends are: the good file and no refund; a full refund for a reason that is in the sandbox's ledgers; the money
returned by the bank (a lost dispute); or an open manual task where no program can go on (the bank refused the refund,
the mail server refused the mail).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from smi_pipeline.demo.judge import LINK, ReceivedMail, fee_cents
from smi_pipeline.demo.orders import Order
from smi_pipeline_tests.soak import faults
from smi_pipeline_tests.soak.evidence import STAFF, Seen, subject_of

_GONE = ("failed", "canceled")
_NEVER = ("overdue", "refund_late", "orphan_payment", "stripe_event")
"""Kinds of tasks that no fault excuses: something was forgotten."""


@dataclass
class Verdict:
    """The result. `outcomes` counts the ends of orders."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@dataclass
class _Case:
    """An order and its evidence."""

    order: Order
    seen: Seen
    interrupted: bool
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        seen, order = self.seen, self.order
        self.intents = [i for i in seen.intents.get(str(order.job_id), []) if i["amount_received"]]
        payments = {intent["id"] for intent in self.intents}
        self.refunds = [refund for id in payments for refund in seen.refunds.get(id, [])]
        self.alive = [refund for refund in self.refunds if refund["status"] not in _GONE]
        self.lost_dispute = any(d["status"] == "lost" for id in payments for d in seen.disputes.get(id, []))
        self.tasks = {
            task["kind"] for task in seen.tasks if task["job_id"] == order.job_id or task["subject"] in payments
        }
        self.submissions = seen.submissions.get(order.source_url, [])
        self.mails = list({mail.message_id: mail for mail in seen.mails.get(order.email, [])}.values())
        self.injections = [*seen.injections.get(subject_of(order), []), *seen.injections.get(order.email, [])]

    @property
    def received(self) -> int:
        return sum(intent["amount_received"] for intent in self.intents)


def judge(orders: Sequence[Order], seen: Seen, *, interrupted: bool = False) -> Verdict:
    """Judge all paid orders. `interrupted`: processes were stopped or died, which loses responses and delays jobs."""
    verdict = Verdict()
    for order in orders:
        if order.paid_at is None:
            continue
        case = _Case(order, seen, interrupted)
        verdict.outcomes[_end(case)] += 1
        _payment(case)
        _submissions(case)
        _mails(case)
        verdict.violations += [
            f"order {order.number} (job {order.job_id}) {violation}" for violation in case.violations
        ]
    verdict.violations += _unknown_parties(orders, seen) + _money(seen) + _alarms(seen)
    return verdict


def _end(case: _Case) -> str:
    delivered = _files(case)
    if delivered and case.alive:
        case.violations.append("was delivered and refunded")
        return "delivered and refunded"
    if delivered:
        return "delivered; payment lost to the bank" if case.lost_dispute else "delivered"
    if case.alive:
        return f"refunded: {_reason(case)}"
    if case.lost_dispute:
        return "returned by the bank"
    if case.refunds and "refund_failed" in case.tasks:
        return "refund failed; manual task"
    case.violations.append(f"was paid, but neither delivered nor refunded (tasks: {sorted(case.tasks) or 'none'})")
    return "lost"


def _files(case: _Case) -> bool:
    """Return whether there is a file for the customer; record what is wrong with it."""
    links = [link for mail in case.mails for link in LINK.findall(mail.text)]
    if not case.mails and "mail_failed" in case.tasks:
        links = [case.order.email]  # on the customer's page
    good = {s["sha256"] for s in case.submissions if not faults.MAY_REFUND & set(s["behaviour"])}
    delivered = False
    for link in dict.fromkeys(links):
        status, sha256 = case.seen.files.get(link, (0, ""))
        if not status:
            continue
        if status != 200:
            case.violations.append(f"was given a link that answers {status}")
            continue
        delivered = True
        if sha256 not in good:
            corrupted = sorted(kind for s in case.submissions if s["sha256"] == sha256 for kind in s["behaviour"])
            case.violations.append(f"got a wrong file ({', '.join(corrupted) or 'of nobody'})")
    return delivered


def _reason(case: _Case) -> str:
    """Return what excuses the refund; record a violation if nothing does."""
    behaviours = sorted({kind for s in case.submissions for kind in s["behaviour"]} & faults.MAY_REFUND)
    if behaviours:
        return behaviours[0]
    own = [i for i in case.injections if i["service"] == "upsampler" and i["kind"] in faults.MAY_REFUND]
    if own:
        return str(own[0]["kind"])
    if any(i["service"] == "upsampler" and (i["endpoint"], i["kind"]) == ("cdn", "garbage") for i in case.injections):
        return "the cdn sent something else"  # complete and with 200: indistinguishable from the result
    if any(s["status"] == "failed" for s in case.submissions):
        return "upsampler could not fetch the source"
    if any(i["service"] == "origin" and i["kind"] in faults.CORRUPTS_SOURCE for i in case.injections):
        return "corrupt source"
    if _unanswered(case) >= 2:
        return "two submissions without an answer"
    if case.interrupted:
        return "late"
    case.violations.append("was refunded although nothing went wrong with it")
    return "no reason"


def _unanswered(case: _Case) -> int:
    return sum(
        i["service"] == "upsampler" and i["endpoint"] == "submit" and i["kind"] in faults.AMBIGUOUS
        for i in case.injections
    )


def _payment(case: _Case) -> None:
    if len(case.intents) != 1:
        case.violations.append(f"has {len(case.intents)} payments instead of one")
    elif case.received != case.order.price_cents:
        case.violations.append(f"was paid with {case.received} cents instead of {case.order.price_cents}")
    if len(case.alive) > 1:
        case.violations.append(f"was refunded {len(case.alive)} times")
    if case.alive and sum(refund["amount"] for refund in case.alive) != case.received:
        case.violations.append("did not get all of its money back")
    keys = Counter(refund["idempotency_key"] for refund in case.refunds)
    if case.refunds and max(keys.values()) > 1:
        case.violations.append("was refunded twice under one key")


def _submissions(case: _Case) -> None:
    spoiled = sum(s["status"] == "failed" or bool(faults.MAY_REFUND & set(s["behaviour"])) for s in case.submissions)
    spoiled += sum((i["service"], i["endpoint"]) == ("upsampler", "cdn") for i in case.injections)
    # Upsampler fetches the source itself: a result of another image is submitted again.
    spoiled += sum(i["service"] == "origin" and i["kind"] in faults.CORRUPTS_SOURCE for i in case.injections)
    allowed = min(4, 1 + spoiled + bool(case.interrupted or _unanswered(case)))
    if len(case.submissions) > allowed:
        case.violations.append(f"was submitted {len(case.submissions)} times instead of {allowed}")
    if any(s["scale"] != case.order.case.scale for s in case.submissions):
        case.violations.append("was submitted for the wrong scale")


def _mails(case: _Case) -> None:
    mails = case.mails
    if not mails and "mail_failed" in case.tasks:
        if not any(i["service"] == "mail" for i in case.injections) and not case.interrupted:
            case.violations.append("got no mail although the mail server took everything")
        return
    if not mails and case.refunds and not case.alive and "refund_failed" in case.tasks:
        return  # the refund failed at once: nothing was promised
    if len(mails) != 1:
        case.violations.append(f"got {len(mails)} different mails instead of one: {[mail.subject for mail in mails]}")
    for mail in mails:
        if str(case.order.job_id) not in mail.text:
            case.violations.append(f"got a mail that does not name the order ({mail.subject})")
        if not LINK.search(mail.text):
            _refund_mail(case, mail)


def _refund_mail(case: _Case, mail: ReceivedMail) -> None:
    amount = f"${case.received / 100:.2f}"
    if amount not in mail.text or "refund" not in mail.text.lower():
        case.violations.append(f"got a refund mail that does not name the {amount} ({mail.subject})")
    if not case.refunds and not case.lost_dispute:
        case.violations.append("got a refund mail without a refund")


def _unknown_parties(orders: Sequence[Order], seen: Seen) -> list[str]:
    jobs = {order.job_id for order in orders if order.paid_at is not None}
    people = {order.email for order in orders} | STAFF
    violations = [
        f"the payment {intent['id']} belongs to none of the orders"
        for intent in seen.all_intents
        if intent["amount_received"] and intent["metadata"].get("job_id") not in jobs
    ]
    return violations + [f"a mail went to {person}, who ordered nothing" for person in sorted(set(seen.mails) - people)]


def _money(seen: Seen) -> list[str]:
    received = [intent["amount_received"] for intent in seen.all_intents if intent["amount_received"]]
    refunded = sum(r["amount"] for each in seen.refunds.values() for r in each if r["status"] not in _GONE)
    lost = sum(d["amount"] for each in seen.disputes.values() for d in each if d["status"] == "lost")
    left = sum(received) - sum(map(fee_cents, received)) - refunded - lost
    if left == seen.balance_cents:
        return []
    return [f"the balance is {seen.balance_cents} cents, by payments, refunds and disputes it is {left}"]


def _alarms(seen: Seen) -> list[str]:
    return [f"an open task of kind {t['kind']}: {t['message']}" for t in seen.tasks if t["kind"] in _NEVER]
