"""The commands of `smi jobs`, `smi tasks` and `smi breakers` that are made from the admin actions."""

from collections.abc import Collection
from typing import Any

import click

from smi_pipeline.commands.cli_support import done, json_option, load_context
from smi_pipeline.services.admin_actions import Action, Interface, Target


class ActionGroup(click.Group):
    """A group that also has a command for each admin action on its targets.

    The actions are loaded when the group is used: they import the database's libraries, and `smi --help` is to be
    quick.
    """

    def __init__(self, *args: Any, targets: Collection[Target], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        self._load()
        return super().get_command(ctx, cmd_name)

    def _load(self) -> None:
        from smi_pipeline.services.admin import actions

        for action in actions.over(Interface.CLI):
            if action.target in self._targets and action.verb not in self.commands:
                self.add_command(_command(action))


def _command(action: Action) -> click.Command:
    def run(as_json: bool, **values: Any) -> None:
        ids = {parameter.name: values[parameter.name] for parameter in action.parameters if parameter.is_id}
        done(as_json, action.run(load_context(), **values), **ids)

    arguments = [parameter for parameter in action.parameters if parameter.type is not bool]
    explained = [f"{argument.name.upper()}: {argument.description}." for argument in arguments]
    command = click.command(
        action.verb,
        help="\n\n".join(
            [f"Former name of `{action.replaced_by.verb}`." if action.replaced_by else action.summary, *explained]
        ),
        hidden=action.replaced_by is not None,
    )(json_option(run))
    command.params = [
        *(click.Argument([argument.name], type=argument.type) for argument in arguments),
        *(
            click.Option([f"--{flag.name.replace('_', '-')}"], is_flag=True, help=f"{flag.description}.")
            for flag in action.parameters
            if flag.type is bool
        ),
        *command.params,
    ]
    return command
