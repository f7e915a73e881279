"""`smi tasks …`: what only a person can settle, and saying that one has taken it on or settled it."""

import click

from smi_pipeline.commands.cli_support import done, json_option, load_context, print_json, print_table


@click.group()
def tasks() -> None:
    """Look at open person's tasks, take them on, close them."""


@tasks.command("list")
@json_option
def list_tasks(as_json: bool) -> None:
    """All open tasks with their next step."""
    found = load_context().state.manual_tasks.opened()
    if as_json:
        print_json({"tasks": found})
        return
    if not found:
        click.echo("no open tasks")
        return
    print_table(
        None,
        ("task", "opened (UTC)", "taken on (UTC)", "what", "next step"),
        [(t.task_id, t.opened_at, t.acknowledged_at, t.message, t.next_step) for t in found],
        right=("task",),
    )


@tasks.command()
@click.argument("task_id", type=int)
@json_option
def acknowledge(task_id: int, as_json: bool) -> None:
    """Say that you have taken TASK_ID on: its upscale job no longer counts as overdue."""
    from smi_pipeline.services import admin

    done(as_json, admin.acknowledge_task(load_context(), task_id), task_id=task_id)


@tasks.command()
@click.argument("task_id", type=int)
@json_option
def close(task_id: int, as_json: bool) -> None:
    """Say that TASK_ID is settled."""
    from smi_pipeline.services import admin

    done(as_json, admin.close_task(load_context(), task_id), task_id=task_id)
