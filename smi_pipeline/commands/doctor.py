"""`smi doctor`: check the configuration and every connection, one line each. The checks are in `diagnostics`."""

import click

from smi_pipeline.commands.cli_support import json_option, print_json

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "wrong": ("WRONG", "red")}


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check the configuration and every connection; exit 1 if something is wrong."""
    from smi_pipeline.commands.diagnostics import examine

    findings = examine()
    wrong = sum(finding.state == "wrong" for finding in findings)
    if as_json:
        print_json({"ok": not wrong, "checks": findings})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark, colour = _MARKS[finding.state]
            click.echo(f"{click.style(f'{mark:5}', fg=colour)}  {finding.name:{width}}  {finding.line}")
        click.echo(f"{wrong} of {len(findings)} checks failed" if wrong else f"all {len(findings)} checks passed")
    return 1 if wrong else 0
