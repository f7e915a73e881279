"""Rule 5: time in which the service itself was down and had not submitted does not count against `start_by`, up to
`SMI_MAX_OUTAGE_HOURS`. `down` moves the clock without a sign of life, `later` with the service at work."""

from dataclasses import replace
from datetime import timedelta

import pytest

from smi_pipeline.core.errors import TransientError
from smi_pipeline.services import admin
from smi_pipeline.services.completions import check_completions
from smi_pipeline_tests.integration.services.steps import Steps


@pytest.fixture
def alive(shop: Steps) -> Steps:
    """A shop whose sensors have ticked before."""
    check_completions(shop.ctx)
    return shop


def overdue(shop: Steps) -> list[str]:
    return [row.job_id for row in shop.state.queries.alarms(shop.ctx.policy)]


def test_a_job_that_waited_through_an_outage_is_submitted_not_refunded(alive: Steps) -> None:
    job_id = alive.paid()
    alive.down(hours=3)
    assert overdue(alive) == [], "the alarm agrees, also before the first sign of life"
    assert check_completions(alive.ctx)["not_started"] == 0
    assert overdue(alive) == []
    alive.submit_due()
    assert alive.job(job_id).submitted_at is not None


def test_only_the_time_of_the_outage_is_given_back(alive: Steps) -> None:
    job_id = alive.paid()
    alive.later(minutes=40)
    check_completions(alive.ctx)
    alive.down(hours=3)
    assert check_completions(alive.ctx)["not_started"] == 0
    alive.later(minutes=19)
    assert check_completions(alive.ctx)["not_started"] == 0
    alive.later(minutes=2)
    assert check_completions(alive.ctx)["not_started"] == 1
    alive.fulfil_due()
    assert alive.job(job_id).reason_code == "not_started_in_time"


def test_a_job_that_was_paid_during_the_outage_has_its_whole_time_and_no_more(alive: Steps) -> None:
    alive.down(hours=2)
    job_id = alive.paid()  # the gateway was alive
    alive.down(minutes=30)
    check_completions(alive.ctx)
    left = (alive.job(job_id).start_by or alive.state.submissions.now()) - alive.state.submissions.now()
    assert timedelta(minutes=59) < left <= timedelta(minutes=60)


def test_an_outage_longer_than_the_limit_counts_from_there_on(alive: Steps) -> None:
    job_id = alive.paid()
    alive.ctx = replace(alive.ctx, policy=replace(alive.policy, max_outage=timedelta(hours=2)))
    alive.down(hours=4)
    assert overdue(alive) == [job_id]
    assert check_completions(alive.ctx)["not_started"] == 1
    alive.fulfil_due()
    alive.refund_due()
    assert alive.job(job_id).status == "refunded"


def test_the_limit_holds_for_all_outages_of_a_job_together(alive: Steps) -> None:
    alive.paid()
    alive.ctx = replace(alive.ctx, policy=replace(alive.policy, max_outage=timedelta(hours=2)))
    for _ in range(2):
        alive.down(minutes=80)
        assert check_completions(alive.ctx)["not_started"] == 0
    alive.down(minutes=30)
    assert check_completions(alive.ctx)["not_started"] == 1


def test_a_pause_between_two_ticks_is_no_outage(alive: Steps) -> None:
    job_id = alive.paid()
    before = alive.job(job_id).start_by
    for _ in range(4):
        alive.down(seconds=50)
        check_completions(alive.ctx)
    assert alive.job(job_id).start_by == before


def test_the_time_on_hold_is_not_given_back_twice(alive: Steps) -> None:
    job_id = alive.paid()
    admin.hold(alive.ctx, job_id, "a question")
    alive.down(hours=2)
    check_completions(alive.ctx)
    admin.release(alive.ctx, job_id)
    left = (alive.job(job_id).start_by or alive.state.submissions.now()) - alive.state.submissions.now()
    assert timedelta(minutes=59) < left <= timedelta(minutes=60)


def test_two_ticks_at_once_after_an_outage_give_the_time_back_once(alive: Steps) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job_id = alive.paid()
    before = alive.job(job_id).start_by
    alive.down(hours=2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: alive.state.submissions.expire_unstarted(policy=alive.policy), range(4)))
    assert before is not None
    given = (alive.job(job_id).start_by or before) - before
    assert timedelta(hours=2) <= given < timedelta(hours=2, minutes=1)


def test_the_deadline_of_a_submitted_job_does_not_stop_and_its_last_call_decides(alive: Steps) -> None:
    finished, running = alive.paid(), alive.paid()
    alive.submit_due()
    alive.down(hours=3)
    assert overdue(alive) == []
    alive.upscaler.finish(alive.external_id(finished))
    check_completions(alive.ctx)
    alive.fulfil_due()
    assert alive.job(finished).status == "completed"
    assert alive.job(running).reason_code == "timed_out"


def test_after_an_outage_the_last_call_has_its_two_minutes(alive: Steps) -> None:
    job_id = alive.paid()
    alive.submit_due()
    alive.down(hours=3)
    alive.upscaler.faults.append(TransientError("the network is not up yet"))
    check_completions(alive.ctx)
    alive.fulfil_due()
    assert alive.job(job_id).status == "processing"
    alive.upscaler.finish(alive.external_id(job_id))
    alive.later(seconds=30)
    check_completions(alive.ctx)
    alive.fulfil_due()
    assert alive.job(job_id).status == "completed"


def test_after_an_outage_the_alarm_waits_its_five_minutes_and_then_rings(alive: Steps) -> None:
    job_id = alive.failed()
    check_completions(alive.ctx)
    alive.down(hours=2)
    check_completions(alive.ctx)
    assert overdue(alive) == []
    alive.later(minutes=6)
    assert overdue(alive) == [job_id]


def test_an_outage_is_in_the_audit_trail_with_its_length(alive: Steps) -> None:
    alive.down(hours=2)
    check_completions(alive.ctx)
    ((details,),) = [
        tuple(row.values()) for row in alive.sql("SELECT details FROM smi.job_events WHERE event = 'outage'")
    ]
    assert details["seconds"] == pytest.approx(7200, abs=30)
