"""`smi breakers …`: list the circuit breakers. Opening and closing them comes from the admin actions."""

import click

from smi_pipeline.commands.action_group import ActionGroup
from smi_pipeline.commands.cli_support import json_option, load_context, print_json, print_table
from smi_pipeline.services.admin_actions import Target


@click.group(cls=ActionGroup, targets=(Target.BREAKER,))
def breakers() -> None:
    """List the circuit breakers; open and close them by hand."""


@breakers.command("list")
@json_option
def list_breakers(as_json: bool) -> None:
    """List the breakers that are open, and the parts that have begun to fail."""
    from smi_pipeline.core.faults import headline

    found = load_context().state.dashboard.breakers()
    if as_json:
        print_json({"breakers": found})
        return
    if not found:
        click.echo("no breaker is open, and nothing fails")
        return
    print_table(
        None,
        ("breaker", "open since (UTC)", "waiting", "next probe (UTC)", "failed probes", "what", "next step"),
        [
            (
                f.breaker.name,
                f.breaker.opened_at or "closed",
                f.waiting_text,
                "none: opened by hand" if f.breaker.by_hand else f.breaker.next_probe_at,
                f.breaker.failed_probes,
                f"{headline(f.breaker.name)}: {f.breaker.message}" if f.breaker.is_open else f.breaker.message,
                f.breaker.next_step,
            )
            for f in found
        ],
        right=("failed probes",),
    )
