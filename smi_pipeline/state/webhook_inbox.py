"""The inbox of Stripe events: each has its effect once."""

from smi_pipeline.state.database import Aggregate, Transaction


def record_event_once(tx: Transaction, event_id: str, type_: str, effect: str) -> bool:
    """Record an event in the transaction of the change it causes, so that a crash loses neither. Return False when the
    event is known."""
    return tx.changes(
        """INSERT INTO smi.webhook_inbox (event_id, type, effect) VALUES (:id, :type, :effect)
           ON CONFLICT (event_id) DO NOTHING""",
        id=event_id,
        type=type_,
        effect=effect,
    )


class WebhookInbox(Aggregate):
    """Stripe events that had their effect."""

    def seen(self, event_ids: list[str]) -> set[str]:
        """Return those of these events that had their effect."""
        rows = self._database.rows("SELECT event_id FROM smi.webhook_inbox WHERE event_id = ANY(:ids)", ids=event_ids)
        return {row["event_id"] for row in rows}

    def note(self, event_id: str, type_: str, effect: str) -> bool:
        """Record an event that changes nothing else. Return False when it is known."""
        with self._database.transaction() as tx:
            return record_event_once(tx, event_id, type_, effect)
