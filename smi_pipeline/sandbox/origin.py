"""The origin sandbox: the shop's web server, with photographs under `/photos/{name}` and their list at `/photos`.

Endpoints for ``match``: ``photo``, ``catalogue``; usually one matches by ``path``, or with the query by ``image_url``.
Kinds beside the request faults of base.py:

- ``swap`` ``{"content": "gif"}``: the path serves other content from now on: ``gif``, ``bmp``, ``tiff``, ``text``,
  ``html``, ``svg`` or ``other_photo`` (another photograph of the same format and size). Without end by default;
- ``zero_bytes``; ``truncated`` ``{"keep": 0.5}`` (the part that is kept, with a matching Content-Length);
- ``redirect`` ``{"to": URL, "code": 302}``;
- ``negotiates``: as WebP to whoever names it in ``Accept``; ``recompresses``: JPEG and WebP are coded anew at each
  request, as CDNs do that optimise images.
"""

import asyncio
import io
import mimetypes
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageOps
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from smi_pipeline.sandbox import photos
from smi_pipeline.sandbox.base import REQUEST_KINDS, SandboxService
from smi_pipeline.sandbox.faults import Kind

_CONTENTS = ("gif", "bmp", "tiff", "text", "html", "svg", "other_photo")
_KINDS = {
    "swap": Kind(defaults={"content": "gif"}, times=None, choices={"content": _CONTENTS}),
    "zero_bytes": Kind(),
    "truncated": Kind(defaults={"keep": 0.5}),
    "negotiates": Kind(times=None),
    "recompresses": Kind(times=None),
    "redirect": Kind(defaults={"to": "/photos/coffee-200.jpg", "code": 302}),
}
_TEXTS = {
    "text": ("text/plain", b"This was a photograph once.\n"),
    "html": ("text/html", b"<!doctype html><title>Gone</title><p>This was a photograph once."),
    "svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'),
}


class Origin(SandboxService):
    """Serves photographs under `/photos/{photo}-{long side}.{png|jpg|webp}`. Has no settings of its own."""

    name = "origin"
    kinds: ClassVar[Mapping[str, Kind]] = {**REQUEST_KINDS, **_KINDS}

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        super().__init__(state, settings)
        self._cache = state / "photos"

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the catalogue and of the photographs."""
        return [
            Route("/photos", self.guard("catalogue", self._catalogue), methods=["GET"]),
            Route("/photos/{name}", self.guard("photo", self._photo), methods=["GET"]),
            Route("/{rest:path}", self.guard("unknown", self.unknown), methods=["GET", "POST"]),
        ]

    def describe(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the URL of the image."""
        return {"image_url": str(request.url)}

    def read_ledger(self) -> dict[str, Any]:
        """Return all requests."""
        return {"requests": self.ledger.all("requests")}

    async def _catalogue(self, request: Request, body: bytes) -> Response:
        entries = await asyncio.to_thread(photos.catalogue, self._cache)
        return JSONResponse([{**entry, "url": self.base_url + entry["path"]} for entry in entries])

    async def _photo(self, request: Request, body: bytes) -> Response:
        taken = self.faults.take(set(_KINDS), request.state.context)
        if "redirect" in taken:
            return RedirectResponse(taken["redirect"]["to"], status_code=taken["redirect"]["code"])
        path = await asyncio.to_thread(photos.make, request.path_params["name"], self._cache)
        if path is None:
            return self.error(request, 404, "No such photograph")
        media_type, content = mimetypes.guess_type(path.name)[0] or "image/webp", path.read_bytes()
        if "swap" in taken:
            media_type, content = _other(taken["swap"]["content"], content)
        if "negotiates" in taken and "image/webp" in request.headers.get("accept", ""):
            media_type, content = _coded_anew(content, "WEBP")
        if "recompresses" in taken:
            media_type, content = _coded_anew(content)
        if "zero_bytes" in taken:
            content = b""
        if "truncated" in taken:
            content = content[: int(len(content) * taken["truncated"]["keep"])]
        return Response(content, media_type=media_type)


def _coded_anew(content: bytes, image_format: str = "") -> tuple[str, bytes]:
    """Return media type and bytes of the same photograph, coded with another quality each time."""
    image = Image.open(io.BytesIO(content))
    image_format, out = image_format or str(image.format), io.BytesIO()
    image.save(out, image_format, quality=random.randint(60, 90), compress_level=random.randint(1, 9))
    return f"image/{image_format.lower()}", out.getvalue()


def _other(kind: str, content: bytes) -> tuple[str, bytes]:
    """Return media type and bytes of a swapped photograph."""
    if kind in _TEXTS:
        return _TEXTS[kind]
    image: Image.Image = Image.open(io.BytesIO(content))
    image_format = kind.upper()
    if kind == "other_photo":
        image_format = str(image.format)
        image = ImageOps.fit(photos.original("rocket"), image.size)
    out = io.BytesIO()
    image.convert("RGB").save(out, image_format)
    return f"image/{image_format.lower()}", out.getvalue()
