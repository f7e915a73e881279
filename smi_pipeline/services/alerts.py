"""What a person must hear of (W25): open tasks, the alarm query, incidents of the orchestration."""

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.services.context import ServiceContext, log


def raise_alarms(ctx: ServiceContext) -> int:
    """Opens a task for each job of the alarm query (section 6 rule 11), and closes those that are over. Returns how
    many jobs are overdue."""
    overdue = ctx.state.queries.alarms(ctx.policy)
    late = {row.job_id for row in overdue}
    for task in ctx.state.manual_tasks.opened():
        if task.kind == ManualTaskKind.OVERDUE and task.subject not in late and task.acknowledged_at is None:
            ctx.state.manual_tasks.close(ManualTaskKind.OVERDUE, task.subject, actor="settled")
    for row in overdue:
        ctx.state.manual_tasks.open(
            kind=ManualTaskKind.OVERDUE,
            subject=row.job_id,
            job_id=row.job_id,
            message=f"Upscale job {row.job_id} is paid and {row.status}, but neither delivered nor refunded "
            "after its last deadline.",
            next_step=f"`smi jobs show {row.job_id}`, then retry or refund it.",
        )
    _name_late_refunds(ctx, late)
    _watch_storage(ctx)
    _watch_sensors(ctx)
    return len(overdue)


SILENCE_SECONDS = 300.0
"""So long the sensor that owns the clocks may give no sign of life while this one does."""


def _watch_sensors(ctx: ServiceContext) -> None:
    """A task while nothing looks after the clocks of the jobs, although the service is not down: somebody has
    switched that sensor off, or it fails at each tick. The alarm query takes it for an outage of the service."""
    silent = ctx.state.queries.queue().silent_seconds
    if silent is None or silent < SILENCE_SECONDS:
        ctx.state.manual_tasks.close(ManualTaskKind.SENSOR_SILENT, "upsampler_completions", actor="settled")
        return
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.SENSOR_SILENT,
        subject="upsampler_completions",
        job_id=None,
        message=f"The sensor upsampler_completions has not looked for {silent / 60:.0f} minutes: no status is asked, "
        "no deadline ends a job.",
        next_step="See in Dagster whether it is switched off or fails (Automation, upsampler_completions), and start "
        "it again.",
    )


def _watch_storage(ctx: ServiceContext) -> None:
    """A task as long as the storage has no room: jobs wait then, without an error that anybody would look at."""
    shortage = ctx.storage.shortage()
    if shortage is None:
        ctx.state.manual_tasks.close(ManualTaskKind.DISK_FULL, "storage", actor="settled")
        return
    log.error("the storage has no room: %s", shortage)
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.DISK_FULL,
        subject="storage",
        job_id=None,
        message=f"The disk of the storage is full: {shortage}. Sources and results cannot be kept.",
        next_step="Make room on the disk of SMI_STORAGE_URL. Jobs wait, and go on by themselves.",
    )


def _name_late_refunds(ctx: ServiceContext, overdue: set[str]) -> None:
    """A task for each refund that is owed too long, as long as it is. That of an overdue job is named there."""
    owed = {r.payment_intent_id: r for r in ctx.state.queries.late_refunds(ctx.policy) if r.job_id not in overdue}
    for task in ctx.state.manual_tasks.opened():
        if task.kind == ManualTaskKind.REFUND_LATE and task.subject not in owed:
            ctx.state.manual_tasks.close(ManualTaskKind.REFUND_LATE, task.subject, actor="settled")
    for payment_intent, row in owed.items():
        ctx.state.manual_tasks.open(
            kind=ManualTaskKind.REFUND_LATE,
            subject=payment_intent,
            job_id=row.job_id,
            message=f"The refund of {payment_intent} is still owed; last error: {row.last_error or 'none'}.",
            next_step="It is tried again by itself. Check Stripe's key and the payment in the Stripe dashboard.",
        )


BUDGET_MARKS = (80, 100)
"""Percent of the monthly credit budget at which a person is told (W22)."""


def watch_budget(ctx: ServiceContext) -> int | None:
    """Opens a task when the month's credits pass 80 and 100 % of the budget. Returns percent used; None: no budget."""
    budget = ctx.policy.monthly_credit_budget
    if budget is None:
        return None
    used = ctx.state.queries.credits_this_month()
    month = f"{ctx.state.submissions.now():%Y-%m}"
    for mark in BUDGET_MARKS:
        if used * 100 >= budget * mark:
            ctx.state.manual_tasks.open_once(
                kind=ManualTaskKind.BUDGET,
                subject=f"{month} {mark} %",
                message=f"{used} of the {budget} credits budgeted for {month} are used ({mark} % mark passed).",
                next_step="Raise SMI_MONTHLY_CREDIT_BUDGET, or set SMI_BUDGET_HOLD=true to take no orders at 100 %.",
            )
    return used * 100 // budget


def send_alerts(ctx: ServiceContext, to: str | None, post, *, limit: int = 20) -> int:
    """Tells a person of tasks that were not told yet, in one message. Returns how many.

    `post(subject, lines)` hands them to the alert webhook, or is None. A task counts as told when one way worked.
    """
    tasks = ctx.state.manual_tasks.unalerted(limit)
    if not tasks or not (to or post):
        return 0
    subject = tasks[0].message if len(tasks) == 1 else f"{len(tasks)} things need a person"
    lines = [f"{task.message} Next step: {task.next_step}" for task in tasks]
    told = False
    if post:
        try:
            post(subject, lines)
            told = True
        except SmiError as error:
            log.warning("the alert webhook did not take the alert: %s", error)
    if to:
        now = ctx.state.submissions.now()
        mail = ctx.mailer.render(
            "alert",
            to=to,
            message_id=f"<alert.{tasks[0].task_id}.{int(now.timestamp())}@{ctx.policy.mail_domain}>",
            context={"subject": subject[:150], "lines": lines, "links": {"Ops page": f"{ctx.policy.public_url}/ops"}},
            at=now,
        )
        try:
            ctx.mailer.send(mail)
            told = True
        except SmiError as error:
            log.warning("the alert mail was not taken: %s", error)
    if told:
        ctx.state.manual_tasks.alerted([task.task_id for task in tasks])
    return len(tasks) if told else 0
