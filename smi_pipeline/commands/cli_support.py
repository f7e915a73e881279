"""What all commands share: settings, service context, the option --json, and output as text or JSON."""

import dataclasses
import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from smi_pipeline.commands.errors import keep_secret
from smi_pipeline.core.errors import RefusedError

if TYPE_CHECKING:
    from rich.console import Console

    from smi_pipeline.services.context import ServiceContext
    from smi_pipeline.settings import Settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def load_settings() -> "Settings":
    """Return the configuration. Raise pydantic's ValidationError, which `smi` shows variable by variable."""
    from dotenv import dotenv_values
    from pydantic import SecretStr

    from smi_pipeline.settings import Settings, several

    # Variables of .env that are no settings, such as AWS_ACCESS_KEY_ID, are read by libraries.
    for name, text in dotenv_values(".env").items():
        if text and name.lower() not in Settings.model_fields:
            os.environ.setdefault(name, text)
    settings = Settings()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            keep_secret(value.get_secret_value(), *several(value))
    return settings


def load_context() -> "ServiceContext":
    """Return the service context as configured. Raise RefusedError naming what is configured wrongly."""
    from smi_pipeline.wiring import build_context

    settings = load_settings()
    try:
        return build_context(settings, actor=who(), pool_size=2)
    except ValueError as error:
        raise RefusedError(f"the configuration cannot work: {error} (`smi doctor` checks all of it)") from error


def who() -> str:
    """Return how the audit trail names the user of this command line."""
    try:
        return f"cli, {getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # a container without an entry for its user
        return "cli"


def console() -> "Console":
    """Return the console for tables: as wide as the terminal; 160 columns for a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


FORMER_KEYS = {
    "attempt_no": "n",
    "fulfilment_round": "round",
    "recorded_at": "learned_at",
    "recorded_from": "learned_from",
    "refund_id": "refund_row",
    "sequence": "serial",
}
"""Keys that programs may still read under the name of release 0.1.0: JSON has both."""


def plain(value: Any) -> Any:
    """Return `value` as JSON types: records as objects, times in ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return found | {former: found[name] for name, former in FORMER_KEYS.items() if name in found}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Print a table; None is an empty cell. Columns named in `right` hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    table.show_header = any(columns)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else shown(cell)) for cell in row))
    console().print(table)


def shown(value: object) -> str:
    """Return one value as text; times to the second, in UTC."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def done(as_json: bool, message: str, **more: Any) -> None:
    """Print what a command did."""
    if as_json:
        print_json({**more, "done": message})
    else:
        click.echo(message)


def reporter(as_json: bool) -> Callable[[str], None]:
    """Return a function that prints the lines of a long-running command: plain, or one JSON object per line."""

    def say(line: str) -> None:
        click.echo(json.dumps({"said": line}, ensure_ascii=False) if as_json else line)
        sys.stdout.flush()

    return say
