"""What Stripe knows and we do not: events whose webhook was lost (W2).

The other net is `services.compare`, which needs no event.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from smi_pipeline.core.errors import PermanentError, RefusedError, TransientError
from smi_pipeline.core.models import StripeEvent
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.intake import DISPUTE_EVENTS, HANDLED_EVENTS, REFUND_EVENTS, handle_stripe_event
from smi_pipeline.services.reconciliation.time_windows import TimeWindowReader

OVERLAP = timedelta(minutes=15)
"""Events may become visible late, and Stripe's clock is not ours: each look goes this much further back."""

FIRST_LOOK = timedelta(days=3)
"""How far back the first look goes; Stripe keeps events for 30 days."""

CURSOR = "stripe_events_read"

MAX_WAITING = 50
"""Events without an answer that the others do not wait for. More than that is an outage: nothing goes on."""

TELL_AFTER, GIVE_UP_AFTER = timedelta(hours=1), timedelta(hours=24)
"""How long Stripe may leave an event without an answer until a person is told, and until it is asked no more."""


@dataclass(kw_only=True)
class _Place:
    """How far Stripe's events were read; kept between looks. `waiting`: events that Stripe did not answer about."""

    at: datetime
    width: timedelta | None = None
    newest: datetime | None = None
    ended: datetime | None = None
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: str | None, first: datetime) -> "_Place":
        if stored is None:
            return cls(at=first)
        values = json.loads(stored)
        return cls(
            at=datetime.fromisoformat(values["at"]),
            width=timedelta(seconds=values["width"]) if values["width"] else None,
            newest=datetime.fromisoformat(values["newest"]) if values["newest"] else None,
            ended=datetime.fromisoformat(values["ended"]) if values["ended"] else None,
            waiting=values["waiting"],
        )

    def written(self) -> str:
        return json.dumps(
            {
                "at": self.at.astimezone(UTC).isoformat(),
                "width": self.width.total_seconds() if self.width else None,
                "newest": self.newest.astimezone(UTC).isoformat() if self.newest else None,
                "ended": self.ended.astimezone(UTC).isoformat() if self.ended else None,
                "waiting": self.waiting,
            }
        )


def reconcile_events(ctx: ServiceContext, *, limit: int = 2000, seconds: float = 20.0) -> Counter[str]:
    """Applies stored Stripe events that we have not seen, oldest first, for so many seconds: what is left is for the
    next look. Returns how many had which effect.

    An event that cannot be read becomes a person's task. One that Stripe gives no answer about is asked for again at
    each look and becomes a person's task after an hour; neither keeps the others waiting. Raises TransientError, after
    the others, when Stripe gave no answer about one.
    """
    look = _Look(ctx, limit=limit, seconds=seconds)
    try:
        look.read_on()
        look.ask_again()
    finally:
        look.save()
    if look.unanswered is not None:
        raise look.unanswered
    return look.tally


class _Look:
    """One look at Stripe's events."""

    def __init__(self, ctx: ServiceContext, *, limit: int, seconds: float) -> None:
        self._ctx, self._left = ctx, limit
        self._now = ctx.state.submissions.now()
        began = time.monotonic()
        self._reading_ends, self._ends = began + seconds / 2, began + seconds
        first = (self._now - FIRST_LOOK).replace(microsecond=0)
        self._place = _Place.read(ctx.state.intake.cursor(CURSOR), first)
        self._stored = self._place.written()
        self._asked: set[str] = set()
        self.tally: Counter[str] = Counter()
        self.unanswered: TransientError | None = None

    def read_on(self) -> None:
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
        """False when the look is over before all of them were worked on."""
        seen = self._ctx.state.intake.seen_events([event.event_id for event in events])
        fresh = [e for e in events if e.event_id not in seen and e.event_id not in self._place.waiting]
        for event in sorted(fresh, key=lambda event: event.created_at):
            if self._asked and (self._left <= 0 or time.monotonic() > self._ends):
                return False
            if not self._handle(event):
                if len(self._place.waiting) >= MAX_WAITING:
                    return False
                self._place.waiting[event.event_id] = {
                    "created": event.created_at.astimezone(UTC).isoformat(),
                    "since": self._now.isoformat(),
                    "told": False,
                }
        return True

    def _handle(self, event: StripeEvent) -> bool:
        """Applies one event. False when it must be looked at again."""
        self._left -= 1
        self._asked.add(event.event_id)
        try:
            effect = handle_stripe_event(self._ctx, event, source="stripe reconciliation")
        except TransientError as error:
            self.unanswered = error
            return False
        except (RefusedError, PermanentError) as error:
            effect = "unreadable"
            self._tell(event.event_id, f"({event.type}) could not be applied: {error}.")
        about_a_payment = event.type in (*REFUND_EVENTS, *DISPUTE_EVENTS)
        if effect == "not ours" and about_a_payment and (self._place.waiting or self.unanswered):
            return False  # perhaps it is about the very payment that was not answered
        self._ctx.state.intake.note_event(event.event_id, event.type, effect)  # do not look again
        self.tally[effect] += 1
        return True

    def ask_again(self) -> None:
        """Looks once more at the events that Stripe did not answer about, those first that waited longest for it."""
        waiting = self._place.waiting
        for event_id in [event_id for event_id in waiting if event_id not in self._asked]:
            if time.monotonic() > self._ends:
                return
            entry = waiting.pop(event_id)
            others = dict(waiting)
            created = datetime.fromisoformat(entry["created"])
            try:
                listed = self._ctx.payments.events_since(created, HANDLED_EVENTS, created + timedelta(seconds=1))
                event = next((event for event in listed if event.event_id == event_id), None)
                if event is None or self._handle(event):
                    self._ctx.state.manual_tasks.close("stripe_event", event_id, actor=self._ctx.actor)
                    continue
            except TransientError as error:
                self.unanswered = error
            age = self._now - datetime.fromisoformat(entry["since"])
            if age > TELL_AFTER and not entry["told"]:
                entry["told"] = True
                self._tell(event_id, "is not answered for by Stripe, although it is listed.")
            if age <= GIVE_UP_AFTER:
                waiting.clear()
                waiting.update(others | {event_id: entry})  # at the end: it was asked for last

    def _tell(self, event_id: str, what: str) -> None:
        self._ctx.state.manual_tasks.open(
            kind="stripe_event",
            subject=event_id,
            job_id=None,
            message=f"The Stripe event {event_id} {what}",
            next_step="Look at the event in the Stripe dashboard and settle what it means by hand.",
        )

    def save(self) -> None:
        written = self._place.written()
        if written != self._stored:
            self._ctx.state.intake.set_cursor(CURSOR, written)
