"""W16 in the Dagster UI: one small job per action, its form in the launchpad; they only call `services.admin`."""

from collections.abc import Callable
from typing import TypeVar

from dagster import Config, Failure, JobDefinition, OpExecutionContext, in_process_executor, job, op
from pydantic import Field

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.runs import PRIORITY_QUEUE
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services import admin
from smi_pipeline.services.context import ServiceContext


class JobConfig(Config):
    """The upscale job to act on."""

    job_id: str = Field(description="The upscale job: 32 characters, with or without hyphens")


class RetryConfig(JobConfig):
    """How to start a job again."""

    admin_override: bool = Field(
        default=False, description="Upscale it even if it is unpaid, failed, refunded or delivered: a gift of the shop"
    )


class ExtendConfig(JobConfig):
    """How much more time to give."""

    minutes: float = Field(description="Minutes to add to the deadline, up to 1440")


class HoldConfig(JobConfig):
    """Why a job waits."""

    reason: str = Field(description="Why it is held; shown on the ops page")


class PaymentConfig(Config):
    """A payment without a job."""

    payment_intent_id: str = Field(description="Stripe's id, pi_…")


class TaskConfig(Config):
    """A person's task."""

    task_id: int = Field(description="Number of the task, from the ops page or `smi tasks list`")


class AdoptConfig(PaymentConfig):
    """Which job the payment belongs to."""

    job_id: str = Field(description="The upscale job that this payment is for")


AnyConfig = TypeVar("AnyConfig", bound=Config)


def _admin_job(
    name: str, description: str, config_class: type[AnyConfig], act: Callable[[ServiceContext, AnyConfig], str]
) -> JobDefinition:
    @op(name=f"admin_{name}_action", description=description)
    def action(context: OpExecutionContext, config: config_class, smi: SmiResource) -> None:  # type: ignore[valid-type]
        try:
            done = act(smi.ctx(f"admin, run {context.run_id}"), config)
        except SmiError as error:
            raise Failure(description=str(error), allow_retries=False) from error
        context.log.info(done)
        context.add_output_metadata({"done": done})

    @job(
        name=f"admin_{name}",
        description=description,
        executor_def=in_process_executor,
        tags={"dagster-celery/queue": PRIORITY_QUEUE, "smi/admin": name},
    )
    def admin_job() -> None:
        action()

    return admin_job


ADMIN_JOBS = [
    _admin_job(
        "retry",
        "Starts an upscale job again, in a new round that delivers or ends without money.",
        RetryConfig,
        lambda ctx, c: admin.retry(ctx, c.job_id, admin_override=c.admin_override),
    ),
    _admin_job("check", "Asks Upsampler now.", JobConfig, lambda ctx, c: admin.check(ctx, c.job_id)),
    _admin_job("extend", "Extends the deadline.", ExtendConfig, lambda ctx, c: admin.extend(ctx, c.job_id, c.minutes)),
    _admin_job(
        "refund",
        "Returns the payment; after delivery as goodwill.",
        JobConfig,
        lambda ctx, c: admin.refund_job(ctx, c.job_id),
    ),
    _admin_job("resend", "Sends the closing mail again.", JobConfig, lambda ctx, c: admin.resend(ctx, c.job_id)),
    _admin_job(
        "token",
        "Makes a new download link, ends the older ones, and mails it (the link itself is not shown in logs).",
        JobConfig,
        lambda ctx, c: admin.new_link_by_mail(ctx, c.job_id),
    ),
    _admin_job(
        "cancel", "Ends an open job; a paid one is refunded.", JobConfig, lambda ctx, c: admin.cancel(ctx, c.job_id)
    ),
    _admin_job(
        "hold",
        "Keeps a job from being submitted.",
        HoldConfig,
        lambda ctx, c: admin.hold(ctx, c.job_id, c.reason),
    ),
    _admin_job("release", "Ends a hold.", JobConfig, lambda ctx, c: admin.release(ctx, c.job_id)),
    _admin_job(
        "adopt_payment",
        "Gives a payment without a job to one.",
        AdoptConfig,
        lambda ctx, c: admin.adopt(ctx, c.payment_intent_id, c.job_id),
    ),
    _admin_job(
        "refund_payment",
        "Returns a payment without a job.",
        PaymentConfig,
        lambda ctx, c: admin.refund_payment(ctx, c.payment_intent_id),
    ),
    _admin_job(
        "acknowledge_task",
        "Says that a person has taken a task on.",
        TaskConfig,
        lambda ctx, c: admin.acknowledge_task(ctx, c.task_id),
    ),
    _admin_job(
        "close_task",
        "Says that a task is settled.",
        TaskConfig,
        lambda ctx, c: admin.close_task(ctx, c.task_id),
    ),
]
