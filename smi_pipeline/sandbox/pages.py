"""Render the HTML pages of the sandbox."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
)


def _money(cents: int, currency: str) -> str:
    sign = {"usd": "$", "eur": "€", "gbp": "£"}.get(currency.lower())
    return f"{sign}{cents / 100:,.2f}" if sign else f"{cents / 100:,.2f} {currency.upper()}"


_environment.filters["money"] = _money


def html(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the response for a template of the folder ``templates``."""
    return HTMLResponse(_environment.get_template(template).render(**values), status_code=status)
