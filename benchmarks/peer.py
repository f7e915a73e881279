"""The same reports the way one would write them first: all facts into pandas, and group them there."""

from typing import Any

import pandas as pd
from sqlalchemy import create_engine

from smi_pipeline.state.database import Database
from smi_pipeline.state.reports.store import STAGES

_MONEY = ["received_cents", "refunded_cents", "disputed_cents", "fees", "api_cost_cents", "net_margin_cents"]


def pandas_reports(database: Database) -> dict[str, Any]:
    """All six reports by day, week and month."""
    facts = pd.read_sql("SELECT * FROM reports.job_facts", create_engine(database.url))
    facts["day"] = pd.to_datetime(facts["day"])
    facts["fees"] = facts["stripe_fee_cents"] + facts["dispute_fee_cents"]
    starts = {
        "day": facts["day"],
        "week": facts["day"] - pd.to_timedelta(facts["day"].dt.weekday, unit="D"),
        "month": facts["day"].dt.to_period("M"),
    }
    found: dict[str, Any] = {}
    for period, start in starts.items():
        for by in ([start], [start, facts["resolution"]]):
            found[f"{period} {len(by)}"] = [
                facts.groupby([*by, "outcome"]).size(),
                facts[facts["outcome"].isin(["refunded", "failed"])].groupby([*by, "reason"]).size(),
                facts.groupby(by)[list(STAGES)].quantile([0.5, 0.9, 0.95, 0.99]),
                facts.groupby(by)[list(STAGES)].agg(["count", "mean", "max"]),
                facts.groupby([*by, "currency"])[_MONEY].sum(),
                facts.groupby(by)[["credits", "credits_assumed", "credits_wasted"]].sum(),
                facts[facts["outcome"] == "delivered"].groupby(by)["rating"].agg(["count", "mean"]),
            ]
    return found
