"""Render the HTML pages of the sandbox."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from smi_pipeline.sandbox.stripe.currencies import formatted

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
)


_environment.filters["money"] = formatted


def html(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the response for a template of the folder ``templates``."""
    return HTMLResponse(_environment.get_template(template).render(**values), status_code=status)
