"""Figures of a whole period for `smi report` that the tables of its days cannot give. Reading only."""

from datetime import date
from typing import Any

from smi_pipeline.adapters.postgres.database import Database
from smi_pipeline.adapters.postgres.reports import STAGES


def stage_seconds(database: Database, first: date, last: date) -> list[dict[str, Any]]:
    """Seconds of each stage over all jobs paid on these days: percentiles of days cannot be added up."""
    stages = ", ".join(f"({place}, '{stage}', {stage})" for place, stage in enumerate(STAGES))
    with database.transaction() as tx:
        return tx.rows(
            f"""SELECT stage, count(*) AS jobs, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
                       percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95, max(seconds) AS max
                FROM reports.job_facts CROSS JOIN LATERAL (VALUES {stages}) AS s (place, stage, seconds)
                WHERE day BETWEEN :first AND :last AND seconds IS NOT NULL GROUP BY place, stage ORDER BY place""",
            first=first,
            last=last,
        )
