"""What must be true of the reports. A failing check names what is wrong; it stops nothing."""

from datetime import date

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, MetadataValue, asset_check

from smi_pipeline.adapters.postgres.report_checks import NEWEST_DAYS
from smi_pipeline.reporting import presentation
from smi_pipeline.reporting.assets import job_facts, profit_margin
from smi_pipeline.reporting.partitions import days_of
from smi_pipeline.reporting.resources import ReportsResource

_NOWHERE = (date.max, date.min)  # a check on its own looks at the newest days alone
_SCOPE = f"Looks at the {NEWEST_DAYS} newest built days and those of its run; what changed since is not counted."


@asset_check(asset=job_facts, description=f"Every paid upscale job has its row, and no other. {_SCOPE}")
def facts_complete(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
    """Rows of the facts = paid jobs."""
    found = reports_db.checks().completeness(*(days_of(context) or _NOWHERE))
    passed = not found["missing"] and not found["surplus"]
    return AssetCheckResult(
        passed=passed,
        severity=AssetCheckSeverity.ERROR,
        description=f"{found['facts']:,} facts of {presentation.jobs(found['paid'])} on {found['days']} days: "
        f"{found['missing']} missing, {found['surplus']} surplus, {found['waiting']} waiting to be rebuilt",
        metadata={name: MetadataValue.int(count) for name, count in found.items()},
    )


@asset_check(
    asset=job_facts,
    description="The alarm: no upscale job is paid, past its last clock, and neither delivered nor refunded nor taken "
    "on by a person.",
)
def no_overdue_paid_job(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
    """The alarm query is empty."""
    overdue = reports_db.checks().overdue(reports_db.policy())
    table = presentation.markdown(
        ["Upscale job", "Status", "Reason", "Start by", "Deadline"],
        (
            (f"`{job['job_id']}`", job["status"], job["reason_code"] or "", job["start_by"], job["deadline_at"] or "–")
            for job in overdue[:50]
        ),
        words=5,
    )
    return AssetCheckResult(
        passed=not overdue,
        severity=AssetCheckSeverity.ERROR,
        description=f"{len(overdue)} overdue: run `smi jobs show JOB_ID`, then retry or refund" if overdue else None,
        metadata={"overdue_jobs": len(overdue)} | ({"jobs": MetadataValue.md(table)} if overdue else {}),
    )


@asset_check(
    asset=profit_margin,
    description="Per currency: revenue − refunds − Stripe fees − API cost = net margin = the sum of all jobs, and "
    f"revenue = the payments. {_SCOPE}",
)
def money_adds_up(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
    """Money neither appears nor vanishes between payments, facts and report."""
    checks, days = reports_db.checks(), days_of(context) or _NOWHERE
    wrong = []
    for row in checks.money(*days):
        currency = row.pop("currency")
        if None in row.values():
            wrong.append(f"{currency.upper()} is in the facts or in the report alone")
            continue
        balance = row["revenue"] - row["refunds"] - row["fees"] - row["cost"]
        for name, cents, expected in (
            ("net margin", row["net"], balance),
            ("net margin of all jobs", row["jobs_net"], balance),
            ("received for all jobs", row["jobs_received"], row["revenue"]),
        ):
            if cents != expected:
                there, here = (presentation.money(value, currency) for value in (cents, expected))
                wrong.append(f"{name} is {there}, not {here}")
    off = checks.payments_off(*days)
    if off:
        wrong.append(f"{presentation.jobs(off)} whose payments sum up to something else")
    return AssetCheckResult(
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        description="; ".join(wrong) or "to the cent",
        metadata={"differences": len(wrong)},
    )


@asset_check(
    asset=profit_margin,
    description="The newest day and those of its run keep SMI_COMPLETION_FLOOR_PERCENT and SMI_MARGIN_FLOOR_PERCENT.",
)
def floors_kept(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
    """Completion rate and margin are not below what the settings ask for."""
    completion, margin = reports_db.floors()
    below = reports_db.checks().below_floors(
        *(days_of(context) or _NOWHERE), completion_percent=completion, margin_percent=margin
    )
    words = "; ".join(f"{row['day']}: {row['what']} {row['percent']:.1f} % < {row['floor']:g} %" for row in below[:10])
    return AssetCheckResult(
        passed=not below,
        severity=AssetCheckSeverity.WARN,
        description=words or f"completion rate ≥ {completion:g} %, margin ≥ {margin:g} %",
        metadata={"below": len(below)},
    )


CHECKS = [facts_complete, no_overdue_paid_job, money_adds_up, floors_kept]
