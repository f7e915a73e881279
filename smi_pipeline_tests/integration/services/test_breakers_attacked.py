"""Attacks on the circuit breakers: what could lose an order, or leave a breaker open, against the real state."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import AccountError, AmbiguousError, NotFound, PermanentError, TransientError, Unavailable
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.models import Stage, SubmitRequest, UpscaleReply, Verdict
from smi_pipeline.core.vocabulary import Queue
from smi_pipeline.services import admin, submit
from smi_pipeline.services.completions import check_completions
from smi_pipeline_tests.integration.services.steps import Steps
from smi_pipeline_tests.integration.services.test_breakers import REJECTED, drain, paid, statuses

open_finding = pytest.mark.xfail(strict=True, reason="not mended yet")
HTTP_403 = PermanentError("source_unreachable", "images.example answered 403")


def refuse_with_502(request: SubmitRequest) -> UpscaleReply:
    raise AmbiguousError("Upsampler failed (502)")


def ended(shop: Steps, jobs: list[str]) -> int:
    return sum(shop.job(job_id).status == "failed" for job_id in jobs)


def run_while_failing(shop: Steps, jobs: list[str], words: str, *, minutes: int) -> None:
    """Every upscale is accepted and then fails with these words."""
    for _ in range(minutes * 6):
        shop.submit_due()
        for job_id in jobs:
            for call in shop.state.submissions.of_job(job_id):
                if call.state == "accepted":
                    shop.upscaler.fail(call.external_id, words)  # type: ignore[arg-type]
        shop.poll()
        shop.fulfil_due()
        shop.later(seconds=10)


def open_for_all(shop: Steps, *names: str) -> None:
    for name in names:
        shop.state.breakers.note(Failure(breaker=name, work_key="x", message="broken", scope=Scope.SHOP))


def opened(shop: Steps) -> list[str]:
    return [one.name for one in shop.state.breakers.all() if one.is_open]


def times_opened(shop: Steps) -> int:
    return int(shop.sql("SELECT count(*) AS n FROM smi.job_events WHERE event = 'breaker_opened'")[0]["n"])


def test_words_that_blame_the_image_of_every_order_end_three_at_most(shop: Steps) -> None:
    jobs = paid(shop, 8)
    run_while_failing(shop, jobs, "Unsupported image", minutes=3)
    assert ended(shop, jobs) <= 3
    drain(shop, jobs)
    assert statuses(shop, jobs) <= {"completed", "failed"}
    assert ended(shop, jobs) <= 3


def test_refusals_that_blame_the_image_of_every_order_end_three_at_most(shop: Steps) -> None:
    jobs = paid(shop, 8)
    refused = PermanentError("rejected_by_api", "400: unsupported image", scope=Scope.ORDER)
    shop.upscaler.faults.extend([refused] * 12)
    shop.submit_due()
    drain(shop, jobs)
    assert ended(shop, jobs) <= 3


def test_accepted_upscales_that_fail_for_lack_of_credits_end_none_and_open_one_breaker(shop: Steps) -> None:
    jobs = paid(shop, 8)
    run_while_failing(shop, jobs, "insufficient credits", minutes=6)
    assert ended(shop, jobs) == 0
    assert times_opened(shop) == 1
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_results_that_are_useless_for_longer_than_the_deadline_end_three_at_most(shop: Steps) -> None:
    jobs = paid(shop, 12)
    shop.submit_due()
    for job_id in jobs:
        shop.upscaler.finish(shop.external_id(job_id))
    shop.images.verdict = REJECTED
    shop.poll()
    for _ in range(6 * 25):
        shop.fulfil_due()
        check_completions(shop.ctx)
        shop.submit_due()
        for job_id in jobs:
            for call in shop.state.submissions.of_job(job_id):
                if call.state == "accepted":
                    shop.upscaler.finish(call.external_id)  # type: ignore[arg-type]
        shop.poll()
        shop.later(seconds=10)
    assert ended(shop, jobs) <= 3
    shop.images.verdict = None
    drain(shop, jobs)
    assert ended(shop, jobs) <= 3
    assert statuses(shop, jobs) <= {"completed", "failed"}


def test_successes_without_an_address_for_five_minutes_end_none(shop: Steps) -> None:
    jobs = paid(shop, 8)
    shop.submit_due()
    for job_id in jobs:
        shop.upscaler.finish(shop.external_id(job_id), url="")
    for _ in range(6):
        shop.poll()
        shop.later(minutes=1)
    shop.poll()
    shop.fulfil_due()
    assert opened(shop) == ["results"]
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_successes_without_an_address_at_their_deadline_end_three_at_most(shop: Steps) -> None:
    jobs = paid(shop, 8)
    shop.submit_due()
    for job_id in jobs:
        shop.upscaler.finish(shop.external_id(job_id), url="")
    shop.later(minutes=16)
    shop.poll()
    shop.fulfil_due()
    assert ended(shop, jobs) <= 3
    drain(shop, jobs)
    assert statuses(shop, jobs) <= {"completed", "failed"}
    assert ended(shop, jobs) <= 3


def test_single_orders_that_never_get_a_result_open_nothing_when_later_ones_succeeded(shop: Steps) -> None:
    stuck, slow, good = paid(shop, 2), paid(shop, 2), paid(shop, 3)
    shop.submit_due()
    for job_id in (*stuck, *good):
        shop.upscaler.finish(shop.external_id(job_id), url="" if job_id in stuck else "https://results.example/1.png")
    shop.poll()
    shop.fulfil_due()
    assert statuses(shop, good) == {"completed"}
    for _ in range(40):
        shop.later(minutes=1)
        shop.poll()
        shop.fulfil_due()
        shop.submit_due()
        for call in (call for job_id in stuck for call in shop.state.submissions.of_job(job_id)):
            if call.state == "accepted" and call.external_id:
                shop.upscaler.finish(call.external_id, url="")
        assert opened(shop) == []
    assert ended(shop, [*stuck, *slow]) == 4


def test_an_order_whose_source_is_shut_off_probes_the_other_open_breakers_too(shop: Steps) -> None:
    jobs = paid(shop, 4)
    open_for_all(shop, "results", "source:images.example")
    drain(shop, jobs)
    assert opened(shop) == []
    assert statuses(shop, jobs) == {"completed"}


def test_orders_set_aside_by_a_fault_of_the_shop_are_really_tried_again(shop: Steps) -> None:
    jobs = paid(shop, 6)
    shop.storage.faults.extend([OSError("no space left on device")] * 1000)
    for _ in range(40):
        lease_id, keys = shop.begin(Queue.SUBMIT) or ("", [])
        for key in keys:
            with suppress(OSError, PermanentError):
                submit.prepare(shop.ctx, key, lease_id)
        shop.change("UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() WHERE queue IS NOT NULL")
    assert opened(shop) == ["submissions"]
    shop.storage.faults.clear()
    drain(shop, jobs)
    assert ended(shop, jobs) <= 3
    assert opened(shop) == []


def test_a_breaker_that_the_migration_took_over_closes(shop: Steps) -> None:
    jobs = paid(shop, 3)
    shop.change(
        """INSERT INTO smi.breakers (name, message, opened_at, failing_since, next_probe_at)
           VALUES ('submissions', '402', smi.now(), smi.now(), smi.now())"""
    )
    drain(shop, jobs, minutes=1)
    assert opened(shop) == []


def test_probing_uses_up_the_submissions_of_three_orders_at_most(shop: Steps) -> None:
    jobs = paid(shop, 5)
    shop.upscaler.faults.extend([AmbiguousError("Upsampler failed (502)")] * 1000)
    for _ in range(6 * 50):
        shop.submit_due()
        check_completions(shop.ctx)
        shop.fulfil_due()
        shop.later(seconds=10)
    assert ended(shop, jobs) <= 3
    assert max(len(shop.state.submissions.of_job(job_id)) for job_id in jobs) <= 4
    shop.upscaler.faults.clear()
    drain(shop, jobs, minutes=40)
    assert ended(shop, jobs) <= 3
    assert statuses(shop, jobs) <= {"completed", "failed"}


def test_submissions_that_get_no_clear_answer_for_an_hour_end_three_orders_at_most(shop: Steps) -> None:
    jobs = paid(shop, 6)
    before = shop.paid()
    shop.upscaler.replies["up_before"] = UpscaleReply(external_id="up_before", stage=Stage.QUEUED)
    shop.change(
        """INSERT INTO smi.submissions (job_id, round, state, external_id, token_hash)
           VALUES (:id, 1, 'completed', 'up_before', 'x')""",
        id=before,
    )
    answer, shop.upscaler.submit = shop.upscaler.submit, refuse_with_502  # type: ignore[method-assign]
    for _ in range(6 * 60):
        shop.submit_due()
        check_completions(shop.ctx)
        shop.fulfil_due()
        shop.later(seconds=10)
    assert opened(shop) == ["submissions"]
    shop.upscaler.submit = answer  # type: ignore[method-assign]
    drain(shop, jobs, minutes=40)
    assert ended(shop, jobs) <= 3
    assert statuses(shop, jobs) <= {"completed", "failed"}


def test_a_probe_asks_for_a_status_before_it_uses_up_a_submission(shop: Steps) -> None:
    shop.submit_due()
    jobs = paid(shop, 4)
    shop.submit_due()
    jobs += paid(shop, 4)
    open_for_all(shop, "submissions")
    shop.upscaler.faults.extend([AmbiguousError("Upsampler failed (502)")] * 1000)
    for _ in range(4):
        shop.submit_due()
        shop.later(seconds=60)
    assert [len(shop.state.submissions.of_job(job_id)) for job_id in jobs[4:]] == [0] * 4


def test_no_order_is_taken_while_status_calls_keep_failing(shop: Steps) -> None:
    paid(shop, 2)
    shop.submit_due()
    for _ in range(40):
        shop.upscaler.faults.extend([AccountError("401 wrong key")] * 2)
        shop.poll()
        shop.upscaler.faults.clear()
        shop.later(seconds=30)
        assert opened(shop) == ["status"]
        with pytest.raises(Unavailable):
            shop.register()


def test_no_order_is_taken_between_status_calls_that_grow_rare(shop: Steps) -> None:
    paid(shop, 3)
    shop.submit_due()
    for _ in range(3):
        shop.upscaler.faults.extend([TransientError("524")] * 3)
        shop.poll()
        shop.later(seconds=61)
    assert opened(shop) == ["status"]
    shop.later(minutes=4)  # the next status call is due, and tells whether it is over
    with pytest.raises(Unavailable):
        shop.register()


def test_a_result_that_we_reject_for_its_dimensions_is_submitted_again(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.submit_due()
    shop.upscaler.finish(shop.external_id(job_id))
    shop.images.verdict = Verdict(ok=False, facts=None, reason="result_rejected", message="wrong dimensions")
    shop.poll()
    shop.fulfil_due()
    shop.images.verdict = None
    drain(shop, [job_id])
    assert shop.job(job_id).status == "completed"


def test_words_of_ours_about_one_result_open_no_breaker(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.images.verdict = Verdict(ok=False, facts=None, reason="result_rejected", message="white balance is off")
    drain(shop, [job_id])
    assert shop.job(job_id).status == "failed"
    assert opened(shop) == []


def test_a_host_that_shows_a_page_instead_of_its_images_ends_no_order(shop: Steps) -> None:
    jobs = paid(shop, 6)
    shop.fetcher.bodies["https://images.example/sunset.png"] = b"<html> are you a robot </html>"
    shop.submit_due()
    assert ended(shop, jobs) == 0
    assert opened(shop) == ["source:images.example"]
    shop.fetcher.bodies.clear()
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_a_hold_while_a_breaker_is_open_keeps_the_time_that_it_has_stopped(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.state.breakers.open_by_hand("submissions", message="we move house", actor="admin")
    shop.later(hours=4)
    admin.hold(shop.ctx, job_id, "the customer has called")
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).status == "pending"
    shop.later(minutes=10)
    shop.state.breakers.close_by_hand("submissions", policy=shop.policy, actor="admin")
    admin.release(shop.ctx, job_id)
    check_completions(shop.ctx)
    drain(shop, [job_id])
    assert shop.job(job_id).status == "completed"


def test_an_outage_while_a_breaker_is_open_is_given_back_once(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    before = shop.job(job_id).start_by
    check_completions(shop.ctx)
    shop.state.breakers.open_by_hand("submissions", message="we move house", actor="admin")
    shop.down(hours=2)
    check_completions(shop.ctx)
    shop.state.breakers.close_by_hand("submissions", policy=shop.policy, actor="admin")
    given = shop.job(job_id).start_by - before  # type: ignore[operator]
    assert timedelta(hours=1.9) < given < timedelta(hours=2.1)


def test_two_breakers_that_are_open_at_once_give_the_time_back_once(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    before = shop.job(job_id).start_by
    shop.state.breakers.open_by_hand("submissions", message="we move house", actor="admin")
    shop.later(hours=1)
    shop.state.breakers.open_by_hand("results", message="we move house", actor="admin")
    shop.later(hours=1)
    shop.state.breakers.close_by_hand("submissions", policy=shop.policy, actor="admin")
    shop.later(hours=1)
    shop.state.breakers.close_by_hand("results", policy=shop.policy, actor="admin")
    given = shop.job(job_id).start_by - before  # type: ignore[operator]
    assert timedelta(hours=2.9) < given < timedelta(hours=3.1)


def test_a_probe_that_our_decoder_convicts_holds_up_nobody(shop: Steps) -> None:
    bad = shop.paid()
    good = shop.paid()
    shop.images.faults.append(PermanentError("invalid_image", "cut off after half of its rows"))
    open_for_all(shop, "submissions")
    leased = shop.begin(Queue.SUBMIT)
    assert leased and leased[1] == [bad]
    with pytest.raises(PermanentError):
        submit.prepare(shop.ctx, bad, leased[0])
    assert shop.job(bad).status == "failed"
    drain(shop, [good], minutes=1)
    assert shop.job(good).status == "completed"


def test_one_upscale_whose_status_is_forbidden_alerts_once(shop: Steps) -> None:
    paid(shop, 2)
    shop.submit_due()
    for _ in range(10):
        shop.upscaler.faults.extend([NotFound("403 forbidden"), None])
        shop.poll()
        shop.later(seconds=30)
    assert times_opened(shop) <= 1


def test_three_upscales_in_a_row_whose_status_is_not_told_stop_submissions(shop: Steps) -> None:
    jobs = paid(shop, 3)
    shop.submit_due()
    shop.upscaler.faults.extend([NotFound("404")] * 2)
    shop.poll()
    assert opened(shop) == []
    for _ in range(2):
        shop.upscaler.faults.extend([NotFound("404")] * 3)
        shop.poll()
        shop.later(seconds=61)
    assert opened(shop) == ["status"]
    drain(shop, jobs)
    assert opened(shop) == []
    assert statuses(shop, jobs) == {"completed"}


def test_orders_of_a_host_with_capital_umlauts_wait_for_their_breaker_and_go_on(shop: Steps) -> None:
    jobs = []
    for _ in range(3):
        job_id = shop.register(url="https://BÜCHER.example/a.png").job_id
        shop.pay(job_id)
        jobs.append(job_id)
    shop.fetcher.faults.extend([HTTP_403] * 4)
    shop.submit_due()
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_closing_a_breaker_and_accepting_its_probe_at_once_do_not_lock_each_other_out(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    open_for_all(shop, "results")
    leased = shop.begin(Queue.SUBMIT)
    assert leased
    submit.prepare(shop.ctx, job_id, leased[0])
    begun = shop.state.submissions.begin(job_id, leased[0], actor="test")
    assert begun
    reply = UpscaleReply(external_id="up_1", stage=Stage.QUEUED)
    with ThreadPoolExecutor(1) as pool:
        with shop.database.transaction() as tx:
            tx.run("SELECT FROM smi.breakers WHERE name = 'results' FOR UPDATE")  # as who closes it begins
            accepting = pool.submit(shop.state.submissions.accepted, begun[0], reply, policy=shop.policy, actor="test")
            time.sleep(0.5)
            tx.run("UPDATE smi.upscale_jobs SET next_attempt_at = smi.now() WHERE queue = 'submit'")
        accepting.result(timeout=10)
    assert shop.state.submissions.of_job(job_id)[0].state == "accepted"


def test_an_outage_while_an_order_waits_to_be_submitted_again_does_not_count(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.submit_due()
    shop.upscaler.fail(shop.external_id(job_id), "Internal error")
    shop.poll()
    shop.fulfil_due()
    assert shop.job(job_id).queue == "submit"
    check_completions(shop.ctx)
    shop.down(hours=1)
    check_completions(shop.ctx)
    drain(shop, [job_id])
    assert shop.job(job_id).status == "completed"
