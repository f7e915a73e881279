"""How an error is told on the command line: one line for each cause, without addresses of databases or keys."""

import re

import click

from smi_pipeline.core.errors import SmiError

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)|\b(?:sk|rk|pk|whsec)_\w+|(?i:(?<=password=)|(?<=bearer ))\S+")
_secrets: set[str] = set()


def keep_secret(*values: str) -> None:
    """From now on these values never appear in a line about an error."""
    _secrets.update(value for value in values if len(value) >= 4)  # shorter ones would blot out ordinary words


def lines(error: BaseException) -> list[str]:
    """What to tell: most errors in one line, wrong settings in one line per variable."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return [scrubbed(line) for line in settings_problems(error)]
    return [scrubbed(_told(error))]


def exit_code(error: BaseException) -> int:
    """2 for wrong usage, 130 for Ctrl-C, else 1."""
    if isinstance(error, click.UsageError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt | click.Abort) else 1


def settings_problems(error: Exception) -> list[str]:
    """Each wrong setting by the name of its variable, without its value."""
    return [
        f"{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_input=False, include_url=False)  # type: ignore[attr-defined]
    ]


def scrubbed(text: str) -> str:
    """`text` as one bounded line of printable characters, with every credential blotted out."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _CREDENTIALS.sub("***", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:1000]


def _told(error: BaseException) -> str:
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
    return f"this should not happen ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
