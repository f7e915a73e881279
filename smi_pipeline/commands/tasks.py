"""`smi tasks …`: list the open manual tasks. Acknowledging and closing them comes from the admin actions."""

import click

from smi_pipeline.commands.action_group import ActionGroup
from smi_pipeline.commands.cli_support import json_option, load_context, print_json, print_table
from smi_pipeline.services.admin_actions import Target


@click.group(cls=ActionGroup, targets=(Target.TASK,))
def tasks() -> None:
    """List, acknowledge and close open manual tasks."""


@tasks.command("list")
@json_option
def list_tasks(as_json: bool) -> None:
    """List the open tasks with their next steps."""
    found = load_context().state.manual_tasks.opened()
    if as_json:
        print_json({"tasks": found})
        return
    if not found:
        click.echo("no open tasks")
        return
    print_table(
        None,
        ("task", "opened (UTC)", "acknowledged (UTC)", "what", "next step"),
        [(t.task_id, t.opened_at, t.acknowledged_at, t.message, t.next_step) for t in found],
        right=("task",),
    )
