"""The chaos harness proves itself: every wrong that is planted is reported, and nothing is left out silently."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from smi_pipeline.demo.judge import Evidence
from smi_pipeline.failpoints import POINTS
from smi_pipeline_tests.chaos import cases
from smi_pipeline_tests.chaos.arena import Guest
from smi_pipeline_tests.chaos.matrix import Options, chosen
from smi_pipeline_tests.chaos.report import Report, rows
from smi_pipeline_tests.chaos.verdict import PATIENCE_SECONDS, Verdict, judge
from smi_pipeline_tests.chaos.waves import Result
from smi_pipeline_tests.unit.demo.test_judge import GOOD, ExampleShop, mail, photo

__all__ = ["photo"]

PAID_AT = 1000.0


def guests(ctx: ExampleShop) -> list[Guest]:
    """The two orders of a case, ended a minute after they were paid."""
    return [
        Guest(
            number=number,
            case_name=recipe,
            email=job.email,
            source_url=job.source_url,
            job_id=job.job_id,
            price_cents=job.price_cents,
            paid_at=PAID_AT,
            paid_by_clock=PAID_AT,
            ended_at=PAID_AT + 60,
            interrupted=True,
        )
        for number, (recipe, job) in enumerate(zip(("good", "fails"), ctx.jobs, strict=True), start=1)
    ]


def evidence(ctx: ExampleShop) -> Evidence:
    return Evidence(
        stripe=ctx.stripe,
        upsampler=ctx.upsampler,
        mails=ctx.mails,
        staff=frozenset({"owner@shop.example"}),
        download=lambda link: ctx.files.get(link, (404, b"")),
        source=lambda url: ctx.photo,
    )


def judged(
    ctx: ExampleShop, orders: list[Guest] | None = None, *, now: float = PAID_AT + 60, ambiguous: int = 0
) -> Verdict:
    orders = guests(ctx) if orders is None else orders
    return judge(orders, evidence(ctx), now, ambiguous=ambiguous, everybody=orders)


@pytest.fixture
def ctx(photo: bytes) -> ExampleShop:
    return ExampleShop(photo)


def test_what_ended_well_is_no_violation(ctx: ExampleShop) -> None:
    assert judged(ctx) == Verdict(violations=[], resubmitted=0)


def _double_refund(ctx: ExampleShop) -> None:
    ctx.stripe["refunds"].append({"id": "re_2", "payment_intent": "pi_2", "amount": 50, "status": "succeeded"})


def _double_mail(ctx: ExampleShop) -> None:
    ctx.mails.append(mail("3", "ada@example.com", ctx.mails[0].text))


def _lost_job(ctx: ExampleShop) -> None:
    del ctx.mails[0]


def _double_submission(ctx: ExampleShop) -> None:
    ctx.upsampler["submissions"].append(dict(ctx.upsampler["submissions"][0], credits=0))


def _triple_submission(ctx: ExampleShop) -> None:
    _double_submission(ctx)
    _double_submission(ctx)


def _wrong_file(ctx: ExampleShop) -> None:
    link = next(iter(ctx.files))
    ctx.files[link] = (200, ctx.photo)


def _refunded_good(ctx: ExampleShop) -> None:
    ctx.mails[0] = dataclasses.replace(ctx.mails[0], text=f"Your refund has been made. Amount: $1.20. Order: {GOOD}")
    ctx.stripe["refunds"].append({"id": "re_9", "payment_intent": "pi_1", "amount": 120, "status": "succeeded"})
    ctx.stripe["balance_cents"] -= 120


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (_double_refund, "was refunded 2 times"),
        (_double_mail, "got 2 closing mails instead of one"),
        (_lost_job, "was paid, but neither delivered nor refunded"),
        (_double_submission, "1 orders were submitted twice, but only 0 submissions lost their answer"),
        (_triple_submission, "was submitted 3 times instead of 2"),
        (_wrong_file, "got a wrong file"),
        (_refunded_good, "was refunded, but could have been delivered"),
    ],
)
def test_a_planted_wrong_is_reported(ctx: ExampleShop, plant: Callable[[ExampleShop], Any], said: str) -> None:
    plant(ctx)
    assert any(said in what for what in judged(ctx).violations)


def test_a_submission_that_lost_its_answer_may_be_made_once_more(ctx: ExampleShop) -> None:
    _double_submission(ctx)
    assert judged(ctx, ambiguous=1) == Verdict(violations=[], resubmitted=1)


def test_an_order_whose_second_answer_was_lost_too_may_be_refunded(ctx: ExampleShop) -> None:
    _refunded_good(ctx)
    orders = guests(ctx)
    orders[0].case_name = "reply-lost"
    could = "was refunded, but could have been delivered"
    assert any(could in what for what in judged(ctx, orders, ambiguous=0).violations)
    assert not any(could in what for what in judged(ctx, orders, ambiguous=1).violations)


def test_an_order_that_never_ends_is_stuck_and_one_that_ends_late_as_well(ctx: ExampleShop) -> None:
    open_one, late = guests(ctx)
    open_one.ended_at = None
    late.ended_at = PAID_AT + PATIENCE_SECONDS + 1
    said = judged(ctx, [open_one, late], now=PAID_AT + PATIENCE_SECONDS + 1).violations
    assert f"good (job {GOOD}) is stuck: it has not ended after 1201 s" in said
    assert any("ended only after 1201 s" in what for what in said)


def test_a_customer_who_could_not_pay_is_reported_and_one_who_did_not_want_to_is_not(ctx: ExampleShop) -> None:
    first, second = guests(ctx)
    first.paid_at = second.paid_at = None
    second.pays = False
    assert [what for what in judged(ctx, [first, second]).violations if "could not be ordered" in what] == [
        f"good of {first.email} could not be ordered and paid"
    ]


def test_everything_that_is_wrong_makes_the_result_bad() -> None:
    kill = cases.matrix(1)[0]
    wave = cases.Wave(number=1, victim=cases.ITSELF, kills=(kill,))
    fine, missed, wrong, slow = (Report(seed=1) for _ in range(4))
    fine.add(Result(wave=wave, hit=[kill]), "wave")
    fine.recovered = [59.0]
    assert not fine.bad
    missed.add(Result(wave=wave), "wave")
    assert missed.bad and dict(rows(missed))[kill.point].count("0 -1") == 1
    wrong.add(Result(wave=wave, hit=[kill], violations=["a double refund"]), "wave")
    assert wrong.bad and wrong.violations == ["wave: a double refund"]
    slow.recovered = [20.0] * 50 + [61.0]
    assert slow.bad


def test_every_failpoint_is_in_the_matrix_with_every_victim_it_can_have() -> None:
    kills = cases.matrix(3)
    assert cases.unlisted() == []
    assert {kill.point for kill in kills} == set(POINTS)
    for point in POINTS:
        of_point = [kill for kill in kills if kill.point == point]
        assert {kill.victim for kill in of_point} >= {cases.ITSELF}
        others = {kill.victim for kill in of_point} | {kill.process for kill in of_point}
        assert others >= set(cases.VICTIMS) or all(kill.recipe in cases.FINAL for kill in of_point), point


def test_who_passes_a_point_that_the_matrix_does_not_know_is_named() -> None:
    alerts = ["mailer.send.before@code-fulfilment", "mailer.send.before@gateway"]
    assert cases.surprises(["mailer.send.after@worker-priority", *alerts]) == []
    assert cases.surprises(["mailer.send.after@webserver"]) == ["mailer.send@webserver"]


def test_a_seed_gives_the_same_waves_again_and_none_is_left_out() -> None:
    kills = cases.matrix(2)
    planned = cases.waves(kills, 7)
    assert planned == cases.waves(kills, 7)
    assert planned != cases.waves(kills, 8)
    assert sorted(k.name for wave in planned for k in wave.kills) == sorted(k.name for k in kills)
    for wave in planned:
        assert len({kill.armed for kill in wave.kills}) == len(wave.kills), "a point is armed once in a wave"


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("submissions.mark_for_poll.after@gateway", {"submissions.mark_for_poll.after@gateway"}),
        ("submissions.mark_for_poll.after@gateway/postgres", {"submissions.mark_for_poll.after@gateway/postgres"}),
        (
            "submissions.mark_for_poll.after",
            {f"submissions.mark_for_poll.after@gateway{v}" for v in ("", "/daemon", "/code-fulfilment", "/postgres")},
        ),
    ],
)
def test_one_cell_or_one_point_can_be_replayed_alone(only: str, names: set[str]) -> None:
    assert {kill.name for kill in chosen(Options(only=(only,)))} == names
