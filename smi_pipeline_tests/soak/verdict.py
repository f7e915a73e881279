"""Whether every paid order ended rightly, whatever struck it. Functions of the evidence, nothing else.

A right end is one of: the good file and the money kept; the money back in full, for a reason that the stand-ins can
name; the money returned by the bank (a lost dispute); or an open task for a person where no program can go on (the
bank refused the refund, the mail server refused the mail).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from smi_pipeline.demo.judge import LINK, Letter, fee_cents
from smi_pipeline.demo.orders import Order
from smi_pipeline_tests.soak import faults
from smi_pipeline_tests.soak.evidence import STAFF, Seen, subject_of

_GONE = ("failed", "canceled")
_NEVER = ("overdue", "refund_late", "orphan_payment", "stripe_event")
"""Tasks that no fault of these excuses: something was forgotten."""


@dataclass
class Verdict:
    """What was found. `outcomes` counts ends in words."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@dataclass
class _Case:
    """One order and what is known of it."""

    order: Order
    seen: Seen
    interrupted: bool
    said: list[str] = field(default_factory=list)

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
        self.letters = list({letter.message_id: letter for letter in seen.letters.get(order.email, [])}.values())
        self.struck = [*seen.struck.get(subject_of(order), []), *seen.struck.get(order.email, [])]

    @property
    def received(self) -> int:
        return sum(intent["amount_received"] for intent in self.intents)


def judge(orders: Sequence[Order], seen: Seen, *, interrupted: bool = False) -> Verdict:
    """Judges all paid orders. `interrupted`: processes were stopped or died, which loses answers as a fault does, and
    makes jobs late."""
    verdict = Verdict()
    for order in orders:
        if order.paid_at is None:
            continue
        case = _Case(order, seen, interrupted)
        verdict.outcomes[_end(case)] += 1
        _payment(case)
        _submissions(case)
        _mails(case)
        verdict.violations += [f"order {order.number} (job {order.job_id}) {said}" for said in case.said]
    verdict.violations += _strangers(orders, seen) + _money(seen) + _alarms(seen)
    return verdict


def _end(case: _Case) -> str:
    delivered = _files(case)
    if delivered and case.alive:
        case.said.append("was delivered and refunded")
        return "delivered and refunded"
    if delivered:
        return "delivered; payment lost to the bank" if case.lost_dispute else "delivered"
    if case.alive:
        return f"refunded: {_reason(case)}"
    if case.lost_dispute:
        return "returned by the bank"
    if case.refunds and "refund_failed" in case.tasks:
        return "refund failed; a person's task"
    case.said.append(f"was paid, but neither delivered nor refunded (tasks: {sorted(case.tasks) or 'none'})")
    return "lost"


def _files(case: _Case) -> bool:
    """Whether there is a file for the customer; says what is wrong with it."""
    links = [link for letter in case.letters for link in LINK.findall(letter.text)]
    if not case.letters and "mail_failed" in case.tasks:
        links = [case.order.email]  # on the customer's page
    good = {s["sha256"] for s in case.submissions if not faults.MAY_REFUND & set(s["behaviour"])}
    delivered = False
    for link in dict.fromkeys(links):
        status, sha256 = case.seen.files.get(link, (0, ""))
        if not status:
            continue
        if status != 200:
            case.said.append(f"was given a link that answers {status}")
            continue
        delivered = True
        if sha256 not in good:
            spoiled = sorted(kind for s in case.submissions if s["sha256"] == sha256 for kind in s["behaviour"])
            case.said.append(f"got a wrong file ({', '.join(spoiled) or 'of nobody'})")
    return delivered


def _reason(case: _Case) -> str:
    """What excuses the refund; a violation if nothing does."""
    behaviours = sorted({kind for s in case.submissions for kind in s["behaviour"]} & faults.MAY_REFUND)
    if behaviours:
        return behaviours[0]
    own = [i for i in case.struck if i["service"] == "upsampler" and i["kind"] in faults.MAY_REFUND]
    if own:
        return str(own[0]["kind"])
    if any(i["service"] == "upsampler" and (i["endpoint"], i["kind"]) == ("cdn", "garbage") for i in case.struck):
        return "the cdn sent something else"  # whole and with 200: nothing tells it from the result
    if any(s["status"] == "failed" for s in case.submissions):
        return "upsampler could not fetch the source"
    if any(i["service"] == "origin" and i["kind"] in faults.SPOILS_SOURCE for i in case.struck):
        return "spoiled source"
    if _unanswered(case) >= 2:
        return "two submissions without an answer"
    if case.interrupted:
        return "late"
    case.said.append("was refunded although nothing went wrong with it")
    return "no reason"


def _unanswered(case: _Case) -> int:
    return sum(
        i["service"] == "upsampler" and i["endpoint"] == "submit" and i["kind"] in faults.AMBIGUOUS for i in case.struck
    )


def _payment(case: _Case) -> None:
    if len(case.intents) != 1:
        case.said.append(f"has {len(case.intents)} payments instead of one")
    elif case.received != case.order.price_cents:
        case.said.append(f"was paid with {case.received} cents instead of {case.order.price_cents}")
    if len(case.alive) > 1:
        case.said.append(f"was refunded {len(case.alive)} times")
    if case.alive and sum(refund["amount"] for refund in case.alive) != case.received:
        case.said.append("did not get all of its money back")
    keys = Counter(refund["idempotency_key"] for refund in case.refunds)
    if case.refunds and max(keys.values()) > 1:
        case.said.append("was refunded twice under one key")


def _submissions(case: _Case) -> None:
    allowed = 2 if case.interrupted or _unanswered(case) else 1
    if len(case.submissions) > allowed:
        case.said.append(f"was submitted {len(case.submissions)} times instead of {allowed}")
    if any(s["scale"] != case.order.case.scale for s in case.submissions):
        case.said.append("was submitted for the wrong scale")


def _mails(case: _Case) -> None:
    letters = case.letters
    if not letters and "mail_failed" in case.tasks:
        if not any(i["service"] == "mail" for i in case.struck) and not case.interrupted:
            case.said.append("got no mail although the mail server took everything")
        return
    if not letters and case.refunds and not case.alive and "refund_failed" in case.tasks:
        return  # the refund failed at once: nothing was promised
    if len(letters) != 1:
        case.said.append(f"got {len(letters)} different mails instead of one: {[letter.subject for letter in letters]}")
    for letter in letters:
        if str(case.order.job_id) not in letter.text:
            case.said.append(f"got a mail that does not name the order ({letter.subject})")
        if not LINK.search(letter.text):
            _refund_mail(case, letter)


def _refund_mail(case: _Case, letter: Letter) -> None:
    amount = f"${case.received / 100:.2f}"
    if amount not in letter.text or "refund" not in letter.text.lower():
        case.said.append(f"got a refund mail that does not name the {amount} ({letter.subject})")
    if not case.refunds and not case.lost_dispute:
        case.said.append("got a refund mail without a refund")


def _strangers(orders: Sequence[Order], seen: Seen) -> list[str]:
    jobs = {order.job_id for order in orders if order.paid_at is not None}
    people = {order.email for order in orders} | STAFF
    said = [
        f"the payment {intent['id']} belongs to none of the orders"
        for intent in seen.all_intents
        if intent["amount_received"] and intent["metadata"].get("job_id") not in jobs
    ]
    return said + [f"a mail went to {person}, who ordered nothing" for person in sorted(set(seen.letters) - people)]


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
