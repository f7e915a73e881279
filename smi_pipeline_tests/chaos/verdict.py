"""What was right and what was not, by the ledgers and mailboxes alone: the demo's judge, with what a death may cost.

A death may cost time, and the credits of one more submission where the first one's answer died with its reader; the
order, where an answer had been lost before. Nothing else: no file, no money, no second mail.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from smi_pipeline.demo.judge import Evidence, Finding, examine
from smi_pipeline_tests.chaos.arena import Guest

PATIENCE_SECONDS = 20 * 60.0
"""On the moved clock: an order that has not ended so long after it was paid is stuck."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Sentences, empty when all is well; `resubmitted` counts the orders that were submitted a second time."""

    violations: list[str]
    resubmitted: int


def judge(
    guests: Sequence[Guest],
    evidence: Evidence,
    now: float,
    *,
    ambiguous: int | None,
    everybody: Collection[Guest] | None = None,
) -> Verdict:
    """Judges some orders, and names those that could not be placed or paid. `now` is the moved clock; `ambiguous` how
    many submissions may have lost their answer, None for any number; `everybody`: all orders there are, so that money
    and mails of strangers count.
    """
    paid = [guest for guest in guests if guest.paid_at is not None]
    findings, said = examine(paid, evidence)
    violations = [f"{f.job.case_name} (job {f.job.job_id}) {what}" for f in findings for what in f.violations]
    if everybody is not None:
        violations += said[len(violations) :]
    violations += [
        f"{guest.case_name} of {guest.email} could not be ordered and paid"
        for guest in guests
        if guest.pays and guest.paid_at is None
    ]
    expected_twice = lost_twice = 0
    for guest, finding in zip(paid, findings, strict=True):
        violations += _stuck(guest, now)
        name = f"{finding.job.case_name} (job {finding.job.job_id})"
        again = guest.case_name == "reply-lost" or guest.case.submissions > 1
        if finding.outcome == "refunded" and finding.job.case.expected == "delivered":
            lost_twice += again
            if again and (ambiguous is None or lost_twice <= ambiguous):
                continue  # a second answer was lost: no third submission is made
            violations.append(f"{name} was refunded, but could have been delivered")
        if finding.outcome == "delivered" and finding.submissions == 0:
            violations.append(f"{name} was delivered, but never submitted")
        expected_twice += again and finding.submissions > 1
    resubmitted = sum(finding.submissions > 1 for finding in findings) - expected_twice
    if ambiguous is not None and resubmitted > ambiguous:
        violations.append(
            f"{resubmitted} orders were submitted twice, but only {ambiguous} submissions lost their answer"
            f" ({', '.join(_twice(findings))})"
        )
    return Verdict(violations=violations, resubmitted=resubmitted)


def _stuck(guest: Guest, now: float) -> list[str]:
    took = (guest.ended_at or now) - guest.paid_by_clock
    if guest.ended_at is not None and took <= PATIENCE_SECONDS:
        return []
    how = f"ended only after {took:.0f} s" if guest.ended_at else f"is stuck: it has not ended after {took:.0f} s"
    return [f"{guest.case_name} (job {guest.job_id}) {how}"]


def _twice(findings: Sequence[Finding]) -> list[str]:
    return [finding.job.job_id for finding in findings if finding.submissions > 1]
