"""PostgreSQL, the single source of truth: migrations, one module per aggregate, reports. All SQL lives here."""

from collections.abc import Sequence

from smi_pipeline.state.breakers import Breakers
from smi_pipeline.state.dashboard import Dashboard
from smi_pipeline.state.database import Database
from smi_pipeline.state.deliveries import Deliveries
from smi_pipeline.state.emails import Emails
from smi_pipeline.state.heartbeat import ProcessHeartbeats
from smi_pipeline.state.jobs import Jobs
from smi_pipeline.state.leases import Leases
from smi_pipeline.state.manual_tasks import ManualTasks
from smi_pipeline.state.payments import Payments
from smi_pipeline.state.queries import Queries
from smi_pipeline.state.reconciliation import Reconciliation
from smi_pipeline.state.refunds import Refunds
from smi_pipeline.state.submissions import Submissions
from smi_pipeline.state.unsold import UnsoldProperties
from smi_pipeline.state.waiting import Waiting
from smi_pipeline.state.webhook_inbox import WebhookInbox


class State:
    """The shop's state on one pooled database: one attribute per aggregate, one short transaction per method.

    Every method raises TransientError when the database does not answer. Of `secret_keys` the first one signs links,
    all of them are accepted.
    """

    def __init__(self, database: Database, *, secret_keys: Sequence[str], mail_domain: str) -> None:
        self.database = database
        self.leases = Leases(database)
        self.breakers = Breakers(database)
        self.jobs = Jobs(database, mail_domain)
        self.payments = Payments(database)
        self.webhook_inbox = WebhookInbox(database)
        self.submissions = Submissions(database, secret_keys)
        self.deliveries = Deliveries(database, secret_keys, mail_domain)
        self.refunds = Refunds(database, mail_domain)
        self.emails = Emails(database, mail_domain)
        self.manual_tasks = ManualTasks(database)
        self.process_heartbeats = ProcessHeartbeats(database)
        self.queries = Queries(database)
        self.dashboard = Dashboard(database)
        self.unsold = UnsoldProperties(database)
        self.waiting = Waiting(database, mail_domain)
        self.reconciliation = Reconciliation(database)
