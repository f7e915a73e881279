"""Code location `reporting`: what the shop delivered, how fast, and what it earned.

Importing needs no network, no secret and no environment, and does not load pandas.
"""

from collections.abc import Mapping
from typing import Any

from dagster import Definitions, in_process_executor

from smi_pipeline.reporting.assets import ASSETS
from smi_pipeline.reporting.checks import CHECKS
from smi_pipeline.reporting.jobs import JOBS, changed_report_days, close_yesterday, stripe_bookings
from smi_pipeline.reporting.resources import ReportsResource


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """Return the definitions of this location; tests pass their own resources."""
    resources: dict[str, Any] = {"reports_db": ReportsResource()}
    return Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=JOBS,
        sensors=[changed_report_days, stripe_bookings],
        schedules=[close_yesterday],
        resources=resources | dict(resource_overrides or {}),
        executor=in_process_executor,
    )


defs = build_defs()
