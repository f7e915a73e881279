"""Manual tasks for what needs an operator: overdue jobs, a full disk, a silent sensor, the budget; and their alerts."""

from collections.abc import Callable
from datetime import timedelta

from smi_pipeline.core.errors import PermanentError, RefusedError, SmiError
from smi_pipeline.core.faults import MAIL, ORDERS_IN_A_ROW, STATUS, SUBMISSIONS, Failure, Scope, headline
from smi_pipeline.core.runs import silence
from smi_pipeline.core.vocabulary import ManualTaskKind
from smi_pipeline.formatting import duration
from smi_pipeline.services.context import ServiceContext, log
from smi_pipeline.services.one_object import kept_apart
from smi_pipeline.services.steps import watched
from smi_pipeline.state.manual_tasks import EndedTask


def raise_alarms(ctx: ServiceContext) -> int:
    """Open a task for each job of the alarm query and close those that are settled. Return how many jobs are overdue.

    Also open and close the tasks for late refunds, a full disk and a silent sensor. A check that fails is told and
    keeps back no alert.
    """
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
            message=f"Upscale job {row.job_id} is paid and {row.status}, and its last deadline passed without a "
            "delivery or a refund.",
            next_step=f"`smi jobs show {row.job_id}`, then `smi jobs retry` or `smi jobs refund`.",
        )
    checks: dict[str, Callable[[], None]] = {
        "the check for late refunds": lambda: _name_late_refunds(ctx, late),
        "the check of the storage": lambda: _watch_storage(ctx),
        "the check of the sensors": lambda: _watch_sensors(ctx),
        "the check of delayed mails": lambda: _watch_mails(ctx),
        "the check for tasks of earlier releases": lambda: _close_old_tasks(ctx),
    }
    for name, check in checks.items():
        with kept_apart(ctx, name):
            check()
    return len(overdue)


def _close_old_tasks(ctx: ServiceContext) -> None:
    """Close the task that a release before the circuit breakers has opened for a refused account."""
    if not any(ctx.state.breakers.get(name).is_open for name in (SUBMISSIONS, STATUS)):
        ctx.state.manual_tasks.close(ManualTaskKind.ACCOUNT, "upsampler", actor="settled")


SILENCE_SECONDS = 300.0
"""How long the sensor upsampler_completions may be silent before an operator is told."""


MAIL_PATIENCE = timedelta(hours=1)
"""How long every mail may be refused for the time being until an operator is told."""


def _watch_mails(ctx: ServiceContext) -> None:
    """Open a task while nobody's mail is accepted, and the mail server refuses several recipients for the time being or
    does not answer. The task of the breaker, if it is open, says the same."""
    found = ctx.state.emails.delayed(MAIL_PATIENCE)
    told = ctx.state.breakers.get(MAIL).is_open
    if found is None or told or not (found.outage or found.recipients >= ORDERS_IN_A_ROW):
        ctx.state.manual_tasks.close(ManualTaskKind.MAIL_DELAYED, "mails", actor="settled")
        return
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.MAIL_DELAYED,
        subject="mails",
        job_id=None,
        message=f"No mail was accepted for an hour; {found.recipients} recipient(s) wait since {found.since:%H:%M} "
        f"UTC: {found.error.rstrip('.')}. Each mail is tried for a day.",
        next_step="Ask the provider of the mail server for the reason. Customers find their links on their pages.",
    )


def _watch_sensors(ctx: ServiceContext) -> None:
    """Open a task while the sensor that enforces deadlines is silent, although the service is not down.

    Somebody has switched it off, or it fails at each tick. The alarm query takes this for an outage of the service.
    """
    silent = ctx.state.queries.queue().silent_seconds
    if silent is None or silent < SILENCE_SECONDS:
        ctx.state.manual_tasks.close(ManualTaskKind.SENSOR_SILENT, "upsampler_completions", actor="settled")
        return
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.SENSOR_SILENT,
        subject="upsampler_completions",
        message=f"Nothing has polled Upsampler or enforced deadlines for {silent / 60:.0f} minutes.",
        next_step="Open Automation, upsampler_completions in Dagster: switch it on, or see why its ticks fail.",
    )


def _watch_storage(ctx: ServiceContext) -> None:
    """Open a task while the storage is full: jobs only wait then, so that no run fails."""
    shortage = ctx.storage.shortage()
    if shortage is None:
        ctx.state.manual_tasks.close(ManualTaskKind.DISK_FULL, "storage", actor="settled")
        return
    log.error("the storage is full: %s", shortage)
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.DISK_FULL,
        subject="storage",
        message=f"The disk of the storage is full: {shortage}. Sources and results cannot be stored; jobs wait.",
        next_step="Free space on the disk of SMI_STORAGE_URL. The jobs then continue automatically.",
    )


def _name_late_refunds(ctx: ServiceContext, overdue: set[str]) -> None:
    """Open a task for each refund that is late, except those of overdue jobs, which have a task already."""
    owed = {r.payment_intent_id: r for r in ctx.state.queries.late_refunds(ctx.policy) if r.job_id not in overdue}
    for task in ctx.state.manual_tasks.opened():
        if task.kind == ManualTaskKind.REFUND_LATE and task.subject not in owed:
            ctx.state.manual_tasks.close(ManualTaskKind.REFUND_LATE, task.subject, actor="settled")
    for payment_intent, row in owed.items():
        ctx.state.manual_tasks.open(
            kind=ManualTaskKind.REFUND_LATE,
            subject=payment_intent,
            job_id=row.job_id,
            message=f"The refund of {payment_intent} is late; last error: {row.last_error or 'none'}.",
            next_step="It is retried automatically. Check STRIPE_API_KEY, and the payment in the Stripe dashboard.",
        )


BUDGET_MARKS = (80, 100)
"""Percent of the monthly credit budget at which an operator is told."""


def watch_budget(ctx: ServiceContext) -> int | None:
    """Open a task when the credits used this month reach 80 and 100 % of the budget.

    Return the percentage used, or None without a budget.
    """
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
                next_step="Raise SMI_MONTHLY_CREDIT_BUDGET, or set SMI_BUDGET_HOLD=true to refuse orders at 100 %.",
            )
    return used * 100 // budget


Post = Callable[[str, list[str]], None]


def send_alerts(
    ctx: ServiceContext, to: str | None, post: Post | None, *, limit: int = 20, by_gateway: bool = False
) -> int:
    """Send one alert about all tasks that no alert named yet, by mail to `to` and by `post(subject, lines)`.
    `by_gateway`: about those of which the gateway tells, because the sensor that tells of all others may have stopped.

    Return the number of tasks that were sent by at least one of the two.
    """
    tasks = ctx.state.manual_tasks.unalerted(limit, by_gateway=by_gateway)
    subject = tasks[0].message if len(tasks) == 1 else f"{len(tasks)} items need attention"
    lines = [f"{task.message} Next step: {task.next_step}" for task in tasks]
    if not tasks or not _told(ctx, to, post, f"alert.{tasks[0].task_id}", subject, lines):
        return 0
    ctx.state.manual_tasks.alerted([task.task_id for task in tasks])
    return len(tasks)


def send_resolved(
    ctx: ServiceContext, to: str | None, post: Post | None, *, limit: int = 20, by_gateway: bool = False
) -> int:
    """Tell those who got the alert of a circuit breaker that it has closed by itself, or, `by_gateway`, that a part of
    the service works again. Return the number of problems.

    One that has ended before its alert was due is told with all of it. This is a notice: it opens no task.
    """
    ended = ctx.state.manual_tasks.ended_by_themselves(limit, by_gateway=by_gateway)
    in_words = silence if by_gateway else headline
    subject = (
        f"Resolved: {in_words(ended[0].subject) if len(ended) == 1 else f'{len(ended)} problems'}" if ended else ""
    )
    lines = [
        f"{_end(task, in_words(task.subject))} What waited continues automatically; there is nothing to do."
        for task in ended
    ]
    if not ended or not _told(ctx, to, post, f"resolved.{ended[0].task_id}", subject, lines):
        return 0
    ctx.state.manual_tasks.end_told([task.task_id for task in ended])
    return len(ended)


def _end(task: EndedTask, headline: str) -> str:
    over = f"over after {duration((task.closed_at - task.opened_at).total_seconds())}"
    if task.alerted_at:
        return f"{headline}: {over}, since {task.closed_at:%H:%M} UTC."
    return (
        f"{task.message} Opened at {task.opened_at:%H:%M:%S}, closed again at {task.closed_at:%H:%M:%S} UTC by itself, "
        f"{over}."
    )


_ALERTS = "alerts"
"""Stands for the mails to operators in the breaker of mails."""


def _told(ctx: ServiceContext, to: str | None, post: Post | None, name: str, subject: str, lines: list[str]) -> bool:
    """Send one message to the operators. Return whether it was taken by at least one of the two ways."""
    sent = False
    subject = " ".join(subject.split())[:150]  # a line break is no header
    if post:
        try:
            post(subject, lines)
            sent = True
        except SmiError as error:
            log.warning("the alert webhook failed: %s", error)
    if to and _mailed(ctx, to, name, subject, lines):
        sent = True
    if not sent and (to or post):
        log.error("nobody could be told: %s", subject)
    return sent


def _mailed(ctx: ServiceContext, to: str, name: str, subject: str, lines: list[str]) -> bool:
    """Send one mail to the operators. Like those to customers it opens, probes and closes the breaker of mails."""
    if not ctx.state.breakers.may_try(MAIL, _ALERTS):
        return False
    now = ctx.state.submissions.now()
    try:
        mail = ctx.mailer.render(
            "alert",
            to=to,
            message_id=f"<{name}.{int(now.timestamp())}@{ctx.policy.mail_domain}>",
            context={"subject": subject, "lines": lines, "links": {"Ops page": f"{ctx.policy.public_url}/ops"}},
            at=now,
        )
        with watched(ctx, MAIL, _ALERTS):
            ctx.mailer.send(mail)
    except SmiError as error:
        log.warning("the alert mail could not be sent: %s", error)
        if isinstance(error, PermanentError | RefusedError):
            _note_refused_alert(ctx, error)
        return False
    ctx.state.breakers.note_success(MAIL, ctx.policy)
    return True


def _note_refused_alert(ctx: ServiceContext, error: PermanentError | RefusedError) -> None:
    """Open the breaker if the refusal names the shop; if not, let a mail to somebody else probe it."""
    named = isinstance(error, PermanentError) and error.scope is Scope.SHOP
    others_were_accepted = _ALERTS in ctx.state.breakers.get(MAIL).failed_before
    scope = Scope.SHOP if named and not others_were_accepted else Scope.ORDER
    ctx.state.breakers.note(Failure(breaker=MAIL, work_key=_ALERTS, message=str(error), scope=scope, costly=True))
