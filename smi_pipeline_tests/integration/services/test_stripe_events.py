"""W2: Stripe's events are read whole, in a bounded tick and in bounded memory, whatever single ones do."""

import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from smi_pipeline.core.errors import AmbiguousError, TransientError, UnreadableError
from smi_pipeline.core.models import StripeEvent, StripePayment
from smi_pipeline.services.reconciliation import stripe_events
from smi_pipeline.services.reconciliation.time_windows import TimeWindowReader
from smi_pipeline_tests.integration.services.steps import Steps

START = datetime.fromisoformat("2026-03-01T00:00:00+00:00")


def event(shop: Steps, name: str, job_id: str, payment_intent: str, *, minutes: float = 0) -> None:
    """A payment that Stripe lists as an event of so many minutes ago."""
    shop.payments.events.append(
        StripeEvent(
            event_id=f"evt_{name}",
            type="payment_intent.succeeded",
            created_at=shop.state.submissions.now() - timedelta(minutes=minutes),
            object={
                "object": "payment_intent",
                "id": payment_intent,
                "metadata": {"source": "sell-my-images", "job_id": job_id},
            },
        )
    )
    shop.payments.events.sort(key=lambda each: each.created_at)


def unpaid(shop: Steps) -> tuple[str, str]:
    job_id = shop.register().job_id
    return job_id, shop.payments.pay(job_id, shop.job(job_id).price_cents)


def look(shop: Steps) -> str:
    """One look; what it raised."""
    try:
        stripe_events.reconcile_events(shop.ctx)
    except TransientError as error:
        return str(error)
    return ""


def never_answering(shop: Steps, monkeypatch: pytest.MonkeyPatch, payment_intent: str) -> list[str]:
    """From now on Stripe gives no answer about this payment; the list says how often it was asked."""
    read, asked = shop.payments.payment, list[str]()

    def payment(name: str) -> StripePayment:
        if name == payment_intent:
            asked.append(name)
            raise AmbiguousError("no answer about it")
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", payment)
    return asked


def test_a_hundred_thousand_events_are_read_in_bounded_memory(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    now = shop.state.submissions.now().replace(microsecond=0)
    listed = 0

    def events(since: datetime, types: tuple[str, ...], until: datetime | None = None) -> Iterator[StripeEvent]:
        nonlocal listed
        newest = now if until is None else min(now, until)
        for second in range(int((newest - timedelta(seconds=1)).timestamp()), int(since.timestamp()) - 1, -1):
            if second % 5 < 2:  # three days hold more than 100,000
                listed += 1
                made = datetime.fromtimestamp(second, now.tzinfo)
                body = {"object": "payment_intent", "metadata": {"source": "another"}, "text": f"{second}" * 100}
                yield StripeEvent(
                    event_id=f"evt_{second}", type="payment_intent.succeeded", created_at=made, object=body
                )

    monkeypatch.setattr(shop.payments, "events_since", events)
    tracemalloc.start()
    places = []
    for _ in range(3):
        assert stripe_events.reconcile_events(shop.ctx, limit=400)["not ours"] == 400
        places.append(shop.state.reconciliation.cursor(stripe_events.CURSOR) or "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000, "all of them take more than 100 MB"
    assert len(set(places)) == 3, "each look goes on where the last one ended"
    assert listed < 10_000, "and reads little more than it works on"


def test_the_slices_hold_everything_once_and_none_is_larger_than_it_may_be() -> None:
    moments = sorted(START + timedelta(seconds=(n * n) % 7200) for n in range(3000))
    largest = 0

    def read(since: datetime, until: datetime) -> Iterator[datetime]:
        return iter([at for at in reversed(moments) if since <= at < until])

    found: list[datetime] = []
    walk = TimeWindowReader(read, START, START + timedelta(hours=2), ends=float("inf"), most=50)
    for _, _, part in walk:
        if len(set(part)) > 1:
            largest = max(largest, len(part))
        found += sorted(part)
    assert found == moments
    assert largest <= 50
    assert walk.finished


def test_a_walk_without_time_says_how_far_it_came_and_reads_less_at_once_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def slow(since: datetime, until: datetime) -> Iterator[datetime]:
        for second in range(int((until - since).total_seconds())):
            clock[0] += 1
            yield since + timedelta(seconds=second)

    walk = TimeWindowReader(slow, START, START + timedelta(seconds=999), ends=30)
    assert list(walk) == []
    width, looks, at = walk.width, 0, walk.at
    while at < walk.until:
        again = TimeWindowReader(slow, at, START + timedelta(seconds=999), ends=clock[0] + 30, width=width)
        list(again)
        at, width, looks = again.at, again.width, looks + 1
        assert looks < 100
    assert again.finished


def test_an_event_that_stripe_gives_no_answer_about_keeps_no_other_waiting(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, stuck_payment = unpaid(shop)
    other, other_payment = unpaid(shop)
    event(shop, "stuck", stuck, stuck_payment, minutes=300)
    event(shop, "other", other, other_payment)
    asked = never_answering(shop, monkeypatch, stuck_payment)
    assert "no answer" in look(shop)
    assert shop.job(other).status == "pending"
    later, later_payment = unpaid(shop)
    event(shop, "later", later, later_payment)
    assert "no answer" in look(shop)
    assert shop.job(later).status == "pending"
    assert len(asked) == 2, "it is asked for at each look, though the reading has gone on"
    assert shop.tasks() == []
    shop.later(minutes=61)
    look(shop)
    assert shop.tasks() == ["stripe_event"]
    monkeypatch.undo()
    assert look(shop) == ""
    assert shop.job(stuck).status == "pending"
    assert shop.tasks() == [], "answered at last: nobody need look at it"


def test_an_event_that_is_never_answered_is_a_persons_in_the_end(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, payment_intent = unpaid(shop)
    event(shop, "stuck", stuck, payment_intent, minutes=20)
    newer, newer_payment = unpaid(shop)
    event(shop, "newer", newer, newer_payment)
    asked = never_answering(shop, monkeypatch, payment_intent)
    look(shop)
    shop.later(hours=2)
    look(shop)
    (task,) = shop.state.manual_tasks.opened()
    assert "evt_stuck" in task.message and "Stripe dashboard" in task.next_step
    shop.state.manual_tasks.close_by_id(task.task_id, actor="ann")
    shop.later(hours=1)
    look(shop)
    assert shop.tasks() == [], "settled by hand: it is not told again"
    shop.later(hours=24)
    look(shop)
    times = len(asked)
    assert look(shop) == ""
    assert len(asked) == times


def test_a_refund_event_waits_for_the_payment_that_was_not_answered(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, payment_intent = unpaid(shop)
    event(shop, "paid", job_id, payment_intent, minutes=10)
    refund = shop.payments.refund_by_hand(payment_intent, shop.job(job_id).price_cents)
    body = {"object": "refund", "id": refund.refund_id, "payment_intent": payment_intent}
    shop.payments.events.append(
        StripeEvent(event_id="evt_refund", type="refund.created", created_at=shop.state.submissions.now(), object=body)
    )
    never_answering(shop, monkeypatch, payment_intent)
    look(shop)
    monkeypatch.undo()
    look(shop)
    look(shop)
    assert shop.job(job_id).status == "refunded"
    assert shop.upscaler.submissions == []


def test_an_event_of_a_form_that_stripe_does_not_send_is_a_persons_and_keeps_no_other_waiting(shop: Steps) -> None:
    bad, good = unpaid(shop), unpaid(shop)
    event(shop, "bad", *bad, minutes=2)
    shop.payments.events[0].object["metadata"]["job_id"] = "no id\0"
    event(shop, "good", *good, minutes=1)
    assert look(shop) == ""
    assert shop.job(good[0]).status == "pending"
    assert shop.tasks() == ["stripe_event"]


def test_an_outage_in_the_middle_loses_no_event(shop: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [unpaid(shop) for _ in range(stripe_events.MAX_WAITING + 10)]
    for n, (job_id, payment_intent) in enumerate(jobs):
        event(shop, str(n), job_id, payment_intent, minutes=200 - n)

    def nothing(name: str) -> StripePayment:
        raise AmbiguousError("nobody is answered")

    monkeypatch.setattr(shop.payments, "payment", nothing)
    for _ in range(3):
        assert look(shop)
    assert shop.tasks() == []
    monkeypatch.undo()
    for _ in range(3):
        look(shop)
    assert shop.state.queries.counts() == {"pending": len(jobs)}


def test_an_event_that_becomes_visible_late_is_found(shop: Steps) -> None:
    first, second = unpaid(shop), unpaid(shop)
    event(shop, "first", *first)
    look(shop)
    event(shop, "second", *second, minutes=10)
    look(shop)
    assert shop.job(second[0]).status == "pending"


def test_a_clock_of_stripes_behind_or_ahead_of_ours_hides_no_event(shop: Steps) -> None:
    for name, minutes in (("one", 600), ("two", 595), ("three", 590), ("four", -10)):
        job = unpaid(shop)
        event(shop, name, *job, minutes=minutes)
        look(shop)
        assert shop.job(job[0]).status == "pending", name


def test_an_event_that_raises_anything_becomes_a_task_and_the_others_are_applied(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [unpaid(shop) for _ in range(3)]
    for number, (job_id, payment_intent) in enumerate(jobs):
        event(shop, str(number), job_id, payment_intent, minutes=10 - number)
    read = shop.payments.payment
    broken = [jobs[0][1]]

    def payment(name: str) -> StripePayment:
        if name in broken:
            raise ValueError("'reviewing' is not a valid state")
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", payment)
    assert look(shop) == ""
    assert [shop.job(job_id).status for job_id, _ in jobs] == ["awaiting_payment", "pending", "pending"]
    assert shop.tasks() == ["stripe_event"]
    assert look(shop) == ""
    assert shop.tasks() == ["stripe_event"]
    broken.clear()
    shop.later(minutes=1)
    assert look(shop) == ""
    assert shop.job(jobs[0][0]).status == "pending"
    assert shop.tasks() == [], "it is applied: nothing is left for a person"


def test_an_event_about_an_unreadable_object_waits_and_becomes_a_task_after_an_hour(
    shop: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id, payment_intent), other = unpaid(shop), unpaid(shop)
    event(shop, "odd", job_id, payment_intent, minutes=3)
    event(shop, "good", *other, minutes=2)
    read = shop.payments.payment

    def payment(name: str) -> StripePayment:
        if name == payment_intent:
            raise UnreadableError("Stripe's answer is not readable (TypeError)")
        return read(name)

    monkeypatch.setattr(shop.payments, "payment", payment)
    assert look(shop) == ""
    assert shop.job(other[0]).status == "pending"
    assert shop.tasks() == []
    shop.later(hours=2)
    assert look(shop) == ""
    assert shop.tasks() == ["stripe_event"]
