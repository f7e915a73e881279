"""Check the reports. A failing check opens a manual task and blocks nothing.

A check covers the days of its run, or the newest built day when it runs alone.
"""

from collections.abc import Callable
from datetime import date, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    MetadataValue,
    asset_check,
)

from smi_pipeline.formatting import day, duration, money, number
from smi_pipeline.reporting.partitions import starts_of
from smi_pipeline.reporting.presentation import Table, jobs
from smi_pipeline.reporting.resources import ReportsResource

ERROR, WARN = AssetCheckSeverity.ERROR, AssetCheckSeverity.WARN
TASK = "report_check"
_NAMED = 10  # jobs in a message; the table of the check has more

CHECKS: list[AssetChecksDefinition] = []

Judge = Callable[[ReportsResource, date, date], AssetCheckResult]


def _check(asset: str, next_step: str) -> Callable[[Judge], Judge]:
    """Make an asset check of a function of days. While it fails a manual task is open, with `next_step`."""

    def register(judge: Judge) -> Judge:
        name = judge.__name__

        @asset_check(asset=AssetKey(asset), name=name, description=judge.__doc__)
        def check(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
            newest = reports_db.checks().newest_day()
            days = starts_of(context) or ((newest, newest) if newest else None)
            if days is None:
                return AssetCheckResult(passed=True, description="no report has been built yet")
            verdict = judge(reports_db, *days)
            tasks = reports_db.tasks()
            if verdict.passed:
                tasks.close(TASK, name, actor="settled")
            else:
                message = f"The check {name} of {asset} fails: {verdict.description}."
                tasks.open(kind=TASK, subject=name, job_id=None, message=message, next_step=next_step)
            return verdict

        CHECKS.append(check)
        return judge

    return register


@_check("job_facts", "Rebuild the days in Dagster (job rebuild_days); if it fails again, see the log of the run.")
def facts_complete(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """Every paid upscale job has a row, and no other job has one. Changes since the build are not counted."""
    found = reports_db.checks().completeness(first, last)
    return AssetCheckResult(
        passed=not found["missing"] and not found["surplus"],
        severity=ERROR,
        description=f"{number(found['facts'])} facts of {jobs(found['paid'])} on {found['days']} days: "
        f"{found['missing']} missing, {found['surplus']} surplus, {found['waiting']} waiting to be rebuilt",
        metadata={name: MetadataValue.int(count) for name, count in found.items()},
    )


@_check("job_facts", "Check that the sensor changed_report_days is running, and the last run of rebuild_days.")
def facts_fresh(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """No change has waited longer than SMI_REPORTS_FRESH_MINUTES to appear in the tables."""
    limit = timedelta(minutes=reports_db.settings().smi_reports_fresh_minutes)
    age = reports_db.checks().oldest_change()
    return AssetCheckResult(
        passed=age <= limit.total_seconds(),
        severity=WARN,
        description=f"the oldest change not in the tables is {duration(age)} old, "
        f"the limit is {duration(limit.total_seconds())}",
        metadata={"oldest_change_seconds": round(age, 1)},
    )


@_check("profit_margin", "Rebuild the days in Dagster (job rebuild_days).")
def money_adds_up(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """Per currency: revenue − refunds − disputes − Stripe fees − API cost = net margin = the sum of both facts."""
    wrong = []
    for row in reports_db.checks().money(first, last):
        currency = row.pop("currency")
        if None in row.values():
            wrong.append(f"{currency.upper()} is in the facts or in the report alone")
            continue
        balance = row["revenue"] - row["refunds"] - row["disputes"] - row["fees"] - row["cost"]
        for name, cents, expected in (
            ("net margin", row["net"], balance),
            ("net margin of the facts", row["facts_net"], balance),
            ("received by the facts", row["facts_received"], row["revenue"]),
        ):
            if cents != expected:
                there, here = (money(value, currency) for value in (cents, expected))
                wrong.append(f"{name} is {there}, not {here}")
    return AssetCheckResult(
        passed=not wrong,
        severity=ERROR,
        description="; ".join(wrong) or "to the cent",
        metadata={"differences": len(wrong)},
    )


@_check("profit_margin", "Compare the payments in the Stripe dashboard with `smi jobs show`.")
def money_is_what_stripe_booked(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """For each payment: received − refunds − disputes − fees = what Stripe has booked, to the cent."""
    found = reports_db.checks().stripe_differences(first, last)
    rows = [[row["payment_intent_id"], *(money(row[k], row["currency"]) for k in ("ours", "stripe"))] for row in found]
    table = Table(["Payment", "Reports", "Stripe"], rows)
    words = "; ".join(f"{payment} {ours}, Stripe {stripe}" for payment, ours, stripe in rows[:_NAMED])
    return AssetCheckResult(
        passed=not found,
        severity=ERROR,
        description=words or "to the cent",
        metadata={"differences": len(found)} | ({"payments": MetadataValue.md(table.markdown())} if found else {}),
    )


def _floor(reports_db: ReportsResource, first: date, last: date, what: str) -> AssetCheckResult:
    settings = reports_db.settings()
    floors = {
        "completion_percent": float(settings.smi_completion_floor_percent),
        "margin_percent": float(settings.smi_margin_floor_percent),
    }
    rows = reports_db.checks().below_floors(first, last, **floors)
    below = [row for row in rows if row["what"].startswith(what)]
    words = "; ".join(
        f"{row['day']}: {row['what']} {row['percent']:.1f}% < {row['floor']:g}%" for row in below[:_NAMED]
    )
    return AssetCheckResult(
        passed=not below,
        severity=WARN,
        description=words or f"at least {floors[f'{what}_percent']:g}%",
        metadata={"days_below": len(below)},
    )


@_check("completion_rate", "See in error_rate why jobs failed; SMI_COMPLETION_FLOOR_PERCENT is the threshold.")
def completion_floor(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """Each day's completion rate is at least SMI_COMPLETION_FLOOR_PERCENT."""
    return _floor(reports_db, first, last, "completion")


@_check("profit_margin", "See the jobs at a loss on the day's page; SMI_MARGIN_FLOOR_PERCENT is the threshold.")
def margin_floor(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """Each day's margin is at least SMI_MARGIN_FLOOR_PERCENT, in every currency."""
    return _floor(reports_db, first, last, "margin")


@_check("processing_times", "Find the slow stage in processing_times.")
def within_promise(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """95% of each day's jobs were closed within SMI_MAX_PROCESSING_SECONDS."""
    limit = reports_db.settings().smi_max_processing_seconds
    slow = reports_db.checks().slow_days(first, last, limit)
    words = "; ".join(f"{row['day']}: 95% within {duration(row['p95'])}" for row in slow[:_NAMED])
    return AssetCheckResult(
        passed=not slow,
        severity=WARN,
        description=f"{words}; promised {duration(limit)}" if slow else f"95% within {duration(limit)}",
        metadata={"slow_days": len(slow)},
    )


@_check("credit_usage", "Raise SMI_MONTHLY_CREDIT_BUDGET, or set SMI_BUDGET_HOLD=true to take no orders at 100%.")
def budget_kept(reports_db: ReportsResource, first: date, last: date) -> AssetCheckResult:
    """The month of the newest of these days has used less than 80% of SMI_MONTHLY_CREDIT_BUDGET; from 100% an
    error."""
    budget = reports_db.settings().smi_monthly_credit_budget
    if budget is None:
        return AssetCheckResult(passed=True, description="no budget is set")
    used = reports_db.checks().credits_used(last)
    percent = 100 * used / budget
    return AssetCheckResult(
        passed=percent < 80,
        severity=ERROR if percent >= 100 else WARN,
        description=f"{number(used)} of {number(budget)} credits ({percent:.0f}%) used in {day(last, 'MMMM y')}",
        metadata={"used": used, "percent": percent},
    )
