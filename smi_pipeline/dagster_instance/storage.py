"""Dagster's storage where this installation keeps it: `DAGSTER_POSTGRES_URL`, else the database `dagster` beside the
state's, on the embedded server if there is no other. dagster.yaml by itself knows no "else"."""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from smi_pipeline.settings import Settings
from smi_pipeline.wiring import dagster_url


class InstallationStorage(DagsterPostgresStorage):
    """dagster-postgres on the URL of the settings, through one pool per process (`?plugin=smi_pool`)."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing to configure: the settings know."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "InstallationStorage":
        """Called by Dagster in each of its processes."""
        return cls(postgres_url=dagster_url(Settings()), inst_data=inst_data)
