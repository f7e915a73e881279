"""The admin actions in the Dagster UI: one small job for each, with its parameters as a form in the launchpad."""

from dagster import Config, Failure, JobDefinition, OpExecutionContext, in_process_executor, job, op

from smi_pipeline.core.errors import SmiError
from smi_pipeline.core.runs import PRIORITY_QUEUE
from smi_pipeline.fulfilment.resources import SmiResource
from smi_pipeline.services.admin import actions
from smi_pipeline.services.admin_actions import Action, Interface


def _admin_job(action: Action) -> JobDefinition:
    parameters = action.model(Config)
    current = action.replaced_by
    description = f"Former name of `admin_{current.name}`." if current else action.summary

    @op(name=f"admin_{action.name}_action", description=description)
    def run_action(
        context: OpExecutionContext,
        config: parameters,  # type: ignore[valid-type]  # the class is made from the action
        smi: SmiResource,
    ) -> None:
        try:
            done = action.run(smi.ctx(f"admin, run {context.run_id}"), **vars(config))
        except SmiError as error:
            raise Failure(description=str(error), allow_retries=False) from error
        context.log.info(done)
        context.add_output_metadata({"done": done})

    @job(
        name=f"admin_{action.name}",
        description=description,
        executor_def=in_process_executor,
        tags={"dagster-celery/queue": PRIORITY_QUEUE, "smi/admin": action.name},
    )
    def admin_job() -> None:
        run_action()

    return admin_job


ADMIN_JOBS = [_admin_job(action) for action in actions.over(Interface.DAGSTER)]
