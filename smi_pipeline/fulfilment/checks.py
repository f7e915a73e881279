"""Asset checks of the operational side: no job is overdue, no circuit breaker is open, and the state agrees with Stripe
and with the storage.

They report what the comparisons of `schedules` and `sensors` have found. They compare nothing themselves and send no
alert: each difference has its own manual task.
"""

from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetSelection,
    MetadataValue,
    asset_check,
    define_asset_job,
    in_process_executor,
)

from smi_pipeline.core.faults import headline
from smi_pipeline.core.models import ManualTask
from smi_pipeline.core.runs import PRIORITY_QUEUE
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.context import ServiceContext

_SHOWN = 50
_STALE_SECONDS = {"events": 900.0, "payments": 6 * 3600.0, "files": 6 * 3600.0}
"""Age from which the last complete comparison is too old to rely on."""


@asset_check(asset="upscale_jobs")
def no_overdue_paid_job(smi: SmiResource) -> AssetCheckResult:
    """No paid upscale job is past its last deadline without being delivered, refunded or acknowledged."""
    ctx = smi.ctx("no_overdue_paid_job check")
    overdue = ctx.state.queries.alarms(ctx.policy)
    metadata: dict[str, Any] = {"overdue jobs": len(overdue)}
    if overdue:
        rows = (
            (f"`{job.job_id}`", job.status, job.reason_code or "", job.start_by, job.deadline_at or "–")
            for job in overdue[:_SHOWN]
        )
        metadata["jobs"] = _table(("Upscale job", "Status", "Reason", "Start by", "Deadline"), rows)
        metadata["next step"] = "`smi jobs show JOB_ID`, then `smi jobs retry JOB_ID` or `smi jobs refund JOB_ID`"
    return AssetCheckResult(
        passed=not overdue,
        severity=AssetCheckSeverity.ERROR,
        description=f"{len(overdue)} paid job(s) overdue: retry or refund them" if overdue else "no job is overdue",
        metadata=metadata,
    )


@asset_check(asset="upscale_jobs")
def no_open_breaker(smi: SmiResource) -> AssetCheckResult:
    """No circuit breaker is open: no order waits because a part of the shop fails."""
    found = [f for f in smi.ctx("no_open_breaker check").state.dashboard.breakers() if f.breaker.is_open]
    metadata: dict[str, Any] = {"open breakers": len(found)}
    if found:
        rows = (
            (f.breaker.name, f.breaker.opened_at, headline(f.breaker.name), f.breaker.message, f.waiting_text,
             f.breaker.next_step)
            for f in found
        )  # fmt: skip
        metadata["breakers"] = _table(("Breaker", "Open since", "What", "Last failure", "Waiting", "Next step"), rows)
    names = ", ".join(f"{headline(f.breaker.name)} ({f.waiting_text} waiting)" for f in found)
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.WARN,
        description=names or "no breaker is open",
        metadata=metadata,
    )


@asset_check(asset="stripe_payments")
def stripe_agrees(smi: SmiResource) -> AssetCheckResult:
    """Every Stripe event was applied; payments and refunds are the same at Stripe and here."""
    return _agreement(smi.ctx("stripe_agrees check"), "events", "payments")


@asset_check(asset="deliveries")
def files_agree(smi: SmiResource) -> AssetCheckResult:
    """The file behind every valid link is complete in the storage, and the storage holds no unreferenced files."""
    return _agreement(smi.ctx("files_agree check"), "files")


def _agreement(ctx: ServiceContext, *comparisons: str) -> AssetCheckResult:
    standing = ctx.state.reconciliation.standing()
    metadata: dict[str, Any] = {}
    stale = []
    kinds: set[str] = set()
    for what in comparisons:
        age = standing[what].age_seconds
        metadata[f"{what}: last complete comparison"] = "never" if age is None else f"{age / 60:.0f} minutes ago"
        if age is None or age > _STALE_SECONDS[what]:
            stale.append(what)
        if standing[what].compared is not None:
            metadata[f"{what}: compared"] = standing[what].compared
        kinds.update(standing[what].differences)
    empty = [what for what in comparisons if standing[what].compared == 0]
    tasks = [task for task in ctx.state.manual_tasks.opened() if task.kind in kinds]
    metadata["differences"] = len(tasks)
    if tasks:
        metadata["differences and next steps"] = _named(tasks)
    description = f"{len(tasks)} difference(s), each with its next step" if tasks else ""
    if stale:
        late = (
            f"not compared recently: {', '.join(stale)}; see the runs of clean_up and the sensor stripe_reconciliation"
        )
        description = f"{description}; {late}" if description else late
    return AssetCheckResult(
        passed=not tasks and not stale,
        severity=AssetCheckSeverity.ERROR if tasks else AssetCheckSeverity.WARN,
        description=description or (f"compared nothing: there were no {empty[0]}" if empty else "no differences"),
        metadata=metadata,
    )


def _named(tasks: list[ManualTask]) -> MetadataValue:
    rows = ((task.task_id, task.message, task.next_step) for task in tasks[:_SHOWN])
    return _table(("Task", "What", "Next step"), rows)


def _table(head: tuple[str, ...], rows: Any) -> MetadataValue:
    def line(cells: Any) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return MetadataValue.md("\n".join([line(head), line("---" for _ in head), *(line(row) for row in rows)]))


CHECKS = [no_overdue_paid_job, no_open_breaker, stripe_agrees, files_agree]

check_operations = define_asset_job(
    "check_operations",
    selection=AssetSelection.checks(*CHECKS),
    executor_def=in_process_executor,
    tags={"dagster-celery/queue": PRIORITY_QUEUE, "dagster-celery/run_priority": "1"},
    description="Runs the asset checks of the operational side.",
)
