"""Faults of the shop end no order: circuit breakers, against the real state."""

import pytest

from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    LocalError,
    PermanentError,
    TransientError,
    Unavailable,
)
from smi_pipeline.core.faults import Failure, Scope
from smi_pipeline.core.models import Verdict
from smi_pipeline.services.alerts import raise_alarms
from smi_pipeline.services.completions import check_completions, take_hint
from smi_pipeline_tests.integration.services.steps import Steps

REFUSED = PermanentError("rejected_by_api", "Upsampler refused the image (400: we are moving)")
REJECTED = Verdict(ok=False, facts=None, reason="result_rejected", message="the result is 512 x 512 pixels")


def paid(shop: Steps, count: int) -> list[str]:
    return [shop.paid() for _ in range(count)]


def statuses(shop: Steps, jobs: list[str]) -> set[str]:
    return {str(shop.job(job_id).status) for job_id in jobs}


def drain(shop: Steps, jobs: list[str], *, minutes: int = 14) -> None:
    """Run everything every ten seconds, as if Upsampler finished each upscale in that time."""
    for _ in range(minutes * 6):
        shop.submit_due()
        for job_id in jobs:
            for call in shop.state.submissions.of_job(job_id):
                if call.state == "accepted":
                    shop.upscaler.finish(call.external_id)  # type: ignore[arg-type]
        shop.poll()
        shop.fulfil_due()
        if statuses(shop, jobs) <= {"completed", "failed"}:
            return
        shop.later(seconds=10)


def test_three_orders_that_are_refused_in_a_row_stop_all_others_before_they_are_tried(shop: Steps) -> None:
    jobs = paid(shop, 10)
    shop.upscaler.faults.extend([REFUSED] * 40)
    shop.submit_due()
    tried = 40 - len(shop.upscaler.faults)
    assert tried <= 4
    assert statuses(shop, jobs) <= {"processing", "pending"}
    assert shop.tasks() == ["breaker"]
    with pytest.raises(Unavailable):
        shop.register()
    shop.upscaler.faults.clear()
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}
    assert shop.tasks() == []
    shop.register()


def test_an_open_breaker_is_probed_by_one_order_at_a_time_and_not_all_the_time(shop: Steps) -> None:
    paid(shop, 10)
    shop.upscaler.faults.extend([REFUSED] * 100)
    shop.submit_due()
    before = len(shop.upscaler.faults)
    for _ in range(60):
        shop.later(seconds=10)
        shop.submit_due()
    probes = before - len(shop.upscaler.faults)
    assert 8 <= probes <= 20


def test_an_account_without_credits_ends_no_order_and_the_first_refusal_stops_all(shop: Steps) -> None:
    jobs = paid(shop, 5)
    shop.upscaler.faults.extend([AccountError("Upsampler refuses the account (insufficient credits)")] * 2)
    shop.submit_due()
    assert shop.tasks() == ["breaker"]
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_results_that_hit_every_order_are_submitted_again_when_results_are_good_again(shop: Steps) -> None:
    jobs = paid(shop, 6)
    shop.images.verdict = REJECTED
    shop.submit_due()
    for job_id in jobs:
        shop.upscaler.finish(shop.external_id(job_id))
    shop.poll()
    shop.fulfil_due()
    assert shop.tasks() == ["breaker"]
    shop.later(seconds=60)
    shop.images.verdict = None
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_calls_without_a_clear_answer_stop_after_three_orders_and_the_lost_ones_are_excused(shop: Steps) -> None:
    jobs = paid(shop, 8)
    shop.upscaler.faults.extend([AmbiguousError("Upsampler failed (502)")] * 12)
    for _ in range(80):
        shop.submit_due()
        if not shop.upscaler.faults:
            break
        shop.later(seconds=15)
    assert not shop.upscaler.faults
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}
    assert max(len(shop.state.submissions.of_job(job_id)) for job_id in jobs) <= 4


def test_a_source_host_that_refuses_programs_holds_up_its_own_orders_alone(shop: Steps) -> None:
    jobs = paid(shop, 4)
    shop.fetcher.faults.extend([PermanentError("source_unreachable", "images.example answered 403")] * 6)
    shop.submit_due()
    (breaker,) = [one for one in shop.state.breakers.all() if one.is_open]
    assert breaker.name == "source:images.example"
    assert shop.state.breakers.refusal(["submissions", "results"]) is None
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_one_order_that_fails_among_good_ones_opens_nothing(shop: Steps) -> None:
    for _ in range(4):
        good = shop.paid()
        bad = shop.paid()
        shop.submit_due()
        shop.upscaler.finish(shop.external_id(good))
        shop.upscaler.fail(shop.external_id(bad), "internal error")
        shop.poll()
        shop.fulfil_due()
    assert shop.tasks() == []


def test_the_clock_of_a_waiting_order_stands_still_while_a_breaker_is_open(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.upscaler.faults.extend([AccountError("402 no credits")] * 2)
    shop.submit_due()
    shop.later(minutes=90)
    assert check_completions(shop.ctx)["not_started"] == 0
    shop.submit_due()
    shop.later(minutes=2)
    shop.submit_due()
    left = (shop.job(job_id).start_by - shop.state.submissions.now()).total_seconds()  # type: ignore[operator]
    assert left > 50 * 60


def test_a_shop_where_nothing_waits_takes_the_order_that_probes_after_a_minute(shop: Steps) -> None:
    jobs = paid(shop, 3)
    for job_id in jobs:
        shop.submit_due()
        shop.upscaler.fail(shop.external_id(job_id), "Unsupported image")
        shop.poll()
        shop.fulfil_due()
    shop.later(minutes=20)  # the third waits for the breaker
    shop.poll()
    shop.fulfil_due()
    assert [one.name for one in shop.state.breakers.all() if one.is_open] == ["results"]
    assert shop.state.waiting.end(jobs[2], actor="its customer") == "ended"
    shop.change("UPDATE smi.breakers SET next_probe_at = smi.now()")
    with pytest.raises(Unavailable):
        shop.register()
    shop.later(seconds=61)
    good = shop.paid()
    drain(shop, [good], minutes=3)
    assert statuses(shop, [good]) == {"completed"}
    assert shop.tasks() == []


def test_a_hiccup_of_a_minute_opens_nothing(shop: Steps) -> None:
    jobs = paid(shop, 5)
    shop.upscaler.faults.extend([TransientError("Upsampler cannot be reached", counts=False)] * 5)
    shop.submit_due()
    assert shop.tasks() == []
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_a_breaker_opened_by_hand_stays_open_until_it_is_closed_by_hand(shop: Steps) -> None:
    jobs = paid(shop, 2)
    shop.state.breakers.open_by_hand("submissions", message="we move house", actor="admin")
    for _ in range(5):
        shop.submit_due()
        shop.later(minutes=1)
    assert shop.upscaler.submissions == []
    assert shop.state.breakers.close_by_hand("submissions", policy=shop.ctx.policy, actor="admin")
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_upscales_that_never_end_cost_two_orders_and_the_others_are_submitted_again(shop: Steps) -> None:
    jobs = paid(shop, 8)
    shop.submit_due()
    shop.later(minutes=15)
    shop.poll()  # Upsampler has lost all of them
    shop.later(minutes=3)
    shop.poll()
    shop.fulfil_due()
    drain(shop, jobs)
    ended = [str(shop.job(job_id).status) for job_id in jobs]
    assert ended.count("failed") <= 2, ended
    assert ended.count("completed") == 8 - ended.count("failed")


def test_status_calls_that_are_refused_stop_new_submissions_and_end_no_order(shop: Steps) -> None:
    jobs = paid(shop, 2)
    shop.submit_due()
    jobs.append(shop.paid())
    shop.upscaler.faults.extend([AccountError("401 wrong key")] * 2)
    shop.poll()
    assert [one.name for one in shop.state.breakers.all() if one.is_open] == ["status"]
    shop.submit_due()
    assert len(shop.upscaler.submissions) == 2
    shop.later(minutes=1)
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}
    assert shop.tasks() == []


def test_a_definite_no_about_one_order_is_asked_again_ever_more_rarely(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.upscaler.faults.extend([REFUSED] * 400)
    for _ in range(500):
        shop.submit_due()
        shop.later(seconds=10)
        check_completions(shop.ctx)
        shop.fulfil_due()
    assert shop.job(job_id).status == "failed"
    assert 400 - len(shop.upscaler.faults) < 60


def two_results(shop: Steps) -> str:
    """An order of which two calls have completed: the first was lost, and identified later."""
    (job_id,) = paid(shop, 1)
    shop.upscaler.after_effect.append(AmbiguousError("no answer"))
    shop.submit_due()
    shop.later(seconds=140)
    shop.submit_due()
    lost, second = shop.state.submissions.of_job(job_id)
    assert (str(lost.state), str(second.state)) == ("lost", "accepted")
    external_id = f"up_{job_id[:8]}_1"
    token = shop.upscaler.submissions[0].webhook_url.rpartition("/")[2]
    take_hint(shop.ctx, token, external_id.encode())
    shop.upscaler.finish(external_id, url="https://cdn.example/first.png")
    shop.upscaler.finish(shop.external_id(job_id), url="https://cdn.example/result.png")
    shop.poll()
    assert [str(call.state) for call in shop.state.submissions.of_job(job_id)] == ["completed"] * 2
    return job_id


@pytest.mark.parametrize("reason", ["result_rejected", "no_result", "result_unreachable"])
def test_the_second_of_two_results_is_tried_before_the_image_is_submitted_again(shop: Steps, reason: str) -> None:
    job_id = two_results(shop)
    if reason == "no_result":
        shop.change("UPDATE smi.submissions SET result_url = NULL WHERE result_url LIKE '%first%'")
    elif reason == "result_rejected":
        shop.images.verdict = REJECTED
        shop.fulfil_one()
        shop.images.verdict = None
    else:
        shop.fetcher.faults.extend([PermanentError("result_unreachable", "404")] * 100)
        for _ in range(60):
            shop.fulfil_one()
            if [str(call.state) for call in shop.state.submissions.of_job(job_id)] != ["completed"] * 2:
                break
            shop.later(minutes=1)
        shop.fetcher.faults.clear()
    for _ in range(3):
        shop.fulfil_due()
        shop.later(seconds=10)
    assert shop.job(job_id).status == "completed"
    assert len(shop.upscaler.submissions) == 2


def test_two_results_that_are_both_useless_are_submitted_again(shop: Steps) -> None:
    job_id = two_results(shop)
    shop.images.verdict = REJECTED
    for _ in range(3):
        shop.fulfil_due()
    shop.images.verdict = None
    drain(shop, [job_id])
    assert shop.job(job_id).status == "completed"
    assert len(shop.upscaler.submissions) == 3


def test_an_order_that_expires_before_it_is_submitted_again_counts_its_failure_once(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    shop.submit_due()
    shop.upscaler.fail(shop.external_id(job_id), "internal error")
    shop.poll()
    shop.fulfil_due()
    assert shop.state.breakers.get("results").failed == [job_id]
    shop.state.breakers.note_success("results", shop.policy)
    shop.later(minutes=20)
    check_completions(shop.ctx)
    shop.fulfil_due()
    assert shop.job(job_id).status == "failed"
    assert shop.job(job_id).reason_code == "upscale_failed"
    assert shop.state.breakers.get("results").failed == []


def test_a_call_that_is_open_already_is_no_failure_of_upsampler(shop: Steps) -> None:
    (job_id,) = paid(shop, 1)
    begin = shop.state.submissions.begin
    shop.state.submissions.begin = lambda *args, **more: None  # type: ignore[method-assign]  # another run was faster
    shop.submit_due()
    shop.state.submissions.begin = begin  # type: ignore[method-assign]
    assert shop.state.breakers.get("submissions").failed == ()
    assert str(shop.job(job_id).queue) == "submit"


def test_the_task_of_an_earlier_release_about_the_account_is_closed_when_calls_work(shop: Steps) -> None:
    shop.state.manual_tasks.open(
        kind="account", subject="upsampler", job_id=None, message="402.", next_step="Check the key."
    )
    shop.state.breakers.note(Failure(breaker="submissions", work_key="x", message="402", scope=Scope.SHOP))
    raise_alarms(shop.ctx)
    assert sorted(shop.tasks()) == ["account", "breaker"]
    shop.state.breakers.note_success("submissions", shop.policy)
    raise_alarms(shop.ctx)
    assert shop.tasks() == []


def test_when_status_calls_are_answered_again_all_results_are_asked_for_at_once(shop: Steps) -> None:
    jobs = paid(shop, 4)
    shop.submit_due()
    for job_id in jobs:
        shop.upscaler.finish(shop.external_id(job_id))
    shop.upscaler.faults.extend([TransientError("no answer")] * 40)
    for _ in range(12):
        shop.poll()
        shop.later(seconds=60)
    shop.upscaler.faults.clear()
    check_completions(shop.ctx, limit=1)  # the first answer
    check_completions(shop.ctx)
    assert {shop.job(job_id).stage for job_id in jobs} == {"completed"}


def test_three_images_that_were_really_replaced_do_not_close_the_shop_for_their_host(shop: Steps) -> None:
    replaced = []
    for number in range(3):
        replaced.append(shop.register(url=f"https://images.example/{number}.png").job_id)
        shop.pay(replaced[-1])
        shop.fetcher.bodies[f"https://images.example/{number}.png"] = b"PNG 640 480"
    for _ in range(6):
        shop.submit_due()
        shop.later(seconds=20)
    assert [one.name for one in shop.state.breakers.all() if one.is_open] == ["source:images.example"]
    shop.register()  # its image can be fetched, and is good
    assert not shop.state.breakers.get("source:images.example").is_open
    for _ in range(6):
        shop.submit_due()
        shop.later(seconds=20)
    assert {shop.job(job_id).reason_code for job_id in replaced} == {"source_changed"}


@pytest.mark.parametrize("queue", ["submit", "fulfil"])
def test_a_disk_of_ours_that_is_full_is_no_outage_of_those_we_fetch_from(shop: Steps, queue: str) -> None:
    jobs = paid(shop, 4)
    if queue == "fulfil":
        shop.submit_due()
        for job_id in jobs:
            shop.upscaler.finish(shop.external_id(job_id))
        shop.poll()
    for _ in range(6):
        shop.fetcher.faults.extend([LocalError("The download could not be written to disk: No space left")] * 4)
        shop.submit_due() if queue == "submit" else shop.fulfil_due()
        assert not shop.fetcher.faults
        shop.later(minutes=10)
    assert [one.name for one in shop.state.breakers.all() if one.failed] == []
    drain(shop, jobs)
    assert statuses(shop, jobs) == {"completed"}


def test_no_order_is_refused_for_its_image_while_a_disk_of_ours_is_full(shop: Steps) -> None:
    shop.fetcher.faults.append(LocalError("No temporary file for a download: No space left"))
    with pytest.raises(LocalError):
        shop.register()
