"""Calculate the processing times with numpy, which selects the few values that a percentile needs, where PostgreSQL
would sort each stage for each period and resolution."""

import json
from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING, Any

from smi_pipeline.state.database import Transaction

if TYPE_CHECKING:  # imported only where it is needed
    import numpy as np
    from numpy.typing import NDArray

STAGES = ("paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed")
"""Columns of the facts in seconds; the last is the total."""

_SHARES = {"p50_seconds": 0.5, "p90_seconds": 0.9, "p95_seconds": 0.95, "p99_seconds": 0.99}
_FIFTEEN_MINUTES = 900  # what the column's name says, whatever SMI_MAX_PROCESSING_SECONDS is

# Each stage's seconds as one string of 8-byte numbers in network order, without NULLs.
_SECONDS = f"""
SELECT date_trunc(:period, day)::date AS starts_on, resolution,
       {", ".join(f"string_agg(float8send({stage}), '') AS {stage}" for stage in STAGES)}
FROM reports.job_facts WHERE day BETWEEN :first AND :last GROUP BY 1, 2"""


def insert_processing_times(tx: Transaction, period: str, first: date, last: date) -> None:
    """Calculate `processing_times` for the periods between two days."""
    import numpy as np

    seconds: dict[tuple[str, str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for row in tx.rows(_SECONDS, period=period, first=first, last=last):
        for stage in STAGES:
            if row[stage] is not None:
                found = np.frombuffer(row[stage], ">f8").astype(np.float64)
                for resolution in (row["resolution"], "all"):
                    seconds[str(row["starts_on"]), resolution, stage].append(found)
    rows = [
        {"period": period, "starts_on": starts_on, "resolution": resolution, "stage": stage, **_figures(parts)}
        for (starts_on, resolution, stage), parts in seconds.items()
    ]
    tx.run(
        """INSERT INTO reports.processing_times
           SELECT * FROM json_populate_recordset(NULL::reports.processing_times, CAST(:rows AS json))""",
        rows=json.dumps(rows),
    )


def _figures(parts: "list[NDArray[np.float64]]") -> dict[str, Any]:
    import numpy as np

    seconds = np.concatenate(parts)
    percentiles = np.quantile(seconds, list(_SHARES.values()))  # interpolated, as percentile_cont does
    return {
        "jobs": len(seconds),
        # In whole microseconds, the clocks' precision: a sum of floats depends on the order of the rows.
        "mean_seconds": round(int(np.rint(seconds * 1e6).astype(np.int64).sum()) / len(seconds) / 1e6, 6),
        **{name: round(float(value), 6) for name, value in zip(_SHARES, percentiles, strict=True)},
        "max_seconds": float(seconds.max()),
        "within_15_minutes": np.count_nonzero(seconds <= _FIFTEEN_MINUTES) / len(seconds),
    }
