"""Render pages from the templates in `pages/`."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from smi_pipeline import formatting
from smi_pipeline.settings import Settings

FOLDER = Path(__file__).parent / "pages"
STATIC = FOLDER / "static"
SHOP_NAME = "Sell My Images"
_ADDRESS = re.compile(r"[^\s<>@\"'(),;:]+@[^\s<>@\"'(),;:]+")
_COMMAND = re.compile(r"`([^`]+)`")


class Pages:
    """Render templates with the values that every page needs."""

    def __init__(self, settings: Settings) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.root = urlsplit(settings.public_url).path.rstrip("/")
        """The path below which a proxy serves the pages: the beginning of every link on them."""
        style = b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))
        self._environment.globals |= {
            "root": self.root,
            "shop_name": SHOP_NAME,
            "shop_url": settings.smi_shop_origin,
            "support_email": settings.smi_support_email,
            "version": hashlib.sha256(style).hexdigest()[:12],
        }
        self._environment.filters |= {
            "moment": formatting.moment,
            "dimensions": lambda size: formatting.dimensions(*size),
            "file_size": formatting.file_size,
            "counted": formatting.counted,
            "money": formatting.money,
            "duration": formatting.duration,
            "stamp": stamp,
            "commands": commands,
            "masked": masked,
        }

    def response(
        self, template: str, values: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """Return the rendered page."""
        return HTMLResponse(self._environment.get_template(template).render(values), status, headers)


def commands(text: str) -> Markup:
    """Return a sentence with its `commands` marked as code."""
    return Markup(_COMMAND.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def masked_address(address: str) -> str:
    """Return `a***@e***.com`, enough to recognise a known address; a dash for none."""
    if not address:
        return formatting.NONE
    local, _, domain = address.rpartition("@")
    name, dot, ending = domain.rpartition(".")
    return f"{local[:1]}***@{name[:1]}***{dot}{ending}"


def masked(text: object) -> str:
    """Return text from others, such as a mail server, with the addresses in it masked."""
    return _ADDRESS.sub(lambda found: masked_address(found[0]), str(text))


def stamp(at: datetime | None) -> str:
    """Return `2026-11-20 14:05:09` in UTC, a dash for None."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else "–"
