"""Dagster's storage in PostgreSQL, with a default that dagster.yaml cannot express.

The database is `DAGSTER_POSTGRES_URL`, else `dagster` on the server of the state, which may be the embedded one.
"""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from smi_pipeline.settings import Settings
from smi_pipeline.wiring import dagster_url


class InstallationStorage(DagsterPostgresStorage):
    """DagsterPostgresStorage on the URL of the settings, with one pool per process (`?plugin=smi_pool`)."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return an empty schema: the settings have the URL."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "InstallationStorage":
        """Return the storage. Called by Dagster in each of its processes."""
        return cls(postgres_url=dagster_url(Settings()), inst_data=inst_data)
