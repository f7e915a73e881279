"""Properties of images that are not sold: at least two orders failed for them, and none succeeded since."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from smi_pipeline.core import properties
from smi_pipeline.core.errors import PermanentError
from smi_pipeline.core.properties import Ordered
from smi_pipeline.state.database import Aggregate, Row, Transaction


@dataclass(frozen=True, kw_only=True)
class Unsold:
    """A property that is not sold: how many orders failed for it, and what the last failure said."""

    property: str
    orders: int
    last_at: datetime
    message: str


class UnsoldProperties(Aggregate):
    """Properties that are not sold."""

    def all(self, days: float) -> list[Unsold]:
        """Return the properties that are not sold; a failure counts for `days`."""
        return self._database.records(
            Unsold,
            """SELECT property, count(*) AS orders, max(failed_at) AS last_at,
                      (array_agg(message ORDER BY failed_at DESC))[1] AS message
               FROM smi.failed_properties WHERE failed_at > smi.now() - CAST(:life AS interval)
               GROUP BY property HAVING count(*) >= :enough ORDER BY property""",
            life=timedelta(days=days),
            enough=properties.ENOUGH_ORDERS,
        )

    def lift(self, property_: str, *, reason: str, actor: str) -> bool:
        """Sell a property again. Return False when nothing has failed for it."""
        with self._database.transaction() as tx:
            lifted = tx.changes("DELETE FROM smi.failed_properties WHERE property = :name", name=property_)
            if lifted:
                tx.audit(None, "property_lifted", actor=actor, property=property_, reason=reason)
            return lifted


def note_failed_property(tx: Transaction, job: Row, error: PermanentError) -> None:
    """Record the property of a job that its failure names, if it names one."""
    found = properties.blamed(_ordered(job), error.reason, str(error))
    if found:
        tx.run(
            """INSERT INTO smi.failed_properties (property, job_id, message) VALUES (:property, :job_id, :message)
               ON CONFLICT (property, job_id) DO UPDATE SET failed_at = smi.now(), message = excluded.message""",
            property=found,
            job_id=job["job_id"],
            message=str(error)[:300],
        )


def note_delivered_properties(tx: Transaction, job: Row) -> None:
    """Forget the failures for the properties of a job that is delivered: they work."""
    tx.run("DELETE FROM smi.failed_properties WHERE property = ANY(:names)", names=list(properties.of(_ordered(job))))


def _ordered(job: Row) -> Ordered:
    return Ordered(
        format=job["source_format"],
        width=job["source_width"],
        height=job["source_height"],
        scale=job["scale"],
        has_alpha=job["source_alpha"],
    )
