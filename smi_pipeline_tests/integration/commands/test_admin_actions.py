"""One registry of admin actions: each is offered by the CLI, by Dagster and over HTTP, or says why it is not."""

from typing import Annotated

import click
import pytest

from smi_pipeline import cli
from smi_pipeline.fulfilment.admin import ADMIN_JOBS
from smi_pipeline.gateway.admin_api import ACTIONS, BODIES
from smi_pipeline.services import admin
from smi_pipeline.services.admin_actions import HTTP_PATHS, Action, Interface, Target

GROUPS = {Target.TASK: "tasks", Target.BREAKER: "breakers", Target.PROPERTY: "unsold"}
NAMES = [f"{action.name}, {'/'.join(sorted(set(Interface) - set(action.not_offered)))}" for action in admin.actions]


def command_of(action: Action) -> click.Command | None:
    group = cli.smi.commands[GROUPS.get(action.target, "jobs")]
    assert isinstance(group, click.Group)
    return group.get_command(click.Context(group), action.verb)


@pytest.mark.parametrize("action", list(admin.actions), ids=NAMES)
def test_an_action_is_offered_everywhere_with_its_parameters_or_says_why_not(action: Action) -> None:
    assert action.summary.endswith(".")
    names = {parameter.name for parameter in action.parameters}
    assert all(parameter.description for parameter in action.parameters)
    assert all(action.not_offered.values())
    assert action.not_offered.keys() < set(Interface)
    if Interface.CLI not in action.not_offered:
        command = command_of(action)
        assert command is not None
        assert {parameter.name for parameter in command.params} == names | {"as_json"}
    if Interface.DAGSTER not in action.not_offered:
        (job,) = [job for job in ADMIN_JOBS if job.name == f"admin_{action.name}"]
        (op,) = job.all_node_defs
        assert set(op.config_schema.config_type.fields) == names  # type: ignore[union-attr]  # Dagster types them loosely
    if Interface.HTTP not in action.not_offered:
        kind, subject = HTTP_PATHS[action.target]
        assert ACTIONS[kind][action.verb] is action
        assert BODIES[kind, action.verb].model_fields.keys() == names - {subject}


def test_nothing_is_offered_that_is_not_in_the_registry() -> None:
    assert {job.name for job in ADMIN_JOBS} == {f"admin_{a.name}" for a in admin.actions.over(Interface.DAGSTER)}
    offered = {(HTTP_PATHS[a.target][0], a.verb) for a in admin.actions.over(Interface.HTTP)}
    assert {(kind, verb) for kind, known in ACTIONS.items() for verb in known} == offered


def test_the_admin_jobs_of_dagster_keep_their_names() -> None:
    assert {job.name for job in ADMIN_JOBS} - {"admin_assign_payment"} == {
        f"admin_{name}"
        for name in ("retry", "check", "extend", "refund", "resend", "token", "cancel", "hold", "release",
                     "adopt_payment", "refund_payment", "acknowledge_task", "close_task",
                     "open_breaker", "close_breaker", "lift_unsold", "revoke_links")
    }  # fmt: skip


def test_an_action_that_is_declared_is_offered_without_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster import Config

    from smi_pipeline.gateway.bodies import Body
    from smi_pipeline.services.admin_actions import Registry

    registry = Registry()
    monkeypatch.setattr(admin, "actions", registry)

    @registry.register("note", Target.JOB)
    def note(ctx: object, job_id: admin.JobId, *, urgent: Annotated[bool, "At once"] = False) -> str:
        """Note something."""
        return "noted"

    (action,) = registry
    command = command_of(action)
    assert command is not None and command.help is not None and "Note something." in command.help
    assert set(action.model(Config).model_fields) == {"job_id", "urgent"}
    assert action.model(Body, without="job_id").model_validate({"urgent": True}).model_dump() == {"urgent": True}
    jobs = cli.smi.commands["jobs"]
    assert isinstance(jobs, click.Group)
    del jobs.commands["note"]
