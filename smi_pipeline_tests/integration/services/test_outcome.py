"""Rule 2 and the leases: one outcome per job and round, whoever works on it, whatever dies."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from smi_pipeline.core.errors import PermanentError, TransientError
from smi_pipeline.core.models import Queue, Verdict
from smi_pipeline.services import fulfil, submit
from smi_pipeline_tests.integration.services.steps import Steps


def ready(shop: Steps) -> str:
    """A job whose result is known and not looked at."""
    job_id = shop.paid()
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    assert shop.job(job_id).queue is Queue.FULFIL
    return job_id


def test_two_workers_on_one_job_give_one_outcome(shop: Steps) -> None:
    job_id = ready(shop)
    lease_id, _ = shop.take(Queue.FULFIL)
    assert fulfil.verify_result(shop.ctx, job_id, lease_id).state == "done"
    with ThreadPoolExecutor(2) as pool:
        delivers = pool.submit(fulfil.deliver, shop.ctx, job_id, lease_id)
        cancels = pool.submit(shop.state.jobs.cancel, job_id, reason="cancelled", message="cancelled", actor="admin")
        won = (delivers.result().state == "done") + cancels.result()
    assert won == 1
    assert len(shop.outcomes(job_id)) == 1
    shop.refund_due()
    shop.mail_due()
    assert len(shop.mailer.subjects()) == 1


def test_a_zombie_whose_lease_was_lost_changes_nothing(shop: Steps) -> None:
    job_id = ready(shop)
    zombie, _ = shop.take(Queue.FULFIL)
    shop.later(seconds=60)
    fresh, keys = shop.take(Queue.FULFIL)
    assert keys == [job_id]
    assert fulfil.verify_result(shop.ctx, job_id, zombie).state == "lost"
    assert fulfil.deliver(shop.ctx, job_id, zombie).state == "lost"
    assert not shop.state.leases.reschedule(Queue.FULFIL, job_id, zombie, seconds=1, error="x", counts=True)
    assert shop.state.leases.renew(zombie) == 0
    assert fulfil.verify_result(shop.ctx, job_id, fresh).state == "done"
    assert fulfil.deliver(shop.ctx, job_id, fresh).state == "done"
    assert shop.outcomes(job_id) == [(1, "deliver")]


def test_a_zombie_that_finds_a_permanent_error_does_not_fail_the_job(shop: Steps) -> None:
    job_id = ready(shop)
    zombie, _ = shop.take(Queue.FULFIL)

    def steal(*_: object) -> Verdict:
        shop.later(seconds=60)
        shop.take(Queue.FULFIL)
        return Verdict(ok=False, facts=None, reason="result_rejected", message="black tile")

    shop.images.check_result = steal  # type: ignore
    assert fulfil.verify_result(shop.ctx, job_id, zombie).state == "lost"
    assert shop.job(job_id).status == "processing"
    assert shop.outcomes(job_id) == []


def test_a_row_whose_worker_died_twice_is_leased_alone(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(3)]
    for _ in range(2):
        assert shop.begin(Queue.SUBMIT) is not None
        shop.later(seconds=46)
    newer = shop.paid()
    assert shop.take(Queue.SUBMIT)[1] == [newer]
    assert [shop.take(Queue.SUBMIT)[1] for _ in range(3)] == [[job_id] for job_id in jobs]


def test_a_batch_whose_worker_died_is_leased_again_in_small_groups_and_soon_before_new_work(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(10)]
    assert shop.begin(Queue.SUBMIT) is not None
    shop.later(seconds=51)
    newer = shop.paid()
    assert [shop.take(Queue.SUBMIT)[1] for _ in range(3)] == [jobs[:8], jobs[8:], [newer]]


def test_a_batch_that_no_run_took_up_is_leased_again_as_a_whole(shop: Steps) -> None:
    jobs = [shop.paid() for _ in range(10)]
    shop.take(Queue.SUBMIT)
    shop.later(seconds=46)
    assert shop.take(Queue.SUBMIT)[1] == jobs


def test_a_poison_row_is_set_aside_after_five_and_refunded_and_its_batch_mates_go_on(shop: Steps) -> None:
    poison, good = shop.paid(), shop.paid()

    for _ in range(7):
        leased = shop.begin(Queue.SUBMIT)
        if leased is None:
            break
        for key in leased[1]:
            if key == poison and shop.job(poison).attempts <= 5:
                continue  # the process is gone, nothing is recorded
            try:
                if submit.prepare(shop.ctx, key, leased[0]).state == "done":
                    submit.submit(shop.ctx, key, leased[0])
            except PermanentError:
                pass
        shop.later(seconds=50)
    assert shop.job(good).submitted_at is not None
    assert shop.job(poison).reason_code == "set_aside"
    shop.refund_due()
    assert shop.job(poison).status == "refunded"


def test_an_unexpected_error_counts_and_ends_after_five_attempts(shop: Steps) -> None:
    job_id = ready(shop)
    shop.images.faults.extend([RuntimeError("a bug")] * 10)
    for _ in range(5):
        with pytest.raises(RuntimeError):
            shop.fulfil_due()
        assert shop.job(job_id).last_error == "RuntimeError: a bug"
        shop.later(minutes=20)
    shop.fulfil_due()
    assert shop.job(job_id).reason_code == "set_aside"
    assert "a bug" in (shop.job(job_id).reason_text or "")


def test_a_result_host_that_is_down_for_minutes_costs_nobody_the_order(shop: Steps) -> None:
    job_id = ready(shop)
    for _ in range(6):
        shop.fetcher.faults.append(TransientError("connection refused"))
        shop.fulfil_due()
        shop.later(seconds=140)
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_a_result_that_cannot_be_fetched_until_after_the_deadline_is_refunded(shop: Steps) -> None:
    job_id = ready(shop)
    shop.later(seconds=900 + 121)
    for _ in range(2):
        shop.fetcher.faults.append(TransientError("connection refused"))
        shop.fulfil_due()
        shop.later(minutes=5)
    assert shop.job(job_id).reason_code == "result_unreachable"


def test_a_result_that_we_come_to_late_is_not_given_up_at_the_first_try(shop: Steps) -> None:
    job_id = ready(shop)
    shop.later(hours=1)  # a backlog of our own
    shop.fetcher.faults.append(TransientError("connection refused"))
    shop.fulfil_due()
    assert shop.job(job_id).status == "processing"
    shop.later(minutes=5)
    shop.fulfil_due()
    assert shop.job(job_id).status == "completed"


def test_a_lease_that_is_given_back_is_due_again_and_no_attempt(shop: Steps) -> None:
    job_id = shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    assert shop.state.leases.give_back(lease_id) == 1
    assert shop.job(job_id).attempts == 0
    assert shop.take(Queue.SUBMIT)[1] == [job_id]


def test_a_renewed_lease_lives_on_and_one_that_ran_out_is_not_revived(shop: Steps) -> None:
    shop.paid()
    lease_id, _ = shop.take(Queue.SUBMIT)
    for _ in range(3):
        shop.later(seconds=40)
        assert shop.state.leases.renew(lease_id) == 1
    assert shop.take(Queue.SUBMIT) == ("", [])
    shop.later(seconds=46)
    assert shop.state.leases.renew(lease_id) == 0


def test_no_more_leases_than_slots(shop: Steps) -> None:
    for _ in range(3):
        shop.paid()
    assert shop.state.leases.lease(Queue.SUBMIT, 1, max_leases=2)
    assert shop.state.leases.lease(Queue.SUBMIT, 1, max_leases=2)
    assert shop.state.leases.lease(Queue.SUBMIT, 1, max_leases=2) is None


def test_many_workers_never_get_the_same_row(shop: Steps) -> None:
    jobs = {shop.paid() for _ in range(12)}
    with ThreadPoolExecutor(4) as pool:
        taken = [lease for lease in pool.map(lambda _: shop.state.leases.lease(Queue.SUBMIT, 2), range(8)) if lease]
    keys = [key for _, batch in taken for key in batch]
    assert sorted(keys) == sorted(jobs)


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict(ok=False, facts=None, reason="result_rejected", message="black tile"), "result_rejected"),
        (Verdict(ok=False, facts=None, reason="", message="?"), "result_rejected"),
    ],
)
def test_a_result_that_is_rejected_three_times_is_refunded_not_delivered(
    shop: Steps, verdict: Verdict, reason: str
) -> None:
    job_id = ready(shop)
    shop.images.verdict = verdict
    shop.fulfil_due()
    for _ in range(2):
        assert shop.job(job_id).status == "processing"
        assert shop.job(job_id).queue == "submit"
        shop.later(seconds=30)
        shop.submit_due()
        shop.upscaler.finish(shop.external_id(job_id))
        shop.poll()
        shop.fulfil_due()
    assert len(shop.upscaler.submissions) == 3
    assert shop.job(job_id).reason_code == reason
    assert shop.state.deliveries.current_token(job_id) is None


def test_success_that_never_has_an_image_is_refunded(shop: Steps) -> None:
    job_id = shop.paid()
    for _ in range(3):
        shop.submit_due()
        shop.upscaler.finish(shop.external_id(job_id), url=None)  # type: ignore[arg-type]
        shop.later(minutes=16)
        shop.poll()
        shop.fulfil_due()
    assert shop.job(job_id).reason_code == "no_result"


def test_a_kept_source_that_got_lost_is_fetched_again(shop: Steps) -> None:
    job_id = shop.paid()
    shop.upscaler.faults.append(TransientError("503", counts=False))
    shop.submit_due()
    shop.storage.files.clear()
    shop.later(minutes=2)
    shop.submit_due()
    assert shop.job(job_id).submitted_at is not None
    assert len(shop.storage.files) == 1
