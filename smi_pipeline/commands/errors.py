"""Errors on the command line: one line for each cause, without credentials."""

import re
from typing import TYPE_CHECKING

import click

from smi_pipeline.core.errors import SmiError
from smi_pipeline.formatting import one_line

if TYPE_CHECKING:
    from pydantic import ValidationError

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)|\b(?:sk|rk|pk|whsec)_\w+|(?i:(?<=password=)|(?<=bearer ))\S+")
_secrets: set[str] = set()


def keep_secret(*values: str) -> None:
    """Never show these values in a line about an error from now on."""
    _secrets.update(value for value in values if len(value) >= 4)  # shorter ones would hide ordinary words


def lines(error: BaseException) -> list[str]:
    """Return the lines about an error: one for most errors, one per variable for wrong settings."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return [scrubbed(line) for line in settings_problems(error)]
    return [scrubbed(_message(error))]


def exit_code(error: BaseException) -> int:
    """Return 2 for wrong usage, 130 for Ctrl-C, else 1."""
    if isinstance(error, click.UsageError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt | click.Abort) else 1


def settings_problems(error: "ValidationError") -> list[str]:
    """Return a line for each wrong setting: the name of its variable and the problem, without the value."""
    return [
        f"{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_input=False, include_url=False)
    ]


def scrubbed(text: str) -> str:
    """Return `text` as one bounded line of printable characters, with every credential masked."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _CREDENTIALS.sub("***", text)
    return one_line(text, 1000)


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, SmiError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or type(error).__name__}"
    if type(error).__module__.startswith(("sqlalchemy.", "psycopg2", "alembic.")):
        cause = getattr(error, "orig", None) or error
        return f"the database refused: {_first_line(cause)}"
    return f"unexpected error ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
