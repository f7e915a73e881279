"""A worker that was thought dead and comes back writes nothing: every write of a run asks for its lease."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import LeaseLost, PermanentError
from smi_pipeline.core.faults import MAIL, Failure
from smi_pipeline.core.models import ImageInfo, Queue, Verdict
from smi_pipeline.services import fulfil
from smi_pipeline_tests.integration.services.steps import Steps

FACTS = ImageInfo(format="PNG", width=1, height=1, bytes=1, sha256="zombie")
GOOD = Verdict(ok=True, facts=FACTS)
CANCELLED = PermanentError("cancelled", "w")

Prepare = Callable[[Steps], str]
Write = Callable[[Steps, str, str], object]


def refusal(key: str) -> Failure:
    return Failure(breaker=MAIL, work_key=key, message="w")


def to_submit(shop: Steps) -> str:
    return shop.paid()


def to_fulfil(shop: Steps) -> str:
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    return job_id


def to_refund(shop: Steps) -> str:
    return str(shop.state.refunds.of_job(shop.failed())[0].refund_id)


def to_mail(shop: Steps) -> str:
    job_id = shop.failed()
    shop.refund_due()
    return f"{job_id}/refund/1"


def mail(shop: Steps, key: str):
    found = shop.state.emails.get(key)
    assert found is not None
    return found


WRITES: dict[str, tuple[Queue, Prepare, Write]] = {
    "keeps a source": (
        Queue.SUBMIT,
        to_submit,
        lambda s, key, lease: s.state.submissions.prepared(
            key,
            lease,
            source=FACTS,
            source_key="k",
            source_url="https://images.example/a.png",
            expected_seconds=1,
            policy=s.ctx.policy,
            actor="zombie",
        ),
    ),
    "begins a submission": (
        Queue.SUBMIT,
        to_submit,
        lambda s, key, lease: s.state.submissions.begin(key, lease, actor="zombie"),
    ),
    "fails a job": (
        Queue.SUBMIT,
        to_submit,
        lambda s, key, lease: s.state.deliveries.fail(key, lease, CANCELLED, policy=s.ctx.policy, actor="zombie"),
    ),
    "reschedules a job": (
        Queue.SUBMIT,
        to_submit,
        lambda s, key, lease: s.state.leases.reschedule(Queue.SUBMIT, key, lease, seconds=9, error="e", counts=True),
    ),
    "keeps a result": (
        Queue.FULFIL,
        to_fulfil,
        lambda s, key, lease: s.state.deliveries.verified(
            key, lease, GOOD, result_key="k", policy=s.ctx.policy, actor="zombie"
        ),
    ),
    "delivers": (
        Queue.FULFIL,
        to_fulfil,
        lambda s, key, lease: s.state.deliveries.deliver(key, lease, ttl=timedelta(hours=1), actor="zombie"),
    ),
    "intends a refund": (
        Queue.REFUND,
        to_refund,
        lambda s, key, lease: s.state.refunds.intend(int(key), lease, 1, renew_key=True),
    ),
    "finds a refund not needed": (
        Queue.REFUND,
        to_refund,
        lambda s, key, lease: s.state.refunds.not_needed(int(key), lease, why="w", actor="zombie"),
    ),
    "gives a refund up": (
        Queue.REFUND,
        to_refund,
        lambda s, key, lease: s.state.refunds.give_up(int(key), lease, why="w", actor="zombie"),
    ),
    "hands a mail over": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.hand_over(mail(s, key), lease, b"content", to="customer@example.org"),
    ),
    "takes a mail back": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.postpone(mail(s, key), lease, seconds=9, error="e", anew=True),
    ),
    "is told to try a mail later": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.refused(mail(s, key), lease, refusal(key), final=False, actor="zombie"),
    ),
    "is told that a mail is refused": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.refused(mail(s, key), lease, refusal(key), final=True, actor="zombie"),
    ),
    "withdraws a mail": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.withdraw(mail(s, key), lease, why="w", actor="zombie"),
    ),
    "gives a mail up": (
        Queue.MAIL,
        to_mail,
        lambda s, key, lease: s.state.emails.give_up(mail(s, key), lease, why="w", actor="zombie"),
    ),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_zombie_changes_nothing_when_it(shop: Steps, what: str) -> None:
    queue, prepare, write = WRITES[what]
    key = prepare(shop)
    zombie, keys = shop.take(queue)
    assert keys == [key]
    shop.later(seconds=60)
    fresh, keys = shop.take(queue)
    assert keys == [key]
    before = shop.everything_written()
    with suppress(LeaseLost):
        write(shop, key, zombie)
    assert shop.everything_written() == before
    write(shop, key, fresh)  # the same by the worker that has the lease does change something
    assert shop.everything_written() != before


def test_a_zombie_puts_no_other_file_in_the_place_of_the_delivered_one(shop: Steps) -> None:
    job_id = to_fulfil(shop)
    zombie, _ = shop.take(Queue.FULFIL)
    shop.fetcher.bodies["https://cdn.example/result.png"] = b"PNG 400 320 of the zombie"

    def overtaken(*_: object) -> Verdict:
        """While the zombie compares what it has fetched, another worker fetches, compares and delivers."""
        del shop.images.check_result  # type: ignore[method-assign]
        shop.later(seconds=60)
        shop.fetcher.bodies["https://cdn.example/result.png"] = b"PNG 400 320"
        shop.fulfil_due()
        return Verdict(ok=True, facts=shop.images.facts_of(b"PNG 400 320 of the zombie"))

    shop.images.check_result = overtaken  # type: ignore
    assert fulfil.verify_result(shop.ctx, job_id, zombie).state == "lost"
    job = shop.job(job_id)
    assert job.status == "completed"
    assert shop.storage.files[job.result_key or ""] == b"PNG 400 320"


def test_under_a_lease_that_ran_out_no_submission_begins(shop: Steps) -> None:
    """Else the clock could end the job at the same moment, and the call be paid for in vain."""
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    shop.later(seconds=46)
    with pytest.raises(LeaseLost):
        shop.state.submissions.begin(job_id, lease_id, actor="slow worker")


def test_the_clock_takes_no_job_from_a_living_worker(shop: Steps) -> None:
    job_id = shop.paid()
    shop.later(hours=3)
    lease_id, keys = shop.take(Queue.SUBMIT)
    assert keys == [job_id]
    shop.poll()
    assert shop.state.leases.renew(lease_id) == 1
    shop.later(seconds=60)
    shop.poll()
    assert shop.state.leases.renew(lease_id) == 0
