"""Provide the database, the storage and Stripe to this location, built at first use, never at import."""

import os
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, MetadataValue

from smi_pipeline.core.models import BalanceTransaction
from smi_pipeline.settings import Settings
from smi_pipeline.state.database import Database
from smi_pipeline.state.manual_tasks import ManualTasks
from smi_pipeline.state.reports.checks import ReportChecks
from smi_pipeline.state.reports.store import Reports

if TYPE_CHECKING:
    from smi_pipeline.adapters.storage import FileStorage

_databases: dict[tuple[int, str | None], Database] = {}
_opening = threading.Lock()


class ReportsResource(ConfigurableResource[None]):
    """The reports of the configured state. The fields are for tests; the UI shows them, so leave them unset."""

    database_url: str | None = None
    storage_url: str | None = None

    def _database(self, settings: Settings) -> Database:
        with _opening:
            database = _databases.get((os.getpid(), self.database_url))
            if database is None:
                url = self.database_url or settings.smi_database_url
                if url is None:  # an embedded server; imported here because wiring imports every adapter
                    from smi_pipeline.wiring import state_url

                    url = state_url(settings)
                database = _databases[os.getpid(), self.database_url] = Database(url, pool_size=2)
        return database

    def reports(self) -> Reports:
        """Return the report tables, built at the prices and with the budget that are configured now."""
        settings = Settings()
        return Reports(self._database(settings), settings.prices, budget=settings.smi_monthly_credit_budget)

    def checks(self) -> ReportChecks:
        """Return the queries of the asset checks."""
        return ReportChecks(self._database(Settings()))

    def tasks(self) -> ManualTasks:
        """Return the manual tasks."""
        return ManualTasks(self._database(Settings()))

    def settings(self) -> Settings:
        """Return the settings, with the thresholds of the checks."""
        return Settings()

    def files(self) -> "FileStorage":
        """Return the storage of pages and files."""
        from smi_pipeline.adapters.storage import FileStorage

        return FileStorage(self.storage_url or Settings().storage_url)

    def link(self, key: str) -> MetadataValue:
        """Return a link to a file of the reports, behind the login of the operations page."""
        return MetadataValue.url(f"{Settings().public_url}/ops/{key}")

    def bookings(self, since: datetime, until: datetime) -> Iterator[BalanceTransaction]:
        """Yield Stripe's balance transactions from `since` to `until`, newest first."""
        from smi_pipeline.wiring import stripe_payments  # imports every adapter: not at import time

        return stripe_payments(Settings()).bookings(since, until)
