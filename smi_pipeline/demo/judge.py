"""Judge whether every paid job ended as it must, from what the outside saw: the sandbox's ledgers, the customers'
mailboxes, and the files behind the mailed links.

The rules are pure functions of that evidence, which evidence.py fetches. Nothing here reads the pipeline's own tables
or pages, because they are what is judged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smi_pipeline.demo import pictures
from smi_pipeline.demo.orders import Order

CREDIT_CENTS = 4
FEE_PER_MILLE, FEE_FIXED_CENTS = 29, 30
"""The prices of the sandbox: a credit at Upsampler, and Stripe's fee."""

DELAY = "Your image takes longer"
"""Begins the subject of the mail to customers whose order waits for a fault of the shop; it closes no order."""

FAULT_OF_THE_SHOP = "Upsampler takes no submissions"
"""What the alert about the case no-credits says."""

LINK = re.compile(r"https?://[^\s\"<>]+/smi/v1/download/[0-9A-Za-z]{64}")


@dataclass(frozen=True, kw_only=True)
class ReceivedMail:
    """A mail as the mail server received it. `at` in unix seconds."""

    message_id: str
    to: tuple[str, ...]
    subject: str
    text: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the outside saw. `stripe` and `upsampler` are the sandbox's ledgers; `staff`: the shop's own addresses.

    `download` returns HTTP status and body of a link, `source` the bytes of a source image."""

    stripe: Mapping[str, Any]
    upsampler: Mapping[str, Any]
    mails: Sequence[ReceivedMail]
    staff: frozenset[str]
    download: Callable[[str], tuple[int, bytes]]
    source: Callable[[str], bytes]


@dataclass(kw_only=True)
class Finding:
    """How a job ended according to the evidence. `outcome`: delivered, refunded, both, or lost for neither.

    Times are in unix seconds, None for what did not happen; `credits` are Upsampler's."""

    job: Order
    outcome: str = "lost"
    mails: int = 0
    refunds: int = 0
    submissions: int = 0
    received_cents: int = 0
    refunded_cents: int = 0
    credits: int = 0
    submitted_at: float | None = None
    closed_at: float | None = None
    violations: list[str] = field(default_factory=list)

    @property
    def revenue_cents(self) -> int:
        """Payment less refunds."""
        return self.received_cents - self.refunded_cents

    @property
    def cost_cents(self) -> int:
        """Price of the credits and Stripe's fee, which is not returned by a refund."""
        return self.credits * CREDIT_CENTS + fee_cents(self.received_cents)

    @property
    def margin_cents(self) -> int:
        """Revenue less cost."""
        return self.revenue_cents - self.cost_cents


def fee_cents(received_cents: int) -> int:
    """Return the fee of the Stripe sandbox: 2.9 % to the nearest cent, and 30 cents."""
    return (received_cents * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED_CENTS if received_cents else 0


def examine(jobs: Sequence[Order], evidence: Evidence) -> tuple[list[Finding], list[str]]:
    """Return how each job ended, and every violation as a sentence, those of single jobs first."""
    findings = [_examine_one(job, evidence) for job in jobs]
    violations = [f"{f.job.case_name} (job {f.job.job_id}) {violation}" for f in findings for violation in f.violations]
    return findings, violations + _unknown_parties(jobs, evidence) + _money(evidence)


def told_to_team(evidence: Evidence) -> list[ReceivedMail]:
    """Return the mails to the shop's own addresses that are no copies of customers' mails, each once."""
    customers = {mail.message_id for mail in evidence.mails if set(mail.to) - evidence.staff}
    return list({mail.message_id: mail for mail in evidence.mails if mail.message_id not in customers}.values())


def untold_fault(evidence: Evidence) -> list[str]:
    """Return a violation if the team was not told of the fault of the shop, which hits several orders and ends none."""
    told = sum(FAULT_OF_THE_SHOP in f"{mail.subject} {mail.text}" for mail in told_to_team(evidence))
    return [] if told else ["nobody was told that Upsampler took no submissions"]


def _examine_one(job: Order, evidence: Evidence) -> Finding:
    finding = Finding(job=job)
    _payment(finding, evidence)
    _submissions(finding, evidence)
    mails = _mails_to(job.email, evidence.mails)
    finding.mails = len(mails)
    finding.closed_at = min((mail.at for mail in mails), default=None)
    delivered = _downloads(finding, mails, evidence)
    if delivered and finding.refunds:
        finding.outcome = "both"
        finding.violations.append("was delivered and refunded")
    elif delivered or finding.refunds:
        finding.outcome = "delivered" if delivered else "refunded"
        late = job.interrupted and finding.outcome == "refunded"
        if finding.outcome != job.case.expected and not late:
            finding.violations.append(f"was {finding.outcome}, but had to be {job.case.expected}")
    else:
        finding.violations.append("was paid, but neither delivered nor refunded")
    _mails(finding, mails)
    return finding


def _payment(finding: Finding, evidence: Evidence) -> None:
    job, say = finding.job, finding.violations.append
    intents = [i for i in paid_intents(evidence) if i["metadata"].get("job_id") == job.job_id]
    finding.received_cents = sum(intent["amount_received"] for intent in intents)
    if len(intents) != 1:
        say(f"has {len(intents)} payments at Stripe instead of one")
    elif finding.received_cents != job.price_cents:
        say(f"was paid with {finding.received_cents} cents instead of {job.price_cents}")
    ids = {intent["id"] for intent in intents}
    refunds = [refund for refund in alive_refunds(evidence) if refund["payment_intent"] in ids]
    finding.refunds = len(refunds)
    finding.refunded_cents = sum(refund["amount"] for refund in refunds)
    if len(refunds) > 1:
        say(f"was refunded {len(refunds)} times")
    if refunds and finding.refunded_cents != finding.received_cents:
        say(f"got {finding.refunded_cents} of {finding.received_cents} cents back")


def _submissions(finding: Finding, evidence: Evidence) -> None:
    job = finding.job
    # the live API format has no job id; the image's address is unique to the order
    submitted = [
        record
        for record in evidence.upsampler["submissions"]
        if record["job_id"] == job.job_id or record["image_url"] == job.source_url
    ]
    finding.submissions = len(submitted)
    finding.submitted_at = min((record["at"] for record in submitted), default=None)
    finding.credits = sum(record["credits"] for record in submitted)
    allowed = max(2 if job.interrupted else 1, job.case.submissions)
    if len(submitted) > allowed:
        finding.violations.append(f"was submitted {len(submitted)} times instead of {allowed}")
    for record in submitted:
        if record["scale"] != job.case.scale:
            finding.violations.append(f"was submitted for {record['scale']}x instead of {job.case.scale}x")


def _downloads(finding: Finding, mails: Sequence[ReceivedMail], evidence: Evidence) -> bool:
    """Return whether a mailed link leads to a file; record what is wrong with any link or file."""
    job, delivered = finding.job, False
    for link in dict.fromkeys(link for mail in mails for link in LINK.findall(mail.text)):
        status, body = evidence.download(link)
        if status != 200:
            finding.violations.append(f"was mailed a link that answers {status}")
            continue
        delivered = True
        source = evidence.source(job.source_url)
        if wrong := pictures.problem(source, body, job.case.scale):
            finding.violations.append(f"got a wrong file: {wrong}")
        needed = pictures.credits(source, job.case.scale)
        if not needed <= finding.credits <= needed * max(1, finding.submissions):
            finding.violations.append(f"cost {finding.credits} credits instead of {needed}")
    return delivered


def _mails(finding: Finding, received: Sequence[ReceivedMail]) -> None:
    job, say = finding.job, finding.violations.append
    mails = [mail for mail in received if not mail.subject.startswith(DELAY)]
    if len(mails) != 1:
        say(f"got {len(mails)} closing mails instead of one")
    for mail in mails:
        linked = bool(LINK.search(mail.text))
        if job.job_id not in mail.text:
            say(f"got a mail that does not name the order ({mail.subject})")
        if linked != (finding.outcome in ("delivered", "both")):
            say(f"got the wrong mail for being {finding.outcome} ({mail.subject})")
        elif finding.outcome == "refunded":
            amount = f"${finding.refunded_cents / 100:.2f}"
            if amount not in mail.text or "refund" not in mail.text.lower():
                say(f"got a refund mail that does not name the {amount} ({mail.subject})")
            if not job.interrupted and job.case.mail_says not in " ".join(mail.text.split()):
                say(f"got a refund mail without the reason ({job.case.mail_says!r})")


def _unknown_parties(jobs: Sequence[Order], evidence: Evidence) -> list[str]:
    """Return payments, refunds and mails that belong to no order."""
    known_jobs = {job.job_id for job in jobs}
    known_people = {job.email for job in jobs} | evidence.staff
    known_intents = {intent["id"] for intent in paid_intents(evidence)}
    unknown_intents = [i["id"] for i in paid_intents(evidence) if i["metadata"].get("job_id") not in known_jobs]
    unknown_refunds = [r["id"] for r in alive_refunds(evidence) if r["payment_intent"] not in known_intents]
    unknown_people = sorted({to for mail in evidence.mails for to in mail.to} - known_people)
    return [
        *(f"the payment {intent} belongs to none of the paid jobs" for intent in unknown_intents),
        *(f"the refund {refund} belongs to no payment" for refund in unknown_refunds),
        *(f"a mail went to {person}, who ordered nothing" for person in unknown_people),
    ]


def _money(evidence: Evidence) -> list[str]:
    received = [intent["amount_received"] for intent in paid_intents(evidence)]
    refunded = sum(refund["amount"] for refund in alive_refunds(evidence))
    fees = sum(fee_cents(amount) for amount in received)
    left, balance = sum(received) - refunded - fees, evidence.stripe["balance_cents"]
    if left == balance:
        return []
    return [
        f"the balance is {balance} cents, but {sum(received)} received - {refunded} refunded - {fees} fees are {left}"
    ]


def paid_intents(evidence: Evidence) -> list[Mapping[str, Any]]:
    """Return the payments that brought money."""
    return [intent for intent in evidence.stripe["intents"] if intent["amount_received"] > 0]


def alive_refunds(evidence: Evidence) -> list[Mapping[str, Any]]:
    """Return the refunds that moved money, or are about to."""
    return [refund for refund in evidence.stripe["refunds"] if refund["status"] not in ("failed", "canceled")]


def _mails_to(address: str, mails: Sequence[ReceivedMail]) -> list[ReceivedMail]:
    """Return the mails to an address, each Message-ID once: a mail that was sent again is the same mail."""
    return list({mail.message_id: mail for mail in mails if address in mail.to}.values())
