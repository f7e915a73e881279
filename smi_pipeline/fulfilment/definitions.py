"""Code location `fulfilment`: everything from the confirmed payment to the delivered file or the refund.

Imports stay light: no pandas, no matplotlib. Importing needs no network, no secret and no environment.
"""

from collections.abc import Mapping
from typing import Any

from dagster import Definitions, mem_io_manager

from smi_pipeline.fulfilment.admin import ADMIN_JOBS
from smi_pipeline.fulfilment.alerts import ALERTS
from smi_pipeline.fulfilment.assets import ASSETS
from smi_pipeline.fulfilment.checks import CHECKS, check_operations
from smi_pipeline.fulfilment.jobs import JOBS
from smi_pipeline.fulfilment.resources import Batch, SmiResource
from smi_pipeline.fulfilment.schedules import MAINTENANCE_JOBS, SCHEDULES
from smi_pipeline.fulfilment.sensors import SENSORS


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """Return the definitions of this location; tests pass their own resources."""
    smi = SmiResource()
    # Steps pass on only a key, in memory: all state is in the database.
    resources: dict[str, Any] = {"smi": smi, "batch": Batch(smi=smi), "io_manager": mem_io_manager}
    return Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=[*JOBS, *ADMIN_JOBS, *MAINTENANCE_JOBS, check_operations],
        sensors=[*SENSORS, *ALERTS],
        schedules=SCHEDULES,
        resources=resources | dict(resource_overrides or {}),
    )


defs = build_defs()
