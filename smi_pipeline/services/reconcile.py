"""What Stripe knows and we do not: events whose webhook was lost (W2), payments that belong to no job (rule 8)."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from smi_pipeline.core.errors import NotFound, PermanentError, TransientError
from smi_pipeline.services.intake import HANDLED_EVENTS, handle_stripe_event, learn_of_payment
from smi_pipeline.services.world import World

OVERLAP = timedelta(minutes=15)
"""Events may become visible late, and Stripe's clock is not ours: each look goes this much further back."""

FIRST_LOOK = timedelta(days=3)
"""How far back the first look goes; Stripe keeps events for 30 days."""

CURSOR = "stripe_events"


def reconcile_events(world: World, *, limit: int = 200, seconds: float = 20.0) -> Counter[str]:
    """Applies stored Stripe events that we have not seen, oldest first, for so many seconds: what is left is for the
    next look. Returns how many had which effect.

    The cursor moves only after all of them were applied. An event that cannot be read becomes a person's task and
    keeps no other one waiting. Raises TransientError, after the others, when Stripe gave no answer about one.
    """
    now = world.state.submissions.now()
    cursor = world.state.intake.cursor(CURSOR)
    since = (datetime.fromisoformat(cursor) if cursor else now - FIRST_LOOK) - OVERLAP
    tally: Counter[str] = Counter()
    events = list(world.payments.events_since(since, HANDLED_EVENTS))
    seen = world.state.intake.seen_events([event.event_id for event in events])
    fresh = sorted((e for e in events if e.event_id not in seen), key=lambda event: event.created_at)
    unanswered: TransientError | None = None
    ends = time.monotonic() + seconds
    looked = 0
    for event in fresh[:limit]:
        if looked and time.monotonic() > ends:
            break
        looked += 1
        try:
            effect = handle_stripe_event(world, event, source="stripe reconciliation")
        except TransientError as error:
            unanswered = error
            continue
        except (NotFound, PermanentError) as error:
            effect = "unreadable"
            world.state.tasks.open(
                kind="stripe_event",
                subject=event.event_id,
                job_id=None,
                message=f"The Stripe event {event.event_id} ({event.type}) could not be applied: {error}.",
                next_step="Look at the event in the Stripe dashboard and settle what it means by hand.",
            )
        if unanswered is not None and effect == "not ours":
            continue  # perhaps it is about the very payment that was not answered
        world.state.intake.note_event(event.event_id, event.type, effect)  # do not look again
        tally[effect] += 1
    if unanswered is not None:
        raise unanswered
    newest = max((event.created_at for event in events), default=None)
    if newest and looked == len(fresh):
        world.state.intake.set_cursor(CURSOR, min(newest, now).astimezone(UTC).isoformat())
    return tally


def reconcile_payments(world: World, *, back: timedelta = timedelta(hours=24)) -> Counter[str]:
    """Compares Stripe's succeeded PaymentIntents of this shop with our payments, for the case that even the event
    was missed; names payments without a job to a person after ten minutes (rule 8)."""
    now = world.state.submissions.now()
    tally: Counter[str] = Counter()
    for facts in world.payments.payments_since(now - back):
        if facts.status != "succeeded":
            continue
        known = world.state.views.payment(facts.payment_intent_id)
        if known is None:
            tally["missed"] += 1
            try:
                learn_of_payment(
                    world,
                    facts.payment_intent_id,
                    str(facts.metadata.get("job_id", "")),
                    event=None,
                    source="stripe reconciliation",
                )
            except (NotFound, PermanentError):
                tally["unreadable"] += 1
        elif known["role"] == "orphan" and known["settled_by"] is None:
            if now - known["learned_at"] >= world.policy.orphan_patience:
                tally["orphan"] += 1
                world.state.tasks.open(
                    kind="orphan_payment",
                    subject=facts.payment_intent_id,
                    job_id=None,
                    message=f"The payment {facts.payment_intent_id} belongs to no upscale job we know.",
                    next_step=f"`smi jobs adopt {facts.payment_intent_id} JOB_ID` or "
                    f"`smi jobs refund-payment {facts.payment_intent_id}`.",
                )
        else:
            tally["known"] += 1
    return tally


def sweep_temporary_files(world: World) -> int:
    """Removes what killed processes have left half written. Returns the number of files."""
    return world.storage.sweep() + world.fetcher.sweep()


def remove_expired_files(world: World, limit: int = 200) -> int:
    """Removes sources and results whose links have expired for a day (W24). Returns the number of jobs."""
    removed = 0
    for job_id, keys in world.state.deliveries.expired_files(limit):
        for key in keys:
            world.storage.delete(key)
        world.state.deliveries.files_removed(job_id)
        removed += 1
    return removed
