"""Stripe events whose webhook was lost. `stripe_payments` compares the payments themselves, without events."""

import time
from collections import Counter
from datetime import datetime, timedelta

from pydantic import BaseModel, Field

from smi_pipeline.core.errors import PermanentError, RefusedError, TransientError, UnreadableError
from smi_pipeline.core.models import StripeEvent
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.services import stripe_answers
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.services.intake import DISPUTE_EVENTS, HANDLED_EVENTS, REFUND_EVENTS, handle_stripe_event
from smi_pipeline.services.reconciliation.progress import Progress
from smi_pipeline.services.reconciliation.time_windows import TimeWindowReader

OVERLAP = timedelta(minutes=15)
"""Events may become visible late, and Stripe's clock is not ours: each scan starts this much earlier."""

FIRST_SCAN = timedelta(days=3)
"""How far back the first scan goes; Stripe keeps events for 30 days."""

CURSOR = "stripe_events_read"

MAX_WAITING = 50
"""Unanswered events that do not delay the others. More than that is an outage: the scan stops."""

REPORT_AFTER, GIVE_UP_AFTER = timedelta(hours=1), timedelta(hours=24)
"""How long an event may stay unanswered until it becomes a manual task, and until it is no longer asked for."""


class _Waiting(BaseModel):
    """An event without an answer from Stripe: when it was created, first asked for, and whether a task names it."""

    created: datetime
    since: datetime
    reported: bool = False


class _ScanPosition(Progress):
    """How far Stripe's events were read."""

    at: datetime
    width: timedelta | None = None
    newest: datetime | None = None
    waiting: dict[str, _Waiting] = Field(default_factory=dict)


def reconcile_events(ctx: ServiceContext, *, limit: int = 2000, seconds: float = 20.0) -> Counter[str]:
    """Apply stored Stripe events that are not in the inbox, oldest first, for `seconds`; the rest is for the next scan.
    Return the number of events per effect.

    An unreadable event becomes a manual task, as does one that cannot be applied for any reason. An event without an
    answer from Stripe is asked for again by each scan and becomes a manual task after an hour. Neither delays the
    others. Raise TransientError, after the others, when
    Stripe did not answer about one.
    """
    scan = _EventScan(ctx, limit=limit, seconds=seconds)
    with stripe_answers.counted(ctx):
        try:
            scan.read_on()
            scan.ask_again()
        finally:
            scan.save()
        if scan.unanswered is not None:
            raise scan.unanswered
    return scan.tally


class _EventScan:
    """One scan of Stripe's events."""

    def __init__(self, ctx: ServiceContext, *, limit: int, seconds: float) -> None:
        self._ctx, self._left = ctx, limit
        self._now = ctx.state.submissions.now()
        began = time.monotonic()
        self._reading_ends, self._ends = began + seconds / 2, began + seconds
        first = (self._now - FIRST_SCAN).replace(microsecond=0)
        stored = ctx.state.reconciliation.cursor(CURSOR)
        self._place = _ScanPosition.model_validate_json(stored) if stored else _ScanPosition(at=first)
        self._stored = self._place.model_dump_json()
        self._asked: set[str] = set()
        self.tally: Counter[str] = Counter()
        self.unanswered: TransientError | None = None
        self._failed: set[str] = set()

    def read_on(self) -> None:
        """Read and apply events from where the last scan has ended."""
        place, start = self._place, self._place.at
        walk = TimeWindowReader(
            lambda since, until: self._ctx.payments.events_since(since, HANDLED_EVENTS, until),
            start,
            self._now + timedelta(days=1),  # Stripe's clock may be ahead of ours
            ends=self._reading_ends,
            width=place.width,
        )
        width = walk.width
        try:
            for _, _, events in walk:
                if not self._apply(events):
                    break
                newest = max((event.created_at for event in events), default=place.newest)
                place.newest = max(newest, place.newest or newest) if newest else None
        finally:
            place.at = walk.at
            if walk.width != width:
                place.width = walk.width
        if walk.finished:
            place.ended, place.width = self._now, None
            # By Stripe's clock: nothing is skipped while it is behind ours.
            place.at = min(place.newest, self._now).replace(microsecond=0) - OVERLAP if place.newest else start

    def _apply(self, events: list[StripeEvent]) -> bool:
        """Apply events in order of their time. Return False when the scan is over before all of them were applied."""
        seen = self._ctx.state.webhook_inbox.seen([event.event_id for event in events])
        fresh = [e for e in events if e.event_id not in seen and e.event_id not in self._place.waiting]
        for event in sorted(fresh, key=lambda event: event.created_at):
            if self._asked and (self._left <= 0 or time.monotonic() > self._ends):
                return False
            if not self._handle(event):
                if sum(not each.reported for each in self._place.waiting.values()) >= MAX_WAITING:
                    return False
                self._place.waiting[event.event_id] = _Waiting(
                    created=event.created_at, since=self._now, reported=event.event_id in self._failed
                )
        return True

    def _handle(self, event: StripeEvent) -> bool:
        """Apply one event. Return False when it must be tried again."""
        self._left -= 1
        self._asked.add(event.event_id)
        try:
            effect = handle_stripe_event(self._ctx, event, source="stripe reconciliation")
        except UnreadableError:
            return False
        except TransientError as error:
            self.unanswered = error
            return False
        except (RefusedError, PermanentError) as error:
            effect = "unreadable"
            self._report(event.event_id, f"({event.type}) could not be applied: {error}.")
        except Exception as error:
            # Whatever it is, it is about this event: the others go on.
            log.exception("the Stripe event %s could not be applied", event.event_id)
            self._failed.add(event.event_id)
            self.tally["failed"] += 1
            self._report(event.event_id, f"({event.type}) could not be applied ({type(error).__name__}).")
            return False
        about_a_payment = event.type in (*REFUND_EVENTS, *DISPUTE_EVENTS)
        if effect == "not ours" and about_a_payment and (self._place.waiting or self.unanswered):
            return False  # it may be about a payment that was not answered for
        self._ctx.state.webhook_inbox.note(event.event_id, event.type, effect)  # do not try again
        self.tally[effect] += 1
        return True

    def ask_again(self) -> None:
        """Try events without an answer again, those first that wait longest."""
        waiting = self._place.waiting
        for event_id in [event_id for event_id in waiting if event_id not in self._asked]:
            if time.monotonic() > self._ends:
                return
            entry = waiting.pop(event_id)
            others = dict(waiting)
            until = entry.created + timedelta(seconds=1)
            try:
                listed = self._ctx.payments.events_since(entry.created, HANDLED_EVENTS, until)
                event = next((event for event in listed if event.event_id == event_id), None)
                if event is None or self._handle(event):
                    self._ctx.state.manual_tasks.close(ManualTaskKind.STRIPE_EVENT, event_id, actor=self._ctx.actor)
                    continue
            except TransientError as error:
                self.unanswered = error
            age = self._now - entry.since
            if event_id in self._failed:
                entry.reported = True
            elif age > REPORT_AFTER and not entry.reported:
                entry.reported = True
                self._report(event_id, "could not be applied: Stripe lists it, but does not return its object.")
            if age <= GIVE_UP_AFTER:
                waiting.clear()
                waiting.update(others | {event_id: entry})  # at the end: it was asked for last

    def _report(self, event_id: str, what: str) -> None:
        self._ctx.state.manual_tasks.open(
            kind=ManualTaskKind.STRIPE_EVENT,
            subject=event_id,
            message=f"The Stripe event {event_id} {what}",
            next_step="Look at the event in the Stripe dashboard and apply what it means by hand.",
        )

    def save(self) -> None:
        """Store how far events were read."""
        written = self._place.model_dump_json()
        if written != self._stored:
            self._ctx.state.reconciliation.set_cursor(CURSOR, written)
