"""`smi unsold …`: list the properties of images that are not sold. Lifting them comes from the admin actions."""

import click

from smi_pipeline.commands.action_group import ActionGroup
from smi_pipeline.commands.cli_support import json_option, load_context, print_json, print_table
from smi_pipeline.services.admin_actions import Target


@click.group(cls=ActionGroup, targets=(Target.PROPERTY,))
def unsold() -> None:
    """List properties of images that are not sold because orders failed for them; sell them again."""


@unsold.command("list")
@json_option
def list_unsold(as_json: bool) -> None:
    """List the properties that are not sold."""
    from smi_pipeline.core.properties import in_words

    ctx = load_context()
    found = ctx.state.unsold.all(ctx.policy.unsold_days)
    if as_json:
        print_json({"unsold": found})
        return
    if not found:
        click.echo("everything is sold")
        return
    print_table(
        None,
        ("property", "what", "orders", "last failure (UTC)", "what it said"),
        [(u.property, in_words(u.property), u.orders, u.last_at, u.message) for u in found],
        right=("orders",),
    )
