"""How this location reaches the database: built at the first use in a process, never at import."""

import os
import threading

from dagster import ConfigurableResource

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.report_checks import PostgresReportChecks
from smi_pipeline.adapters.postgres.reports import PostgresReports
from smi_pipeline.core.policy import Policy
from smi_pipeline.settings import Settings

_databases: dict[tuple[int, str | None], Database] = {}
_opening = threading.Lock()


class ReportsResource(ConfigurableResource):
    """The reports of the configured state. `database_url` is for tests: it shows in the UI, so leave it unset."""

    database_url: str | None = None

    def _database(self, settings: Settings) -> Database:
        with _opening:
            database = _databases.get((os.getpid(), self.database_url))
            if database is None:
                url = self.database_url or settings.smi_database_url
                if url is None:  # an embedded server: wiring knows it, and imports every adapter
                    from smi_pipeline.wiring import state_url

                    url = state_url(settings)
                database = _databases[os.getpid(), self.database_url] = Database(url, pool_size=2)
        return database

    def reports(self) -> PostgresReports:
        """Builds and reads the report tables, at the prices that are configured now."""
        settings = Settings()
        return PostgresReports(self._database(settings), settings.prices)

    def checks(self) -> PostgresReportChecks:
        """Questions to the reports."""
        return PostgresReportChecks(self._database(Settings()))

    def policy(self) -> Policy:
        """The promises the shop keeps."""
        return Settings().policy

    def floors(self) -> tuple[float, float]:
        """Percent below which a day's completion rate and margin are worth a look."""
        settings = Settings()
        return float(settings.smi_completion_floor_percent), float(settings.smi_margin_floor_percent)
