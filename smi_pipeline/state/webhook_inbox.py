"""The inbox of Stripe events: each has its effect once."""

from smi_pipeline.state.database import Transaction


def record_event_once(tx: Transaction, event_id: str, type_: str, effect: str) -> bool:
    """Whether this event is new; commits with the change it causes, so that a crash between loses neither."""
    return bool(
        tx.run(
            """INSERT INTO smi.webhook_inbox (event_id, type, effect) VALUES (:id, :type, :effect)
               ON CONFLICT (event_id) DO NOTHING""",
            id=event_id,
            type=type_,
            effect=effect,
        )
    )
