"""Check the reports. A failing check opens a manual task and blocks nothing.

A check covers the days of its run, or the newest built day when it runs alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

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


@dataclass(frozen=True)
class Verdict:
    """What a check has found: `failing` says what is wrong by day and currency ("2025-11-10 USD"), by month, or under
    the empty name for what is of no day. Each has a manual task of its own."""

    description: str
    failing: Mapping[str, str] = field(default_factory=dict)
    severity: AssetCheckSeverity = ERROR
    metadata: Mapping[str, Any] = field(default_factory=dict)


Judge = Callable[[ReportsResource, date, date], Verdict]


def _check(asset: str, next_step: str) -> Callable[[Judge], Judge]:
    """Make an asset check of a function of days. What fails has a manual task with `next_step`, until the check of the
    same day and currency passes."""

    def register(judge: Judge) -> Judge:
        name = judge.__name__

        @asset_check(asset=AssetKey(asset), name=name, description=judge.__doc__)
        def check(context: AssetCheckExecutionContext, reports_db: ReportsResource) -> AssetCheckResult:
            newest = reports_db.checks().newest_day()
            days = starts_of(context) or ((newest, newest) if newest else None)
            if days is None:
                return AssetCheckResult(passed=True, description="compared nothing: no report has been built yet")
            verdict = judge(reports_db, *days)
            tasks = reports_db.tasks()
            for task in tasks.opened():
                of_check, _, what = task.subject.partition(" ")
                if (task.kind, of_check) == (TASK, name) and what not in verdict.failing and _is_of(what, *days):
                    tasks.close(TASK, task.subject, actor="settled")
            for what, words in verdict.failing.items():
                message = f"The check {name} of {asset} fails{what and f' for {what}'}: {words}."
                subject = f"{name} {what}".strip()
                tasks.open(kind=TASK, subject=subject, job_id=None, message=message, next_step=next_step)
            return AssetCheckResult(
                passed=not verdict.failing,
                severity=verdict.severity,
                description=verdict.description,
                metadata=dict(verdict.metadata),
            )

        CHECKS.append(check)
        return judge

    return register


def _is_of(what: str, first: date, last: date) -> bool:
    """Return whether these days contain the day or month that `what` begins with; a name without one is of all."""
    day_or_month = what.partition(" ")[0]
    length = len(day_or_month)
    return first.isoformat()[:length] <= day_or_month <= last.isoformat()[:length]


def _name(row: Mapping[str, Any]) -> str:
    """Return the day and the currency of a row as a name of what fails."""
    return f"{row['day']} {row['currency'].upper()}"


def _in_words(failing: Mapping[str, str]) -> str:
    return "; ".join(f"{what}: {words}" for what, words in list(failing.items())[:_NAMED])


@_check("job_facts", "Rebuild the days in Dagster (job rebuild_days); if it fails again, see the log of the run.")
def facts_complete(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """Every paid upscale job has a row, and no other job has one. Changes since the build are not counted."""
    days = reports_db.checks().completeness(first, last)
    found = {name: sum(row[name] for row in days) for name in ("paid", "facts", "missing", "surplus", "waiting")}
    counted = (
        f"{number(found['facts'])} facts of {jobs(found['paid'])} on {len(days)} days: "
        f"{found['missing']} missing, {found['surplus']} surplus, {found['waiting']} waiting to be rebuilt"
    )
    return Verdict(
        counted if found["paid"] or found["facts"] else "compared nothing: no paid jobs on these days",
        {
            str(row["day"]): f"{row['missing']} missing, {row['surplus']} surplus"
            for row in days
            if row["missing"] or row["surplus"]
        },
        metadata={name: MetadataValue.int(count) for name, count in {**found, "days": len(days)}.items()},
    )


@_check("job_facts", "Check that the sensor changed_report_days is running, and the last run of rebuild_days.")
def facts_fresh(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """No change has waited longer than SMI_REPORTS_FRESH_MINUTES to appear in the tables."""
    limit = timedelta(minutes=reports_db.settings().smi_reports_fresh_minutes)
    age = reports_db.checks().oldest_change()
    words = (
        f"the oldest change not in the tables is {duration(age)} old, the limit is {duration(limit.total_seconds())}"
    )
    late = {"": words} if age > limit.total_seconds() else {}
    return Verdict(words, late, WARN, {"oldest_change_seconds": round(age, 1)})


@_check("profit_margin", "Rebuild the days in Dagster (job rebuild_days).")
def money_adds_up(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """Per day and currency: revenue − refunds − disputes − Stripe fees − API cost = net margin = the sum of both
    facts."""
    rows = reports_db.checks().money(first, last)
    wrong = {_name(row): words for row in rows if (words := _sums_of(row))}
    right = "to the cent" if rows else "compared nothing: no money on these days"
    return Verdict(_in_words(wrong) or right, wrong, metadata={"compared": len(rows), "differences": len(wrong)})


def _sums_of(row: Mapping[str, Any]) -> str:
    """Return what does not add up of a day in a currency, empty if all does."""
    if None in row.values():
        return "in the facts or in the report alone"
    balance = row["revenue"] - row["refunds"] - row["disputes"] - row["fees"] - row["cost"]
    return "; ".join(
        f"{name} is {money(cents, row['currency'])}, not {money(expected, row['currency'])}"
        for name, cents, expected in (
            ("net margin", row["net"], balance),
            ("net margin of the facts", row["facts_net"], balance),
            ("received by the facts", row["facts_received"], row["revenue"]),
        )
        if cents != expected
    )


@_check("profit_margin", "Compare the payments in the Stripe dashboard with `smi jobs show`.")
def money_is_what_stripe_booked(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """For each payment: received − refunds − disputes − fees = what Stripe has booked, to the cent. A day and currency
    of which nothing was compared by the day after next is a warning."""
    counts = reports_db.checks().stripe_comparison(first, last)
    found = reports_db.checks().stripe_differences(first, last)
    payments, compared = (sum(row[name] for row in counts) for name in ("rows", "compared"))
    wrong: dict[str, str] = {}
    for row in found:
        ours, stripe = (money(row[k], row["currency"]) for k in ("ours", "stripe"))
        named = f"{row['payment_intent_id']} {ours}, Stripe {stripe}"
        wrong[_name(row)] = f"{wrong[_name(row)]}; {named}" if _name(row) in wrong else named
    unread = {
        _name(row): f"compared nothing: not all bookings of any of {number(row['rows'])} payments were read"
        for row in counts
        if row["due"] and row["rows"] and not row["compared"]
    }
    if compared:
        right = f"to the cent; {number(compared)} compared, {number(max(0, payments - compared))} not booked yet"
    else:
        right = f"compared nothing: {'no payments' if not payments else 'nothing is booked yet'} on these days"
    rows = [[row["payment_intent_id"], *(money(row[k], row["currency"]) for k in ("ours", "stripe"))] for row in found]
    table = Table(["Payment", "Reports", "Stripe"], rows)
    return Verdict(
        _in_words(wrong | unread) or right,
        unread | wrong,
        ERROR if wrong else WARN,
        {"compared": compared, "differences": len(found)}
        | ({"payments": MetadataValue.md(table.markdown())} if found else {}),
    )


def _floor(reports_db: ReportsResource, first: date, last: date, what: str) -> Verdict:
    settings = reports_db.settings()
    floors = {
        "completion_percent": float(settings.smi_completion_floor_percent),
        "margin_percent": float(settings.smi_margin_floor_percent),
    }
    rows = reports_db.checks().below_floors(first, last, **floors)
    below = {  # by day, and by currency ("margin USD")
        f"{row['day']} {row['what'].removeprefix(what).removeprefix(' rate').strip()}".strip(): (
            f"{row['what']} {row['percent']:.1f}% < {row['floor']:g}%"
        )
        for row in rows
        if row["what"].startswith(what)
    }
    words = "; ".join(f"{day.partition(' ')[0]}: {said}" for day, said in list(below.items())[:_NAMED])
    return Verdict(words or f"at least {floors[f'{what}_percent']:g}%", below, WARN, {"days_below": len(below)})


@_check("completion_rate", "See in error_rate why jobs failed; SMI_COMPLETION_FLOOR_PERCENT is the threshold.")
def completion_floor(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """Each day's completion rate is at least SMI_COMPLETION_FLOOR_PERCENT."""
    return _floor(reports_db, first, last, "completion")


@_check("profit_margin", "See the jobs at a loss on the day's page; SMI_MARGIN_FLOOR_PERCENT is the threshold.")
def margin_floor(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """Each day's margin is at least SMI_MARGIN_FLOOR_PERCENT, in every currency."""
    return _floor(reports_db, first, last, "margin")


@_check("processing_times", "Find the slow stage in processing_times.")
def within_promise(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """95% of each day's jobs were closed within SMI_MAX_PROCESSING_SECONDS."""
    limit = reports_db.settings().smi_max_processing_seconds
    slow = {
        str(row["day"]): f"95% within {duration(row['p95'])}"
        for row in reports_db.checks().slow_days(first, last, limit)
    }
    words = f"{_in_words(slow)}; promised {duration(limit)}" if slow else f"95% within {duration(limit)}"
    return Verdict(words, slow, WARN, {"slow_days": len(slow)})


@_check("credit_usage", "Raise SMI_MONTHLY_CREDIT_BUDGET, or set SMI_BUDGET_HOLD=true to take no orders at 100%.")
def budget_kept(reports_db: ReportsResource, first: date, last: date) -> Verdict:
    """The month of the newest of these days has used less than 80% of SMI_MONTHLY_CREDIT_BUDGET; from 100% an
    error."""
    budget = reports_db.settings().smi_monthly_credit_budget
    if budget is None:
        return Verdict("no budget is set")
    used = reports_db.checks().credits_used(last)
    percent = 100 * used / budget
    words = f"{number(used)} of {number(budget)} credits ({percent:.0f}%) used in {day(last, 'MMMM y')}"
    return Verdict(
        words,
        {f"{last:%Y-%m}": words} if percent >= 80 else {},
        ERROR if percent >= 100 else WARN,
        {"used": used, "percent": percent},
    )
