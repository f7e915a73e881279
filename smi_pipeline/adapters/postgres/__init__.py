"""The state in PostgreSQL: all SQL of the fulfilment side lives in this package."""

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.deliveries import PostgresDeliveries
from smi_pipeline.adapters.postgres.emails import PostgresEmails
from smi_pipeline.adapters.postgres.intake import PostgresIntake
from smi_pipeline.adapters.postgres.leases import PostgresLeases
from smi_pipeline.adapters.postgres.operations import PostgresOperations
from smi_pipeline.adapters.postgres.reconciliation import PostgresReconciliation
from smi_pipeline.adapters.postgres.refunds import PostgresRefunds
from smi_pipeline.adapters.postgres.submissions import PostgresSubmissions
from smi_pipeline.adapters.postgres.tasks import PostgresTasks
from smi_pipeline.adapters.postgres.views import PostgresViews


class PostgresState:
    """Implements `core.state.State` on one pooled database."""

    def __init__(self, database: Database, *, secret_key: str, mail_domain: str) -> None:
        self.database = database
        self.leases = PostgresLeases(database)
        self.intake = PostgresIntake(database)
        self.submissions = PostgresSubmissions(database, secret_key)
        self.deliveries = PostgresDeliveries(database, secret_key, mail_domain)
        self.refunds = PostgresRefunds(database, mail_domain)
        self.emails = PostgresEmails(database, mail_domain)
        self.tasks = PostgresTasks(database)
        self.views = PostgresViews(database)
        self.operations = PostgresOperations(database)
        self.reconciliation = PostgresReconciliation(database)
