"""Whether every paid job ended as it had to, by what others saw of us: the stand-ins' ledgers, the customers'
mailboxes, and the files behind the links they were mailed.

Belongs here: the rules, as functions of that evidence. Does not belong here: fetching it (evidence.py). Nothing here
may read the pipeline's own tables or pages: they are what is judged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smi_pipeline.demo import pictures

CREDIT_CENTS = 4
FEE_PER_MILLE, FEE_FIXED_CENTS = 29, 30
"""What the stand-ins charge: design section 3, and what the demo starts them with."""

LINK = re.compile(r"https?://[^\s\"<>]+/smi/v1/download/[0-9A-Za-z]{64}")


@dataclass(frozen=True, kw_only=True)
class PaidJob:
    """What a customer ordered and paid, and how it has to end. `paid_at` in unix seconds; `mail_says` is part of the
    reason in the refund mail; `interrupted`: everything was stopped while it was under way, so that a second submission
    (the answer to the first was lost) and a refund for being late are right as well."""

    job_id: str
    case: str
    expected: str  # "delivered" | "refunded"
    email: str
    source_url: str
    scale: int
    price_cents: int
    paid_at: float
    mail_says: str = ""
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A mail as the mail server got it. `at` in unix seconds."""

    message_id: str
    to: tuple[str, ...]
    subject: str
    text: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the outside saw. `stripe` and `upsampler` are the stand-ins' ledgers; `staff` the shop's own addresses;
    `download` gives (HTTP status, body) of a link, `source` the bytes of a source image."""

    stripe: Mapping[str, Any]
    upsampler: Mapping[str, Any]
    letters: Sequence[Letter]
    staff: frozenset[str]
    download: Callable[[str], tuple[int, bytes]]
    source: Callable[[str], bytes]


@dataclass(kw_only=True)
class Finding:
    """How one job ended by the evidence. Money in cents; `credits` in Upsampler's credits; times in unix seconds, None
    when it never came to that. `outcome`: delivered, refunded, both, or lost for neither."""

    job: PaidJob
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
        """What the shop keeps of the payment."""
        return self.received_cents - self.refunded_cents

    @property
    def cost_cents(self) -> int:
        """The credits, and Stripe's fee, which it keeps after a refund."""
        return self.credits * CREDIT_CENTS + fee_cents(self.received_cents)

    @property
    def margin_cents(self) -> int:
        """What is left."""
        return self.revenue_cents - self.cost_cents


def fee_cents(received_cents: int) -> int:
    """What the Stripe stand-in keeps of a payment: 2.9 % to the nearest cent, and 30 cents."""
    return (received_cents * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED_CENTS if received_cents else 0


def examine(jobs: Sequence[PaidJob], evidence: Evidence) -> tuple[list[Finding], list[str]]:
    """How each job ended, and every violation as a sentence, those of single jobs first."""
    findings = [_examine_one(job, evidence) for job in jobs]
    violations = [f"{f.job.case} (job {f.job.job_id}) {said}" for f in findings for said in f.violations]
    return findings, violations + _strangers(jobs, evidence) + _money(evidence)


def _examine_one(job: PaidJob, evidence: Evidence) -> Finding:
    finding = Finding(job=job)
    _payment(finding, evidence)
    _submissions(finding, evidence)
    letters = _letters_to(job.email, evidence.letters)
    finding.mails = len(letters)
    finding.closed_at = min((letter.at for letter in letters), default=None)
    delivered = _downloads(finding, letters, evidence)
    if delivered and finding.refunds:
        finding.outcome = "both"
        finding.violations.append("was delivered and refunded")
    elif delivered or finding.refunds:
        finding.outcome = "delivered" if delivered else "refunded"
        late = job.interrupted and finding.outcome == "refunded"
        if finding.outcome != job.expected and not late:
            finding.violations.append(f"was {finding.outcome}, but had to be {job.expected}")
    else:
        finding.violations.append("was paid, but neither delivered nor refunded")
    _mails(finding, letters)
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
    # the live API format carries no job id, so the image's address, which is unique to the order, tells as well
    submitted = [
        record
        for record in evidence.upsampler["submissions"]
        if record["job_id"] == job.job_id or record["image_url"] == job.source_url
    ]
    finding.submissions = len(submitted)
    finding.submitted_at = min((record["at"] for record in submitted), default=None)
    finding.credits = sum(record["credits"] for record in submitted)
    allowed = 2 if job.interrupted else 1
    if len(submitted) > allowed:
        finding.violations.append(f"was submitted {len(submitted)} times instead of {allowed}")
    for record in submitted:
        if record["scale"] != job.scale:
            finding.violations.append(f"was submitted for {record['scale']}x instead of {job.scale}x")


def _downloads(finding: Finding, letters: Sequence[Letter], evidence: Evidence) -> bool:
    """Whether a link that was mailed leads to a file; says what is wrong with any link or file."""
    job, delivered = finding.job, False
    for link in dict.fromkeys(link for letter in letters for link in LINK.findall(letter.text)):
        status, body = evidence.download(link)
        if status != 200:
            finding.violations.append(f"was mailed a link that answers {status}")
            continue
        delivered = True
        source = evidence.source(job.source_url)
        if wrong := pictures.problem(source, body, job.scale):
            finding.violations.append(f"got a wrong file: {wrong}")
        needed = pictures.credits(source, job.scale)
        if not needed <= finding.credits <= needed * max(1, finding.submissions):
            finding.violations.append(f"cost {finding.credits} credits instead of {needed}")
    return delivered


def _mails(finding: Finding, letters: Sequence[Letter]) -> None:
    job, say = finding.job, finding.violations.append
    if len(letters) != 1:
        say(f"got {len(letters)} closing mails instead of one")
    for letter in letters:
        linked = bool(LINK.search(letter.text))
        if job.job_id not in letter.text:
            say(f"got a mail that does not name the order ({letter.subject})")
        if linked != (finding.outcome in ("delivered", "both")):
            say(f"got the wrong mail for being {finding.outcome} ({letter.subject})")
        elif finding.outcome == "refunded":
            amount = f"${finding.refunded_cents / 100:.2f}"
            if amount not in letter.text or "refund" not in letter.text.lower():
                say(f"got a refund mail that does not name the {amount} ({letter.subject})")
            if not job.interrupted and job.mail_says not in " ".join(letter.text.split()):
                say(f"got a refund mail without the reason ({job.mail_says!r})")


def _strangers(jobs: Sequence[PaidJob], evidence: Evidence) -> list[str]:
    """Money and mails of nobody the demo knows."""
    known_jobs = {job.job_id for job in jobs}
    known_people = {job.email for job in jobs} | evidence.staff
    said = []
    for intent in paid_intents(evidence):
        if intent["metadata"].get("job_id") not in known_jobs:
            said.append(f"the payment {intent['id']} belongs to none of the paid jobs")
    known_intents = {intent["id"] for intent in paid_intents(evidence)}
    for refund in alive_refunds(evidence):
        if refund["payment_intent"] not in known_intents:
            said.append(f"the refund {refund['id']} belongs to no payment")
    for person in sorted({to for letter in evidence.letters for to in letter.to} - known_people):
        said.append(f"a mail went to {person}, who ordered nothing")
    return said


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
    """The payments that brought money."""
    return [intent for intent in evidence.stripe["intents"] if intent["amount_received"] > 0]


def alive_refunds(evidence: Evidence) -> list[Mapping[str, Any]]:
    """The refunds that took money, or are about to."""
    return [refund for refund in evidence.stripe["refunds"] if refund["status"] not in ("failed", "canceled")]


def _letters_to(address: str, letters: Sequence[Letter]) -> list[Letter]:
    """Mails to this address, each Message-ID once: the same mail sent again is the same mail."""
    return list({letter.message_id: letter for letter in letters if address in letter.to}.values())
