"""What must always be true of the shop, as asset checks: nobody is overdue, and we agree with Stripe and the storage.

The checks look at what was found and say what to do; nothing is compared, changed or told from here. The comparisons
themselves are in `schedules` and `sensors`, a person hears of each difference by its task.
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

from smi_pipeline.core.models import ManualTask
from smi_pipeline.core.runs import PRIORITY_QUEUE
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.context import ServiceContext

_SHOWN = 50
_STALE_SECONDS = {"events": 900.0, "payments": 6 * 3600.0, "files": 6 * 3600.0}
"""Age of the last whole comparison from which its silence means nothing."""


@asset_check(
    asset="upscale_jobs",
    description="The alarm: no upscale job is paid, past its last clock, and neither delivered nor refunded nor taken "
    "on by a person.",
)
def no_overdue_paid_job(smi: SmiResource) -> AssetCheckResult:
    """The alarm query is empty (section 6 rule 11)."""
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
        description=f"{len(overdue)} paid job(s) overdue: retry or refund" if overdue else "nobody is overdue",
        metadata=metadata,
    )


@asset_check(
    asset="stripe_payments",
    description="Every Stripe event was applied, and Stripe's payments and refunds are ours, both ways.",
)
def stripe_agrees(smi: SmiResource) -> AssetCheckResult:
    """What the comparison of events and of payments has found."""
    return _agreement(smi.ctx("stripe_agrees check"), "events", "payments")


@asset_check(
    asset="deliveries",
    description="The file behind every valid link is in the storage, whole; no file lies there that no row names.",
)
def files_agree(smi: SmiResource) -> AssetCheckResult:
    """What the comparison of the storage has found."""
    return _agreement(smi.ctx("files_agree check"), "files")


def _agreement(ctx: ServiceContext, *comparisons: str) -> AssetCheckResult:
    standing = ctx.state.reconciliation.standing()
    metadata: dict[str, Any] = {}
    stale = []
    kinds: set[str] = set()
    for what in comparisons:
        age = standing[what].age_seconds
        metadata[f"{what}: last whole comparison"] = "never" if age is None else f"{age / 60:.0f} minutes ago"
        if age is None or age > _STALE_SECONDS[what]:
            stale.append(what)
        kinds.update(standing[what].differences)
    tasks = [task for task in ctx.state.manual_tasks.opened() if task.kind in kinds]
    metadata["differences"] = len(tasks)
    if tasks:
        metadata["what, and what next"] = _named(tasks)
    description = f"{len(tasks)} difference(s), each with its next step" if tasks else ""
    if stale:
        late = f"not compared lately: {', '.join(stale)}; see the runs of clean_up and the ticks of its sensor"
        description = f"{description}; {late}" if description else late
    return AssetCheckResult(
        passed=not tasks and not stale,
        severity=AssetCheckSeverity.ERROR if tasks else AssetCheckSeverity.WARN,
        description=description or "no difference",
        metadata=metadata,
    )


def _named(tasks: list[ManualTask]) -> MetadataValue:
    rows = ((task.task_id, task.message, task.next_step) for task in tasks[:_SHOWN])
    return _table(("Task", "What", "Next step"), rows)


def _table(head: tuple[str, ...], rows: Any) -> MetadataValue:
    def line(cells: Any) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return MetadataValue.md("\n".join([line(head), line("---" for _ in head), *(line(row) for row in rows)]))


CHECKS = [no_overdue_paid_job, stripe_agrees, files_agree]

check_operations = define_asset_job(
    "check_operations",
    selection=AssetSelection.checks(*CHECKS),
    executor_def=in_process_executor,
    tags={"dagster-celery/queue": PRIORITY_QUEUE, "dagster-celery/run_priority": "1"},
    description="Runs the asset checks of the operational side.",
)
